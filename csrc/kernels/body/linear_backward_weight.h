/* Gradients of a product's weights: dw[o][i] += x[p][i] * dy[p][o], p descending. */
#ifndef MG_BODY_LINEAR_BACKWARD_WEIGHT_H
#define MG_BODY_LINEAR_BACKWARD_WEIGHT_H

#include "kernels/body/tile.h"
#include "kernels/kernels.h"

/* `rows` rows of dw, adjacent or those in `active`. part: the number of columns if they do not fill a vector, else 0. half, a
 * constant: units_are_half. factors: dy of the rows, [n][rows], the last position first; NULL: as it stands in a. */
ALWAYS void weight_tile(int rows, int vecs, int half, int64_t part, mg_linear_backward_weight_args a, const int32_t *active,
                        const double *factors)
{
    vec sum[TILE_SUMS];
    double *dw_row[TILE_SUMS];
    const double *dy_row[TILE_SUMS];
    UNROLL for (int r = 0; r < rows; r++) {
        const int64_t o = active ? active[r] : r;
        dw_row[r] = a.dw + o * a.nin;
        dy_row[r] = factors ? factors + r : a.dy + o * LANES;
        UNROLL for (int c = 0; c < vecs; c++) {
            sum[r * vecs + c] = part ? vec_load_part(dw_row[r], part) : vec_load_unaligned(dw_row[r] + c * LANES);
            /* The rows below, which come next. */
            if (!half && a.nin > 64 && !active) prefetch_write(dw_row[r], rows * a.nin + c * LANES);
        }
    }
    /* Position p, whose dy is at `at` of its row. */
#define POSITION(p, at)                                                                                          \
    {                                                                                                            \
        vec xp[TILE_SUMS];                                                                                       \
        UNROLL for (int c = 0; c < vecs; c++) xp[c] = vec_load(a.x + (p)*a.x_stride + c * LANES);                \
        if (half && vecs == 1 && rows % 4 == 0 && !active) {                                                     \
            UNROLL for (int r = 0; r < rows; r += 4) add_four_products(sum + r, dy_row[r] + (at), LANES, xp[0]); \
        } else {                                                                                                 \
            UNROLL for (int r = 0; r < rows; r++) {                                                              \
                UNROLL for (int c = 0; c < vecs; c++) sum[r * vecs + c] += xp[c] * vec_set(dy_row[r][at]);       \
            }                                                                                                    \
        }                                                                                                        \
    }
    if (factors) {
        TWO_TURNS
        for (int64_t p = a.n - 1; p >= 0; p--) POSITION(p, (a.n - 1 - p) * rows)
    } else if (TILE_WIDE && !active) {
        for (int64_t b = (a.n - 1) / LANES; b >= 0; b--) {
            const int64_t first = b * LANES, left = a.n - first;
            for (int64_t l = (left < LANES ? left : LANES) - 1; l >= 0; l--) POSITION(first + l, b * a.dy_stride + l)
        }
    } else {
        for (int64_t p = a.n - 1; p >= 0; p--)
            POSITION(p, (int64_t)((uint64_t)p / LANES) * a.dy_stride + (int64_t)((uint64_t)p % LANES))
    }
#undef POSITION
    UNROLL for (int r = 0; r < rows; r++) {
        UNROLL for (int c = 0; c < vecs; c++) {
            if (part)
                vec_store_part(dw_row[r], sum[r * vecs + c], part);
            else
                vec_store_unaligned(dw_row[r] + c * LANES, sum[r * vecs + c]);
        }
    }
}

/* The arguments for row o and column c on. With `active` the rows are named there. */
ALWAYS mg_linear_backward_weight_args weight_from(mg_linear_backward_weight_args a, const int32_t *active, int64_t o,
                                                  int64_t c)
{
    if (!active) {
        a.dy += o * LANES;
        a.dw += o * a.nin;
    }
    a.x += c;
    a.dw += c;
    return a;
}

ALWAYS void weight_vectors(int rows, int half, mg_linear_backward_weight_args a, const int32_t *active, int64_t o,
                           const double *factors)
{
    int64_t c = 0;
    const int32_t *listed = active ? active + o : NULL;
#define WEIGHT(vecs, part) weight_tile(rows, vecs, half, part, weight_from(a, active, o, c), listed, factors)
    if (!half)
        for (; c + 2 * LANES <= a.nin; c += 2 * LANES) WEIGHT(2, 0);
    for (; c + LANES <= a.nin; c += LANES) WEIGHT(1, 0);
    if (c < a.nin) WEIGHT(1, a.nin - c);
#undef WEIGHT
}

/* With narrow vectors the instructions that find dy in its panels count, so it is copied once for all columns of some rows, if there
 * are enough of them. */
