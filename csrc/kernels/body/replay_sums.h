/* Compiled programs' sums of products and of plain terms. Vectors run across sums, never along one: each adds one term
 * after the other, products rounded before they are added. */
#ifndef MG_BODY_REPLAY_SUMS_H
#define MG_BODY_REPLAY_SUMS_H

#include "compiler/program.h"
#include "kernels/body/vec.h"

/* The first `count` lanes of what a sum starts from and ends in: the others may belong to another sum. */
ALWAYS void lanes_store(double *p, vec v, int64_t count)
{
#if MG_LANES == 8 && defined(__AVX512F__)
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << count) - 1), (__m512d)v);
#else
    if (count == MG_LANES)
        vec_store_unaligned(p, v);
    else
        for (int64_t l = 0; l < count; l++) p[l] = v[l];
#endif
}
ALWAYS vec lanes_load(const double *p, int64_t count)
{
#if MG_LANES == 8 && defined(__AVX512F__)
    return (vec)_mm512_maskz_loadu_pd((__mmask8)((1u << count) - 1), p);
#else
    if (count == MG_LANES) return vec_load_unaligned(p);
    vec v = vec_set(0.0);
    for (int64_t l = 0; l < count; l++) v[l] = p[l];
    return v;
#endif
}

/* Where the terms of the tiles of one instruction are. */
typedef struct {
    double *frame, *out;
    const int32_t *lists, *a, *b; /* a, b: the offsets for all tiles where an int input chooses them, else NULL */
} sum_terms;

/* T tiles times V vectors of lanes from l on; the last vector has `last` lanes. shared: all tiles have the vectors (and the
 * lists) of the first. */
ALWAYS void dot_block(int T, int V, int shared, int listed, int lanes, const mg_instruction *i, const mg_tile *t,
                      const sum_terms *m, int64_t l, int64_t last)
{
    vec acc[16];
    const double *a[4], *b[4];
    const int32_t *ka[4], *kb[4];
    const int64_t sa = i->sa, sb = i->sb;
    const int32_t n = t->n;
    UNROLL for (int j = 0; j < T; j++) {
        a[j] = m->frame + t[j].a + l;
        b[j] = m->frame + t[j].b + (lanes ? l : 0);
        if (listed) {
            ka[j] = m->a ? m->a : m->lists + t[j].ka;
            kb[j] = m->b ? m->b : m->lists + t[j].kb;
        }
        UNROLL for (int v = 0; v < V; v++)
            acc[j * V + v] = i->accumulate ? lanes_load(m->out + t[j].o + l + v * LANES, v == V - 1 ? last : LANES)
                                           : vec_set(0.0);
    }
    for (int32_t k = 0; k < n; k++) {
        vec common[8];
        if (shared)
            UNROLL for (int v = 0; v < V; v++)
                common[v] = vec_load_unaligned(a[0] + (listed ? ka[0][k] : k * sa) + v * LANES);
        UNROLL for (int j = 0; j < T; j++) {
            const int list = shared ? 0 : j;
            const double *x = a[j] + (listed ? ka[list][k] : k * sa), *y = b[j] + (listed ? kb[list][k] : k * sb);
            const vec one = lanes ? vec_set(0.0) : vec_set(*y);
            UNROLL for (int v = 0; v < V; v++)
                acc[j * V + v] = acc[j * V + v] + (shared ? common[v] : vec_load_unaligned(x + v * LANES))
                                                      * (lanes ? vec_load_unaligned(y + v * LANES) : one);
        }
    }
    UNROLL for (int j = 0; j < T; j++)
        UNROLL for (int v = 0; v < V; v++)
            if (v == V - 1)
                lanes_store(m->out + t[j].o + l + v * LANES, acc[j * V + v], last);
            else
                vec_store_unaligned(m->out + t[j].o + l + v * LANES, acc[j * V + v]);
}

