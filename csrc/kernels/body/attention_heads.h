/* Attention of a short document, LANES heads at a time, which fill the lanes; queries and keys follow one another.
 *
 * A query has products and exponentials with just the keys that it sees, where attention.h has those of whole panels: with 7
 * positions and 4 lanes 28 vectors instead of 44. Nothing need be masked, and no number be broadcast. For that, heads and positions
 * change places in the panels, and back in the results. */
#ifndef MG_BODY_ATTENTION_HEADS_H
#define MG_BODY_ATTENTION_HEADS_H

#include "kernels/body/exp_pow.h"
#include "kernels/kernels.h"

enum { MAX_PAIRS = MG_SHORT_DOCUMENT * (MG_SHORT_DOCUMENT + 1) / 2 };

/* Rows h * head_dim + j, each of LANES positions p, become rows p * head_dim + j, each of LANES heads h; or the other way round. */
ALWAYS void swap_heads(int64_t head_dim, double *x)
{
    for (int64_t j = 0; j < head_dim; j++) {
        vec row[LANES];
        UNROLL for (int h = 0; h < LANES; h++) row[h] = vec_load(x + (h * head_dim + j) * LANES);
        vec_transpose(row);
        UNROLL for (int p = 0; p < LANES; p++) vec_store(x + (p * head_dim + j) * LANES, row[p]);
    }
}

/* The same for all positions of a document. Before, those that do not exist become 0 if they are results. */
ALWAYS void swap_all(int64_t n, int64_t head_dim, int results, double *x, int64_t stride)
{
    for (int64_t first = 0; first < n; first += LANES, x += stride) {
        if (results)
            for (int64_t p = n - first; p < LANES; p++)
                for (int64_t j = 0; j < head_dim; j++) vec_store(x + (p * head_dim + j) * LANES, (vec){0});
        swap_heads(head_dim, x);
    }
}

/* Where position p begins, after swap_heads. */
ALWAYS int64_t position_at(int64_t p, int64_t head_dim, int64_t stride)
{
    return p / LANES * stride + p % LANES * head_dim * LANES;
}

/* Where the vectors of query p and all keys that it sees begin. */
ALWAYS int64_t pairs_at(int64_t p) { return p * (p + 1) / 2 * LANES; }

ALWAYS vec dot_heads(int descending, int64_t head_dim, const double *x, const double *y)
{
    vec sum = {0};
    for (int64_t s = 0; s < head_dim; s++) {
        const int64_t j = (descending ? head_dim - 1 - s : s) * LANES;
        sum += vec_load(x + j) * vec_load(y + j);
    }
    return sum;
}

/* Exponentials of the logits and their sums. */
ALWAYS void heads_softmax(const mg_attention_heads_args *a, int64_t head_dim)
{
    for (int64_t p = 0; p < a->n; p++) {
        const double *q = a->q + position_at(p, head_dim, a->stride);
        double *logits = a->exps + pairs_at(p);
        vec largest = dot_heads(0, head_dim, q, a->k) * a->scale;
        vec_store(logits, largest);
        for (int64_t t = 1; t <= p; t++) {
            const vec logit = dot_heads(0, head_dim, q, a->k + position_at(t, head_dim, a->stride)) * a->scale;
            largest = vec_max(largest, logit);
            vec_store(logits + t * LANES, logit);
        }
        for (int64_t t = 0; t <= p; t++) vec_store(logits + t * LANES, vec_load(logits + t * LANES) - largest);
    }
    exp_array(pairs_at(a->n), a->exps, a->exps);
    for (int64_t p = 0; p < a->n; p++) {
        const double *exps = a->exps + pairs_at(p);
        vec sum = {0};
        for (int64_t t = 0; t <= p; t++) sum += vec_load(exps + t * LANES);
        vec_store(a->sum + p * LANES, sum);
    }
    pow_m1_and_pow_m2_array(a->n * LANES, a->sum, a->inv_sum, a->inv_sum_sq);
}

/* `dims` of the results of one query, or of their gradients: the sum of x[t] * weight[t] over the keys that it sees. If inv_sum is
 * not NULL, weights are multiplied by it first. */
ALWAYS void heads_sum(int descending, int dims, int64_t p, int64_t head_dim, const double *x, int64_t stride, const double *weight,
                      const double *inv_sum, double *out)
{
    vec sum[4];
    UNROLL for (int j = 0; j < dims; j++) sum[j] = (vec){0};
    for (int64_t s = 0; s <= p; s++) {
        const int64_t t = descending ? p - s : s;
        const double *x_t = x + position_at(t, head_dim, stride);
        vec w = vec_load(weight + t * LANES);
        if (inv_sum) w *= vec_load(inv_sum);
        UNROLL for (int j = 0; j < dims; j++) sum[j] += vec_load(x_t + j * LANES) * w;
    }
    UNROLL for (int j = 0; j < dims; j++) vec_store(out + j * LANES, sum[j]);
}

