/* Gradients of a product's input with columns in the lanes, for a panel that is not full: lanes without a position take no time. */
#ifndef MG_BODY_LINEAR_COLUMNS_H
#define MG_BODY_LINEAR_COLUMNS_H

#include "kernels/body/tile.h"
#include "kernels/kernels.h"

/* Long rows are taken in blocks. With wide vectors: all columns of a block before the next block: memory is then read front to
 * back, and the next block is fetched while this one is used. A block fits the first-level cache. With narrow ones a block takes
 * so long that the processor fetches what is needed, and a block is of a few columns: COLUMNS_TOGETHER of them are some
 * lines of the cache and some tiles. Rows that are a multiple of 4,096 bytes apart compete for few places in the caches. */
enum { COLUMNS_TOGETHER = 48 };
ALWAYS int64_t block_rows(int64_t stride)
{
    if (TILE_WIDE) return stride <= 64 ? INT64_MAX : 16;
    return stride <= 128 ? INT64_MAX : stride <= 1024 ? 8192 / stride : 8;
}

ALWAYS int64_t input_row(int ordered, mg_linear_backward_input_args a, int64_t s)
{
    return ordered ? a.order[s] : a.nout - 1 - s;
}

/* The arguments for the columns from c on. With `active` the columns are named there. */
ALWAYS mg_linear_backward_input_args input_from_column(mg_linear_backward_input_args a, const int32_t *active, int64_t c)
{
    if (!active) {
        a.w += c;
        a.dx += c * LANES;
    }
    return a;
}

#if MG_LANES == 8
/* So many columns at a time, whose sums stay in the first-level cache, one position after the other. */
enum { COLUMN_GROUP = 128 };

/* Rows `first` to `last` of the order for some vectors of columns, or the first `part` of one. sums: [positions][COLUMN_GROUP]. */
ALWAYS void columns_tile(int positions, int vecs, int64_t part, int ordered, int64_t first, int64_t last,
                         mg_linear_backward_input_args a, double *sums)
{
    const int count = vecs * positions;
    vec sum[2 * LANES]; /* [vecs][positions] */
    UNROLL for (int c = 0; c < vecs; c++) {
        UNROLL for (int p = 0; p < positions; p++)
            sum[c * positions + p] = first ? vec_load(sums + p * COLUMN_GROUP + c * LANES) : (vec){0};
    }
    for (int64_t s = first; s < last; s++) {
        const int64_t o = input_row(ordered, a, s);
        const double *row = a.w + o * a.w_stride;
        const double *dy[4] = {a.dy + o * LANES}; /* one for each vector, so that no broadcast is shared: see units_are_half */
        vec weight[4];
        UNROLL for (int c = 0; c < vecs; c++) {
            if (c) dy[c] = in_register(dy[c - 1]);
            weight[c] = part ? vec_load_part(row, part) : vec_load_unaligned(row + c * LANES);
        }
        UNROLL for (int g = 0; g < count; g += 4) {
            vec product[4];
            UNROLL for (int k = 0; k < 4; k++) {
                const int c = (g + k) / positions;
                if (g + k < count) product[k] = vec_set(dy[c][(g + k) % positions]) * weight[c];
            }
            add_products(count - g < 4 ? count - g : 4, sum + g, product);
        }
    }
    UNROLL for (int c = 0; c < vecs; c++) {
        UNROLL for (int p = 0; p < positions; p++)
            vec_store(sums + p * COLUMN_GROUP + c * LANES, sum[c * positions + p]);
    }
}

ALWAYS void columns_all(int positions, int ordered, mg_linear_backward_input_args a)
{
    double sums[LANES * COLUMN_GROUP] __attribute__((aligned(64)));
    const int64_t block = block_rows(a.w_stride);
    for (; a.ncols > 0; a.ncols -= COLUMN_GROUP, a.w += COLUMN_GROUP, a.dx += COLUMN_GROUP * LANES) {
        const int64_t cols = a.ncols < COLUMN_GROUP ? a.ncols : COLUMN_GROUP;
        for (int64_t first = 0; first < a.nout || first == 0; first += block) {
            const int64_t last = a.nout - first < block ? a.nout : first + block;
            int64_t c = 0;
#define COLUMNS(vecs, part) columns_tile(positions, vecs, part, ordered, first, last, input_from_column(a, NULL, c), sums + c)
            if (positions <= 3)
                for (; c + 4 * LANES <= cols; c += 4 * LANES) COLUMNS(4, 0);
            for (; c + 2 * LANES <= cols; c += 2 * LANES) COLUMNS(2, 0);
            for (; c + LANES <= cols; c += LANES) COLUMNS(1, 0);
            if (c < cols) COLUMNS(1, cols - c);
#undef COLUMNS
        }
        for (int64_t c = 0; c < cols; c += LANES) {
            vec row[LANES];
            UNROLL for (int p = 0; p < LANES; p++)
                row[p] = p < positions ? vec_load(sums + p * COLUMN_GROUP + c) : (vec){0};
            vec_transpose(row);
            UNROLL for (int l = 0; l < LANES; l++)
                if (c + l < cols) vec_store(a.dx + (c + l) * LANES, row[l]);
        }
    }
}

/* For the first `positions` lanes of a panel. */
static __attribute__((noinline)) void columns_of(int ordered, int64_t positions, mg_linear_backward_input_args a)
{
#define POSITIONS(count)                                        \
    case count:                                                 \
        if (ordered)                                            \
            columns_all(count, 1, a);                           \
        else                                                    \
            columns_all(count, 0, a);                           \
        break;
    switch (positions) {
        POSITIONS(1) POSITIONS(2) POSITIONS(3) POSITIONS(4) POSITIONS(5) POSITIONS(6) POSITIONS(7)
    }
#undef POSITIONS
}
#else
ALWAYS void columns_of(int ordered, int64_t positions, mg_linear_backward_input_args a)
{
    (void)ordered, (void)positions, (void)a;
}
#endif

/* Whether that pays: it saves a product for each of the idle lanes, but transposes the sums. */
ALWAYS int columns_pay(int64_t positions, int64_t nout)
{
    return TILE_WIDE && units_are_half && (LANES - positions) * nout > 48;
}

#endif
