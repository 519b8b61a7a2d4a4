#include "fused/weights.h"

#include <math.h>
#include <string.h>

void mg_to_rows(const mg_engine *e, mg_panels some, int64_t nin, const double *x, double *x_rows)
{
    const int64_t lanes = e->kernels->lanes, stride = mg_row_stride(nin, lanes);
    e->kernels->panels_to_rows(some.end - some.first, nin, x + some.first * nin * lanes, nin * lanes,
                               x_rows + some.first * lanes * stride, stride);
}

/* dw += the gradient of `nout` rows of w in w x, over n positions. x: x_rows. sparse: skip zeros of x. */
static mg_status weight_rows(const mg_kernels *k, int64_t n, int64_t nout, int64_t nin, const double *x, int64_t x_stride,
                             const double *dy, int64_t dy_stride, double *dw, int sparse, int32_t *index_scratch,
                             mg_poll *poll)
{
    const int64_t lanes = k->lanes;
    mg_linear_backward_weight_args a = {.nin = nin, .x_stride = x_stride, .dy_stride = dy_stride};
    /* Blocks of positions, the last first: a block's rows stay in cache while all of dw passes by. */
    const int64_t block = MG_BLOCK * lanes;
    for (int64_t first = (n - 1) / block * block; first >= 0; first -= block) {
        a.n = n - first < block ? n - first : block;
        a.x = x + first * x_stride;
        const int64_t outs = mg_piece(nout, a.n * nin);
        for (int64_t o = 0; o < nout; o += outs) {
            a.nout = nout - o < outs ? nout - o : outs;
            a.dy = dy + first / lanes * dy_stride + o * lanes;
            a.dw = dw + o * nin;
            if (sparse)
                k->linear_backward_weight_sparse(&a, index_scratch);
            else
                k->linear_backward_weight(&a);
            const mg_status status = mg_poll_work(poll, a.n * a.nout * nin);
            if (status) return status;
        }
    }
    return MG_OK;
}

/* The rows in `active` of dw += the gradient of w in w x, over the positions of one panel. dy: the panel. */
static mg_status weight_rows_active(const mg_engine *e, int64_t panel, int64_t nactive, const int32_t *active,
                                    int64_t nin, const double *x_rows, int64_t x_stride, const double *dy, double *dw,
                                    mg_poll *poll)
{
    const int64_t lanes = e->kernels->lanes, left = e->ws.doc.n - panel * lanes;
    mg_linear_backward_weight_args a = {.n = left < lanes ? left : lanes,
                                        .nin = nin,
                                        .x = x_rows + panel * lanes * x_stride,
                                        .x_stride = x_stride,
                                        .dy = dy,
                                        .dw = dw};
    const int64_t rows = mg_piece(nactive, nin * lanes);
    for (int64_t s = 0; s < nactive; s += rows) {
        a.nout = nactive - s < rows ? nactive - s : rows;
        e->kernels->linear_backward_weight_active(&a, active + s);
        const mg_status status = mg_poll_work(poll, rows * nin * lanes);
        if (status) return status;
    }
    return MG_OK;
}

static void keep(const mg_engine *e, const mg_matrix *matrix, mg_panels some, const double *x, const double *dy)
{
    const mg_kept_product *kept = mg_kept_of(e, matrix->layer, matrix->which);
    const int64_t panel = matrix->nout * e->kernels->lanes, at = some.first * panel;
    mg_to_rows(e, some, matrix->nin, x, kept->x_rows);
    if (dy != kept->dy) memcpy(kept->dy + at, dy + at, (size_t)((some.end - some.first) * panel) * sizeof *dy);
}

mg_status mg_weight_gradient(mg_engine *e, const mg_backward_args *in, const mg_matrix *matrix, mg_panels some,
                             const double *x, const double *dy, int sparse, mg_poll *poll)
{
    if (e->ws.kept) {
        keep(e, matrix, some, x, dy);
        return MG_OK;
    }
    const mg_kernels *k = e->kernels;
    const mg_scratch *scratch = &e->ws.scratch;
    const int64_t n = e->ws.doc.n, nout = matrix->nout, nin = matrix->nin, stride = mg_row_stride(nin, k->lanes);
    mg_to_rows(e, some, nin, x, scratch->x_rows);
    mg_status status = mg_begin_turn(in->turns, mg_turn_of(matrix), poll);
    if (!status)
        status = weight_rows(k, n, nout, nin, scratch->x_rows, stride, dy, nout * k->lanes, in->grad + matrix->at, sparse,
                             scratch->index_scratch, poll);
    if (!status) mg_end_turn(in->turns, mg_turn_of(matrix));
    return status;
}

mg_status mg_weight_gradient_active(mg_engine *e, const mg_backward_args *in, const mg_matrix *matrix, int64_t panel,
                                    const mg_layer_activations *layer, const double *dy, mg_poll *poll)
{
    const int64_t lanes = e->kernels->lanes;
    return weight_rows_active(e, panel, layer->nactive[panel], layer->active + panel * matrix->nout, matrix->nin,
                              e->ws.scratch.x_rows, mg_row_stride(matrix->nin, lanes), dy, in->grad + matrix->at, poll);
}

/* The first of `count` ascending numbers that is not below `least`. */
static int64_t lower_bound(const int32_t *numbers, int64_t count, int64_t least)
{
    int64_t first = 0;
    while (count) {
        const int64_t half = count / 2;
        if (numbers[first + half] < least) {
            first += half + 1;
            count -= half + 1;
        } else {
            count = half;
        }
    }
    return first;
}

void mg_prefetch_kept(const mg_engine *document, const mg_matrix *matrix)
{
    enum { FEW = 1 << 13, LINE = 8 };
    const mg_kept_product *kept = mg_kept_of(document, matrix->layer, matrix->which);
    const int64_t n = document->ws.doc.n * kept->x_stride;
    for (int64_t i = 0; n > FEW && i < n; i += LINE) __builtin_prefetch(kept->x_rows + i, 0, 2);
}

mg_status mg_kept_gradient(const mg_engine *document, const mg_matrix *matrix, int64_t first, int64_t end, double *dw,
                           int32_t *index_scratch, mg_poll *poll)
{
    const mg_kernels *k = document->kernels;
    const mg_workspace *ws = &document->ws;
    const mg_kept_product *kept = mg_kept_of(document, matrix->layer, matrix->which);
    const int64_t nout = matrix->nout, nin = matrix->nin;
    if (!kept->sparse || matrix->which != MG_FC1)
        return weight_rows(k, ws->doc.n, end - first, nin, kept->x_rows, kept->x_stride, kept->dy + first * k->lanes,
                           nout * k->lanes, dw, kept->sparse, index_scratch, poll);
    const mg_layer_activations *layer = &ws->act.layers[matrix->layer];
    mg_status status = MG_OK;
    for (int64_t b = ws->doc.panels - 1; b >= 0 && !status; b--) {
        const int32_t *active = layer->active + b * nout;
        const int64_t from = lower_bound(active, layer->nactive[b], first);
        const int64_t to = lower_bound(active, layer->nactive[b], end);
        for (int64_t s = from; s < to; s++) index_scratch[s - from] = active[s] - (int32_t)first;
        status = weight_rows_active(document, b, to - from, index_scratch, nin, kept->x_rows, kept->x_stride,
                                    kept->dy + (b * nout + first) * k->lanes, dw, poll);
    }
    return status;
}
