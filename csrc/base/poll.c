#include "base/poll.h"

#include <time.h>

mg_status mg_poll_clock(mg_poll *poll)
{
    const double interval = 0.02; /* seconds */
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    const double now = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    poll->work = 0;
    /* A clock that was set back must not postpone the next question. */
    if (now >= poll->asked && now < poll->asked + interval) return MG_OK;
    poll->asked = now;
    return poll->ask(poll->context) ? MG_INTERRUPTED : MG_OK;
}
