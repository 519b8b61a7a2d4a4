/* Attention, some heads of one panel of queries: the queries fill the lanes, the keys follow one another.
 *
 * Among the keys of the same panel (the diagonal) a query must not see later ones. The term of such a pair is set to +0.0
 * *after* the multiplication, because 0 * inf is nan; adding +0.0 does not change a sum that began at +0.0. */
#ifndef MG_BODY_ATTENTION_H
#define MG_BODY_ATTENTION_H

#include "kernels/body/exp_pow.h"
#include "kernels/kernels.h"

/* out[t] = sum over j of x[t][j] * y[j] for the LANES keys of one panel; j ascending or descending. */
ALWAYS void dot_keys(int descending, int64_t head_dim, const double *x, const double *y, vec out[LANES])
{
    UNROLL for (int t = 0; t < LANES; t++) out[t] = (vec){0};
    for (int64_t s = 0; s < head_dim; s++) {
        int64_t j = descending ? head_dim - 1 - s : s;
        vec yj = vec_load(y + j * LANES);
        UNROLL for (int t = 0; t < LANES; t++) out[t] += vec_set(x[j * LANES + t]) * yj;
    }
}

/* sum[j] += x[t][j] * weight[t] for the keys of one panel, of which `count` exist. */
ALWAYS void sum_panel(int descending, int diagonal, int dims, int64_t count, const double *x, const double *weight,
                      vec sum[8])
{
    UNROLL for (int s = 0; s < LANES; s++) {
        const int t = descending ? LANES - 1 - s : s;
        if (t >= count) continue;
        vec weight_t = vec_load(weight + t * LANES);
        UNROLL for (int j = 0; j < dims; j++) {
            vec term = vec_set(x[j * LANES + t]) * weight_t;
            sum[j] = vec_add_if(diagonal, lanes_from(t), sum[j], term);
        }
    }
}

/* out[j] = sum over t of x[t][j] * weight[t], `dims` of the head's dimensions, t ascending or descending. */
ALWAYS void sum_keys(int descending, int dims, int64_t panel, int64_t nkeys, const double *x, int64_t stride,
                     const double *weight, double *out)
{
    vec sum[8];
    UNROLL for (int j = 0; j < dims; j++) sum[j] = (vec){0};
    const int64_t last = nkeys - panel * LANES;
    if (descending) sum_panel(1, 1, dims, last, x + panel * stride, weight + panel * LANES * LANES, sum);
    for (int64_t s = 0; s < panel; s++) {
        const int64_t b = descending ? panel - 1 - s : s;
        sum_panel(descending, 0, dims, LANES, x + b * stride, weight + b * LANES * LANES, sum);
    }
    if (!descending) sum_panel(0, 1, dims, last, x + panel * stride, weight + panel * LANES * LANES, sum);
    UNROLL for (int j = 0; j < dims; j++) vec_store(out + j * LANES, sum[j]);
}

ALWAYS void sum_keys_all(int descending, int64_t panel, int64_t nkeys, int64_t head_dim, const double *x,
                         int64_t stride, const double *weight, double *out)
{
    int64_t j = 0;
    for (; j + 8 <= head_dim; j += 8)
        sum_keys(descending, 8, panel, nkeys, x + j * LANES, stride, weight, out + j * LANES);
    for (; j + 4 <= head_dim; j += 4)
        sum_keys(descending, 4, panel, nkeys, x + j * LANES, stride, weight, out + j * LANES);
    for (; j < head_dim; j++)
        sum_keys(descending, 1, panel, nkeys, x + j * LANES, stride, weight, out + j * LANES);
}

/* The number of keys that the queries of this panel see. */
ALWAYS int64_t keys_of(int64_t panel, int64_t n)
{
    int64_t end = (panel + 1) * LANES;
    return end < n ? end : n;
}

/* Logits of one head, less the largest that each query sees. For a key that it does not see: -inf or, with fewer than 8 lanes, where
 * exp is fast if all its vectors' numbers are small, 0. */
