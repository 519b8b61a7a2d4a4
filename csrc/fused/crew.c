/* Steps of Adam on batches that several processes of one machine take together, in memory that all of them see: see microgpt.h.
 *
 * Each process takes the next document of the batch, the last first, as soon as it has done one. Documents take turns at the
 * gradient of each matrix (turns.h), so that every sum is the one of a process alone. Until all gradients are complete, every
 * process can stop the step, and then none takes it: `state` changes once, to `stopped` or to the next step. After that nothing
 * can fail but Adam, which fails for all; each process updates its share of the parameters. */
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/checked.h"
#include "fused/batch.h"
#include "fused/run.h"

/* What the processes share. Counters of documents and processes go on from step to step. */
typedef struct {
    mg_counter state;       /* twice the steps that all gradients were complete for; 1 more: stopped */
    mg_counter taken;       /* documents that a process has begun */
    mg_counter arrived;     /* processes that have seen all gradients of a step */
    mg_counter updated;     /* and have updated their share */
    mg_counter careful;     /* steps, counted from 1, in which Adam may fail: the last of them */
    mg_counter alone;       /* and of those, how many the first process has done by itself */
    mg_status status;       /* of the last of those */
    mg_counter added[];     /* documents, at each place where they take turns */
} shared_counters;

struct mg_crew {
    int64_t rank, processes, batch_size, steps; /* steps: taken with this memory */
    shared_counters *shared;
    mg_state state;
    double *grad, *losses; /* losses: [batch_size] */
    mg_run run;
};

static void lay_out(mg_crew *c, mg_arena *a, const mg_config *config)
{
    const int64_t params = mg_count_params(config), d = sizeof(double);
    c->shared = mg_arena_take(a, (int64_t)sizeof(shared_counters) + mg_count_turns(config) * (int64_t)sizeof(mg_counter), 1);
    c->losses = mg_arena_take(a, c->batch_size, d);
    c->state.params = mg_arena_take(a, params, d);
    c->grad = mg_arena_take(a, params, d);
    c->state.m = mg_arena_take(a, params, d);
    c->state.v = mg_arena_take(a, params, d);
}

int64_t mg_crew_bytes(const mg_config *config, int64_t batch_size)
{
    mg_crew c = {.batch_size = batch_size};
    mg_arena a = {NULL, 0};
    lay_out(&c, &a, config);
    return a.used;
}

/* The first parameter of share `i` of this many; cache lines are not divided. */
static int64_t share_start(const mg_engine *e, int64_t i, int64_t shares)
{
    return i < shares ? e->at.num_params * i / shares / 8 * 8 : e->at.num_params;
}

mg_crew *mg_crew_join(const mg_engine *e, void *memory, int64_t rank, int64_t processes, int64_t batch_size,
                      const double *params, const double *grad, const double *m, const double *v)
{
    mg_crew *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    const mg_state own = {(double *)params, (double *)m, (double *)v};
    if (mg_begin_run(e, &own, grad, &c->run)) {
        free(c);
        return NULL;
    }
    c->rank = rank;
    c->processes = processes;
    c->batch_size = batch_size;
    mg_arena a = {memory, 0};
    lay_out(c, &a, &e->config);
    if (!rank) memset(c->shared, 0, (size_t)((char *)c->losses - (char *)c->shared));
    const int64_t first = share_start(e, rank, processes);
    const size_t bytes = (size_t)(share_start(e, rank + 1, processes) - first) * sizeof(double);
    memcpy(c->state.params + first, params + first, bytes);
    memcpy(c->grad + first, grad + first, bytes);
    memcpy(c->state.m + first, m + first, bytes);
    memcpy(c->state.v + first, v + first, bytes);
    return c;
}

void mg_crew_stop(mg_crew *c) { mg_counter_change(&c->shared->state, 2 * c->steps, 2 * c->steps + 1); }

void mg_crew_read(const mg_engine *e, const mg_crew *c, double *params, double *m, double *v)
{
    const size_t bytes = (size_t)e->at.num_params * sizeof(double);
    memcpy(params, c->state.params, bytes);
    memcpy(m, c->state.m, bytes);
    memcpy(v, c->state.v, bytes);
}

void mg_crew_leave(mg_crew *c)
{
    if (!c) return;
    mg_crew_stop(c);
    free(c->run.saved_grad);
    free(c);
}

/* One batch. */
typedef struct {
    mg_engine *e;
    mg_crew *crew;
    const int32_t *tokens;
    const int64_t *starts; /* of its documents */
    double seed;           /* the gradient of each document's loss */
    mg_adam_coefs coefs;
    mg_pool *pool;
    int failure; /* Atomic. The status of a document of this process, of which its other threads know only that all stopped */
} batch;

/* How many documents of the batch were begun before the one that this call begins; -1: none is left. */
static int64_t take(mg_crew *c)
{
    const int64_t first = c->steps * c->batch_size;
    for (;;) {
        const int64_t taken = mg_counter_read(&c->shared->taken);
        if (taken >= first + c->batch_size) return -1;
        if (mg_counter_change(&c->shared->taken, taken, taken + 1)) return taken - first;
    }
}

