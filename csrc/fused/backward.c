/* The backward pass: from the loss to the gradient of every parameter (microgpt.py: Value.backward).
 *
 * The script finishes the positions in descending order, and within one goes from the logits down to the embeddings.
 * Here each step is done for all positions before the next. That is the same arithmetic: what flows between positions
 * are the gradients of keys, values and weights, and their sums are taken over descending positions. */
#include "fused/engine.h"

#include <string.h>

/* dx [nin] = the gradient of w x, rows in the given order (NULL: descending), for every panel. */
static int backward_input(mg_engine *e, int64_t nout, int64_t nin, const double *w, const int32_t *order,
                          const double *dy, double *dx, mg_poll *poll)
{
    const mg_kernels *k = e->kernels;
    const int64_t lanes = k->lanes, dy_stride = nout * lanes, dx_stride = nin * lanes;
    const int64_t work = e->panels * lanes * nin * nout;
    if (work <= MG_PIECE) {
        k->linear_backward_input(e->panels, nout, nin, w, nin, order, dy, dy_stride, dx, dx_stride);
        return mg_poll_work(poll, work);
    }
    const int64_t group = 4, cols = mg_piece(nin, group * lanes * nout);
    for (int64_t b = 0; b < e->panels; b += group) {
        const int64_t panels = e->panels - b < group ? e->panels - b : group;
        for (int64_t c = 0; c < nin; c += cols) {
            const int64_t count = nin - c < cols ? nin - c : cols;
            k->linear_backward_input(panels, nout, count, w + c, nin, order, dy + b * dy_stride, dy_stride,
                                     dx + b * dx_stride + c * lanes, dx_stride);
            const int status = mg_poll_work(poll, panels * lanes * nout * count);
            if (status) return status;
        }
    }
    return MG_OK;
}

/* The rows of x, [positions][stride], into e->rows; the stride. */
static int64_t to_rows(mg_engine *e, int64_t nin, const double *x)
{
    const int64_t lanes = e->kernels->lanes;
    /* Long rows are a vector apart, or they would share the few places of a cache that a power of two maps to. */
    const int64_t stride = (nin + lanes - 1) / lanes * lanes + (nin > 64 ? lanes : 0);
    e->kernels->panels_to_rows(e->panels, nin, x, nin * lanes, e->rows, stride);
    return stride;
}

/* Adam on `count` parameters whose gradient is complete: g, which is 0 afterwards. dw: their place in the gradients. */
static int update(mg_engine *e, const double *dw, int64_t count, double *g)
{
    const mg_update *u = e->update;
    if (!u) return MG_OK;
    const int64_t at = dw - u->grad;
    return e->kernels->adam_update(u->coefs, 0, count, u->params + at, g, u->m + at, u->v + at);
}

/* dw += the gradient of `nout` rows of w in w x; rows of x in e->rows, `row` apart. sparse: pass over zeros in x. */
static int weight_rows(mg_engine *e, int64_t nout, int64_t nin, int64_t row, const double *dy, int64_t dy_stride,
                       double *dw, int sparse, mg_poll *poll)
{
    const mg_kernels *k = e->kernels;
    const int64_t lanes = k->lanes;
    /* Blocks of positions, the last first, so that a block's rows stay in cache while all of dw passes by. */
    const int64_t block = MG_BLOCK * lanes;
    for (int64_t first = (e->n - 1) / block * block; first >= 0; first -= block) {
        const int64_t count = e->n - first < block ? e->n - first : block, outs = mg_piece(nout, count * nin);
        const double *rows = e->rows + first * row;
        for (int64_t o = 0; o < nout; o += outs) {
            const int64_t some = nout - o < outs ? nout - o : outs;
            const double *dyo = dy + first / lanes * dy_stride + o * lanes;
            if (sparse)
                k->linear_backward_weight_sparse(count, some, nin, rows, row, dyo, dy_stride, dw + o * nin, e->index_scratch);
            else
                k->linear_backward_weight(count, some, nin, rows, row, dyo, dy_stride, dw + o * nin);
            const int status = mg_poll_work(poll, count * some * nin);
            if (status) return status;
        }
    }
    return MG_OK;
}

