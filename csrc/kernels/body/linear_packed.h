/* Gradients of a product's input, for many positions: from copies of the weights and of dy in which the factors of a tile stand one
 * after another, in the order of summation.
 *
 * A tile has a few of the columns, so the weights it takes are parts of rows, far from each other, and often in sets of the
 * first-level cache that have no room for all of them. A copy of these serves many panels, and a copy of dy all columns. Weights
 * are copied for several tiles at a time, since a row is read by cache lines, and fetched while the tiles before them are computed. */
#ifndef MG_BODY_LINEAR_PACKED_H
#define MG_BODY_LINEAR_PACKED_H

#include "kernels/body/linear_columns.h"

/* Rows whose copies are in the first-level cache together, panels that a copy of the weights serves, and columns of a tile and of a
 * copy. */
enum { PACKED_ROWS = 64, PACKED_PANELS = 16, PACKED_COLS = TILE_ROWS(TILE_PANELS), PACKED_TOGETHER = 8 * PACKED_COLS };

/* Whether that pays: a few narrow rows in their natural order come from the cache in time. */
ALWAYS int packing_pays(mg_linear_backward_input_args a)
{
    return !TILE_WIDE && panels_of(a.n) * LANES >= 16 && (a.order || a.w_stride > 128 || a.nout * a.w_stride >= 1 << 15);
}

/* The next `count` rows; w: [count][cols], dy: [count][panels][LANES]. begin, a constant: they are the first, so the sums begin with
 * +0.0; otherwise they continue from dx. */
ALWAYS void packed_tile(int cols, int panels, int begin, int64_t count, const double *w, const double *dy, double *dx,
                        int64_t dx_stride)
{
    vec sum[TILE_SUMS];
    UNROLL for (int c = 0; c < cols; c++) {
        UNROLL for (int b = 0; b < panels; b++)
            sum[c * panels + b] = begin ? (vec){0} : vec_load(dx + b * dx_stride + c * LANES);
    }
    TWO_TURNS
    for (int64_t s = 0; s < count; s++, w += cols, dy += panels * LANES) {
        vec dyo[TILE_PANELS];
        UNROLL for (int b = 0; b < panels; b++) dyo[b] = vec_load(dy + b * LANES);
        UNROLL for (int c = 0; c < cols; c++) {
            const vec weight = vec_set(w[c]);
            UNROLL for (int b = 0; b < panels; b++) sum[c * panels + b] += weight * dyo[b];
        }
    }
    UNROLL for (int b = 0; b < panels; b++) {
        UNROLL for (int c = 0; c < cols; c++) vec_store(dx + b * dx_stride + c * LANES, sum[c * panels + b]);
    }
}

/* Weights that will be copied next: some rows of the order, PACKED_TOGETHER columns from w on. */
typedef struct {
    const double *w;
    int64_t row, end;
} packed_next;

/* Fetch as many of their rows as each tile has to, for all to be there in time. */
ALWAYS void fetch_next(int ordered, int64_t panels, packed_next *next, mg_linear_backward_input_args a)
{
    for (int64_t rows = PACKED_PANELS / panels; rows > 0 && next->row < next->end; rows--, next->row++) {
        const int64_t row = input_row(ordered, a, next->row) * a.w_stride;
        UNROLL for (int c = 0; c < PACKED_TOGETHER; c += 8) prefetch(next->w, row + c);
    }
}

/* Some columns of all panels. w: as packed_w leaves it; dy: as packed_dy does. */
ALWAYS void packed_cols(int cols, int ordered, int64_t first, int64_t count, int64_t panels, const double *w, const double *dy,
                        mg_linear_backward_input_args a, packed_next *next)
{
    const int64_t all = panels;
#define PACKED(step)                                                                                  \
    for (; panels >= step; panels -= step, dy += step * PACKED_ROWS * LANES, a.dx += step * a.dx_stride) { \
        fetch_next(ordered, all, next, a);                                                            \
        if (first)                                                                                    \
            packed_tile(cols, step, 0, count, w, dy, a.dx, a.dx_stride);                              \
        else                                                                                          \
            packed_tile(cols, step, 1, count, w, dy, a.dx, a.dx_stride);                              \
    }
    PACKED(TILE_PANELS)
    PACKED(1)
#undef PACKED
}

/* The next `count` rows of ncols columns: of each tile's columns after another, [PACKED_ROWS][PACKED_COLS] or, of the last ones,
 * [PACKED_ROWS][how many they are]. */