/* So many vectors of sums are under way at once, as the registers allow. */
enum { MOST_SUMS = LANES == 8 ? 16 : 8 };

ALWAYS void dot_tiles(int T, int shared, int listed, int lanes, const mg_instruction *i, const mg_tile *t, const sum_terms *m)
{
    const int64_t tail = i->R % LANES ? i->R % LANES : LANES;
    const int most = T == 4 ? (shared ? MOST_SUMS / 4 : 2) : T == 2 ? 4 : 8;
    int64_t vectors = (i->R + LANES - 1) / LANES, l = 0;
    while (vectors > 0) {
        const int V = (int)(vectors >= most ? most : vectors);
        const int64_t last = V == vectors ? tail : LANES;
#define VECTORS(v)                                                                   \
    case v:                                                                          \
        if (v <= most) dot_block(T, v, shared, listed, lanes, i, t, m, l, last);     \
        break;
        switch (V) {
            VECTORS(1) VECTORS(2) VECTORS(3) VECTORS(4) VECTORS(5) VECTORS(6) VECTORS(7) VECTORS(8)
        }
#undef VECTORS
        l += V * LANES;
        vectors -= V;
    }
}

/* Whether two tiles have the same vectors (and lists): rows of one matrix, or the positions that meet it. */
ALWAYS int share_vectors(int listed, const mg_tile *t, const mg_tile *u, const sum_terms *m)
{
    return t->n == u->n && t->a == u->a && (!listed || m->a || (t->ka == u->ka && t->kb == u->kb));
}

ALWAYS void dot_lanes(int listed, int lanes, const mg_instruction *i, const mg_tile *t, const sum_terms *m)
{
    int32_t left = i->nt;
    while (left > 0) {
        int together = 1;
        while (together < 4 && together < left && !lanes && share_vectors(listed, t, t + together, m)) together++;
        if (together == 4)
            dot_tiles(4, 1, listed, 0, i, t, m);
        else if (together >= 2)
            dot_tiles(together = 2, 1, listed, 0, i, t, m);
        else {
            while (together < 4 && together < left && t[together].n == t->n
                   && (lanes || together + 1 == left || !share_vectors(listed, t + together, t + together + 1, m)))
                together++;
            if (together == 4)
                dot_tiles(4, 0, listed, lanes, i, t, m);
            else if (together >= 2)
                dot_tiles(together = 2, 0, listed, lanes, i, t, m);
            else
                dot_tiles(1, 0, listed, lanes, i, t, m);
        }
        t += together;
        left -= together;
    }
}

#define DOT(name, listed, lanes)                                                                             \
    static __attribute__((noinline)) void name(const mg_instruction *i, const mg_tile *t, const sum_terms *m) \
    {                                                                                                        \
        dot_lanes(listed, lanes, i, t, m);                                                                   \
    }
DOT(dot_broadcast, 0, 0)
DOT(dot_broadcast_listed, 1, 0)
DOT(dot_pairs, 0, 1)
DOT(dot_pairs_listed, 1, 1)
#undef DOT

static void replay_dot(const mg_instruction *i, const mg_tile *t, double *frame, double *results, const int32_t *lists,
                       const int32_t *ints)
{
    sum_terms m = {frame, results, lists, NULL, NULL};
    const int lanes = i->kind == MG_I_DOT_LANES;
    if (i->ints >= 0) {
        m.a = lists + i->table + (int64_t)ints[i->ints] * 2 * i->n;
        m.b = m.a + i->n;
    }
    if (m.a || t->ka >= 0)
        (lanes ? dot_pairs_listed : dot_broadcast_listed)(i, t, &m);
    else
        (lanes ? dot_pairs : dot_broadcast)(i, t, &m);
}

/* Rows of a matrix times several vectors: the vectors in the lanes, so that the matrix is read as it is. scratch: a column of
 * the vectors for each term. */