static mg_status do_documents(void *context, int worker, int64_t item, mg_poll *poll)
{
    batch *b = context;
    mg_crew *c = b->crew;
    mg_engine *e = item ? &b->e->workers[item - 1] : b->e;
    for (int64_t before; (before = take(c)) >= 0;) {
        const int64_t d = c->batch_size - 1 - before;
        const mg_turns turns = {
            c->steps * c->batch_size + before, c->shared->added, &c->shared->state, 2 * c->steps};
        const mg_backward_args backward = {.params = c->state.params,
                                           .grad = c->grad,
                                           .grad_has_minus_zero = c->run.grad_has_minus_zero,
                                           .poll = poll,
                                           .turns = &turns};
        const mg_status status =
            mg_batch_document(e, &backward, b->tokens, b->starts + d, b->seed, poll, c->losses + d);
        if (status) {
            /* The caller's thread alone is interrupted; of others it is the pool that stops. */
            if (status != MG_STOPPED && (status != MG_INTERRUPTED || !worker))
                __atomic_store_n(&b->failure, (int)status, __ATOMIC_SEQ_CST);
            mg_crew_stop(c); /* now, because threads of this process may wait for this document, too */
            return status;
        }
    }
    return MG_OK;
}

/* One thread's part of this process's share. */
static mg_status do_update(void *context, int worker, int64_t item, mg_poll *poll)
{
    (void)worker;
    (void)poll; /* what has begun to change parameters goes on to the end */
    const batch *b = context;
    const mg_crew *c = b->crew;
    const int64_t threads = mg_pool_threads(b->pool), shares = c->processes * threads, i = c->rank * threads + item;
    return mg_update_range(b->e, &b->coefs, c->run.positions_seen, &c->state, c->grad, share_start(b->e, i, shares),
                           share_start(b->e, i + 1, shares));
}

/* Wait until all processes have all gradients; MG_OK: no one can stop the step any more. */
static mg_status agree(const batch *b, mg_status prepared, mg_poll *poll)
{
    const mg_engine *e = b->e;
    mg_crew *c = b->crew;
    shared_counters *shared = c->shared;
    const int64_t running = 2 * c->steps;
    mg_status status = MG_OK;
    for (int64_t i = 0; i < mg_count_turns(&e->config) && !status; i++)
        status = mg_counter_wait(&shared->added[i], (c->steps + 1) * c->batch_size, &shared->state, running, poll);
    if (status) return status;
    if (prepared) return prepared;
    const int64_t first = share_start(e, c->rank, c->processes), end = share_start(e, c->rank + 1, c->processes);
    if (mg_adam_may_fail(e->kernels, &b->coefs, end - first, c->grad + first, c->run.negative_v))
        mg_counter_set(&shared->careful, c->steps + 1);
    if (mg_counter_add(&shared->arrived) == (c->steps + 1) * c->processes)
        mg_counter_change(&shared->state, running, running + 2);
    status = mg_counter_wait(&shared->state, running + 1, NULL, 0, poll);
    if (status && mg_counter_change(&shared->state, running, running + 1)) return status;
    return mg_counter_read(&shared->state) == running + 2 ? MG_OK : MG_STOPPED;
}

static mg_status update(batch *b)
{
    mg_crew *c = b->crew;
    shared_counters *shared = c->shared;
    const int may_fail = mg_counter_read(&shared->careful) > c->steps;
    if (!may_fail && b->coefs.clip == 0.0) return mg_pool_run(b->pool, do_update, b, mg_pool_threads(b->pool), NULL);
    if (c->rank) {
        mg_counter_wait(&shared->alone, c->steps + 1, NULL, 0, NULL);
    } else {
        shared->status = mg_adam_or_rollback(b->e, &b->coefs, c->run.positions_seen, &c->state, c->grad, may_fail);
        mg_counter_set(&shared->alone, c->steps + 1);
    }
    return shared->status;
}

static mg_status take_step(batch *b, const mg_adam_config *config, int64_t step, mg_poll *poll, double *loss)
{
    mg_engine *e = b->e;
    mg_crew *c = b->crew;
    const int64_t longest = mg_batch_longest(b->starts, c->batch_size);
    if (c->run.positions_seen < longest) c->run.positions_seen = longest;
    const mg_status prepared = mg_prepare_update(e, config, step, &b->coefs);
    b->pool = mg_engine_shares(e, b->starts[c->batch_size] - b->starts[0] - c->batch_size) ? e->pool : NULL;
    mg_take_magnitudes(e, c->state.params);
    mg_status status = mg_pool_run(b->pool, do_documents, b, mg_pool_threads(b->pool), poll);
    mg_forget_bounds(e);
    if (status == MG_STOPPED && b->failure) status = (mg_status)b->failure;
    if (!status) status = agree(b, prepared, poll);
    if (status) {
        mg_crew_stop(c);
        return status;
    }
    double total = 0.0; /* sum() begins with 0 */
    for (int64_t d = 0; d < c->batch_size; d++) total += c->losses[d];
    *loss = total * b->seed;
    status = update(b);
    mg_counter_add(&c->shared->updated);
    mg_counter_wait(&c->shared->updated, ++c->steps * c->processes, NULL, 0, NULL);
    if (!b->coefs.vectorizable) c->run.negative_v = 1; /* perhaps, from now on */
    mg_end_step(&c->run);
    return status;
}

mg_status mg_crew_train(mg_engine *e, mg_crew *c, const mg_adam_config *config, int64_t step, const int32_t *tokens,
                        const int64_t *starts, int64_t batches, mg_poll *poll, double *losses, int64_t *done)
{
    batch b = {.e = e, .crew = c, .tokens = tokens, .seed = 1.0 / (double)c->batch_size};
    *done = 0;
    mg_status status = mg_reserve_workers(e);
    if (status) mg_crew_stop(c);
    while (*done < batches && !status) {
        b.starts = starts + *done * c->batch_size;
        status = take_step(&b, config, step + *done, poll, losses + *done);
        if (!status) ++*done;
    }
    return status;
}
