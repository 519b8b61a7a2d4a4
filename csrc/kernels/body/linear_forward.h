/* Matrix products, forward. Every sum keeps the script's order; the sums in a register tile are independent.
 *
 * A tile holds its accumulators in registers while the summed index runs innermost. Accumulators start at +0.0, as
 * the script's sum() does. */
#ifndef MG_BODY_LINEAR_FORWARD_H
#define MG_BODY_LINEAR_FORWARD_H

#include "kernels/body/tile.h"
#include "kernels/kernels.h"

/* out[o] = sum of w[o][i] * x[i] for `rows` rows o, i ascending: all nin of them, or those in `active`. by_four, a constant:
 * see add_four_products. */
ALWAYS void forward_tile(int rows, int panels, int by_four, mg_linear_forward_args a, int64_t w_stride, const int32_t *active)
{
    vec sum[TILE_SUMS];
    UNROLL for (int s = 0; s < rows * panels; s++) sum[s] = (vec){0};
    const double *row[TILE_SUMS]; /* of narrow vectors: to add a stride for each row, in each turn, takes longer */
    UNROLL for (int r = 0; r < rows && !TILE_WIDE; r++) {
        row[r] = a.w + r * w_stride;
        if (!__builtin_constant_p(w_stride)) row[r] = in_register(row[r]);
    }
    const int fetch = TILE_WIDE ? a.nin > 64 : !__builtin_constant_p(w_stride);
    TWO_TURNS
    for (int64_t s = 0; s < a.nin; s++) {
        const int64_t i = active ? active[s] : s;
        /* Long rows: fetch the next tile's weights, which follow this one's, a cache line at a time. */
        if (!active && fetch && rows * panels >= TILE_SUMS / 2) prefetch(a.w, rows * a.nin + s * rows);
        if (!TILE_WIDE && (panels > 1 || rows % 4)) {
            vec xi[4];
            UNROLL for (int b = 0; b < panels; b++) xi[b] = vec_load(a.x + b * a.x_stride + i * LANES);
            UNROLL for (int r = 0; r < rows; r++) {
                const vec weight = vec_set(row[r][i]);
                UNROLL for (int b = 0; b < panels; b++) sum[r * panels + b] += weight * xi[b];
            }
            continue;
        }
        UNROLL for (int b = 0; b < panels; b++) {
            vec xi = vec_load(a.x + b * a.x_stride + i * LANES);
            if (!TILE_WIDE)
                UNROLL for (int r = 0; r < rows; r += 4) ADD_FOUR_PRODUCTS(sum + r, row[r + k][i], xi);
            else if (by_four && panels == 1 && rows % 4 == 0)
                UNROLL for (int r = 0; r < rows; r += 4) add_four_products(sum + r, a.w + r * w_stride + i, w_stride, xi);
            else
                UNROLL for (int r = 0; r < rows; r++) sum[r * panels + b] += vec_set(a.w[r * w_stride + i]) * xi;
        }
    }
    UNROLL for (int b = 0; b < panels; b++) {
        UNROLL for (int r = 0; r < rows; r++) {
            vec y = sum[r * panels + b];
            if (a.residual) y += vec_load(a.residual + b * a.out_stride + r * LANES);
            vec_store(a.out + b * a.out_stride + r * LANES, y);
        }
    }
}

/* The arguments for the rows from o on. */
ALWAYS mg_linear_forward_args forward_from_row(mg_linear_forward_args a, int64_t w_stride, int64_t o)
{
    a.w += o * w_stride;
    if (a.residual) a.residual += o * LANES;
    a.out += o * LANES;
    return a;
}

ALWAYS void forward_rows(int panels, int by_four, mg_linear_forward_args a, int64_t w_stride, const int32_t *active)
{
    int64_t o = 0;
#define FORWARD(rows) forward_tile(rows, panels, by_four, forward_from_row(a, w_stride, o), w_stride, active)
    if (panels == 1) {
        for (; o + 8 <= a.nout; o += 8) FORWARD(8);
        if (o + 4 <= a.nout) {
            FORWARD(4);
            o += 4;
        }
    } else {
        for (; o + TILE_ROWS(panels) <= a.nout; o += TILE_ROWS(panels)) FORWARD(TILE_ROWS(panels));
        if (TILE_ROWS(panels) > 4 && o + 4 <= a.nout) {
            FORWARD(4);
            o += 4;
        }
    }
    TILE_LAST_ROWS(panels, a.nout - o, FORWARD)
#undef FORWARD
}

#if MG_LANES == 8
/* The same for the lower half of one panel; the other lanes become 0, or the residual. */
ALWAYS void forward_half_tile(int rows, mg_linear_forward_args a)
{
    half_vec sum[8];
    UNROLL for (int r = 0; r < rows; r++) sum[r] = (half_vec){0};
    for (int64_t i = 0; i < a.nin; i++) {
        const half_vec xi = half_load(a.x + i * LANES);
        UNROLL for (int r = 0; r < rows; r += 4) {
            half_vec product[4];
            UNROLL for (int k = 0; k < 4; k++)
                if (r + k < rows) product[k] = half_set(a.w[(r + k) * a.nin + i]) * xi;
            /* As in add_products. */
            if (r + 4 <= rows) __asm__("" : "+v"(product[0]), "+v"(product[1]), "+v"(product[2]), "+v"(product[3]));
            UNROLL for (int k = 0; k < 4; k++)
                if (r + k < rows) sum[r + k] += product[k];
        }
    }
    UNROLL for (int r = 0; r < rows; r++) {
        vec y = vec_of_half(sum[r]);
        if (a.residual) y += vec_load(a.residual + r * LANES);
        vec_store(a.out + r * LANES, y);
    }
}

