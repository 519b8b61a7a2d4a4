/* Matrix products, backward. Accumulators start at +0.0, as gradients do, or at what the gradient holds already. */

/* ---- dx[i] = sum of w[o][i] * dy[o], o in the order given ---- */

/* Long rows are taken some at a time, all their columns before the next rows: so that memory is read from one end to
 * the other, and the next block is fetched while this one is used. A block fits the fastest cache. */
ALWAYS int64_t block_rows(int64_t stride) { return stride <= 64 ? INT64_MAX : 16; }

/* The rows whose turn is from `first` up to `last`, of nout; the sums begin in dx if first > 0. The columns lie side by
 * side, or are those listed in live (one panel). */
ALWAYS void input_tile(int cols, int panels, int64_t first, int64_t last, int64_t nout, const double *w,
                       int64_t w_stride, const int32_t *order, const int32_t *active, const double *dy,
                       int64_t dy_stride, double *dx, int64_t dx_stride)
{
    vec sum[TILE_SUMS];
    const double *column[TILE_SUMS];
    UNROLL for (int c = 0; c < cols; c++) {
        if (active) column[c] = w + active[c];
        UNROLL for (int b = 0; b < panels; b++) {
            double *dxc = dx + b * dx_stride + (active ? (int64_t)active[c] : c) * LANES;
            sum[c * panels + b] = first ? vec_load(dxc) : (vec){0};
        }
    }
    for (int64_t s = first; s < last; s++) {
        const int64_t o = order ? order[s] : nout - 1 - s;
        if (last < nout) {
            const int64_t ahead = s + (last - first);
            const int64_t next = (order ? order[ahead < nout ? ahead : s] : nout - 1 - ahead) * w_stride;
            prefetch(w, next);
            if (cols > 8) prefetch(w, next + 8);
        }
        const double *row = w + o * w_stride;
        vec dyo[4];
        UNROLL for (int b = 0; b < panels; b++) dyo[b] = vec_load(dy + b * dy_stride + o * LANES);
        UNROLL for (int c = 0; c < cols; c++) {
            vec weight = vec_set(active ? column[c][o * w_stride] : row[c]);
            UNROLL for (int b = 0; b < panels; b++) sum[c * panels + b] += weight * dyo[b];
        }
    }
    UNROLL for (int b = 0; b < panels; b++) {
        UNROLL for (int c = 0; c < cols; c++)
            vec_store(dx + b * dx_stride + (active ? (int64_t)active[c] : c) * LANES, sum[c * panels + b]);
    }
}

ALWAYS void input_cols(int panels, int64_t first, int64_t last, int64_t nout, int64_t ncols, const double *w,
                       int64_t w_stride, const int32_t *order, const int32_t *active, const double *dy,
                       int64_t dy_stride, double *dx, int64_t dx_stride)
{
    int64_t c = 0;
#define INPUT(cols)                                                                                               \
    input_tile(cols, panels, first, last, nout, active ? w : w + c, w_stride, order, active ? active + c : NULL, dy,    \
               dy_stride, active ? dx : dx + c * LANES, dx_stride)
    if (panels == 1 && TILE_SUMS >= 16 && !active)
        for (; c + 16 <= ncols; c += 16) INPUT(16);
    if (panels * 8 <= TILE_SUMS)
        for (; c + 8 <= ncols; c += 8) INPUT(8);
    for (; c + TILE_ROWS(panels) <= ncols; c += TILE_ROWS(panels)) INPUT(TILE_ROWS(panels));
    switch (ncols - c) { /* fewer than TILE_ROWS(panels) */
    case 3: INPUT(TILE_ROWS(panels) - 1); break;
    case 2: INPUT(2); break;
    case 1: INPUT(1); break;
    }
#undef INPUT
}

ALWAYS void input_panels(int64_t panels, int64_t block, int64_t nout, int64_t ncols, const double *w, int64_t w_stride,
                         const int32_t *order, const double *dy, int64_t dy_stride, double *dx, int64_t dx_stride)
{
    for (int64_t b = 0, step; b < panels; b += step) {
        const double *dyb = dy + b * dy_stride;
        double *dxb = dx + b * dx_stride;
        step = MG_LANES == 2 && b + 4 <= panels ? 4 : b + 2 <= panels ? 2 : 1;
        for (int64_t first = 0; first < nout || first == 0; first += block) {
            const int64_t last = nout - first < block ? nout : first + block;
#define COLS(count) input_cols(count, first, last, nout, ncols, w, w_stride, order, NULL, dyb, dy_stride, dxb, dx_stride)
            switch (step) {
#if MG_LANES == 2
            case 4: COLS(4); break;
#endif
            case 2: COLS(2); break;
            case 1: COLS(1); break;
            }
#undef COLS
        }
    }
}

