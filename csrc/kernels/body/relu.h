/* relu, a panel at a time, and its gradient. */
#ifndef MG_BODY_RELU_H
#define MG_BODY_RELU_H

#include "kernels/body/vec.h"

static int64_t relu_forward(int64_t n, int64_t nrows, double *h, int32_t *active, double *magnitude)
{
    /* Lanes without a position do not count. */
    const lane_mask valid = lanes_to(n - 1);
    vec sum = {0};
    int64_t nactive = 0;
    for (int64_t o = 0; o < nrows; o++) {
        vec y = vec_load(h + o * LANES);
        lane_mask positive = vec_greater(y, vec_set(0.0));
        sum += vec_abs(y);
        vec_store(h + o * LANES, vec_where(positive, y)); /* max(0, y): 0 for nan and for -0.0 */
        active[nactive] = (int32_t)o;
        nactive += lanes_any(positive & valid);
    }
    sum = vec_where(valid, sum);
    double total = 0.0;
    UNROLL for (int l = 0; l < LANES; l++) total += sum[l];
    *magnitude = total;
    return nactive;
}

static void relu_backward(int64_t nrows, const int32_t *active, const double *r, double *dr)
{
    for (int64_t s = 0; s < nrows; s++) {
        const int64_t o = (active ? active[s] : s) * LANES;
        /* 0.0 + float(h > 0) * dr: a product, because 0.0 * inf is nan. */
        vec slope = vec_where(vec_greater(vec_load(r + o), vec_set(0.0)), vec_set(1.0));
        vec_store(dr + o, 0.0 + slope * vec_load(dr + o));
    }
}

#endif
