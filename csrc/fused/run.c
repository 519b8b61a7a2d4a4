#include "fused/run.h"

#include <stdlib.h>

/* Skip unchanged embeddings only if there are this many: two calls of Adam cost more than one. */
enum { MG_MIN_SKIPPED = 256 };

int64_t mg_count_embeddings_seen(const mg_engine *e, const mg_adam_coefs *coefs, int64_t positions_seen)
{
    if (!coefs->vectorizable || !(coefs->lr_t > 0.0)) return e->at.lm_head;
    return e->at.wpe + positions_seen * e->config.n_embd;
}

/* From this number of parameters on, 12 MB with their moments, a share of the caches does not hold them from one step to the
 * next. (tools/targets.py sets less, so that its tests do both.) */
#ifndef MG_FETCH_AHEAD_PARAMS
#define MG_FETCH_AHEAD_PARAMS (1 << 19)
#endif

mg_status mg_prepare_update(const mg_engine *e, const mg_adam_config *config, int64_t step, mg_adam_coefs *coefs)
{
    const mg_status status = mg_adam_prepare(config, step, coefs);
    coefs->fetch_ahead = e->at.num_params >= MG_FETCH_AHEAD_PARAMS;
    return status;
}

static mg_status adam_from_to(const mg_engine *e, const mg_adam_coefs *coefs, const mg_state *s, double *grad, int64_t first,
                              int64_t end)
{
    if (first >= end) return MG_OK;
    return e->kernels->adam_update(coefs, 0, end - first, s->params + first, grad + first, s->m + first, s->v + first);
}

/* Adam for the parameters from first to end - 1, but for embeddings that it cannot change. */
static mg_status adam_range(const mg_engine *e, const mg_adam_coefs *coefs, int64_t positions_seen, const mg_state *s,
                            double *grad, int64_t first, int64_t end)
{
    const int64_t seen = mg_count_embeddings_seen(e, coefs, positions_seen), lm_head = e->at.lm_head;
    if (lm_head - seen < MG_MIN_SKIPPED) return adam_from_to(e, coefs, s, grad, first, end);
    const mg_status status = adam_from_to(e, coefs, s, grad, first, end < seen ? end : seen);
    return status ? status : adam_from_to(e, coefs, s, grad, first > lm_head ? first : lm_head, end);
}

mg_status mg_adam_unchecked(const mg_engine *e, const mg_adam_coefs *coefs, int64_t positions_seen, const mg_state *s,
                            double *grad)
{
    return adam_range(e, coefs, positions_seen, s, grad, 0, e->at.num_params);
}

mg_status mg_update_range(const mg_engine *e, const mg_adam_coefs *coefs, int64_t positions_seen, const mg_state *s, double *grad,
                          int64_t first, int64_t end)
{
    mg_adam_decay(coefs, end - first, s->params + first);
    return adam_range(e, coefs, positions_seen, s, grad, first, end);
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

mg_status mg_adam_or_rollback(const mg_engine *e, const mg_adam_coefs *coefs, int64_t positions_seen, const mg_state *s,
                              double *grad, int may_fail)
{
    mg_forget_bounds(e);
    mg_clip_gradient(&e->config, coefs->clip, grad);
    if (!may_fail) {
        mg_adam_decay(coefs, e->at.num_params, s->params);
        return mg_adam_unchecked(e, coefs, positions_seen, s, grad);
    }
    double *copy = mg_allocate_copy(e);
    if (!copy) return MG_NO_MEMORY;
    mg_copy_state(e, copy, s);
    mg_adam_decay(coefs, e->at.num_params, s->params);
    const mg_status status = mg_adam_unchecked(e, coefs, positions_seen, s, grad);
    if (status) mg_restore_state(e, copy, s);
    free(copy);
    return status;
}

mg_status mg_begin_run(const mg_engine *e, const mg_state *s, const double *grad, mg_run *r)
{
    const mg_status status = mg_save_grad(e, grad, &r->saved_grad);
    if (status) return status;
    r->grad_has_minus_zero = r->saved_grad && mg_has_minus_zero(e, grad);
    r->negative_v = e->kernels->or_of_bits(e->at.num_params, s->v) >> 63;
    r->positions_seen = r->saved_grad ? e->config.block_size : count_positions_seen(e, s->m, s->v);
    return MG_OK;
}

void mg_end_step(mg_run *r)
{
    free(r->saved_grad);
    r->saved_grad = NULL;
    r->grad_has_minus_zero = 0;
}