ALWAYS void attention_logits(int64_t panel, int64_t nkeys, int64_t head_dim, double scale, const double *q,
                             const double *k, int64_t stride, double *logits)
{
    vec largest = {0};
    for (int64_t b = 0; b <= panel; b++) {
        vec logit[LANES];
        dot_keys(0, head_dim, k + b * stride, q, logit);
        if (b == 0) largest = logit[0] * scale; /* every query sees key 0 */
        const int64_t count = nkeys - b * LANES < LANES ? nkeys - b * LANES : LANES;
        UNROLL for (int t = 0; t < LANES; t++) {
            if (t >= count) break;
            vec l = logit[t] * scale;
            if (b == panel) l = vec_select(lanes_from(t), l, vec_set(-INFINITY));
            largest = vec_max(largest, l);
            vec_store(logits + (b * LANES + t) * LANES, l);
        }
    }
    for (int64_t t = 0; t < nkeys; t++) {
        vec l = vec_load(logits + t * LANES) - largest;
        if (LANES < 8 && t > panel * LANES) l = vec_where(lanes_from(t - panel * LANES), l);
        vec_store(logits + t * LANES, l);
    }
}

/* The arguments from head h on. */
ALWAYS mg_attention_args attention_head(mg_attention_args a, int64_t h)
{
    const int64_t head = h * a.head_dim * LANES;
    a.q += head;
    a.k += head;
    a.v += head;
    a.exps += h * keys_of(a.panel, a.n) * LANES;
    a.sum += h * LANES;
    a.inv_sum += h * LANES;
    a.inv_sum_sq += h * LANES;
    return a;
}

#if MG_LANES == 8
/* So many heads of the first panel at a time. For each, the keys that its queries see, 36 of 64, take four and a half vectors. */
enum { FIRST_HEADS = 4, FIRST_PACKED = FIRST_HEADS * 9 / 2 };

/* Exponentials, packed, of the logits of one head of 4 dimensions, less the largest that each query sees. Key 4 goes with another
 * head's: *half has that of an even head, and with an odd one both are in the last vector. */
ALWAYS void first_logits(int64_t nkeys, double scale, const double *q, const double *k, double *packed, vec *half, int odd)
{
    vec x[LANES];
    dot_keys(0, 4, k, q, x);
    x[0] *= scale;
    vec largest = x[0];
    UNROLL for (int t = 1; t < LANES; t++) {
        x[t] *= scale;
        if (t < nkeys) largest = vec_select(lanes_from(t), vec_max(largest, x[t]), largest);
    }
    UNROLL for (int t = 0; t < LANES; t++) x[t] -= largest;
    vec_store(packed, x[0]);
    vec_store(packed + LANES, vec_select(0x01, VEC_ROTATE(x[7], 7), x[1]));
    vec_store(packed + 2 * LANES, vec_select(0x03, VEC_ROTATE(x[6], 6), x[2]));
    vec_store(packed + 3 * LANES, vec_select(0x07, VEC_ROTATE(x[5], 5), x[3]));
    if (odd) vec_store(packed + 4 * LANES, vec_select(0x0f, VEC_ROTATE(*half, 4), x[4]));
    *half = x[4];
}

/* The exponentials of each key, 0 for queries before it. */
ALWAYS void first_unpack(const double *packed, vec shared, int odd, vec e[LANES])
{
    const vec one = vec_load(packed + LANES), two = vec_load(packed + 2 * LANES), three = vec_load(packed + 3 * LANES);
    e[0] = vec_load(packed);
    e[1] = vec_where(0xfe, one);
    e[2] = vec_where(0xfc, two);
    e[3] = vec_where(0xf8, three);
    e[4] = vec_where(0xf0, odd ? shared : VEC_ROTATE(shared, 4));
    e[5] = vec_where(0xe0, VEC_ROTATE(three, 3));
    e[6] = vec_where(0xc0, VEC_ROTATE(two, 2));
    e[7] = vec_where(0x80, VEC_ROTATE(one, 1));
}

/* FIRST_HEADS heads of 4 dimensions, the first panel, of which at least 5 positions exist. Keys that do not exist are seen by queries
 * that do not exist. */