ALWAYS void weight_cols(int rows, int half, mg_linear_backward_weight_args a, const int32_t *active, int64_t o)
{
    enum { POSITIONS = 16 * LANES, COLUMNS = 64 };
    if (TILE_WIDE || active || rows < 4 || a.nin < COLUMNS || a.n > POSITIONS) {
        weight_vectors(rows, half, a, active, o, NULL);
        return;
    }
    double factors[POSITIONS * TILE_SUMS / 2], *to = factors;
    for (int64_t p = a.n - 1; p >= 0; p--, to += rows) {
        const double *from = a.dy + (int64_t)((uint64_t)p / LANES) * a.dy_stride + (int64_t)((uint64_t)p % LANES);
        UNROLL for (int r = 0; r < rows; r++) to[r] = from[(o + r) * LANES];
    }
    weight_vectors(rows, half, a, NULL, o, factors);
}

ALWAYS void weight_rows(int half, mg_linear_backward_weight_args a, const int32_t *active)
{
    int64_t o = 0;
    for (; o + TILE_SUMS / 2 <= a.nout; o += TILE_SUMS / 2) weight_cols(TILE_SUMS / 2, half, a, active, o);
    if (TILE_SUMS / 2 == 6 && o + 4 <= a.nout) {
        weight_cols(4, half, a, active, o);
        o += 4;
    }
    for (; o + 2 <= a.nout; o += 2) weight_cols(2, half, a, active, o);
    if (o < a.nout) weight_cols(1, half, a, active, o);
}

/* With a constant size for the products of the script's own model. */
ALWAYS void weight_sizes(int half, mg_linear_backward_weight_args a, const int32_t *active)
{
    if (a.nin == 16 && a.x_stride == 16) {
        a.nin = a.x_stride = 16;
        weight_rows(half, a, active);
    } else {
        weight_rows(half, a, active);
    }
}

static void linear_backward_weight(const mg_linear_backward_weight_args *args)
{
    if (TILE_WIDE && units_are_half)
        weight_sizes(1, *args, NULL);
    else
        weight_sizes(0, *args, NULL);
}

static void linear_backward_weight_active(const mg_linear_backward_weight_args *args, const int32_t *active)
{
    mg_linear_backward_weight_args a = *args;
    a.dy_stride = 0; /* one panel */
    if (TILE_WIDE && units_are_half)
        weight_sizes(1, a, active);
    else
        weight_sizes(0, a, active);
}

/* `rows` rows of one vector of columns, over the `count` positions given, which descend. half: as in weight_tile. */
ALWAYS void sparse_tile(int rows, int half, int64_t part, int64_t count, const int32_t *positions,
                        mg_linear_backward_weight_args a)
{
    vec sum[8];
    UNROLL for (int r = 0; r < rows; r++) {
        sum[r] = part ? vec_load_part(a.dw + r * a.nin, part) : vec_load_unaligned(a.dw + r * a.nin);
        if (a.nin > 64) prefetch_write(a.dw, (rows + r) * a.nin);
    }
    for (int64_t s = 0; s < count; s++) {
        const int64_t p = positions[s];
        const double *g = a.dy + (int64_t)((uint64_t)p / LANES) * a.dy_stride + (int64_t)((uint64_t)p % LANES);
        vec xp = vec_load(a.x + p * a.x_stride);
        if (half && rows % 4 == 0)
            UNROLL for (int r = 0; r < rows; r += 4) add_four_products(sum + r, g + r * LANES, LANES, xp);
        else
            UNROLL for (int r = 0; r < rows; r++) sum[r] += xp * vec_set(g[r * LANES]);
    }
    UNROLL for (int r = 0; r < rows; r++) {
        if (part)
            vec_store_part(a.dw + r * a.nin, sum[r], part);
        else
            vec_store_unaligned(a.dw + r * a.nin, sum[r]);
    }
}

ALWAYS void sparse_rows(int half, mg_linear_backward_weight_args a, const int32_t *index_scratch)
{
    int64_t o = 0;
#define SPARSE(rows)                                                                               \
    for (int64_t c = 0; c < a.nin; c += LANES) {                                                   \
        const int32_t *list = index_scratch + c / LANES * (a.n + 1);                               \
        const int64_t part = a.nin - c < LANES ? a.nin - c : 0;                                    \
        if (list[0]) sparse_tile(rows, half, part, list[0], list + 1, weight_from(a, NULL, o, c)); \
    }
    for (; o + 8 <= a.nout; o += 8) SPARSE(8)
    for (; o < a.nout; o++) SPARSE(1)
#undef SPARSE
}

static void linear_backward_weight_sparse(const mg_linear_backward_weight_args *args, int32_t *index_scratch)
{
    const mg_linear_backward_weight_args a = *args;
    /* For each vector of columns: the number of positions that are not 0 there, then these positions, descending. */
    for (int64_t c = 0; c < a.nin; c += LANES) {
        int32_t *list = index_scratch + c / LANES * (a.n + 1);
        int64_t count = 0;
        for (int64_t p = a.n - 1; p >= 0; p--) {
            list[1 + count] = (int32_t)p;
            count += lanes_any(vec_differs(vec_load(a.x + p * a.x_stride + c), vec_set(0.0)));
        }
        list[0] = (int32_t)count;
    }
    if (TILE_WIDE && units_are_half)
        sparse_rows(1, a, index_scratch);
    else
        sparse_rows(0, a, index_scratch);
}

#endif