/* dw += the gradient of w in w x; or, with e->update, w is updated, some rows at a time, by a gradient that does not
 * leave the cache. x, dy: panels. */
static int backward_weight(mg_engine *e, int64_t nout, int64_t nin, const double *x, const double *dy, double *dw,
                           int sparse, mg_poll *poll)
{
    const int64_t lanes = e->kernels->lanes, row = to_rows(e, nin, x), outs = e->update ? mg_dw_chunk_rows(nin) : nout;
    for (int64_t o = 0; o < nout; o += outs) {
        const int64_t some = nout - o < outs ? nout - o : outs;
        double *g = e->update ? e->chunk : dw;
        int status = weight_rows(e, some, nin, row, dy + o * lanes, nout * lanes, g, sparse, poll);
        if (!status) status = update(e, dw + o * nin, some * nin, g);
        if (status) return status;
    }
    return MG_OK;
}

/* dr = the gradient of the MLP's hidden numbers, through mlp_fc2 and relu; e->dx is that of its output. */
static int backward_hidden(mg_engine *e, const mg_layer *layer, int sparse, const double *w, mg_poll *poll)
{
    const mg_kernels *k = e->kernels;
    const int64_t lanes = k->lanes, n_embd = e->config.n_embd, hidden = 4 * n_embd;
    if (!sparse) {
        const int status = backward_input(e, n_embd, hidden, w, NULL, e->dx, e->dr, poll);
        for (int64_t b = 0; b < e->panels && !status; b++)
            k->relu_backward(hidden, NULL, layer->r + b * hidden * lanes, e->dr + b * hidden * lanes);
        return status;
    }
    for (int64_t b = 0; b < e->panels; b++) {
        const int64_t nactive = layer->nactive[b], cols = mg_piece(nactive, n_embd * lanes);
        const int32_t *active = layer->active + b * hidden;
        double *dr = e->dr + b * hidden * lanes;
        for (int64_t c = 0; c < nactive; c += cols) {
            const int64_t count = nactive - c < cols ? nactive - c : cols;
            k->linear_backward_input_active(n_embd, count, active + c, w, hidden, e->dx + b * n_embd * lanes, dr);
            const int status = mg_poll_work(poll, n_embd * count * lanes);
            if (status) return status;
        }
        k->relu_backward(nactive, active, layer->r + b * hidden * lanes, dr);
    }
    return MG_OK;
}

/* The gradients of mlp_fc1 and of what it read, from dr. */
static int backward_mlp_in(mg_engine *e, const mg_layer *layer, int sparse, const double *w, double *dw, mg_poll *poll)
{
    const mg_kernels *k = e->kernels;
    const int64_t lanes = k->lanes, n_embd = e->config.n_embd, hidden = 4 * n_embd;
    if (!sparse) {
        const int status = backward_input(e, hidden, n_embd, w, NULL, e->dr, e->dxn, poll);
        return status ? status : backward_weight(e, hidden, n_embd, layer->xn2, e->dr, dw, 0, poll);
    }
    const int64_t row = to_rows(e, n_embd, layer->xn2);
    for (int64_t b = e->panels - 1; b >= 0; b--) {
        const int64_t nactive = layer->nactive[b], left = e->n - b * lanes;
        const int32_t *active = layer->active + b * hidden;
        const double *dr = e->dr + b * hidden * lanes;
        for (int64_t s = 0; s < nactive; s++) e->index_scratch[s] = active[nactive - 1 - s];
        const int64_t cols = mg_piece(n_embd, (nactive + 1) * lanes);
        for (int64_t c = 0; c < n_embd; c += cols) {
            const int64_t count = n_embd - c < cols ? n_embd - c : cols;
            k->linear_backward_input(1, nactive, count, w + c, n_embd, e->index_scratch, dr, 0,
                                     e->dxn + (b * n_embd + c) * lanes, 0);
            const int status = mg_poll_work(poll, nactive * count * lanes);
            if (status) return status;
        }
        const int64_t rows = mg_piece(nactive, n_embd * lanes);
        for (int64_t s = 0; s < nactive; s += rows) {
            k->linear_backward_weight_active(left < lanes ? left : lanes, nactive - s < rows ? nactive - s : rows, active + s,
                                           n_embd, e->rows + b * lanes * row, row, dr, dw);
            const int status = mg_poll_work(poll, rows * n_embd * lanes);
            if (status) return status;
        }
    }
    return update(e, dw, hidden * n_embd, dw);
}

