/* softmax over the vocabulary and the loss of each position's target, each position in its lane. */
#ifndef MG_BODY_LOSS_H
#define MG_BODY_LOSS_H

#include "kernels/body/exp_pow.h"

/* The logit of one position's target. In 64 bits: a vocabulary of 2**28 has more logits in a panel than an int counts. */
ALWAYS int64_t target_at(const int32_t *targets, int64_t p) { return (int64_t)targets[p] * LANES + p; }

static void loss_forward(int64_t vocab_size, double *logits, const int32_t *targets, double *total, double *inverse,
                         double *prob)
{
    vec largest = vec_load(logits);
    for (int64_t o = 1; o < vocab_size; o++) largest = vec_max(largest, vec_load(logits + o * LANES));
    for (int64_t o = 0; o < vocab_size; o++) vec_store(logits + o * LANES, vec_load(logits + o * LANES) - largest);
    exp_array(vocab_size * LANES, logits, logits);
    vec sum = {0};
    for (int64_t o = 0; o < vocab_size; o++) sum += vec_load(logits + o * LANES);
    vec_store(total, sum);
    pow_m1_array(LANES, total, inverse);
    for (int64_t p = 0; p < LANES; p++) prob[p] = logits[target_at(targets, p)] * inverse[p];
}

static void loss_backward(int64_t vocab_size, double *exps, const int32_t *targets, const double *inverse,
                          const double *power, const double *prob, double dloss, double *dtarget)
{
    /* Only the target's probability is in the graph, and with it one total**-1. Every 0.0 + stands for a gradient that
     * starts at 0 and is added to: it turns -0.0 into 0.0. */
    vec dtotal;
    for (int64_t p = 0; p < LANES; p++) {
        double e = exps[target_at(targets, p)];
        double dprob = 0.0 + 1.0 / prob[p] * (0.0 + -1.0 * dloss);
        double dinverse = 0.0 + e * dprob;
        dtotal[p] = 0.0 + -1.0 * power[p] * dinverse;
        dtarget[p] = 0.0 + e * ((0.0 + inverse[p] * dprob) + dtotal[p]);
    }
    for (int64_t o = 0; o < vocab_size; o++)
        vec_store(exps + o * LANES, 0.0 + vec_load(exps + o * LANES) * dtotal);
    for (int64_t p = 0; p < LANES; p++) exps[target_at(targets, p)] = 0.0;
}

#endif