static void linear_backward_input(int64_t panels, int64_t nout, int64_t ncols, const double *w, int64_t w_stride,
                                  const int32_t *order, const double *dy, int64_t dy_stride, double *dx,
                                  int64_t dx_stride)
{
    if (w_stride == 16 && ncols == 16)
        input_panels(panels, INT64_MAX, nout, 16, w, 16, order, dy, dy_stride, dx, dx_stride);
    else
        input_panels(panels, block_rows(w_stride), nout, ncols, w, w_stride, order, dy, dy_stride, dx,
                     dx_stride);
}

static void linear_backward_input_active(int64_t nout, int64_t nactive, const int32_t *active, const double *w,
                                       int64_t w_stride, const double *dy, double *dx)
{
    if (w_stride == 64)
        input_cols(1, 0, nout, nout, nactive, w, 64, NULL, active, dy, 0, dx, 0);
    else
        input_cols(1, 0, nout, nout, nactive, w, w_stride, NULL, active, dy, 0, dx, 0);
}

static void relu_backward(int64_t nrows, const int32_t *active, const double *r, double *dr)
{
    for (int64_t s = 0; s < nrows; s++) {
        const int64_t o = (active ? active[s] : s) * LANES;
        /* 0.0 + float(h > 0) * dr: a product, because 0.0 * inf is nan. */
        vec slope = vec_where(vec_greater(vec_load(r + o), vec_set(0.0)), vec_set(1.0));
        vec_store(dr + o, 0.0 + slope * vec_load(dr + o));
    }
}

/* One position: the columns fill the lanes. */
ALWAYS void first_tile(int vecs, int64_t part, int64_t nout, int64_t nin, const double *w, const int32_t *order,
                       const double *dy, double *dx)
{
    vec sum[TILE_SUMS] = {{0}};
    for (int64_t s = 0; s < nout; s++) {
        const int64_t o = order[s];
        vec dyo = vec_set(dy[o * LANES]);
        UNROLL for (int c = 0; c < vecs; c++)
            sum[c] += (part ? vec_load_part(w + o * nin, part) : vec_load_unaligned(w + o * nin + c * LANES)) * dyo;
    }
    UNROLL for (int c = 0; c < vecs; c++)
        for (int64_t l = 0; l < (part ? part : LANES); l++) dx[(c * LANES + l) * LANES] = sum[c][l];
}