ALWAYS void heads_sum_all(int descending, int64_t p, int64_t head_dim, const double *x, int64_t stride, const double *weight,
                          const double *inv_sum, double *out)
{
    int64_t j = 0;
    for (; j + 4 <= head_dim; j += 4)
        heads_sum(descending, 4, p, head_dim, x + j * LANES, stride, weight, inv_sum, out + j * LANES);
    for (; j < head_dim; j++)
        heads_sum(descending, 1, p, head_dim, x + j * LANES, stride, weight, inv_sum, out + j * LANES);
}

ALWAYS void heads_forward(const mg_attention_heads_args *a, int64_t head_dim, double *out)
{
    swap_all(a->n, head_dim, 0, a->q, a->stride);
    swap_all(a->n, head_dim, 0, a->k, a->stride);
    swap_all(a->n, head_dim, 0, a->v, a->stride);
    heads_softmax(a, head_dim);
    for (int64_t p = 0; p < a->n; p++)
        heads_sum_all(0, p, head_dim, a->v, a->stride, a->exps + pairs_at(p), a->inv_sum + p * LANES,
                      out + position_at(p, head_dim, a->out_stride));
    swap_all(a->n, head_dim, 1, out, a->out_stride);
}

static void attention_heads_forward(const mg_attention_heads_args *args, double *out)
{
    const mg_attention_heads_args a = *args;
    if (a.head_dim == 4)
        heads_forward(&a, 4, out);
    else
        heads_forward(&a, a.head_dim, out);
}

/* `dims` of dk[t] += q[p] * dlogit[p][t] and dv[t] += dout[p] * weight[p][t], over the queries that see the key t, descending. */
ALWAYS void heads_key(const mg_attention_heads_args *a, int dims, int64_t t, int64_t j0, int64_t head_dim, const double *dlogits,
                      const double *dout, double *dk, double *dv)
{
    vec sum_k[4], sum_v[4];
    UNROLL for (int j = 0; j < dims; j++) sum_k[j] = sum_v[j] = (vec){0};
    for (int64_t p = a->n - 1; p >= t; p--) {
        const double *q_p = a->q + position_at(p, head_dim, a->stride) + j0 * LANES;
        const double *dout_p = dout + position_at(p, head_dim, a->out_stride) + j0 * LANES;
        const int64_t pair = pairs_at(p) + t * LANES;
        const vec dlogit = vec_load(dlogits + pair), weight = vec_load(a->exps + pair) * vec_load(a->inv_sum + p * LANES);
        UNROLL for (int j = 0; j < dims; j++) {
            sum_k[j] += vec_load(q_p + j * LANES) * dlogit;
            sum_v[j] += vec_load(dout_p + j * LANES) * weight;
        }
    }
    const int64_t at = position_at(t, head_dim, a->stride) + j0 * LANES;
    UNROLL for (int j = 0; j < dims; j++) {
        vec_store(dk + at + j * LANES, sum_k[j]);
        vec_store(dv + at + j * LANES, sum_v[j]);
    }
}

ALWAYS void heads_backward(const mg_attention_heads_args *a, int64_t head_dim, const mg_attention_heads_grads *g)
{
    double dlogits[MAX_PAIRS * LANES] __attribute__((aligned(64)));
    swap_all(a->n, head_dim, 0, g->dout, a->out_stride);
    for (int64_t p = a->n - 1; p >= 0; p--) {
        const double *exps = a->exps + pairs_at(p), *dout = g->dout + position_at(p, head_dim, a->out_stride);
        double *row = dlogits + pairs_at(p);
        const vec inv = vec_load(a->inv_sum + p * LANES), slope = -1.0 * vec_load(a->inv_sum_sq + p * LANES);
        vec dsum = {0}; /* see attention_backward_head */
        for (int64_t t = p; t >= 0; t--) {
            const vec dweight = dot_heads(1, head_dim, a->v + position_at(t, head_dim, a->stride), dout);
            vec_store(row + t * LANES, dweight);
            dsum += slope * (vec_load(exps + t * LANES) * dweight);
        }
        for (int64_t t = 0; t <= p; t++) {
            const vec dexp = inv * vec_load(row + t * LANES) + dsum;
            vec_store(row + t * LANES, a->scale * (vec_load(exps + t * LANES) * dexp));
        }
        heads_sum_all(1, p, head_dim, a->k, a->stride, row, NULL, g->dq + position_at(p, head_dim, a->stride));
    }
    for (int64_t t = 0; t < a->n; t++) {
        int64_t j = 0;
        for (; j + 4 <= head_dim; j += 4) heads_key(a, 4, t, j, head_dim, dlogits, g->dout, g->dk, g->dv);
        for (; j < head_dim; j++) heads_key(a, 1, t, j, head_dim, dlogits, g->dout, g->dk, g->dv);
    }
    swap_all(a->n, head_dim, 1, g->dq, a->stride);
    swap_all(a->n, head_dim, 1, g->dk, a->stride);
    swap_all(a->n, head_dim, 1, g->dv, a->stride);
}

static void attention_heads_backward(const mg_attention_heads_args *args, const mg_attention_heads_grads *grads)
{
    const mg_attention_heads_args a = *args;
    const mg_attention_heads_grads g = *grads;
    if (a.head_dim == 4)
        heads_backward(&a, 4, &g);
    else
        heads_backward(&a, a.head_dim, &g);
}

#endif
