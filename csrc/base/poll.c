#include "base/poll.h"

#ifdef _WIN32 /* an older C library has no timespec_get there */

#define WIN32_LEAN_AND_MEAN
#include <windows.h>

static double seconds(void) { return 1e-3 * (double)GetTickCount64(); }

#else

#include <time.h>

static double seconds(void)
{
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#endif

mg_status mg_poll_clock(mg_poll *poll)
{
    const double interval = 0.02; /* seconds */
    const double now = seconds();
    poll->work = 0;
    /* A clock that was set back must not postpone the next question. */
    if (now >= poll->asked && now < poll->asked + interval) return MG_OK;
    poll->asked = now;
    return poll->ask(poll->context) ? MG_INTERRUPTED : MG_OK;
}
