/* rmsnorm: x scaled to a root mean square of one, one position per lane. */
#ifndef MG_BODY_RMSNORM_H
#define MG_BODY_RMSNORM_H

#include "kernels/body/exp_pow.h"

/* base of `panels` panels, 1 or 2, side by side: a sum is a chain of additions, which wait for each other. */
ALWAYS void rmsnorm_bases(int panels, int64_t n_embd, double inv_n_embd, const double *x, double *base)
{
    vec sum[2] = {{0}, {0}};
    for (int64_t i = 0; i < n_embd; i++) {
        UNROLL for (int b = 0; b < panels; b++) {
            const vec xi = vec_load(x + (b * n_embd + i) * LANES);
            sum[b] += xi * xi; /* the script's own xi * xi, not a power */
        }
    }
    UNROLL for (int b = 0; b < panels; b++)
        vec_store(base + b * LANES, sum[b] * vec_set(inv_n_embd) + vec_set(1e-5)); /* / len(x) is * len(x)**-1 */
}

static void rmsnorm_forward(int64_t panels, int64_t n_embd, double inv_n_embd, const double *x, double *base, double *scale,
                            double *base_m15, double *out)
{
    const int64_t panel = n_embd * LANES;
    int64_t b = 0;
    for (; b + 2 <= panels; b += 2) rmsnorm_bases(2, n_embd, inv_n_embd, x + b * panel, base + b * LANES);
    if (b < panels) rmsnorm_bases(1, n_embd, inv_n_embd, x + b * panel, base + b * LANES);
    pow_m05_and_pow_m15_array(panels * LANES, base, scale, base_m15);
    for (b = 0; b < panels; b++) {
        const vec s = vec_load(scale + b * LANES);
        for (int64_t i = b * panel; i < (b + 1) * panel; i += LANES) vec_store(out + i, vec_load(x + i) * s);
    }
}

/* `panels` panels, 1 or 2, side by side. */
ALWAYS void rmsnorm_gradients(int panels, int64_t n_embd, double inv_n_embd, const double *x, const double *scale,
                              const double *base_m15, const double *dout, double *dx)
{
    vec dscale[2] = {{0}, {0}}, dsum[2];
    for (int64_t i = n_embd - 1; i >= 0; i--) {
        UNROLL for (int b = 0; b < panels; b++) {
            const int64_t at = (b * n_embd + i) * LANES;
            const vec g = vec_load(dout + at);
            dscale[b] += vec_load(x + at) * g;
            vec_store(dx + at, vec_load(dx + at) + vec_load(scale + b * LANES) * g);
        }
    }
    UNROLL for (int b = 0; b < panels; b++) dsum[b] = vec_set(inv_n_embd) * ((-0.5 * vec_load(base_m15 + b * LANES)) * dscale[b]);
    for (int64_t i = 0; i < n_embd; i++) {
        UNROLL for (int b = 0; b < panels; b++) {
            /* x * x has x as both children: the same product is added twice, never 2 * x at once. */
            const int64_t at = (b * n_embd + i) * LANES;
            const vec g = vec_load(x + at) * dsum[b];
            vec_store(dx + at, (vec_load(dx + at) + g) + g);
        }
    }
}

static void rmsnorm_backward(int64_t panels, int64_t n_embd, double inv_n_embd, const double *x, const double *scale,
                             const double *base_m15, const double *dout, double *dx)
{
    const int64_t panel = n_embd * LANES;
    for (; panels > 0; panels -= 2) {
        if (panels == 1)
            rmsnorm_gradients(1, n_embd, inv_n_embd, x, scale, base_m15, dout, dx);
        else
            rmsnorm_gradients(2, n_embd, inv_n_embd, x, scale, base_m15, dout, dx);
        x += 2 * panel;
        dout += 2 * panel;
        dx += 2 * panel;
        scale += 2 * LANES;
        base_m15 += 2 * LANES;
    }
}

#endif