ALWAYS void attention_forward_first(mg_attention_args a, double *out)
{
    const int64_t nkeys = a.n < LANES ? a.n : LANES, head = 4 * LANES;
    double packed[FIRST_PACKED * LANES] __attribute__((aligned(64)));
    UNROLL for (int h = 0; h < FIRST_HEADS; h += 2) {
        vec half;
        double *two = packed + h / 2 * 9 * LANES;
        first_logits(nkeys, a.scale, a.q + h * head, a.k + h * head, two, &half, 0);
        first_logits(nkeys, a.scale, a.q + (h + 1) * head, a.k + (h + 1) * head, two + 4 * LANES, &half, 1);
    }
    exp_array(FIRST_PACKED * LANES, packed, packed);
    for (int h = 0; h < FIRST_HEADS; h++) {
        const double *two = packed + h / 2 * 9 * LANES;
        vec e[LANES], sum = {0};
        first_unpack(two + h % 2 * 4 * LANES, vec_load(two + 8 * LANES), h % 2, e);
        UNROLL for (int t = 0; t < LANES; t++) {
            sum += e[t];
            if (t < nkeys) vec_store(a.exps + (h * nkeys + t) * LANES, e[t]);
        }
        vec_store(a.sum + h * LANES, sum);
    }
    pow_m1_and_pow_m2_array(FIRST_HEADS * LANES, a.sum, a.inv_sum, a.inv_sum_sq);
    for (int h = 0; h < FIRST_HEADS; h++) {
        const double *v = a.v + h * head;
        const vec inv = vec_load(a.inv_sum + h * LANES);
        vec sum[4] = {{0}, {0}, {0}, {0}};
        UNROLL for (int t = 0; t < LANES; t++) {
            if (t >= nkeys) break;
            const vec weight = vec_load(a.exps + (h * nkeys + t) * LANES) * inv;
            UNROLL for (int j = 0; j < 4; j++)
                sum[j] = vec_add_where(lanes_from(t), sum[j], vec_set(v[j * LANES + t]) * weight);
        }
        UNROLL for (int j = 0; j < 4; j++) vec_store(out + h * head + j * LANES, sum[j]);
    }
}
#else
enum { FIRST_HEADS = 4 };
ALWAYS void attention_forward_first(mg_attention_args a, double *out) { (void)a, (void)out; }
#endif

static void attention_forward(const mg_attention_args *args, double *out)
{
    mg_attention_args a = *args; /* a copy that no store can alias */
    if (LANES == 8 && a.head_dim == 4 && a.panel == 0 && a.n >= 5) {
        for (; a.heads >= FIRST_HEADS; a.heads -= FIRST_HEADS) {
            attention_forward_first(a, out);
            a = attention_head(a, FIRST_HEADS);
            out += FIRST_HEADS * 4 * LANES;
        }
        if (!a.heads) return;
    }
    const int64_t nkeys = keys_of(a.panel, a.n), diagonal = a.panel * LANES, square = nkeys * LANES;
    const int64_t head = a.head_dim * LANES;
    for (int64_t h = 0; h < a.heads; h++) {
        const double *q_h = a.q + a.panel * a.stride + h * head, *k_h = a.k + h * head;
        if (a.head_dim == 4)
            attention_logits(a.panel, nkeys, 4, a.scale, q_h, k_h, a.stride, a.exps + h * square);
        else
            attention_logits(a.panel, nkeys, a.head_dim, a.scale, q_h, k_h, a.stride, a.exps + h * square);
    }
    exp_array(a.heads * square, a.exps, a.exps);
    for (int64_t h = 0; h < a.heads; h++) {
        double *exps_h = a.exps + h * square;
        vec sum = {0};
        for (int64_t t = 0; t < diagonal; t++) sum += vec_load(exps_h + t * LANES);
        UNROLL for (int t = 0; t < LANES; t++) {
            if (diagonal + t >= nkeys) continue;
            const vec e = vec_load(exps_h + (diagonal + t) * LANES);
            if (LANES < 8) vec_store(exps_h + (diagonal + t) * LANES, vec_where(lanes_from(t), e));
            sum = vec_add_where(lanes_from(t), sum, e);
        }
        vec_store(a.sum + h * LANES, sum);
    }
    pow_m1_and_pow_m2_array(a.heads * LANES, a.sum, a.inv_sum, a.inv_sum_sq);
    for (int64_t h = 0; h < a.heads; h++) {
        vec inv = vec_load(a.inv_sum + h * LANES);
        for (int64_t t = 0; t < nkeys; t++)
            vec_store(a.scratch + t * LANES, vec_load(a.exps + h * square + t * LANES) * inv);
        sum_keys_all(0, a.panel, nkeys, a.head_dim, a.v + h * head, a.stride, a.scratch, out + h * head);
    }
}