static void backward_norm(mg_engine *e, int64_t norm, const double *x, const double *dout, double *dx)
{
    const int64_t lanes = e->kernels->lanes, n_embd = e->config.n_embd;
    for (int64_t b = 0; b < e->panels; b++) {
        const int64_t at = (norm * e->panels + b) * lanes, panel = b * n_embd * lanes;
        e->kernels->rmsnorm_backward(n_embd, e->inv_n_embd, x + panel, e->norm_scale + at, e->norm_base_m15 + at,
                                     dout + panel, dx + panel);
    }
}

static int backward_attention(mg_engine *e, int64_t l, mg_poll *poll)
{
    const mg_layer *layer = &e->layers[l];
    const int64_t lanes = e->kernels->lanes, n_embd = e->config.n_embd, head_dim = e->head_dim;
    const int64_t stride = 3 * n_embd * lanes;
    const double *q = layer->qkv, *k = q + n_embd * lanes, *v = k + n_embd * lanes;
    double *dq = e->dqkv, *dk = dq + n_embd * lanes, *dv = dk + n_embd * lanes;
    for (int64_t b = e->panels - 1; b >= 0; b--) {
        for (int64_t h = 0, heads; h < e->config.n_head; h += heads) {
            heads = mg_heads_together(e, b, h);
            const int64_t row = h * head_dim * lanes;
            const int64_t at = ((l * e->panels + b) * e->config.n_head + h) * lanes;
            e->kernels->attention_backward(b, e->n, heads, head_dim, e->attn_scale, q + row, k + row, v + row, stride,
                                           layer->exps + mg_exps_at(e, b, h), e->attn_inv_sum + at,
                                           e->attn_inv_sum_sq + at, e->dxa + b * n_embd * lanes + row,
                                           dq + b * stride + row, dk + row, dv + row, e->scratch);
            const int status = mg_poll_work(poll, heads * (4 * head_dim + 8) * (b + 1) * lanes * lanes);
            if (status) return status;
        }
    }
    return MG_OK;
}

/* lm_head and the softmax above it: dx of what lm_head read. */
static int backward_loss(mg_engine *e, const double *params, double *grad, mg_poll *poll)
{
    const mg_kernels *k = e->kernels;
    const int64_t lanes = k->lanes, n_embd = e->config.n_embd, vocab_size = e->config.vocab_size;
    const double *w = params + e->at.lm_head;
    for (int64_t b = 0; b < e->panels; b++) {
        const int64_t at = b * lanes;
        k->loss_backward(vocab_size, e->logits + at * vocab_size, e->targets + at, e->loss_inv_sum + at,
                         e->loss_inv_sum_sq + at, e->prob + at, e->inv_n, e->dtarget + at);
    }
    /* The target's row comes after all others. Among them it stands with a gradient of 0, which adds nothing: were one
     * of its weights inf or nan, then so would be the target's logit, and the log has failed or all of dx is nan. */
    int status = backward_input(e, vocab_size, n_embd, w, NULL, e->logits, e->dx, poll);
    if (status) return status;
    for (int64_t b = 0; b < e->panels; b++) {
        const int64_t at = b * lanes;
        k->linear_backward_target(n_embd, w, e->targets + at, e->dtarget + at, e->dx + at * n_embd);
        for (int64_t p = 0; p < lanes; p++)
            e->logits[(at * vocab_size) + e->targets[at + p] * lanes + p] = e->dtarget[at + p];
    }
    return backward_weight(e, vocab_size, n_embd, e->xf, e->logits, grad + e->at.lm_head, 0, poll);
}

