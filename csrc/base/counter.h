/* Numbers that only grow, and that threads, or processes that share memory, wait for. */
#ifndef MG_BASE_COUNTER_H
#define MG_BASE_COUNTER_H

#include "base/poll.h"

/* On cache lines of its own: others are written at the same time. All zero is 0. */
typedef struct {
    int64_t value; /* atomic */
    char padding[120];
} mg_counter;

static inline int64_t mg_counter_read(const mg_counter *c) { return __atomic_load_n(&c->value, __ATOMIC_ACQUIRE); }

/* What was written to memory before is seen by those who wait. */
static inline void mg_counter_set(mg_counter *c, int64_t value) { __atomic_store_n(&c->value, value, __ATOMIC_RELEASE); }

/* Add 1; the new value. */
static inline int64_t mg_counter_add(mg_counter *c) { return __atomic_add_fetch(&c->value, 1, __ATOMIC_ACQ_REL); }

/* Make a value another, if it is still the expected one; whether it was. */
static inline int mg_counter_change(mg_counter *c, int64_t expected, int64_t value)
{
    return __atomic_compare_exchange_n(&c->value, &expected, value, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/* Wait until c is at least that. It ends early with MG_STOPPED if `state` is no longer `running`, and with MG_INTERRUPTED if poll
 * says so. A thread that has waited for a while sleeps, so that others have its processor. state, poll: NULL: never. */
mg_status mg_counter_wait(const mg_counter *c, int64_t least, const mg_counter *state, int64_t running, mg_poll *poll);

#endif
