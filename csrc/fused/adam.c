/* Adam: the coefficients of one update (reference.py, class Adam; microgpt.py, "Adam optimizer update"). The update
 * itself is kernels/body/adam.h. */
#include "fused/adam.h"

#include "base/libm.h"
#include "kernels/kernels.h"

/* Whether the processor flushes subnormal numbers to zero, because some library of this process has told it to. CPython's
 * arithmetic does so then, too, but what the vector kernels do in integers does not. */
static int flushes_subnormals(void)
{
    volatile double least_normal = 0x1p-1022, least = 0x1p-1074;
    return least_normal * 0.5 == 0.0 || least + least == 0.0;
}

static int between(double x, double low, double high) { return low <= x && x <= high; }

mg_status mg_adam_prepare(const mg_adam_config *config, int64_t step, mg_adam_coefs *coefs)
{
    if (!config->rates && config->num_steps == 0) return MG_ZERO_DIVISION;
    const double t = (double)(step + 1);
    const double beta1_t = mg_pow(config->beta1, t), beta2_t = mg_pow(config->beta2, t);
    if ((isinf(beta1_t) && isfinite(config->beta1)) || (isinf(beta2_t) && isfinite(config->beta2))) return MG_POW_RANGE;
    coefs->beta1 = config->beta1;
    coefs->one_minus_beta1 = 1.0 - config->beta1;
    coefs->beta2 = config->beta2;
    coefs->one_minus_beta2 = 1.0 - config->beta2;
    coefs->m_scale = 1.0 - beta1_t;
    coefs->v_scale = 1.0 - beta2_t;
    coefs->lr_t = config->rates ? config->rates[step - config->first_rate]
                                : config->learning_rate * (1.0 - (double)step / (double)config->num_steps);
    coefs->eps = config->eps;
    coefs->weight_decay = config->weight_decay;
    coefs->clip = config->clip;
    /* Wide enough for every sensible setting, narrow enough that no intermediate result over- or underflows: the proofs
     * in docs/explain/exactness.md assume these ranges. Other settings go through the script's arithmetic, one by one. */
    coefs->vectorizable = between(coefs->beta1, 0.0, 1.0) && between(coefs->beta2, 0.0, 1.0)
                          && between(coefs->one_minus_beta2, 0x1p-40, 1.0) && between(coefs->m_scale, 0x1p-40, 1.0)
                          && between(coefs->v_scale, 0x1p-40, 1.0) && between(coefs->eps, 0x1p-500, 0x1p+40)
                          && between(fabs(coefs->lr_t), 0x1p-50, 0x1p+30) && !flushes_subnormals();
    coefs->may_have_subnormals = coefs->vectorizable && coefs->eps >= 0x1p-40 && beta1_t < 0x1p-800;
    coefs->fetch_ahead = 0;
    return MG_OK;
}

void mg_adam_decay(const mg_adam_coefs *coefs, int64_t n, double *data)
{
    if (coefs->weight_decay == 0.0) return;
    const double share = coefs->lr_t * coefs->weight_decay;
    for (int64_t i = 0; i < n; i++) data[i] -= share * data[i];
}

int mg_adam_may_fail(const mg_kernels *kernels, const mg_adam_coefs *coefs, int64_t n, const double *grad,
                     int negative_v)
{
    if (negative_v || !coefs->vectorizable) return 1;
    /* The highest bit of the exponent is set in numbers of 2 or more. Only then is the sum needed. */
    return (kernels->or_of_bits(n, grad) & (uint64_t)1 << 62)
           && !(kernels->sum_of_magnitudes(n, grad) < MG_SAFE_MAGNITUDE);
}

int mg_adam_may_stop(const mg_kernels *kernels, const mg_adam_coefs *coefs, int64_t n, const double *grad, const double *v)
{
    const int negative_v = kernels->or_of_bits(n, v) >> 63; /* or a -0.0, or a nan with a sign */
    return mg_adam_may_fail(kernels, coefs, n, grad, negative_v);
}

mg_status mg_adam_update(const mg_kernels *kernels, const mg_adam_coefs *coefs, int64_t n, double *data, double *grad,
                         double *m, double *v, int libm)
{
    if (libm) return kernels->adam_update_libm(coefs, n, data, grad, m, v);
    return kernels->adam_update(coefs, mg_adam_may_stop(kernels, coefs, n, grad, v), n, data, grad, m, v);
}