/* dk[t][j] += q[p][j] * dlogit[p][t] and dv[t][j] += dout[p][j] * weight[p][t] for the keys t of one panel, which fill the
 * lanes, and the queries p of another, one after the other, descending. */
ALWAYS void add_to_keys(int dims, int64_t nqueries, int diagonal, int set, const vec dlogit[LANES],
                        const vec weight[LANES], const double *q, const double *dout, double *dk, double *dv)
{
    vec sum_k[4], sum_v[4];
    UNROLL for (int j = 0; j < dims; j++) {
        sum_k[j] = set ? (vec){0} : vec_load(dk + j * LANES);
        sum_v[j] = set ? (vec){0} : vec_load(dv + j * LANES);
    }
    UNROLL for (int p = LANES - 1; p >= 0; p--) {
        if (p >= nqueries) continue;
        UNROLL for (int j = 0; j < dims; j++) {
            vec to_k = vec_set(q[j * LANES + p]) * dlogit[p], to_v = vec_set(dout[j * LANES + p]) * weight[p];
            sum_k[j] = vec_add_if(diagonal, lanes_to(p), sum_k[j], to_k);
            sum_v[j] = vec_add_if(diagonal, lanes_to(p), sum_v[j], to_v);
        }
    }
    UNROLL for (int j = 0; j < dims; j++) {
        vec_store(dk + j * LANES, sum_k[j]);
        vec_store(dv + j * LANES, sum_v[j]);
    }
}

ALWAYS mg_attention_grads attention_head_grads(mg_attention_grads g, int64_t head_dim, int64_t h)
{
    const int64_t head = h * head_dim * LANES;
    g.dout += head;
    g.dq += head;
    g.dk += head;
    g.dv += head;
    return g;
}

ALWAYS void attention_backward_head(mg_attention_args a, mg_attention_grads g)
{
    const int64_t nkeys = keys_of(a.panel, a.n), diagonal = a.panel * LANES, nqueries = nkeys - diagonal;
    const double *q_panel = a.q + a.panel * a.stride;
    double *dlogits = a.scratch, *weights = a.scratch + (a.panel + 1) * LANES * LANES;
    vec inv = vec_load(a.inv_sum);

    /* The gradient of each weight, into dlogits for now. */
    for (int64_t b = 0; b <= a.panel; b++) {
        vec dweight[LANES];
        dot_keys(1, a.head_dim, a.v + b * a.stride, g.dout, dweight);
        UNROLL for (int t = 0; t < LANES; t++) vec_store(dlogits + (b * LANES + t) * LANES, dweight[t]);
    }
    /* In the script every weight has a separate sum**-1 node: one contribution to dsum from each, the last key first.
     * Where the script adds to a fresh 0.0 the sign of a zero is lost; no sum that it enters depends on that. */
    vec dsum = {0}, slope = -1.0 * vec_load(a.inv_sum_sq);
    UNROLL for (int u = LANES - 1; u >= 0; u--) {
        const int64_t t = diagonal + u;
        if (t >= nkeys) continue;
        vec e = vec_load(a.exps + t * LANES);
        vec_store(weights + t * LANES, e * inv);
        dsum = vec_add_where(lanes_from(u), dsum, slope * (e * vec_load(dlogits + t * LANES)));
    }
    for (int64_t t = diagonal - 1; t >= 0; t--) {
        vec e = vec_load(a.exps + t * LANES);
        vec_store(weights + t * LANES, e * inv);
        dsum += slope * (e * vec_load(dlogits + t * LANES));
    }
    for (int64_t t = 0; t < nkeys; t++) {
        vec dexp = inv * vec_load(dlogits + t * LANES) + dsum;
        vec_store(dlogits + t * LANES, a.scale * (vec_load(a.exps + t * LANES) * dexp));
    }
    sum_keys_all(1, a.panel, nkeys, a.head_dim, a.k, a.stride, dlogits, g.dq);

    const int set = a.panel == (a.n - 1) / LANES;
    for (int64_t b = 0; b <= a.panel; b++) {
        vec dlogit[LANES], weight[LANES];
        UNROLL for (int t = 0; t < LANES; t++) {
            dlogit[t] = vec_load(dlogits + (b * LANES + t) * LANES);
            weight[t] = vec_load(weights + (b * LANES + t) * LANES);
        }
        vec_transpose(dlogit);
        vec_transpose(weight);
        double *dkb = g.dk + b * a.stride, *dvb = g.dv + b * a.stride;
        int64_t j = 0;
        for (; j + 4 <= a.head_dim; j += 4)
            add_to_keys(4, nqueries, b == a.panel, set, dlogit, weight, q_panel + j * LANES, g.dout + j * LANES,
                        dkb + j * LANES, dvb + j * LANES);
        for (; j < a.head_dim; j++)
            add_to_keys(1, nqueries, b == a.panel, set, dlogit, weight, q_panel + j * LANES, g.dout + j * LANES,
                        dkb + j * LANES, dvb + j * LANES);
    }
}

