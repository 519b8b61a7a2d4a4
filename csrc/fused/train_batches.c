/* Steps of Adam on batches of documents, by one thread or several: see microgpt.h. */
#include <stdlib.h>

#include "fused/batch.h"
#include "fused/run.h"

/* What a thread's documents may take together, in bytes, if it is more than one. That is more than its own caches hold: threads wait
 * for each other after every group, which costs more than reading what is in a cache that they share. (tools/targets.py sets less,
 * so that batches of its tests are several groups.) */
#ifndef MG_GROUP_BYTES
#define MG_GROUP_BYTES (INT64_C(1) << 25)
#endif

/* One batch. */
typedef struct {
    mg_engine *e;
    const mg_state *state;
    double *grad;
    const int32_t *tokens;
    const int64_t *starts; /* of its documents */
    int64_t documents;
    double seed; /* the gradient of each document's loss */
    mg_poll *poll;
    double *losses;
    mg_run *run;
    mg_adam_coefs coefs;
    mg_status prepared; /* of coefs: an error of theirs comes after one of the documents, as in the script */
    int64_t members;    /* documents in memory */
    int last;           /* whether the gradients are complete with them */
    int may_fail;       /* Atomic. Whether Adam may, with some slice's gradients */
} batch;

/* Documents are independent until their gradients meet, so each goes forward and backward before the one before it: memory
 * holds the activations of one. */
static mg_status step_alone(batch *b)
{
    mg_engine *e = b->e;
    mg_take_magnitudes(e, b->state->params);
    for (int64_t d = b->documents - 1; d >= 0; d--) {
        const int64_t *start = b->starts + d, n = start[1] - start[0] - 1;
        /* A sum that began with +0.0 is never -0.0, so from the second document on there is none in grad. */
        const mg_backward_args backward = {.params = b->state->params,
                                           .grad = b->grad,
                                           .grad_has_minus_zero = b->run->grad_has_minus_zero,
                                           .poll = mg_is_long(e, n) ? b->poll : NULL};
        const mg_status status = mg_batch_document(e, &backward, b->tokens, start, b->seed, b->poll, b->losses + d);
        if (status) return status;
    }
    if (b->prepared) return b->prepared;
    const int may_fail = mg_adam_may_fail(e->kernels, &b->coefs, e->at.num_params, b->grad, b->run->negative_v);
    return mg_adam_or_rollback(e, &b->coefs, b->run->positions_seen, b->state, b->grad, may_fail);
}

static mg_status do_slice(void *context, int worker, int64_t item, mg_poll *poll)
{
    batch *b = context;
    mg_engine *e = b->e;
    const mg_slice *slice = &e->slices[item];
    const mg_status status =
        mg_batch_slice(e, slice, b->members, b->grad, e->thread_scratch[worker].scratch.index_scratch, poll);
    if (!status && b->last && !b->prepared
        && mg_adam_may_fail(e->kernels, &b->coefs, slice->count, b->grad + slice->at, b->run->negative_v))
        __atomic_store_n(&b->may_fail, 1, __ATOMIC_RELAXED);
    return status;
}

static mg_status do_update(void *context, int worker, int64_t item, mg_poll *poll)
{
    (void)worker;
    (void)poll; /* what has begun to change parameters goes on to the end */
    const batch *b = context;
    const mg_slice *slice = &b->e->slices[item];
    return mg_update_range(b->e, &b->coefs, b->run->positions_seen, b->state, b->grad, slice->at, slice->at + slice->count);
}

static mg_status step_shared(batch *b)
{
    mg_engine *e = b->e;
    mg_status status = mg_batch_prepare(e);
    if (status) return status;
    const int64_t threads = mg_pool_threads(e->pool), longest = mg_batch_longest(b->starts, b->documents);
    const int64_t group = mg_batch_capacity(e, longest, MG_GROUP_BYTES) * threads;
    const mg_pool_items all = {e->num_slices, e->slice_starts, 0}, none = {0};
    const mg_batch_slices slices = {do_slice, b, all};
    b->may_fail = 0;
    for (int64_t end = b->documents; end > 0; end -= b->members) {
        b->members = end < group ? end : group;
        b->last = b->members == end;
        status = mg_batch_documents(e, e->pool, b->state->params, b->tokens, b->starts, end - b->members, end, b->seed,
                                    b->run->grad_has_minus_zero, &slices, b->poll, b->losses);
        if (status) return status;
    }
    if (b->prepared) return b->prepared;
    if (b->may_fail) return mg_adam_or_rollback(e, &b->coefs, b->run->positions_seen, b->state, b->grad, 1);
    mg_clip_gradient(&e->config, b->coefs.clip, b->grad); /* whatever it makes smaller, Adam still cannot fail */
    return mg_pool_run_two(e->pool, do_update, b, &all, &none, NULL);
}

mg_status mg_train_batches(mg_engine *e, const mg_adam_config *config, int64_t step, int64_t batch_size, double *params,
                           double *grad, double *m, double *v, const int32_t *tokens, const int64_t *starts,
                           int64_t batches, mg_poll *poll, double *document_losses, double *losses, int64_t *done)
{
    const mg_state state = {params, m, v};
    mg_run r;
    *done = 0;
    mg_status status = mg_begin_run(e, &state, grad, &r);
    if (status) return status;
    batch b = {.e = e,
               .state = &state,
               .grad = grad,
               .tokens = tokens,
               .documents = batch_size,
               .seed = 1.0 / (double)batch_size,
               .poll = poll,
               .losses = document_losses,
               .run = &r};
    while (*done < batches) {
        b.starts = starts + *done * batch_size;
        const int64_t longest = mg_batch_longest(b.starts, batch_size);
        if (r.positions_seen < longest) r.positions_seen = longest;
        b.prepared = mg_prepare_update(e, config, step + *done, &b.coefs);
        const int shares = mg_engine_shares(e, b.starts[batch_size] - b.starts[0] - batch_size);
        status = shares ? step_shared(&b) : step_alone(&b);
        if (status) {
            mg_restore_grad(e, grad, r.saved_grad);
            mg_forget_bounds(e);
            break;
        }
        double total = 0.0; /* sum() begins with 0 */
        for (int64_t d = 0; d < batch_size; d++) total += document_losses[d];
        losses[*done] = total * b.seed;
        mg_end_step(&r);
        ++*done;
    }
    free(r.saved_grad);
    return status;
}
