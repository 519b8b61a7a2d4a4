/* Adam, one parameter at a time: the script's order of operations, errors included (reference.py, Adam.step). */
#ifndef MG_BODY_ADAM_ONE_H
#define MG_BODY_ADAM_ONE_H

#include <math.h>

#include "base/libm.h"
#include "kernels/body/exact.h"
#include "kernels/kernels.h"

/* The new v of one parameter, as the script does it. libm: take the square always from the C library; otherwise only where it
 * matters. */
ALWAYS mg_status adam_one_v(const mg_adam_coefs *c, int libm, double g, double *v)
{
    double other;
    const double square = libm ? other = mg_pow(g, 2.0) : square_of(g, &other);
    if (isinf(square) && isfinite(g)) return MG_POW_RANGE;
    const double decayed_v = c->beta2 * *v;
    *v = decayed_v + c->one_minus_beta2 * square;
    if (decayed_v + c->one_minus_beta2 * other != *v) *v = decayed_v + c->one_minus_beta2 * mg_pow(g, 2.0);
    return MG_OK;
}

/* The parameter, from the new m and v. libm: the same for the root. */
ALWAYS mg_status adam_one_data(const mg_adam_coefs *c, int libm, double *data, double m, double v)
{
    const double p = *data;
    double other;
    if (c->m_scale == 0.0 || c->v_scale == 0.0) return MG_ZERO_DIVISION;
    const double m_hat = m / c->m_scale, v_hat = v / c->v_scale;
    if (v_hat < 0.0 && isfinite(v_hat)) return MG_POW_COMPLEX;
    const double root = libm ? other = mg_pow(v_hat, 0.5) : root_of(v_hat, &other);
    if (root + c->eps == 0.0) return MG_ZERO_DIVISION;
    *data = p - c->lr_t * m_hat / (root + c->eps);
    if (other != root && p - c->lr_t * m_hat / (other + c->eps) != *data)
        *data = p - c->lr_t * m_hat / (mg_pow(v_hat, 0.5) + c->eps);
    return MG_OK;
}

/* One parameter, except that m is already the new one. */
ALWAYS mg_status adam_one_from_m(const mg_adam_coefs *c, int libm, double *data, double *grad, const double *m,
                                 double *v)
{
    mg_status status = adam_one_v(c, libm, *grad, v);
    if (!status) status = adam_one_data(c, libm, data, *m, *v);
    if (!status) *grad = 0.0;
    return status;
}

ALWAYS mg_status adam_one_by_one(const mg_adam_coefs *c, int libm, int64_t n, double *data, double *grad, double *m,
                                 double *v)
{
    for (int64_t i = 0; i < n; i++) {
        m[i] = c->beta1 * m[i] + c->one_minus_beta1 * grad[i];
        const mg_status status = adam_one_from_m(c, libm, data + i, grad + i, m + i, v + i);
        if (status) return status;
    }
    return MG_OK;
}

#endif