static int backward_layer(mg_engine *e, int64_t l, const double *w, double *dw, mg_poll *poll)
{
    const mg_kernels *k = e->kernels;
    const int64_t n_embd = e->config.n_embd;
    const mg_layer *layer = &e->layers[l];
    const mg_offsets *at = &e->at;
    int status;

    /* MLP: e->dx is the gradient of its output and, by the residual, the first contribution to that of x1. */
    const int tame = layer->sparse && k->sum_of_magnitudes(e->panels * k->lanes * n_embd, e->dx) < MG_SAFE_MAGNITUDE;
    const int sparse = tame && !e->has_minus_zero; /* -0.0 + 0.0 is 0.0: there even adding nothing counts */
    status = backward_hidden(e, layer, sparse, w + at->mlp_fc2, poll);
    if (status) return status;
    status = backward_weight(e, n_embd, 4 * n_embd, layer->r, e->dx, dw + at->mlp_fc2,
                             sparse && layer->active_share < 0.4, poll);
    if (status) return status;
    status = backward_mlp_in(e, layer, sparse, w + at->mlp_fc1, dw + at->mlp_fc1, poll);
    if (status) return status;
    backward_norm(e, 2 + 2 * l, layer->x1, e->dxn, e->dx);

    /* Attention: the same again, with x1 for the output and x for the residual. */
    status = backward_input(e, n_embd, n_embd, w + at->attn_wo, NULL, e->dx, e->dxa, poll);
    if (status) return status;
    status = backward_weight(e, n_embd, n_embd, layer->xa, e->dx, dw + at->attn_wo, 0, poll);
    if (status) return status;
    status = backward_attention(e, l, poll);
    if (status) return status;
    status = backward_input(e, 3 * n_embd, n_embd, w + at->attn_wq, e->order, e->dqkv, e->dxn, poll);
    if (status) return status;
    k->linear_backward_input_first(3 * n_embd, n_embd, w + at->attn_wq, e->order_first, e->dqkv, e->dxn);
    status = backward_weight(e, 3 * n_embd, n_embd, layer->xn, e->dqkv, dw + at->attn_wq, 0, poll);
    if (status) return status;
    backward_norm(e, 1 + 2 * l, layer->x, e->dxn, e->dx);
    return MG_OK;
}

int mg_backward(mg_engine *e, const double *params, double *grad, mg_poll *poll)
{
    const mg_kernels *k = e->kernels;
    const int64_t lanes = k->lanes, n_embd = e->config.n_embd, n_layer = e->config.n_layer;
    const int64_t positions = e->panels * lanes;

    /* The derivatives of every power at once: x**-0.5 needs x**-1.5, total**-1 needs total**-2. */
    k->pow_m15_array((1 + 2 * n_layer) * positions, e->norm_base, e->norm_base_m15);
    k->pow_m2_array(n_layer * e->config.n_head * positions, e->attn_sum, e->attn_inv_sum_sq);
    k->pow_m2_array(positions, e->loss_sum, e->loss_inv_sum_sq);

    int status = backward_loss(e, params, grad, poll);
    for (int64_t l = n_layer - 1; l >= 0 && !status; l--) {
        const int64_t at = e->at.layers + l * e->at.layer_size;
        status = backward_layer(e, l, params + at, grad + at, poll);
    }
    if (status) return status;

    memset(e->dx0, 0, (size_t)(positions * n_embd) * sizeof *e->dx0);
    backward_norm(e, 0, e->x0, e->dx, e->dx0);
    for (int64_t b = e->panels - 1; b >= 0; b--) {
        const int64_t first = b * lanes, count = e->n - first < lanes ? e->n - first : lanes;
        k->embed_backward(count, n_embd, e->tokens + first, e->dx0 + first * n_embd, grad + e->at.wte,
                          grad + e->at.wpe + first * n_embd);
    }
    return e->update ? update(e, grad, mg_count_embeddings_seen(e, e->update->coefs), grad) : MG_OK;
}