static void linear_backward_input_first(int64_t nout, int64_t nin, const double *w, const int32_t *order,
                                        const double *dy, double *dx)
{
    int64_t c = 0;
#define FIRST(vecs) first_tile(vecs, 0, nout, nin, w + c, order, dy, dx + c * LANES)
    for (; c + TILE_SUMS * LANES <= nin; c += TILE_SUMS * LANES) FIRST(TILE_SUMS);
    for (; c + 4 * LANES <= nin; c += 4 * LANES) FIRST(4);
    for (; c + 2 * LANES <= nin; c += 2 * LANES) FIRST(2);
    for (; c + LANES <= nin; c += LANES) FIRST(1);
    if (c < nin) first_tile(1, nin - c, nout, nin, w + c, order, dy, dx + c * LANES);
#undef FIRST
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

/* ---- dw[o][i] += x[p][i] * dy[p][o], p descending ---- */

/* `rows` rows of dw, side by side or those listed in live. part: columns left over that do not fill a vector, or 0. */
ALWAYS void weight_tile(int rows, int vecs, int64_t part, int64_t n, int64_t nin, const int32_t *active, const double *x,
                        int64_t x_stride, const double *dy, int64_t dy_stride, double *dw)
{
    vec sum[TILE_SUMS];
    double *dw_row[TILE_SUMS];
    const double *dy_row[TILE_SUMS];
    UNROLL for (int r = 0; r < rows; r++) {
        const int64_t o = active ? active[r] : r;
        dw_row[r] = dw + o * nin;
        dy_row[r] = dy + o * LANES;
        UNROLL for (int c = 0; c < vecs; c++) {
            sum[r * vecs + c] = part ? vec_load_part(dw_row[r], part) : vec_load_unaligned(dw_row[r] + c * LANES);
            /* What stands below, for when its turn comes. */
            if (nin > 64 && !active) prefetch_write(dw_row[r], rows * nin + c * LANES);
        }
    }
    for (int64_t p = n - 1; p >= 0; p--) {
        const int64_t at = (int64_t)((uint64_t)p / LANES) * dy_stride + (int64_t)((uint64_t)p % LANES);
        vec xp[TILE_SUMS];
        UNROLL for (int c = 0; c < vecs; c++) xp[c] = vec_load(x + p * x_stride + c * LANES);
        UNROLL for (int r = 0; r < rows; r++) {
            UNROLL for (int c = 0; c < vecs; c++) sum[r * vecs + c] += xp[c] * vec_set(dy_row[r][at]);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) {
        UNROLL for (int c = 0; c < vecs; c++) {
            if (part)
                vec_store_part(dw_row[r], sum[r * vecs + c], part);
            else
                vec_store_unaligned(dw_row[r] + c * LANES, sum[r * vecs + c]);
        }
    }
}

ALWAYS void weight_cols(int rows, int64_t n, int64_t nin, const int32_t *active, const double *x, int64_t x_stride,
                        const double *dy, int64_t dy_stride, double *dw)
{
    int64_t c = 0;
    for (; c + 2 * LANES <= nin; c += 2 * LANES)
        weight_tile(rows, 2, 0, n, nin, active, x + c, x_stride, dy, dy_stride, dw + c);
    for (; c + LANES <= nin; c += LANES) weight_tile(rows, 1, 0, n, nin, active, x + c, x_stride, dy, dy_stride, dw + c);
    if (c < nin) weight_tile(rows, 1, nin - c, n, nin, active, x + c, x_stride, dy, dy_stride, dw + c);
}

ALWAYS void weight_rows(int64_t n, int64_t nout, int64_t nin, const int32_t *active, const double *x, int64_t x_stride,
                        const double *dy, int64_t dy_stride, double *dw)
{
    int64_t o = 0;
#define WEIGHT(rows)                                                                                              \
    weight_cols(rows, n, nin, active ? active + o : NULL, x, x_stride, active ? dy : dy + o * LANES, dy_stride,         \
                active ? dw : dw + o * nin)
    for (; o + TILE_SUMS / 2 <= nout; o += TILE_SUMS / 2) WEIGHT(TILE_SUMS / 2);
    for (; o + 2 <= nout; o += 2) WEIGHT(2);
    if (o < nout) WEIGHT(1);
#undef WEIGHT
}

static void linear_backward_weight(int64_t n, int64_t nout, int64_t nin, const double *x, int64_t x_stride,
                                   const double *dy, int64_t dy_stride, double *dw)
{
    if (nin == 16 && x_stride == 16)
        weight_rows(n, nout, 16, NULL, x, 16, dy, dy_stride, dw);
    else
        weight_rows(n, nout, nin, NULL, x, x_stride, dy, dy_stride, dw);
}

static void linear_backward_weight_active(int64_t n, int64_t nactive, const int32_t *active, int64_t nin, const double *x,
                                        int64_t x_stride, const double *dy, double *dw)
{
    if (nin == 16 && x_stride == 16)
        weight_rows(n, nactive, 16, active, x, 16, dy, 0, dw);
    else
        weight_rows(n, nactive, nin, active, x, x_stride, dy, 0, dw);
}

/* Rows o .. o + rows of one column tile, over the positions listed, which descend. */
ALWAYS void sparse_tile(int rows, int64_t part, int64_t nactive, const int32_t *active, int64_t nin, const double *x,
                        int64_t x_stride, const double *dy, int64_t dy_stride, double *dw)
{
    vec sum[8];
    UNROLL for (int r = 0; r < rows; r++) {
        sum[r] = part ? vec_load_part(dw + r * nin, part) : vec_load_unaligned(dw + r * nin);
        if (nin > 64) prefetch_write(dw, (rows + r) * nin);
    }
    for (int64_t s = 0; s < nactive; s++) {
        const int64_t p = active[s];
        const double *g = dy + (int64_t)((uint64_t)p / LANES) * dy_stride + (int64_t)((uint64_t)p % LANES);
        vec xp = vec_load(x + p * x_stride);
        UNROLL for (int r = 0; r < rows; r++) sum[r] += xp * vec_set(g[r * LANES]);
    }
    UNROLL for (int r = 0; r < rows; r++) {
        if (part)
            vec_store_part(dw + r * nin, sum[r], part);
        else
            vec_store_unaligned(dw + r * nin, sum[r]);
    }
}

static void linear_backward_weight_sparse(int64_t n, int64_t nout, int64_t nin, const double *x, int64_t x_stride,
                                          const double *dy, int64_t dy_stride, double *dw, int32_t *active)
{
    /* For each vector's width of columns, how many positions are not 0 there, and which, descending. */
    for (int64_t c = 0; c < nin; c += LANES) {
        int32_t *list = active + c / LANES * (n + 1);
        int64_t nactive = 0;
        for (int64_t p = n - 1; p >= 0; p--) {
            list[1 + nactive] = (int32_t)p;
            nactive += lanes_any(vec_differs(vec_load(x + p * x_stride + c), vec_set(0.0)));
        }
        list[0] = (int32_t)nactive;
    }
    int64_t o = 0;
#define SPARSE(rows)                                                                                              \
    for (int64_t c = 0; c < nin; c += LANES) {                                                                    \
        const int32_t *list = active + c / LANES * (n + 1);                                                         \
        const int64_t part = nin - c < LANES ? nin - c : 0;                                                       \
        if (list[0])                                                                                              \
            sparse_tile(rows, part, list[0], list + 1, nin, x + c, x_stride, dy + o * LANES, dy_stride,           \
                        dw + o * nin + c);                                                                        \
    }
    for (; o + 8 <= nout; o += 8) SPARSE(8)
    for (; o < nout; o++) SPARSE(1)
#undef SPARSE
}
