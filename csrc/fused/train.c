/* The training loop: documents in, losses out (microgpt.py, "Repeat in sequence"). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fused/engine.h"
#include "base/libm.h"

/* A copy of grad, for going back to it. NULL and MG_OK if grad is all +0.0, which needs no copy. */
static int save_grad(const mg_engine *e, const double *grad, int64_t num_params, double **copy)
{
    *copy = NULL;
    if (!e->kernels->or_of_bits(num_params, grad)) return MG_OK;
    *copy = malloc((size_t)num_params * sizeof **copy);
    if (!*copy) return MG_NO_MEMORY;
    memcpy(*copy, grad, (size_t)num_params * sizeof **copy);
    return MG_OK;
}

static void restore_grad(double *grad, int64_t num_params, const double *copy)
{
    if (copy)
        memcpy(grad, copy, (size_t)num_params * sizeof *grad);
    else
        memset(grad, 0, (size_t)num_params * sizeof *grad);
}

static int has_minus_zero(const double *grad, int64_t num_params)
{
    for (int64_t i = 0; i < num_params; i++)
        if (grad[i] == 0.0 && signbit(grad[i])) return 1;
    return 0;
}

/* Multiplications of a backward pass below which nobody is asked during it: some 25 ms without vectors. */
static int is_long(const mg_engine *e, int64_t n)
{
    return (double)mg_count_params(&e->config) * 2.0 * (double)n > (double)(1 << 27);
}

int mg_document_loss(mg_engine *e, const double *params, const int32_t *tokens, int64_t n, mg_poll *poll, double *loss)
{
    const int status = mg_engine_begin(e, tokens, n);
    return status ? status : mg_forward(e, params, poll, loss);
}

int mg_position_losses(mg_engine *e, const double *params, const int32_t *tokens, int64_t n, mg_poll *poll,
                       double *losses)
{
    double loss;
    const int status = mg_document_loss(e, params, tokens, n, poll, &loss);
    if (status) return status;
    for (int64_t p = 0; p < n; p++) losses[p] = mg_log(e->prob[p]) * -1.0;
    return MG_OK;
}

int mg_document_gradient(mg_engine *e, const double *params, double *grad, const int32_t *tokens, int64_t n,
                         mg_poll *poll, double *loss)
{
    const int64_t num_params = mg_count_params(&e->config);
    int status = mg_document_loss(e, params, tokens, n, poll, loss);
    if (status) return status;
    e->has_minus_zero = e->kernels->or_of_bits(num_params, grad) && has_minus_zero(grad, num_params);
    if (!is_long(e, n)) return mg_backward(e, params, grad, NULL); /* which cannot fail */
    double *saved_grad;
    status = save_grad(e, grad, num_params, &saved_grad);
    if (status) return status;
    status = mg_backward(e, params, grad, poll);
    if (status) restore_grad(grad, num_params, saved_grad);
    free(saved_grad);
    return status;
}

/* [3][n] numbers: parameters and moments, kept to go back to. */
static void copy_to(double *copy, int64_t n, double *const arrays[3])
{
    for (int a = 0; a < 3; a++) memcpy(copy + a * n, arrays[a], (size_t)n * sizeof *copy);
}

static void copy_back(const double *copy, int64_t n, double *const arrays[3])
{
    for (int a = 0; a < 3; a++) memcpy(arrays[a], copy + a * n, (size_t)n * sizeof *copy);
}

/* Parameters to be passed over below which it costs more to begin Adam twice. */
enum { MG_MIN_SKIPPED = 256 };

