/* One position at a time, for sampling: the outputs of a product fill the lanes, the weights are transposed. */
#ifndef MG_BODY_DECODE_H
#define MG_BODY_DECODE_H

#include "kernels/body/exp_pow.h"

static void transpose_weights(int64_t nout, int64_t nin, const double *w, double *wt, int64_t wt_stride)
{
    for (int64_t o = 0; o < nout; o += LANES) {
        const int64_t rows = nout - o < LANES ? nout - o : LANES;
        int64_t i = 0;
        for (; i + LANES <= nin; i += LANES) {
            vec row[LANES];
            for (int64_t r = 0; r < rows; r++) row[r] = vec_load_unaligned(w + (o + r) * nin + i);
            for (int64_t r = rows; r < LANES; r++) row[r] = (vec){0};
            vec_transpose(row);
            UNROLL for (int l = 0; l < LANES; l++) vec_store(wt + (i + l) * wt_stride + o, row[l]);
        }
        for (; i < nin; i++)
            for (int64_t r = 0; r < LANES; r++) wt[i * wt_stride + o + r] = r < rows ? w[(o + r) * nin + i] : 0.0;
    }
}

ALWAYS void one_tile(int vecs, int64_t nin, const int32_t *active, const double *wt, int64_t wt_stride, const double *x,
                     double *out)
{
    vec sum[8];
    UNROLL for (int c = 0; c < vecs; c++) sum[c] = (vec){0};
    for (int64_t s = 0; s < nin; s++) {
        const int64_t i = active ? active[s] : s;
        vec xi = vec_set(x[i]);
        UNROLL for (int c = 0; c < vecs; c++) sum[c] += vec_load(wt + i * wt_stride + c * LANES) * xi;
    }
    UNROLL for (int c = 0; c < vecs; c++) vec_store(out + c * LANES, sum[c]);
}

static void linear_decode(int64_t nout, int64_t nin, const int32_t *active, const double *wt, int64_t wt_stride,
                       const double *x, double *out)
{
    int64_t o = 0;
#define ONE(vecs) one_tile(vecs, nin, active, wt + o, wt_stride, x, out + o)
    for (; o + 8 * LANES <= nout; o += 8 * LANES) ONE(8);
    for (; o + 4 * LANES <= nout; o += 4 * LANES) ONE(4);
    for (; o + 2 * LANES <= nout; o += 2 * LANES) ONE(2);
    for (; o < nout; o += LANES) ONE(1);
#undef ONE
}

/* Each row of exps [rows][stride], of which the first n values count, becomes its softmax. total: [rows], rounded up to
 * lanes. */
ALWAYS void softmax_rows(int64_t rows, int64_t n, int64_t stride, double *exps, double *total)
{
    for (int64_t h = 0; h < rows; h++) {
        double *row = exps + h * stride;
        /* By lane from -inf, then across lanes: only the order of comparisons differs from max(row), which matters for
         * nans alone. A nan that is first stays; any other is ignored. */
        vec largest = vec_set(-INFINITY);
        for (int64_t t = n; t < stride; t++) row[t] = -INFINITY;
        for (int64_t t = 0; t < stride; t += LANES) largest = vec_max(largest, vec_load(row + t));
        double m = largest[0];
        UNROLL for (int l = 1; l < LANES; l++) m = largest[l] > m ? largest[l] : m;
        if (row[0] != row[0]) m = row[0];
        for (int64_t t = 0; t < stride; t += LANES) vec_store(row + t, vec_load(row + t) - m);
    }
    exp_array(rows * stride, exps, exps);
    for (int64_t h = 0; h < rows; h++) {
        double sum = 0.0;
        for (int64_t t = 0; t < n; t++) sum += exps[h * stride + t];
        total[h] = sum;
    }
    const int64_t padded = (rows + LANES - 1) / LANES * LANES;
    for (int64_t h = rows; h < padded; h++) total[h] = 1.0;
    pow_m1_array(padded, total, total);
    for (int64_t h = 0; h < rows; h++)
        for (int64_t t = 0; t < stride; t += LANES)
            vec_store(exps + h * stride + t, vec_load(exps + h * stride + t) * total[h]);
}

static void softmax_decode(int64_t n, double factor, double *logits)
{
    const int64_t stride = (n + LANES - 1) / LANES * LANES;
    double total[LANES];
    for (int64_t t = 0; t < stride; t += LANES) vec_store(logits + t, vec_load(logits + t) * factor);
    softmax_rows(1, n, stride, logits, total);
}

static void attention_decode(int64_t n_head, int64_t head_dim, int64_t n, double factor, const double *q,
                          const double *keys, const double *values, double *scratch, double *out)
{
    const int64_t n_embd = n_head * head_dim, stride = (n + LANES - 1) / LANES * LANES;
    double *weights = scratch, *total = scratch + n_head * stride;
    for (int64_t h = 0; h < n_head; h++) {
        for (int64_t b = 0; b < stride; b += LANES) {
            vec sum = {0};
            for (int64_t j = 0; j < head_dim; j++)
                sum += q[h * head_dim + j] * vec_load(keys + b * n_embd + (h * head_dim + j) * LANES);
            vec_store(weights + h * stride + b, sum * factor);
        }
    }
    softmax_rows(n_head, n, stride, weights, total);
    for (int64_t h = 0; h < n_head; h++) {
        double *oh = out + h * head_dim;
        for (int64_t j = 0; j < head_dim; j++) oh[j] = 0.0;
        for (int64_t t = 0; t < n; t++) {
            const double weight = weights[h * stride + t], *vt = values + t * n_embd + h * head_dim;
            for (int64_t j = 0; j < head_dim; j++) oh[j] += weight * vt[j];
        }
    }
}

#endif