static __attribute__((noinline)) void dot_rows(const mg_instruction *i, const mg_tile *t, double *frame, double *results,
                                               double *scratch)
{
    enum { ROWS = 8 };
    const int64_t R = i->R, da = i->da, sa = i->sa, sb = i->sb;
    for (int32_t left = i->nt, together; left > 0; left -= together, t += together) {
        const int64_t n = t->n;
        const double *b[LANES];
        for (together = 1; together < LANES && together < left && t[together].a == t->a && t[together].n == n;) together++;
        for (int j = 0; j < LANES; j++) b[j] = frame + t[j < together ? j : together - 1].b;
        int64_t k = 0;
        for (; sb == 1 && k + LANES <= n; k += LANES) {
            vec rows[LANES];
            UNROLL for (int j = 0; j < LANES; j++) rows[j] = vec_load_unaligned(b[j] + k);
            vec_transpose(rows);
            UNROLL for (int j = 0; j < LANES; j++) vec_store(scratch + (k + j) * LANES, rows[j]);
        }
        for (; k < n; k++)
            for (int j = 0; j < LANES; j++) scratch[k * LANES + j] = b[j][k * sb];
        for (int64_t r = 0; r < R; r += ROWS) {
            const double *a[ROWS];
            vec acc[ROWS];
            UNROLL for (int q = 0; q < ROWS; q++) {
                a[q] = frame + t->a + (r + q < R ? r + q : R - 1) * da;
                acc[q] = vec_set(0.0);
            }
            for (k = 0; k < n; k++) {
                const vec x = vec_load(scratch + k * LANES);
                UNROLL for (int q = 0; q < ROWS; q++) acc[q] = acc[q] + vec_set(a[q][k * sa]) * x;
            }
            UNROLL for (int q = 0; q < ROWS; q += LANES) {
                const int64_t count = R - r - q < LANES ? R - r - q : LANES;
                vec_transpose(acc + q);
                for (int j = 0; j < together && count > 0; j++) lanes_store(results + t[j].o + r + q, acc[q + j], count);
            }
        }
    }
}

static __attribute__((noinline)) void sum_lanes(const mg_instruction *i, const mg_tile *t, double *frame, double *results,
                                                const int32_t *lists)
{
    for (int32_t j = 0; j < i->nt; j++, t++)
        for (int64_t l = 0; l < i->R; l += LANES) {
            const int64_t count = i->R - l < LANES ? i->R - l : LANES;
            double *out = results + t->o + l;
            const double *a = frame + t->a + (i->da ? l : 0);
            vec acc = i->accumulate ? lanes_load(out, count) : vec_set(0.0);
            if (!i->da) /* one number for all sums */
                for (int32_t k = 0; k < t->n; k++)
                    acc = acc + vec_set(a[t->ka >= 0 ? lists[t->ka + k] : k * (int64_t)i->sa]);
            else if (t->ka >= 0)
                for (int32_t k = 0; k < t->n; k++) acc = acc + vec_load_unaligned(a + lists[t->ka + k]);
            else
                for (int32_t k = 0; k < t->n; k++) acc = acc + vec_load_unaligned(a + k * (int64_t)i->sa);
            lanes_store(out, acc, count);
        }
}

/* ---- sums whose elements are not neighbours: several of them side by side ---- */

enum { OF_PRODUCTS, OF_TERMS, LARGEST, LEAST };

ALWAYS double add_term(int what, double acc, double x, double y)
{
    switch (what) {
    case OF_PRODUCTS: return acc + x * y;
    case OF_TERMS: return acc + x;
    case LARGEST: return x > acc ? x : acc; /* Python's max: the first of equals stays */
    default: return x < acc ? x : acc;
    }
}

