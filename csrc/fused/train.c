/* The training loop: documents in, losses out (microgpt.py, "Repeat in sequence").
 *
 * There are three ways to take a step. Careful: find out before Adam whether it may fail, and if so copy what it changes.
 * Optimistic, for small models: take a snapshot once and do not check; on failure go back to the snapshot and repeat the steps
 * carefully. By matrix, for large ones: by_matrix.h. Clipping and weight decay are passes of their own, of careful steps only.
 */
#include <math.h>
#include <stdlib.h>

#include "fused/by_matrix.h"

/* A snapshot pays from this number of steps in one call on. */
enum { MG_MIN_STEPS_FOR_SNAPSHOT = 16 };

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
    mg_forget_bounds(e);
}

/* Backward and Adam without checking first whether Adam can fail. On error the arrays are unspecified: roll back. grad
 * is all +0.0. */
static mg_status step_optimistic(mg_engine *e, const mg_adam_coefs *coefs, int64_t positions_seen, const mg_state *s,
                                 double *grad)
{
    const mg_backward_args backward = {.params = s->params, .grad = grad};
    const mg_status status = mg_backward(e, &backward);
    return status ? status : mg_adam_unchecked(e, coefs, positions_seen, s, grad);
}

/* After a step on a document: how large mlp_fc2 of each layer can be at most, so that the next forward pass need not sum it up.
 *
 * A parameter changes by lr_t * (m / m_scale) / (sqrt(v_hat) + eps), and the root is not negative; m is between the old m and
 * the gradient. Roundings, a few in 2**52, are far below the factor 1.001. */
static void bound_magnitudes(mg_engine *e, const mg_engine *document, const mg_adam_coefs *c, const mg_state *s)
{
    const int64_t size = 4 * e->config.n_embd * e->config.n_embd;
    for (int64_t l = 0; l < e->config.n_layer; l++) {
        const int64_t at = e->at.layers + l * e->at.layer_size + e->at.mlp_fc2;
        double *magnitude = e->fc2_magnitude + l, *moments = e->fc2_moments + l;
        *moments = 1.001 * (*moments + (double)size * document->ws.act.layers[l].fc2_gradient);
        if (!(*moments < MG_SAFE_MAGNITUDE)) *moments = e->kernels->sum_of_magnitudes(size, s->m + at);
        *magnitude = 1.001 * (*magnitude + fabs(c->lr_t) * (*moments / c->m_scale) / c->eps);
        if (!(*magnitude < MG_SAFE_MAGNITUDE)) *magnitude = e->kernels->sum_of_magnitudes(size, s->params + at);
    }
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
    if (status) return status;
    const int may_fail = mg_adam_may_fail(e->kernels, coefs, e->at.num_params, grad, negative_v);
    return mg_adam_or_rollback(e, coefs, positions_seen, s, grad, may_fail);
}

mg_status mg_train(mg_engine *e, const mg_adam_config *config, int64_t step, double *params, double *grad, double *m,
                   double *v, const int32_t *tokens, const int64_t *starts, int64_t documents, mg_poll *poll,
                   double *losses, int64_t *done)
{
    const mg_state state = {params, m, v};
    mg_run r;
    *done = 0;
    mg_status status = mg_begin_run(e, &state, grad, &r);
    if (status) return status;
    const int plain = !r.negative_v && config->weight_decay == 0.0 && config->clip == 0.0;
    const int large = mg_is_by_matrix(e);
    int optimistic = plain && !large && documents >= MG_MIN_STEPS_FOR_SNAPSHOT;
    if (large) mg_forget_ranges(e, documents);
    int64_t snapshot_at = -1; /* the number of documents done when the snapshot was taken */
    while (!status && *done < documents) {
        const int32_t *document = tokens + starts[*done];
        const int64_t n = starts[*done + 1] - starts[*done] - 1;
        const int by_matrix = plain && large && !r.saved_grad;
        mg_engine *with = e;
        if (by_matrix) status = mg_begin_by_matrix(e, &with);
        if (!status) status = mg_document_loss(with, params, document, n, poll, losses + *done);
        if (status) break;
        if (r.positions_seen < n) r.positions_seen = n;
        mg_adam_coefs coefs;
        status = mg_prepare_update(e, config, step + *done, &coefs);
        if (status) break;
        const int unchecked = optimistic && !r.saved_grad && coefs.vectorizable && !mg_is_long(e, n);
        if (unchecked && snapshot_at < 0) {
            optimistic = take_snapshot(e, &state);
            snapshot_at = *done;
        }
        if (by_matrix) {
            status = mg_step_by_matrix(e, with, &coefs, r.positions_seen, &state, grad, poll);
            if (status) {
                mg_restore_grad(e, grad, NULL);
                break;
            }
            if (*done + 1 < documents) bound_magnitudes(e, with, &coefs, &state);
        } else if (unchecked && optimistic) {
            if (step_optimistic(e, &coefs, r.positions_seen, &state, grad)) {
                /* The square of some gradient overflows. Repeat the steps since the snapshot carefully. */
                rollback(e, &state, grad);
                *done = snapshot_at;
                optimistic = 0;
                continue;
            }
            bound_magnitudes(e, e, &coefs, &state);
        } else {
            status = step_careful(e, &coefs, r.positions_seen, &state, grad, r.grad_has_minus_zero, r.negative_v, poll);
            if (status) {
                mg_restore_grad(e, grad, r.saved_grad);
                break;
            }
        }
        mg_end_step(&r);
        ++*done;
    }
    mg_forget_bounds(e); /* the caller may change parameters */
    free(r.saved_grad);
    return status;
}