ALWAYS void forward_half(mg_linear_forward_args a)
{
    int64_t o = 0;
    for (; o + 8 <= a.nout; o += 8) forward_half_tile(8, forward_from_row(a, a.nin, o));
    if (o + 4 <= a.nout) {
        forward_half_tile(4, forward_from_row(a, a.nin, o));
        o += 4;
    }
    for (; o < a.nout; o++) forward_half_tile(1, forward_from_row(a, a.nin, o));
}
#else
ALWAYS void forward_half(mg_linear_forward_args a) { (void)a; }
#endif

ALWAYS void forward_panels(int half, mg_linear_forward_args a)
{
    for (int64_t panels = panels_of(a.n), step; panels > 0; panels -= step, a.n -= step * LANES) {
        if (half && a.n <= LANES / 2) {
            step = 1;
            forward_half(a);
        } else if (half) {
            step = 1;
            forward_rows(1, 1, a, a.nin, NULL);
        } else if (panels >= TILE_PANELS) {
            step = TILE_PANELS;
            forward_rows(TILE_PANELS, 0, a, a.nin, NULL);
        } else if (panels >= 2) {
            step = 2;
            forward_rows(2, 0, a, a.nin, NULL);
        } else {
            step = 1;
            forward_rows(1, 0, a, a.nin, NULL);
        }
        a.x += step * a.x_stride;
        a.out += step * a.out_stride;
        if (a.residual) a.residual += step * a.out_stride;
    }
}

static void linear_forward(const mg_linear_forward_args *args)
{
    mg_linear_forward_args a = *args; /* a copy that no store can alias */
    /* The same loops with a constant size for the products of the script's own model. */
    if (a.nin == 16) {
        a.nin = 16;
        if (TILE_WIDE && units_are_half)
            forward_panels(1, a);
        else
            forward_panels(0, a);
    } else if (TILE_WIDE && units_are_half) {
        forward_panels(1, a);
    } else {
        forward_panels(0, a);
    }
}

static void linear_forward_active(int64_t nout, int64_t nactive, const int32_t *active, const double *w,
                                  int64_t w_stride, const double *x, const double *residual, double *out)
{
    const mg_linear_forward_args a = {LANES, nout, nactive, w, x, 0, residual, out, 0};
    ASSUME(TILE_WIDE || active); /* no test in the loops */
    if (w_stride != 64)
        forward_rows(1, 0, a, w_stride, active);
    else if (TILE_WIDE && units_are_half)
        forward_rows(1, 1, a, 64, active);
    else
        forward_rows(1, 0, a, 64, active);
}

/* ---- sums for decisions ---- */

static double sum_of_magnitudes(int64_t n, const double *x)
{
    vec sum[4] = {{0}, {0}, {0}, {0}};
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        UNROLL for (int s = 0; s < 4; s++) sum[s] += vec_abs(vec_load_unaligned(x + i + s * LANES));
    }
    vec all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    double total = 0;
    UNROLL for (int l = 0; l < LANES; l++) total += all[l];
    for (; i < n; i++) total += x[i] < 0 ? -x[i] : x[i];
    return total;
}

static uint64_t or_of_bits(int64_t n, const double *x)
{
    ivec bits[4] = {{0}, {0}, {0}, {0}};
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        UNROLL for (int s = 0; s < 4; s++) bits[s] |= (ivec)vec_load_unaligned(x + i + s * LANES);
    }
    ivec all = (bits[0] | bits[1]) | (bits[2] | bits[3]);
    uint64_t any = 0;
    UNROLL for (int l = 0; l < LANES; l++) any |= (uint64_t)all[l];
    for (; i < n; i++) {
        uint64_t one;
        memcpy(&one, x + i, sizeof one);
        any |= one;
    }
    return any;
}

static int are_between(int64_t n, const double *x, double least, double greatest)
{
    enum { TOGETHER = 1024 }; /* then see whether to go on */
    const vec low = vec_set(least), high = vec_set(greatest);
    int64_t i = 0;
    while (i + LANES <= n) {
        const int64_t end = n - i < TOGETHER ? n : i + TOGETHER;
        lane_mask between = vec_at_least(high, low);
        for (; i + LANES <= end; i += LANES) {
            const vec magnitude = vec_abs(vec_load_unaligned(x + i));
            between &= vec_at_least(magnitude, low) & vec_at_least(high, magnitude);
        }
        if (lanes_any((lane_mask)~between)) return 0;
    }
    for (; i < n; i++) {
        const double magnitude = x[i] < 0 ? -x[i] : x[i];
        if (!(least <= magnitude && magnitude <= greatest)) return 0;
    }
    return 1;
}

#endif
