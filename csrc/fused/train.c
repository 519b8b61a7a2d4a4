/* The training loop: documents in, losses out (microgpt.py, "Repeat in sequence"). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fused/engine.h"
#include "base/libm.h"

/* A copy of grad, for going back to it. NULL and MG_OK if grad is all +0.0, which needs no copy. */
static int remember(const mg_engine *e, const double *grad, int64_t num_params, double **copy)
{
    *copy = NULL;
    if (!e->kernels->or_of_bits(num_params, grad)) return MG_OK;
    *copy = malloc((size_t)num_params * sizeof **copy);
    if (!*copy) return MG_NO_MEMORY;
    memcpy(*copy, grad, (size_t)num_params * sizeof **copy);
    return MG_OK;
}

static void restore(double *grad, int64_t num_params, const double *copy)
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
    e->minus_zero = e->kernels->or_of_bits(num_params, grad) && has_minus_zero(grad, num_params);
    if (!is_long(e, n)) return mg_backward(e, params, grad, NULL); /* which cannot fail */
    double *before;
    status = remember(e, grad, num_params, &before);
    if (status) return status;
    status = mg_backward(e, params, grad, poll);
    if (status) restore(grad, num_params, before);
    free(before);
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
enum { MG_WORTH_A_GAP = 256 };

/* Adam over all that it can change. */
static int adam(const mg_engine *e, const mg_adam_coefs *coefs, int64_t n, double *params, double *grad, double *m,
                double *v)
{
    const int64_t awake = mg_embeddings_awake(e, coefs), rest = e->at.lm_head;
    if (rest - awake < MG_WORTH_A_GAP) return e->kernels->adam_update(coefs, 0, n, params, grad, m, v);
    const int status = e->kernels->adam_update(coefs, 0, awake, params, grad, m, v);
    if (status) return status;
    return e->kernels->adam_update(coefs, 0, n - rest, params + rest, grad + rest, m + rest, v + rest);
}

/* Positions up to the last whose row of wpe has moments. */
static int64_t reached(const mg_engine *e, const double *m, const double *v)
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

static int adam_or_nothing(const mg_engine *e, const mg_adam_coefs *coefs, int64_t n, double *params, double *grad,
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
enum { MG_WORTH_A_COPY = 16, MG_MOST_COPIED = 1 << 20 };

/* Parameters from which on Adam follows matrix by matrix: below, all of them stay in cache until the backward pass is
 * done. (tools/targets.py sets less, so that the small models of its tests go both ways.) */
#ifndef MG_LARGE
#define MG_LARGE (1 << 16)
#endif

/* Parameters and moments into e->before; whether there was memory for it. */
static int keep(mg_engine *e, int64_t num_params, double *const arrays[3])
{
    if (!e->before) e->before = malloc(3 * (size_t)num_params * sizeof *e->before);
    if (e->before) copy_to(e->before, num_params, arrays);
    return e->before != NULL;
}

/* What is left in e->chunk is the gradient at which Adam stopped, and what stood behind it. */
static void go_back(mg_engine *e, int64_t num_params, double *const arrays[3], double *grad)
{
    copy_back(e->before, num_params, arrays);
    memset(grad, 0, (size_t)num_params * sizeof(double));
    memset(e->chunk, 0, (size_t)mg_most_in_chunk(e->config.n_embd) * sizeof(double));
}

/* Backward and Adam without knowing beforehand that Adam will not fail, which is seen only when it has. */
static int step_at_once(mg_engine *e, const mg_adam_coefs *coefs, int64_t num_params, double *params, double *grad,
                        double *m, double *v)
{
    const mg_update following = {coefs, params, grad, m, v};
    const int large = num_params >= MG_LARGE;
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
    double *before; /* grad as the caller left it; after a step of Adam it is 0 */
    *done = 0;
    int status = remember(e, grad, num_params, &before);
    if (status) return status;
    e->minus_zero = before && has_minus_zero(grad, num_params);
    const int negative_v = e->kernels->or_of_bits(num_params, v) >> 63; /* or a -0.0, or some nan */
    e->reached = before ? e->config.block_size : reached(e, m, v);
    int daring = documents >= MG_WORTH_A_COPY && num_params <= MG_MOST_COPIED && !negative_v;
    int64_t kept = -1; /* the number of documents done when e->before was written; grad was 0 then */
    while (!status && *done < documents) {
        const int32_t *document = tokens + starts[*done];
        const int64_t n = starts[*done + 1] - starts[*done] - 1;
        status = mg_document_loss(e, params, document, n, poll, losses + *done);
        if (status) break;
        if (e->reached < n) e->reached = n;
        mg_adam_coefs coefs;
        status = mg_adam_prepare(config, step + *done, &coefs);
        if (status) break;
        const int at_once = daring && !before && coefs.vectorizable && !is_long(e, n);
        if (at_once && kept < 0) {
            daring = keep(e, num_params, arrays);
            kept = *done;
        }
        if (at_once && daring) {
            if (step_at_once(e, &coefs, num_params, params, grad, m, v)) {
                /* The square of some gradient overflows. Go back and come here again, cautiously. */
                go_back(e, num_params, arrays, grad);
                *done = kept;
                daring = 0;
                continue;
            }
        } else {
            status = mg_backward(e, params, grad, is_long(e, n) ? poll : NULL);
            if (!status) status = adam_or_nothing(e, &coefs, num_params, params, grad, m, v, negative_v);
            if (status) {
                restore(grad, num_params, before);
                break;
            }
        }
        free(before);
        before = NULL;
        e->minus_zero = 0;
        ++*done;
    }
    free(before);
    return status;
}
