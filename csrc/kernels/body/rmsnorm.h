/* rmsnorm: x scaled to a root mean square of one, one position per lane. */
#ifndef MG_BODY_RMSNORM_H
#define MG_BODY_RMSNORM_H

#include "kernels/body/exp_pow.h"

static void rmsnorm_forward(int64_t n_embd, double inv_n_embd, const double *x, double *base, double *scale, double *base_m15,
                            double *out)
{
    vec sum = {0};
    for (int64_t i = 0; i < n_embd; i++) {
        vec xi = vec_load(x + i * LANES);
        sum += xi * xi; /* the script's own xi * xi, not a power */
    }
    vec_store(base, sum * vec_set(inv_n_embd) + vec_set(1e-5)); /* / len(x) is * len(x)**-1 */
    pow_m05_and_pow_m15_array(LANES, base, scale, base_m15);
    vec s = vec_load(scale);
    for (int64_t i = 0; i < n_embd; i++) vec_store(out + i * LANES, vec_load(x + i * LANES) * s);
}

static void rmsnorm_backward(int64_t n_embd, double inv_n_embd, const double *x, const double *scale,
                             const double *base_m15, const double *dout, double *dx)
{
    vec s = vec_load(scale), dscale = {0};
    for (int64_t i = n_embd - 1; i >= 0; i--) {
        vec g = vec_load(dout + i * LANES);
        dscale += vec_load(x + i * LANES) * g;
        vec_store(dx + i * LANES, vec_load(dx + i * LANES) + s * g);
    }
    vec dbase = (-0.5 * vec_load(base_m15)) * dscale;
    vec dsum = vec_set(inv_n_embd) * dbase;
    for (int64_t i = 0; i < n_embd; i++) {
        /* x * x has x as both children: the same product is added twice, never 2 * x at once. */
        vec g = vec_load(x + i * LANES) * dsum;
        vec_store(dx + i * LANES, (vec_load(dx + i * LANES) + g) + g);
    }
}

#endif
