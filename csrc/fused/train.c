/* The training loop: documents in, losses out (microgpt.py, "Repeat in sequence").
 *
 * There are two ways to take a step. Careful: find out before Adam whether it may fail, and if so copy what it changes.
 * Optimistic: take a snapshot once and do not check; on failure go back to the snapshot and repeat the steps carefully.
 * Clipping and weight decay are passes of their own, of careful steps only.
 */
#include <stdlib.h>

#include "fused/adam.h"
#include "fused/backward.h"
#include "fused/rollback.h"

/* Skip unchanged embeddings only if there are this many: two calls of Adam cost more than one. */
enum { MG_MIN_SKIPPED = 256 };

/* A snapshot pays from this number of steps in one call on, and up to this number of parameters: 24 MB. */
enum { MG_MIN_STEPS_FOR_SNAPSHOT = 16, MG_MAX_SNAPSHOT_PARAMS = 1 << 20 };

/* From this number of parameters on, Adam follows matrix by matrix. Below, all of them stay in cache until the backward
 * pass is done. (tools/targets.py sets less, so that the small models of its tests do both.) */
#ifndef MG_FUSED_UPDATE_PARAMS
#define MG_FUSED_UPDATE_PARAMS (1 << 16)
#endif

/* The embedding parameters, from the first on, that an update can change: wte and the rows of wpe that a document has
 * reached. For the others, gradient and moments are +0.0, stay so, and leave the parameter as it is (if lr_t is
 * positive: p - 0.0 is p, but -0.0 - -0.0 is not). */
static int64_t count_embeddings_seen(const mg_engine *e, const mg_adam_coefs *coefs, int64_t positions_seen)
{
    if (!coefs->vectorizable || !(coefs->lr_t > 0.0)) return e->at.lm_head;
    return e->at.wpe + positions_seen * e->config.n_embd;
}

/* Adam over all parameters that it can change. Does not check whether it may fail. */
static mg_status adam(const mg_engine *e, const mg_adam_coefs *coefs, int64_t positions_seen, const mg_state *s,
                      double *grad)
{
    const int64_t n = e->at.num_params, seen = count_embeddings_seen(e, coefs, positions_seen), after = e->at.lm_head;
    if (after - seen < MG_MIN_SKIPPED) return e->kernels->adam_update(coefs, 0, n, s->params, grad, s->m, s->v);
    const mg_status status = e->kernels->adam_update(coefs, 0, seen, s->params, grad, s->m, s->v);
    if (status) return status;
    return e->kernels->adam_update(coefs, 0, n - after, s->params + after, grad + after, s->m + after, s->v + after);
}

/* Positions up to the last whose row of wpe has moments. */
static int64_t count_positions_seen(const mg_engine *e, const double *m, const double *v)
{
    const int64_t n_embd = e->config.n_embd;
    int64_t n = e->config.block_size;
    for (const double *mm = m + e->at.lm_head, *vv = v + e->at.lm_head; n; n--) {
        mm -= n_embd;
        vv -= n_embd;
        if (e->kernels->or_of_bits(n_embd, mm) | e->kernels->or_of_bits(n_embd, vv)) break;
    }
    return n;
}

/* Adam; on failure the state is unchanged, and grad unspecified. */
static mg_status adam_or_rollback(const mg_engine *e, const mg_adam_coefs *coefs, int64_t positions_seen,
                                  const mg_state *s, double *grad, int negative_v)
{
    mg_clip_gradient(&e->config, coefs->clip, grad);
    if (!mg_adam_may_fail(e->kernels, coefs, e->at.num_params, grad, negative_v)) {
        mg_adam_decay(coefs, e->at.num_params, s->params);
        return adam(e, coefs, positions_seen, s, grad);
    }
    double *copy = mg_allocate_copy(e);
    if (!copy) return MG_NO_MEMORY;
    mg_copy_state(e, copy, s);
    mg_adam_decay(coefs, e->at.num_params, s->params);
    const mg_status status = adam(e, coefs, positions_seen, s, grad);
    if (status) mg_restore_state(e, copy, s);
    free(copy);
    return status;
}

