/* Documents that are on their way at once, on several threads or processes, take turns: each matrix's gradient is a sum over
 * the documents in their order, so a document waits at each matrix until the one before it has been added there. */
#ifndef MG_FUSED_TURNS_H
#define MG_FUSED_TURNS_H

#include "base/counter.h"

typedef struct {
    int64_t turn;                         /* how many documents come before this one */
    mg_counter *added;                    /* of each matrix: how many have been added */
    const mg_counter *state;              /* the documents are stopped when it is no longer: */
    int64_t running;
} mg_turns;

/* turns NULL: the document is alone. MG_OK, MG_STOPPED, MG_INTERRUPTED. */
static inline mg_status mg_begin_turn(const mg_turns *turns, int64_t matrix, mg_poll *poll)
{
    return turns ? mg_counter_wait(&turns->added[matrix], turns->turn, turns->state, turns->running, poll) : MG_OK;
}

static inline void mg_end_turn(const mg_turns *turns, int64_t matrix)
{
    if (turns) mg_counter_set(&turns->added[matrix], turns->turn + 1);
}

#endif
