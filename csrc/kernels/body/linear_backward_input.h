/* Gradients of a product's input: dx[i] = sum of w[o][i] * dy[o], o in the given order, from +0.0. */
#ifndef MG_BODY_LINEAR_BACKWARD_INPUT_H
#define MG_BODY_LINEAR_BACKWARD_INPUT_H

#include "kernels/body/linear_columns.h"
#include "kernels/body/linear_packed.h"

/* Rows `first` to `last` of the order; the sums continue from dx if first > 0. The columns are adjacent, or those in
 * `active` (one panel). ordered, a constant: whether a.order is to be used. */
ALWAYS void input_tile(int cols, int panels, int ordered, int64_t first, int64_t last, mg_linear_backward_input_args a,
                       const int32_t *active)
{
    vec sum[TILE_SUMS];
    const double *column[TILE_SUMS];
    UNROLL for (int c = 0; c < cols; c++) {
        if (active) column[c] = a.w + active[c];
        UNROLL for (int b = 0; b < panels; b++) {
            double *dxc = a.dx + b * a.dx_stride + (active ? (int64_t)active[c] : c) * LANES;
            sum[c * panels + b] = first ? vec_load(dxc) : (vec){0};
        }
    }
    /* One panel is limited by its loads, so where they come from is found out an iteration ahead. */
    const int early = ordered && panels == 1 && TILE_WIDE;
    const double *next_row = a.w, *next_dy = a.dy;
    if (early && first < last) {
        next_row += a.order[first] * a.w_stride;
        next_dy += a.order[first] * LANES;
    }
    TWO_TURNS
    for (int64_t s = first; s < last; s++) {
        const int64_t o = input_row(ordered && !early, a, s);
        const double *row = early ? next_row : a.w + o * a.w_stride, *dy = early ? next_dy : a.dy + o * LANES;
        if (early) {
            const int64_t next = a.order[s + 1 < last ? s + 1 : s];
            next_row = in_register(a.w + next * a.w_stride);
            next_dy = in_register(a.dy + next * LANES);
        }
        if ((TILE_WIDE || (panels == 1 && !active)) && last < a.nout) {
            const int64_t ahead = s + (last - first);
            const int64_t block = input_row(ordered, a, !ordered || ahead < a.nout ? ahead : s) * a.w_stride;
            prefetch(a.w, block);
            if (cols > 8) prefetch(a.w, block + 8);
        }
        vec dyo[4];
        UNROLL for (int b = 0; b < panels; b++) dyo[b] = vec_load(dy + b * a.dy_stride);
        if (!TILE_WIDE && panels == 1 && cols % 4 == 0) {
            UNROLL for (int c = 0; c < cols; c += 4)
                ADD_FOUR_PRODUCTS(sum + c, active ? column[c + k][o * a.w_stride] : row[c + k], dyo[0]);
            continue;
        }
        UNROLL for (int c = 0; c < cols; c++) {
            vec weight = vec_set(active ? column[c][o * a.w_stride] : row[c]);
            UNROLL for (int b = 0; b < panels; b++) sum[c * panels + b] += weight * dyo[b];
        }
    }
    UNROLL for (int b = 0; b < panels; b++) {
        UNROLL for (int c = 0; c < cols; c++)
            vec_store(a.dx + b * a.dx_stride + (active ? (int64_t)active[c] : c) * LANES, sum[c * panels + b]);
    }
}

ALWAYS void input_cols(int panels, int ordered, int64_t first, int64_t last, mg_linear_backward_input_args a,
                       const int32_t *active)
{
    int64_t c = 0;
#define INPUT(cols) \
    input_tile(cols, panels, ordered, first, last, input_from_column(a, active, c), active ? active + c : NULL)
    if (panels == 1 && TILE_SUMS >= 16 && !active)
        for (; c + 16 <= a.ncols; c += 16) INPUT(16);
    if (panels * 8 <= TILE_SUMS)
        for (; c + 8 <= a.ncols; c += 8) INPUT(8);
    for (; c + TILE_ROWS(panels) <= a.ncols; c += TILE_ROWS(panels)) INPUT(TILE_ROWS(panels));
    if (TILE_ROWS(panels) > 4 && c + 4 <= a.ncols) {
        INPUT(4);
        c += 4;
    }
    TILE_LAST_ROWS(panels, a.ncols - c, INPUT)
#undef INPUT
}

/* Fetch the block of rows that begins with `next`, or the first one of the columns that come next. */
ALWAYS void fetch_block(int ordered, int64_t next, int64_t block, mg_linear_backward_input_args a)
{
    if (next == a.nout) {
        next = 0;
        a.w += COLUMNS_TOGETHER;
    }
    for (int64_t s = next; s < a.nout && s < next + block; s++) {
        const int64_t row = input_row(ordered, a, s) * a.w_stride;
        UNROLL for (int c = 0; c < COLUMNS_TOGETHER; c += 8) prefetch(a.w, row + c);
    }
}

ALWAYS void input_panels(int ordered, int64_t block, mg_linear_backward_input_args a)
{
    const int64_t panels = panels_of(a.n);
    for (int64_t b = 0, step; b < panels; b += step, a.dy += step * a.dy_stride, a.dx += step * a.dx_stride) {
        const int64_t left = a.n - b * LANES;
        if (left < LANES && columns_pay(left, a.nout)) {
            columns_of(ordered, left, a);
            return;
        }
        step = TILE_WIDE && units_are_half ? 1 : MG_LANES == 2 && b + 4 <= panels ? 4 : b + 2 <= panels ? 2 : 1;
        for (int64_t first = 0; first < a.nout || first == 0; first += block) {
            const int64_t last = a.nout - first < block ? a.nout : first + block;
            if (!TILE_WIDE && block != INT64_MAX && step > 1) fetch_block(ordered, last, block, a);
            switch (step) {
#if MG_LANES == 2
            case 4: input_cols(4, ordered, first, last, a, NULL); break;
#endif
            case 2: input_cols(2, ordered, first, last, a, NULL); break;
            case 1: input_cols(1, ordered, first, last, a, NULL); break;
            }
        }
    }
}