/* Adam over all that it can change. */
static int adam(const mg_engine *e, const mg_adam_coefs *coefs, int64_t n, double *params, double *grad, double *m,
                double *v)
{
    const int64_t seen = mg_count_embeddings_seen(e, coefs), after_wpe = e->at.lm_head;
    if (after_wpe - seen < MG_MIN_SKIPPED) return e->kernels->adam_update(coefs, 0, n, params, grad, m, v);
    const int status = e->kernels->adam_update(coefs, 0, seen, params, grad, m, v);
    if (status) return status;
    return e->kernels->adam_update(coefs, 0, n - after_wpe, params + after_wpe, grad + after_wpe, m + after_wpe, v + after_wpe);
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

static int adam_or_rollback(const mg_engine *e, const mg_adam_coefs *coefs, int64_t n, double *params, double *grad,
                           double *m, double *v, int negative_v)
{
    if (!mg_adam_may_fail(e->kernels, coefs, n, grad, negative_v))
        return adam(e, coefs, n, params, grad, m, v);
    double *const arrays[3] = {params, m, v};
    double *copy = (size_t)n <= SIZE_MAX / sizeof(double) / 3 ? malloc(3 * (size_t)n * sizeof *copy) : NULL;
    if (!copy) return MG_NO_MEMORY;
    copy_to(copy, n, arrays);
    const int status = adam(e, coefs, n, params, grad, m, v);
    if (status) copy_back(copy, n, arrays);
    free(copy);
    return status;
}

/* Steps of one call from which on it pays to keep a copy of what they change, and the parameters up to which: 24 MB. */
enum { MG_MIN_STEPS_FOR_SNAPSHOT = 16, MG_MAX_SNAPSHOT_PARAMS = 1 << 20 };

/* Parameters from which on Adam follows matrix by matrix: below, all of them stay in cache until the backward pass is
 * done. (tools/targets.py sets less, so that the small models of its tests go both ways.) */
#ifndef MG_FUSED_UPDATE_PARAMS
#define MG_FUSED_UPDATE_PARAMS (1 << 16)
#endif

/* Parameters and moments into e->before; whether there was memory for it. */
static int take_snapshot(mg_engine *e, int64_t num_params, double *const arrays[3])
{
    if (!e->snapshot) e->snapshot = malloc(3 * (size_t)num_params * sizeof *e->snapshot);
    if (e->snapshot) copy_to(e->snapshot, num_params, arrays);
    return e->snapshot != NULL;
}

/* What is left in e->chunk is the gradient at which Adam stopped, and what stood behind it. */
static void rollback(mg_engine *e, int64_t num_params, double *const arrays[3], double *grad)
{
    copy_back(e->snapshot, num_params, arrays);
    memset(grad, 0, (size_t)num_params * sizeof(double));
    memset(e->chunk, 0, (size_t)mg_dw_chunk_size(e->config.n_embd) * sizeof(double));
}

/* Backward and Adam without knowing beforehand that Adam will not fail, which is seen only when it has. */
static int step_optimistic(mg_engine *e, const mg_adam_coefs *coefs, int64_t num_params, double *params, double *grad,
                        double *m, double *v)
{
    const mg_update following = {coefs, params, grad, m, v};
    const int large = num_params >= MG_FUSED_UPDATE_PARAMS;
    e->update = large ? &following : NULL;
    const int status = mg_backward(e, params, grad, NULL);
    e->update = NULL;
    return status || large ? status : adam(e, coefs, num_params, params, grad, m, v);
}

int mg_train(mg_engine *e, const mg_adam_config *config, int64_t step, double *params, double *grad, double *m,
             double *v, const int32_t *tokens, const int64_t *starts, int64_t documents, mg_poll *poll, double *losses,
             int64_t *done)
{
    const int64_t num_params = mg_count_params(&e->config);
    double *const arrays[3] = {params, m, v};
    double *saved_grad; /* grad as the caller left it; after a step of Adam it is 0 */
    *done = 0;
    int status = save_grad(e, grad, num_params, &saved_grad);
    if (status) return status;
    e->has_minus_zero = saved_grad && has_minus_zero(grad, num_params);
    const int negative_v = e->kernels->or_of_bits(num_params, v) >> 63; /* or a -0.0, or some nan */
    e->positions_seen = saved_grad ? e->config.block_size : count_positions_seen(e, m, v);
    int optimistic = documents >= MG_MIN_STEPS_FOR_SNAPSHOT && num_params <= MG_MAX_SNAPSHOT_PARAMS && !negative_v;
    int64_t snapshot_at = -1; /* the number of documents done when e->before was written; grad was 0 then */
    while (!status && *done < documents) {
        const int32_t *document = tokens + starts[*done];
        const int64_t n = starts[*done + 1] - starts[*done] - 1;
        status = mg_document_loss(e, params, document, n, poll, losses + *done);
        if (status) break;
        if (e->positions_seen < n) e->positions_seen = n;
        mg_adam_coefs coefs;
        status = mg_adam_prepare(config, step + *done, &coefs);
        if (status) break;
        const int at_once = optimistic && !saved_grad && coefs.vectorizable && !is_long(e, n);
        if (at_once && snapshot_at < 0) {
            optimistic = take_snapshot(e, num_params, arrays);
            snapshot_at = *done;
        }
        if (at_once && optimistic) {
            if (step_optimistic(e, &coefs, num_params, params, grad, m, v)) {
                /* The square of some gradient overflows. Go back and come here again, cautiously. */
                rollback(e, num_params, arrays, grad);
                *done = snapshot_at;
                optimistic = 0;
                continue;
            }
        } else {
            status = mg_backward(e, params, grad, is_long(e, n) ? poll : NULL);
            if (!status) status = adam_or_rollback(e, &coefs, num_params, params, grad, m, v, negative_v);
            if (status) {
                restore_grad(grad, num_params, saved_grad);
                break;
            }
        }
        free(saved_grad);
        saved_grad = NULL;
        e->has_minus_zero = 0;
        ++*done;
    }
    free(saved_grad);
    return status;
}
