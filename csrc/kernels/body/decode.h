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

static int64_t relu_decode(int64_t n, double *x, int32_t *active)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i += LANES) {
        const vec xi = vec_load(x + i);
        const lane_mask positive = vec_greater(xi, (vec){0});
        vec_store(x + i, vec_where(positive, xi));
#if MG_LANES == 8
        const __m256i index = _mm256_add_epi32(_mm256_set1_epi32((int32_t)i), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        _mm256_storeu_si256((__m256i *)(active + count), _mm256_maskz_compress_epi32(positive, index));
        count += __builtin_popcount(positive);
#else
        UNROLL for (int l = 0; l < LANES; l++) {
            active[count] = (int32_t)(i + l);
            count += xi[l] > 0.0;
        }
#endif
    }
    return count;
}

/* Each row of exps [rows][stride], of which the first n values count, becomes its softmax. total: [rows], rounded up to
 * lanes. */
ALWAYS void softmax_rows(int64_t rows, int64_t n, int64_t stride, double *exps, double *total)
{
    const int64_t last = stride - LANES;
    const lane_mask counts = lanes_to(n - 1 - last); /* of the last vector */
    for (int64_t h = 0; h < rows; h++) {
        double *row = exps + h * stride;
        /* By lane from -inf, then across lanes: that differs from max(row) for nans alone, which are ignored. A nan makes the
         * total one, and so the whole row, whatever is subtracted. */
        vec end = vec_select(counts, vec_load(row + last), vec_set(-INFINITY)), largest = vec_max(vec_set(-INFINITY), end);
        for (int64_t t = 0; t < last; t += LANES) largest = vec_max(largest, vec_load(row + t));
        largest = vec_max_across(largest);
        for (int64_t t = 0; t < last; t += LANES) vec_store(row + t, vec_load(row + t) - largest);
        vec_store(row + last, end - largest);
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

/* out[o + j] = the sum over n positions t, ascending, of the weight that the head of o + j gives to t, times values[t][o + j],
 * for count * width numbers j. All stay in registers; no vector of them belongs to two heads. */
typedef double quad __attribute__((vector_size(32), may_alias, aligned(8)));
#define VALUES_BY(name, type, width)                                                                              \
    ALWAYS void name##_values(int count, int64_t head_dim, int64_t n, int64_t stride, const double *weights,     \
                              int64_t n_embd, const double *values, int64_t o, double *out)                      \
    {                                                                                                             \
        type sum[4] = {0};                                                                                        \
        const double *weight[4];                                                                                  \
        UNROLL for (int c = 0; c < count; c++) weight[c] = weights + (o + c * (width)) / head_dim * stride;       \
        for (int64_t t = 0; t < n; t++)                                                                           \
            UNROLL for (int c = 0; c < count; c++)                                                                \
                sum[c] += weight[c][t] * *(const type *)(values + t * n_embd + o + c * (width));                  \
        UNROLL for (int c = 0; c < count; c++) *(type *)(out + o + c * (width)) = sum[c];                         \
    }
VALUES_BY(vec, vec_unaligned, LANES)
VALUES_BY(quad, quad, 4)
VALUES_BY(double, double, 1)
#undef VALUES_BY

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
    int64_t o = 0;
#define VALUES(type, width, count)                                                            \
    for (; o + (count) * (width) <= n_embd; o += (count) * (width))                           \
        type##_values(count, head_dim, n, stride, weights, n_embd, values, o, out)
    if (head_dim % LANES == 0) {
        VALUES(vec, LANES, 4);
        VALUES(vec, LANES, 1);
    } else if (head_dim % 4 == 0) {
        VALUES(quad, 4, 4);
        VALUES(quad, 4, 1);
    } else {
        VALUES(double, 1, 4);
        VALUES(double, 1, 1);
    }
#undef VALUES
}

#endif