/* ---- the same for the first position alone, whose rows may have another order: the columns fill the lanes ---- */

ALWAYS void first_tile(int vecs, int64_t part, mg_linear_backward_input_args a)
{
    enum { AHEAD = 8, LINE = 8 };
    vec sum[TILE_SUMS] = {{0}};
    for (int64_t s = 0; s < a.nout; s++) {
        const double *row = a.w + a.order_first[s] * a.w_stride;
        const vec dyo = vec_set(a.dy[a.order_first[s] * LANES]);
        /* So few products that it would wait for the rows. */
        if (!TILE_WIDE && a.w_stride > 64) {
            const int64_t ahead = a.order_first[s + AHEAD < a.nout ? s + AHEAD : s] * a.w_stride;
            UNROLL for (int c = 0; c < vecs * LANES; c += LINE) prefetch(a.w, ahead + c);
        }
        UNROLL for (int c = 0; c < vecs; c++)
            sum[c] += (part ? vec_load_part(row, part) : vec_load_unaligned(row + c * LANES)) * dyo;
    }
    UNROLL for (int c = 0; c < vecs; c++)
        for (int64_t l = 0; l < (part ? part : LANES); l++) a.dx[(c * LANES + l) * LANES] = sum[c][l];
}

ALWAYS void input_first(mg_linear_backward_input_args a)
{
    int64_t c = 0;
#define FIRST(vecs, part) first_tile(vecs, part, input_from_column(a, NULL, c))
    for (; c + TILE_SUMS * LANES <= a.ncols; c += TILE_SUMS * LANES) FIRST(TILE_SUMS, 0);
    if (TILE_SUMS > 8)
        for (; c + 8 * LANES <= a.ncols; c += 8 * LANES) FIRST(8, 0);
    for (; c + 4 * LANES <= a.ncols; c += 4 * LANES) FIRST(4, 0);
    for (; c + 2 * LANES <= a.ncols; c += 2 * LANES) FIRST(2, 0);
    for (; c + LANES <= a.ncols; c += LANES) FIRST(1, 0);
    if (c < a.ncols) FIRST(1, a.ncols - c);
#undef FIRST
}

/* All columns at once, or, of narrow vectors and more than one panel, a few of them if rows come in blocks. */
ALWAYS void input_together(int ordered, int64_t block, mg_linear_backward_input_args a)
{
    if (TILE_WIDE || block == INT64_MAX || a.n <= LANES) {
        input_panels(ordered, block, a);
        if (ordered && a.order_first) input_first(a);
        return;
    }
    for (int64_t c = a.ncols; c > 0; c -= COLUMNS_TOGETHER, a.w += COLUMNS_TOGETHER, a.dx += COLUMNS_TOGETHER * LANES) {
        a.ncols = c < COLUMNS_TOGETHER ? c : COLUMNS_TOGETHER;
        input_panels(ordered, block, a);
        if (ordered && a.order_first) input_first(a);
    }
}

static void linear_backward_input(const mg_linear_backward_input_args *args)
{
    mg_linear_backward_input_args a = *args; /* a copy that no store can alias */
    if (packing_pays(a)) {
        if (a.order)
            packed_input(1, a);
        else
            packed_input(0, a);
        if (a.order && a.order_first) input_first(a);
    } else if (a.w_stride == 16 && a.ncols == 16) {
        a.w_stride = a.ncols = 16;
        if (a.order)
            input_together(1, INT64_MAX, a);
        else
            input_panels(0, INT64_MAX, a);
    } else if (a.order) {
        input_together(1, block_rows(a.w_stride, a.n), a);
    } else {
        input_together(0, block_rows(a.w_stride, a.n), a);
    }
}

static void linear_backward_input_active(int64_t nout, int64_t nactive, const int32_t *active, const double *w,
                                         int64_t w_stride, const double *dy, double *dx)
{
    mg_linear_backward_input_args a = {LANES, nout, nactive, w, w_stride, NULL, NULL, dy, 0, dx, 0};
    if (w_stride == 64) {
        a.w_stride = 64;
        input_cols(1, 0, 0, nout, a, active);
    } else if (!TILE_WIDE) {
        ASSUME(active); /* no test in the loops */
        /* A few rows at a time, which the processor fetches from front to back. */
        const int64_t block = 32;
        for (int64_t first = 0; first < nout || first == 0; first += block)
            input_cols(1, 0, first, nout - first < block ? nout : first + block, a, active);
    } else {
        input_cols(1, 0, 0, nout, a, active);
    }
}

static void linear_backward_target(int64_t nin, const double *w, const int32_t *targets, const double *dtarget,
                                   double *dx)
{
    vec g = vec_load(dtarget);
    int64_t i = 0;
    for (; i + LANES <= nin; i += LANES) {
        vec row[LANES];
        UNROLL for (int p = 0; p < LANES; p++) row[p] = vec_load_unaligned(w + targets[p] * nin + i);
        vec_transpose(row);
        UNROLL for (int l = 0; l < LANES; l++) {
            double *dxi = dx + (i + l) * LANES;
            vec_store(dxi, vec_load(dxi) + row[l] * g);
        }
    }
    for (; i < nin; i++)
        for (int p = 0; p < LANES; p++) dx[i * LANES + p] += w[targets[p] * nin + i] * dtarget[p];
}

#endif
