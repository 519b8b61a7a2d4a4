/* Interrupting long work: it counts its multiplications, and every 20 ms or so asks the caller whether to stop. */
#ifndef MG_BASE_POLL_H
#define MG_BASE_POLL_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct {
    int (*ask)(void *context); /* non-zero: stop, with MG_INTERRUPTED */
    void *context;
    int64_t work; /* multiplications since the clock was last read; 0 at first */
    double asked; /* seconds; 0 at first */
} mg_poll;

/* Read the clock, and ask if it is time. */
mg_status mg_poll_clock(mg_poll *poll);

/* Count work; from time to time read the clock. poll NULL: never stop. */
static inline mg_status mg_poll_work(mg_poll *poll, int64_t multiplications)
{
    enum { READ_CLOCK = 1 << 21 };
    if (!poll) return MG_OK;
    poll->work += multiplications;
    return poll->work < READ_CLOCK ? MG_OK : mg_poll_clock(poll);
}

#endif