/* E neighbours whose operands move by da and db. */
ALWAYS void strided_block(int what, int listed, int E, const mg_instruction *i, const mg_tile *t, double *frame,
                          double *results, const int32_t *lists, int64_t r)
{
    double acc[8];
    const double *a = frame + t->a + r * i->da, *b = frame + t->b + r * i->db;
    double *out = results + t->o + r;
    UNROLL for (int e = 0; e < E; e++) acc[e] = i->accumulate ? out[e] : 0.0;
    for (int32_t k = 0; k < t->n; k++) {
        const double *x = a + (listed ? lists[t->ka + k] : k * (int64_t)i->sa);
        const double *y = what != OF_PRODUCTS ? b : b + (listed ? lists[t->kb + k] : k * (int64_t)i->sb);
        UNROLL for (int e = 0; e < E; e++)
            acc[e] = add_term(what, acc[e], x[e * (int64_t)i->da], what == OF_PRODUCTS ? y[e * (int64_t)i->db] : 0.0);
    }
    UNROLL for (int e = 0; e < E; e++) out[e] = acc[e];
}

ALWAYS void strided(int what, const mg_instruction *i, const mg_tile *t, double *frame, double *results,
                    const int32_t *lists)
{
    for (int32_t j = 0; j < i->nt; j++, t++) {
        int64_t r = 0;
        const int listed = t->ka >= 0;
#define BLOCK(E)                                                                 \
    if (listed) strided_block(what, 1, E, i, t, frame, results, lists, r);                \
    else strided_block(what, 0, E, i, t, frame, results, lists, r);                       \
    r += E;
        while (r + 8 <= i->R) { BLOCK(8) }
        if (i->R - r >= 4) { BLOCK(4) }
        if (i->R - r >= 2) { BLOCK(2) }
        if (i->R - r >= 1) { BLOCK(1) }
#undef BLOCK
    }
}

/* Elements with addresses of their own; eight with equally many terms side by side. */
ALWAYS void single_block(int what, int E, const mg_instruction *i, const mg_tile *t, double *frame, double *results,
                         const int32_t *lists)
{
    double acc[8];
    const int extreme = what == LARGEST || what == LEAST;
    const int32_t n = t->n;
#define TERM(side, e, k) frame[t[e].side + (t[e].k##side >= 0 ? lists[t[e].k##side + k_] : k_ * (int64_t)i->s##side)]
    int32_t k_ = 0;
    UNROLL for (int e = 0; e < E; e++) acc[e] = extreme ? TERM(a, e, k) : i->accumulate ? results[t[e].o] : 0.0;
    for (k_ = extreme; k_ < n; k_++)
        UNROLL for (int e = 0; e < E; e++)
            acc[e] = add_term(what, acc[e], TERM(a, e, k), what == OF_PRODUCTS ? TERM(b, e, k) : 0.0);
#undef TERM
    UNROLL for (int e = 0; e < E; e++) results[t[e].o] = acc[e];
}

ALWAYS void singles(int what, const mg_instruction *i, const mg_tile *t, double *frame, double *results,
                    const int32_t *lists)
{
    int32_t left = i->nt;
    while (left > 0) {
        int together = 1;
        while (together < 8 && together < left && t[together].n == t->n) together++;
        if (together == 8)
            single_block(what, 8, i, t, frame, results, lists);
        else if (together >= 4)
            single_block(what, together = 4, i, t, frame, results, lists);
        else
            single_block(what, together = 1, i, t, frame, results, lists);
        t += together;
        left -= together;
    }
}

#define SUM(name, how, what)                                                                                    \
    static __attribute__((noinline)) void name(const mg_instruction *i, const mg_tile *t, double *frame,        \
                                               double *results, const int32_t *lists)                           \
    {                                                                                                           \
        how(what, i, t, frame, results, lists);                                                                 \
    }
SUM(dot_strided, strided, OF_PRODUCTS)
SUM(sum_strided, strided, OF_TERMS)
SUM(dot_single, singles, OF_PRODUCTS)
SUM(sum_single, singles, OF_TERMS)
SUM(max_single, singles, LARGEST)
SUM(min_single, singles, LEAST)
#undef SUM

#endif