ALWAYS void packed_w(int ordered, int64_t first, int64_t count, int64_t ncols, mg_linear_backward_input_args a, double *to)
{
    for (int64_t s = 0; s < count; s++) {
        const double *row = a.w + input_row(ordered, a, first + s) * a.w_stride;
        double *at = to + s * PACKED_COLS;
        int64_t c = 0;
        for (; c + PACKED_COLS <= ncols; c += PACKED_COLS, at += PACKED_ROWS * PACKED_COLS) {
            int k = 0;
            UNROLL for (; k + LANES <= PACKED_COLS; k += LANES) vec_store_unaligned(at + k, vec_load_unaligned(row + c + k));
            UNROLL for (; k < PACKED_COLS; k++) at[k] = row[c + k];
        }
        const int64_t left = ncols - c;
        at = to + c * PACKED_ROWS + s * left;
        for (int64_t k = 0; k < left; k++) at[k] = row[c + k];
    }
}

/* dy of the next `count` rows: of TILE_PANELS panels at a time, then of one at a time, [PACKED_ROWS][those][LANES] each. */
ALWAYS void packed_dy(int ordered, int64_t first, int64_t count, int64_t panels, mg_linear_backward_input_args a, double *to)
{
    for (int64_t step; panels > 0; panels -= step, a.dy += step * a.dy_stride, to += step * PACKED_ROWS * LANES) {
        step = panels >= TILE_PANELS ? TILE_PANELS : 1;
        for (int64_t s = 0; s < count; s++) {
            const double *row = a.dy + input_row(ordered, a, first + s) * LANES;
            for (int64_t b = 0; b < step; b++) vec_store(to + (s * step + b) * LANES, vec_load(row + b * a.dy_stride));
        }
    }
}

/* All columns, over the next `count` rows. */
ALWAYS void packed_rows(int ordered, int64_t first, int64_t count, int64_t panels, const double *dy,
                        mg_linear_backward_input_args a)
{
    double w[PACKED_ROWS * PACKED_TOGETHER] __attribute__((aligned(64)));
    for (int64_t from = 0; from < a.ncols; from += PACKED_TOGETHER) {
        const int is_last = from + PACKED_TOGETHER >= a.ncols;
        const int64_t ncols = is_last ? a.ncols - from : PACKED_TOGETHER;
        const mg_linear_backward_input_args some = input_from_column(a, NULL, from);
        const int64_t row = is_last ? first + count : first, end = row + PACKED_ROWS;
        packed_next next = {is_last ? a.w : some.w + PACKED_TOGETHER, row, end < a.nout ? end : a.nout};
        packed_w(ordered, first, count, ncols, some, w);
        int64_t c = 0;
#define COLS(cols) \
    packed_cols(cols, ordered, first, count, panels, w + c * PACKED_ROWS, dy, input_from_column(some, NULL, c), &next)
        for (; c + PACKED_COLS <= ncols; c += PACKED_COLS) COLS(PACKED_COLS);
        /* Of the columns left there are fewer than that; the compiler is not to make tiles of more. */
#define LAST(cols) \
    case cols: COLS(cols < PACKED_COLS ? cols : 1); break;
        switch (ncols - c) {
            LAST(5) LAST(4) LAST(3) LAST(2) LAST(1)
        }
#undef LAST
#undef COLS
    }
}

ALWAYS void packed_group(int ordered, int64_t panels, mg_linear_backward_input_args a)
{
    double dy[PACKED_PANELS * PACKED_ROWS * LANES] __attribute__((aligned(64)));
    for (int64_t first = 0; first < a.nout || first == 0; first += PACKED_ROWS) {
        const int64_t count = a.nout - first < PACKED_ROWS ? a.nout - first : PACKED_ROWS;
        packed_dy(ordered, first, count, panels, a, dy);
        packed_rows(ordered, first, count, panels, dy, a);
    }
}

/* In groups of panels of about the same size. */
ALWAYS void packed_input(int ordered, mg_linear_backward_input_args a)
{
    const int64_t panels = panels_of(a.n), groups = (panels + PACKED_PANELS - 1) / PACKED_PANELS;
    for (int64_t g = 0; g < groups; g++) {
        const int64_t from = panels * g / groups, count = panels * (g + 1) / groups - from;
        mg_linear_backward_input_args some = a;
        some.dy += from * a.dy_stride;
        some.dx += from * a.dx_stride;
        packed_group(ordered, count, some);
    }
}

#endif