/* The same for the first panel and heads of 4 dimensions, where all that is summed fits into registers. Keys that do not exist have
 * exponentials of 0 here; only queries that do not exist would see them. */
ALWAYS void attention_backward_first(mg_attention_args a, mg_attention_grads g)
{
    const int64_t n = a.n < LANES ? a.n : LANES;
    const vec inv = vec_load(a.inv_sum), slope = -1.0 * vec_load(a.inv_sum_sq);
    vec dlogit[LANES], weight[LANES], dsum = {0};
    dot_keys(1, 4, a.v, g.dout, dlogit); /* the gradients of the weights */
    UNROLL for (int t = LANES - 1; t >= 0; t--) {
        const vec e = t < n ? vec_load(a.exps + t * LANES) : (vec){0};
        weight[t] = e;
        dsum = vec_add_where(lanes_from(t), dsum, slope * (e * dlogit[t]));
    }
    vec dq[4] = {{0}, {0}, {0}, {0}};
    UNROLL for (int t = LANES - 1; t >= 0; t--) {
        dlogit[t] = a.scale * (weight[t] * (inv * dlogit[t] + dsum));
        weight[t] *= inv;
        UNROLL for (int j = 0; j < 4; j++)
            dq[j] = vec_add_where(lanes_from(t), dq[j], vec_set(a.k[j * LANES + t]) * dlogit[t]);
    }
    UNROLL for (int j = 0; j < 4; j++) vec_store(g.dq + j * LANES, dq[j]);
    vec_transpose(dlogit);
    vec_transpose(weight);
    add_to_keys(4, n, 1, a.n <= LANES, dlogit, weight, a.q, g.dout, g.dk, g.dv);
}

static void attention_backward(const mg_attention_args *args, const mg_attention_grads *grads)
{
    mg_attention_args a = *args;
    const mg_attention_grads g = *grads;
    if (LANES == 8 && a.head_dim == 4 && a.panel == 0) {
        for (int64_t h = 0; h < a.heads; h++) {
            a.head_dim = 4;
            attention_backward_first(attention_head(a, h), attention_head_grads(g, 4, h));
        }
        return;
    }
    for (int64_t h = 0; h < a.heads; h++) {
        if (a.head_dim == 4) {
            a.head_dim = 4;
            attention_backward_head(attention_head(a, h), attention_head_grads(g, 4, h));
        } else {
            attention_backward_head(attention_head(a, h), attention_head_grads(g, a.head_dim, h));
        }
    }
}

#endif
