#include "base/counter.h"

#include "base/spin.h"

#ifdef _WIN32

#define WIN32_LEAN_AND_MEAN
#include <windows.h>

static void nap(long microseconds)
{
    (void)microseconds;
    Sleep(1);
}

#else

#include <time.h>

static void nap(long microseconds)
{
    const struct timespec time = {0, 1000 * microseconds};
    nanosleep(&time, NULL);
}

#endif

/* How often to look before sleeping, some 50 to 200 microseconds; and how long to sleep, the longer the wait has been. */
enum { SPINS = 4000, SHORTEST_NAP = 50, LONGEST_NAP = 1000 };

mg_status mg_counter_wait(const mg_counter *c, int64_t least, const mg_counter *state, int64_t running, mg_poll *poll)
{
    long microseconds = SHORTEST_NAP;
    for (int64_t i = 0; mg_counter_read(c) < least; i++) {
        if (state && mg_counter_read(state) != running) return mg_counter_read(c) < least ? MG_STOPPED : MG_OK;
        if (i < SPINS) {
            mg_pause_spinning();
            continue;
        }
        nap(microseconds);
        microseconds += microseconds < LONGEST_NAP ? microseconds / 16 : 0;
        if (poll && mg_poll_clock(poll)) return MG_INTERRUPTED;
    }
    return MG_OK;
}
