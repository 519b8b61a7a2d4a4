/* Matrix products, forward. Every sum keeps the script's order; what shares a register tile are different sums.
 *
 * A tile holds its accumulators in registers while the summed index runs innermost. Accumulators start at +0.0, as
 * the script's sum() does. */

/* Accumulators that fit the registers, beside the operands. */
#if MG_LANES == 8
#define TILE_SUMS 16
#else
#define TILE_SUMS 8
#endif
/* Panels that share a tile's weights. Without AVX a weight that is to stand in every lane takes an instruction more. */
#if MG_LANES == 4
#define TILE_PANELS 2
#else
#define TILE_PANELS 4
#endif
#define TILE_ROWS(panels) ((panels)*4 <= TILE_SUMS ? 4 : 2)

/* out[o] = sum of w[o][i] * x[i], i ascending: all nin of them, or those listed in live. */
ALWAYS void forward_tile(int rows, int panels, int64_t nin, const double *w, int64_t w_stride, const int32_t *active,
                         const double *x, int64_t x_stride, const double *residual, double *out, int64_t out_stride)
{
    vec sum[TILE_SUMS];
    UNROLL for (int s = 0; s < rows * panels; s++) sum[s] = (vec){0};
    for (int64_t s = 0; s < nin; s++) {
        const int64_t i = active ? active[s] : s;
        /* Long rows: fetch the next tile's weights, which follow this one's, a line at a time. */
        if (!active && nin > 64 && rows * panels >= TILE_SUMS / 2) prefetch(w, rows * nin + s * rows);
        UNROLL for (int b = 0; b < panels; b++) {
            vec xi = vec_load(x + b * x_stride + i * LANES);
            UNROLL for (int r = 0; r < rows; r++) sum[r * panels + b] += vec_set(w[r * w_stride + i]) * xi;
        }
    }
    UNROLL for (int b = 0; b < panels; b++) {
        UNROLL for (int r = 0; r < rows; r++) {
            vec y = sum[r * panels + b];
            if (residual) y += vec_load(residual + b * out_stride + r * LANES);
            vec_store(out + b * out_stride + r * LANES, y);
        }
    }
}

ALWAYS void forward_rows(int panels, int64_t nout, int64_t nin, const double *w, int64_t w_stride, const int32_t *active,
                         const double *x, int64_t x_stride, const double *residual, double *out, int64_t out_stride)
{
    int64_t o = 0;
#define FORWARD(rows)                                                                                             \
    forward_tile(rows, panels, nin, w + o * w_stride, w_stride, active, x, x_stride,                                \
                 residual ? residual + o * LANES : NULL, out + o * LANES, out_stride)
    if (panels == 1) {
        for (; o + 8 <= nout; o += 8) FORWARD(8);
        if (o + 4 <= nout) {
            FORWARD(4);
            o += 4;
        }
    } else {
        for (; o + TILE_ROWS(panels) <= nout; o += TILE_ROWS(panels)) FORWARD(TILE_ROWS(panels));
    }
    switch (nout - o) { /* fewer than TILE_ROWS(panels) */
    case 3: FORWARD(TILE_ROWS(panels) - 1); break;
    case 2: FORWARD(2); break;
    case 1: FORWARD(1); break;
    }
#undef FORWARD
}

ALWAYS void forward_panels(int64_t panels, int64_t nout, int64_t nin, const double *w, const double *x,
                           int64_t x_stride, const double *residual, double *out, int64_t out_stride)
{
    while (panels > 0) {
        int step;
        if (panels >= TILE_PANELS) {
            step = TILE_PANELS;
            forward_rows(TILE_PANELS, nout, nin, w, nin, NULL, x, x_stride, residual, out, out_stride);
        } else if (panels >= 2) {
            step = 2;
            forward_rows(2, nout, nin, w, nin, NULL, x, x_stride, residual, out, out_stride);
        } else {
            step = 1;
            forward_rows(1, nout, nin, w, nin, NULL, x, x_stride, residual, out, out_stride);
        }
        panels -= step;
        x += step * x_stride;
        out += step * out_stride;
        if (residual) residual += step * out_stride;
    }
}

static void linear_forward(int64_t panels, int64_t nout, int64_t nin, const double *w, const double *x,
                           int64_t x_stride, const double *residual, double *out, int64_t out_stride)
{
    /* The same loops with a constant size: the products of the script's own model. */
    if (nin == 16)
        forward_panels(panels, nout, 16, w, x, x_stride, residual, out, out_stride);
    else
        forward_panels(panels, nout, nin, w, x, x_stride, residual, out, out_stride);
}

static void linear_forward_active(int64_t nout, int64_t nactive, const int32_t *active, const double *w, int64_t w_stride,
                                const double *x, const double *residual, double *out)
{
    if (w_stride == 64)
        forward_rows(1, nout, nactive, w, 64, active, x, 0, residual, out, 0);
    else
        forward_rows(1, nout, nactive, w, w_stride, active, x, 0, residual, out, 0);
}

/* ---- relu ---- */

static int64_t relu_forward(int64_t n, int64_t nrows, double *h, int32_t *active, int *finite)
{
    /* Lanes without a position neither keep a row alive nor spoil the check. */
    const lane_mask valid = lanes_to(n - 1);
    vec odd = {0};
    int64_t nactive = 0;
    for (int64_t o = 0; o < nrows; o++) {
        vec y = vec_load(h + o * LANES);
        lane_mask positive = vec_greater(y, vec_set(0.0));
        odd += y - y; /* 0, or nan */
        vec_store(h + o * LANES, vec_where(positive, y)); /* max(0, y): 0 for nan and for -0.0 */
        active[nactive] = (int32_t)o;
        nactive += lanes_any(positive & valid);
    }
    *finite = !lanes_any(vec_differs(odd, vec_set(0.0)) & valid);
    return nactive;
}

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
