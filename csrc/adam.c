/* Adam: the coefficients of one update (reference.py, class Adam; microgpt.py, "Adam optimizer update"). The update
 * itself is kernels/adam.inc.h. */
#include "microgpt.h"
#include "kernels/kernels.h"
#include "mg_math.h"

static int between(double x, double low, double high) { return low <= x && x <= high; }

int mg_adam_prepare(const mg_adam_config *config, int64_t step, mg_adam_coefs *coefs)
{
    if (config->num_steps == 0) return MG_ZERO_DIVISION;
    const double t = (double)(step + 1);
    const double beta1_t = mg_pow(config->beta1, t), beta2_t = mg_pow(config->beta2, t);
    if ((isinf(beta1_t) && isfinite(config->beta1)) || (isinf(beta2_t) && isfinite(config->beta2)))
        return MG_POW_RANGE;
    coefs->beta1 = config->beta1;
    coefs->one_minus_beta1 = 1.0 - config->beta1;
    coefs->beta2 = config->beta2;
    coefs->one_minus_beta2 = 1.0 - config->beta2;
    coefs->m_scale = 1.0 - beta1_t;
    coefs->v_scale = 1.0 - beta2_t;
    coefs->lr_t = config->learning_rate * (1.0 - (double)step / (double)config->num_steps);
    coefs->eps = config->eps;
    /* Wide enough for every sensible setting, narrow enough that nothing over- or underflows on the way: the proofs in
     * docs/exactness.md count on these ranges. Whatever lies outside goes through the script's own arithmetic. */
    coefs->vectorizable = between(coefs->beta1, 0.0, 1.0) && between(coefs->beta2, 0.0, 1.0)
                          && between(coefs->one_minus_beta2, 0x1p-40, 1.0) && between(coefs->m_scale, 0x1p-40, 1.0)
                          && between(coefs->v_scale, 0x1p-40, 1.0) && between(coefs->eps, 0x1p-500, 0x1p+40)
                          && between(fabs(coefs->lr_t), 0x1p-50, 0x1p+30);
    coefs->sleepers = coefs->vectorizable && coefs->eps >= 0x1p-40 && beta1_t < 0x1p-800;
    return MG_OK;
}

int mg_adam_update(const mg_kernels *kernels, const mg_adam_coefs *coefs, int64_t n, double *data, double *grad,
                   double *m, double *v, int libm)
{
    if (libm) return kernels->adam_update_libm(coefs, n, data, grad, m, v);
    /* An error needs a gradient whose square overflows (2 and more have the highest bit of the exponent set) or a
     * negative v, if the coefficients are everyday ones. */
    const int may_fail = (kernels->or_of_bits(n, grad) >> 62 & 1) || kernels->or_of_bits(n, v) >> 63;
    return kernels->adam_update(coefs, may_fail, n, data, grad, m, v);
}

int mg_adam_step(const mg_kernels *kernels, const mg_adam_config *config, int64_t step, int64_t n, double *data,
                 double *grad, double *m, double *v)
{
    mg_adam_coefs coefs;
    const int status = mg_adam_prepare(config, step, &coefs);
    return status ? status : mg_adam_update(kernels, &coefs, n, data, grad, m, v, 0);
}
