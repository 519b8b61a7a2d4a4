/* softmax over the vocabulary and the loss of each position's target, one position per lane. */
#ifndef MG_BODY_LOSS_H
#define MG_BODY_LOSS_H

#include "kernels/body/exp_pow.h"

/* The logit of one position's target. In 64 bits: a vocabulary of 2**28 has more logits in a panel than an int counts. */
ALWAYS int64_t target_at(const int32_t *targets, int64_t p) { return (int64_t)targets[p] * LANES + p; }

/* The sums of `panels` panels, 1 or 2, side by side: a sum is a chain of additions, which wait for each other. */
ALWAYS void loss_sums(int panels, int64_t vocab_size, const double *exps, double *sum)
{
    vec all[2] = {{0}, {0}};
    for (int64_t o = 0; o < vocab_size; o++)
        UNROLL for (int b = 0; b < panels; b++) all[b] += vec_load(exps + (b * vocab_size + o) * LANES);
    UNROLL for (int b = 0; b < panels; b++) vec_store(sum + b * LANES, all[b]);
}

static void loss_forward(int64_t panels, int64_t vocab_size, double *logits, const int32_t *targets, double *sum, double *inv_sum,
                         double *inv_sum_sq, double *prob)
{
    const int64_t panel = vocab_size * LANES;
    int64_t b = 0;
    for (double *row = logits; b < panels; b++, row += panel) {
        vec largest = vec_load(row);
        for (int64_t o = 1; o < vocab_size; o++) largest = vec_max(largest, vec_load(row + o * LANES));
        for (int64_t o = 0; o < vocab_size; o++) vec_store(row + o * LANES, vec_load(row + o * LANES) - largest);
    }
    exp_array(panels * panel, logits, logits);
    for (b = 0; b + 2 <= panels; b += 2) loss_sums(2, vocab_size, logits + b * panel, sum + b * LANES);
    if (b < panels) loss_sums(1, vocab_size, logits + b * panel, sum + b * LANES);
    pow_m1_and_pow_m2_array(panels * LANES, sum, inv_sum, inv_sum_sq);
    for (b = 0; b < panels; b++)
        for (int64_t p = b * LANES; p < (b + 1) * LANES; p++)
            prob[p] = logits[b * panel + target_at(targets + b * LANES, p - b * LANES)] * inv_sum[p];
}

static void loss_backward(int64_t vocab_size, double *exps, const int32_t *targets, const double *inv_sum,
                          const double *inv_sum_sq, const double *prob, double dloss, double *dtarget)
{
    /* Only the target's probability is in the graph, and with it one sum**-1. Every 0.0 + is a gradient that starts at
     * 0 and is added to: it turns -0.0 into 0.0. */
    vec dsum;
    for (int64_t p = 0; p < LANES; p++) {
        double e = exps[target_at(targets, p)];
        double dprob = 0.0 + 1.0 / prob[p] * (0.0 + -1.0 * dloss);
        double dinverse = 0.0 + e * dprob;
        dsum[p] = 0.0 + -1.0 * inv_sum_sq[p] * dinverse;
        dtarget[p] = 0.0 + e * ((0.0 + inv_sum[p] * dprob) + dsum[p]);
    }
    for (int64_t o = 0; o < vocab_size; o++)
        vec_store(exps + o * LANES, 0.0 + vec_load(exps + o * LANES) * dsum);
    for (int64_t p = 0; p < LANES; p++) exps[target_at(targets, p)] = 0.0;
}

#endif