/* The state into e->snapshot; whether there was memory for it. */
static int take_snapshot(mg_engine *e, const mg_state *s)
{
    if (!e->snapshot) e->snapshot = mg_allocate_copy(e);
    if (e->snapshot) mg_copy_state(e, e->snapshot, s);
    return e->snapshot != NULL;
}

/* Back to the snapshot, at which grad was 0. */
static void rollback(mg_engine *e, const mg_state *s, double *grad)
{
    mg_restore_state(e, e->snapshot, s);
    mg_restore_grad(e, grad, NULL);
    mg_workspace_clear_dw_chunk(&e->ws, &e->config); /* the gradient at which Adam stopped */
}

/* Backward and Adam without checking first whether Adam can fail. On error the arrays are unspecified: roll back. grad
 * is all +0.0. */
static mg_status step_optimistic(mg_engine *e, const mg_adam_coefs *coefs, int64_t positions_seen, const mg_state *s,
                                 double *grad)
{
    if (e->at.num_params < MG_FUSED_UPDATE_PARAMS) {
        const mg_backward_args backward = {.params = s->params, .grad = grad};
        const mg_status status = mg_backward(e, &backward);
        return status ? status : adam(e, coefs, positions_seen, s, grad);
    }
    const int64_t seen = count_embeddings_seen(e, coefs, positions_seen);
    const mg_fused_update update = {.coefs = coefs, .params = s->params, .m = s->m, .v = s->v, .embeddings = seen};
    const mg_backward_args backward = {.params = s->params, .grad = grad, .update = &update};
    return mg_backward(e, &backward);
}

/* Backward and Adam. On error the state is unchanged, and grad unspecified. */
static mg_status step_careful(mg_engine *e, const mg_adam_coefs *coefs, int64_t positions_seen, const mg_state *s,
                              double *grad, int grad_has_minus_zero, int negative_v, mg_poll *poll)
{
    const mg_backward_args backward = {.params = s->params,
                                       .grad = grad,
                                       .grad_has_minus_zero = grad_has_minus_zero,
                                       .poll = mg_is_long(e, e->ws.doc.n) ? poll : NULL};
    const mg_status status = mg_backward(e, &backward);
    return status ? status : adam_or_rollback(e, coefs, positions_seen, s, grad, negative_v);
}

/* What holds from step to step of one call. */
typedef struct {
    double *saved_grad; /* grad as the caller left it; NULL: all +0.0, as after every step */
    int grad_has_minus_zero;
    int negative_v; /* or a -0.0, or a nan with a sign */
    int64_t positions_seen;
} run;

static mg_status begin_run(const mg_engine *e, const mg_state *s, const double *grad, run *r)
{
    const mg_status status = mg_save_grad(e, grad, &r->saved_grad);
    if (status) return status;
    r->grad_has_minus_zero = r->saved_grad && mg_has_minus_zero(e, grad);
    r->negative_v = e->kernels->or_of_bits(e->at.num_params, s->v) >> 63;
    r->positions_seen = r->saved_grad ? e->config.block_size : count_positions_seen(e, s->m, s->v);
    return MG_OK;
}

/* After a step: grad is all +0.0. */
static void end_step(run *r)
{
    free(r->saved_grad);
    r->saved_grad = NULL;
    r->grad_has_minus_zero = 0;
}

/* Steps on batches of documents: see microgpt.h. Documents are independent until their gradients meet, so each goes forward
 * and backward before the one before it: memory holds the activations of one. */
