/* softmax over the vocabulary and the loss of each position's target, one position per lane. */
#ifndef MG_BODY_LOSS_H
#define MG_BODY_LOSS_H

#include "kernels/body/exp_pow.h"

/* The logit of one position's target. In 64 bits: a vocabulary of 2**28 has more logits in a panel than an int counts. */
ALWAYS int64_t target_at(const int32_t *targets, int64_t p) { return (int64_t)targets[p] * LANES + p; }

static void loss_forward(int64_t vocab_size, double *logits, const int32_t *targets, double *sum, double *inv_sum,
                         double *inv_sum_sq, double *prob)
{
    vec largest = vec_load(logits);
    for (int64_t o = 1; o < vocab_size; o++) largest = vec_max(largest, vec_load(logits + o * LANES));
    for (int64_t o = 0; o < vocab_size; o++) vec_store(logits + o * LANES, vec_load(logits + o * LANES) - largest);
    exp_array(vocab_size * LANES, logits, logits);
    vec all = {0};
    for (int64_t o = 0; o < vocab_size; o++) all += vec_load(logits + o * LANES);
    vec_store(sum, all);
    pow_m1_and_pow_m2_array(LANES, sum, inv_sum, inv_sum_sq);
    for (int64_t p = 0; p < LANES; p++) prob[p] = logits[target_at(targets, p)] * inv_sum[p];
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