mg_status mg_train_batches(mg_engine *e, const mg_adam_config *config, int64_t step, int64_t batch_size, double *params,
                           double *grad, double *m, double *v, const int32_t *tokens, const int64_t *starts,
                           int64_t batches, mg_poll *poll, double *document_losses, double *losses, int64_t *done)
{
    const mg_state state = {params, m, v};
    const double seed = 1.0 / (double)batch_size; /* the gradient of each document's loss */
    run r;
    *done = 0;
    mg_status status = begin_run(e, &state, grad, &r);
    if (status) return status;
    while (*done < batches) {
        const int64_t first = *done * batch_size;
        for (int64_t d = batch_size - 1; d >= 0 && !status; d--) {
            const int64_t *start = starts + first + d, n = start[1] - start[0] - 1;
            status = mg_document_loss(e, params, tokens + start[0], n, poll, document_losses + d);
            if (status) break;
            if (r.positions_seen < n) r.positions_seen = n;
            e->ws.doc.inv_n *= seed; /* in the graph, the gradient of a document's sum is 1 / n times that of its loss */
            /* A sum that began with +0.0 is never -0.0, so from the second document on there is none in grad. */
            const mg_backward_args backward = {.params = params,
                                               .grad = grad,
                                               .grad_has_minus_zero = r.grad_has_minus_zero,
                                               .poll = mg_is_long(e, n) ? poll : NULL};
            status = mg_backward(e, &backward);
        }
        mg_adam_coefs coefs;
        if (!status) status = mg_adam_prepare(config, step + *done, &coefs);
        if (!status) status = adam_or_rollback(e, &coefs, r.positions_seen, &state, grad, r.negative_v);
        if (status) {
            mg_restore_grad(e, grad, r.saved_grad);
            break;
        }
        double total = 0.0; /* sum() begins with 0 */
        for (int64_t d = 0; d < batch_size; d++) total += document_losses[d];
        losses[*done] = total * seed;
        end_step(&r);
        ++*done;
    }
    free(r.saved_grad);
    return status;
}

mg_status mg_train(mg_engine *e, const mg_adam_config *config, int64_t step, double *params, double *grad, double *m,
                   double *v, const int32_t *tokens, const int64_t *starts, int64_t documents, mg_poll *poll,
                   double *losses, int64_t *done)
{
    const mg_state state = {params, m, v};
    run r;
    *done = 0;
    mg_status status = begin_run(e, &state, grad, &r);
    if (status) return status;
    int optimistic = documents >= MG_MIN_STEPS_FOR_SNAPSHOT && e->at.num_params <= MG_MAX_SNAPSHOT_PARAMS
                     && !r.negative_v && config->weight_decay == 0.0 && config->clip == 0.0;
    int64_t snapshot_at = -1; /* the number of documents done when the snapshot was taken */
    while (!status && *done < documents) {
        const int32_t *document = tokens + starts[*done];
        const int64_t n = starts[*done + 1] - starts[*done] - 1;
        status = mg_document_loss(e, params, document, n, poll, losses + *done);
        if (status) break;
        if (r.positions_seen < n) r.positions_seen = n;
        mg_adam_coefs coefs;
        status = mg_adam_prepare(config, step + *done, &coefs);
        if (status) break;
        const int unchecked = optimistic && !r.saved_grad && coefs.vectorizable && !mg_is_long(e, n);
        if (unchecked && snapshot_at < 0) {
            optimistic = take_snapshot(e, &state);
            snapshot_at = *done;
        }
        if (unchecked && optimistic) {
            if (step_optimistic(e, &coefs, r.positions_seen, &state, grad)) {
                /* The square of some gradient overflows. Repeat the steps since the snapshot carefully. */
                rollback(e, &state, grad);
                *done = snapshot_at;
                optimistic = 0;
                continue;
            }
        } else {
            status = step_careful(e, &coefs, r.positions_seen, &state, grad, r.grad_has_minus_zero, r.negative_v, poll);
            if (status) {
                mg_restore_grad(e, grad, r.saved_grad);
                break;
            }
        }
        end_step(&r);
        ++*done;
    }
    free(r.saved_grad);
    return status;
}
