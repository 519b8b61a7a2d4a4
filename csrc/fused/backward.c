/* The backward pass: from the loss to the gradient of every parameter (microgpt.py: Value.backward).
 *
 * The script finishes the positions in descending order, each from the logits down to the embeddings. Here each
 * operation is done for all positions before the next operation. The arithmetic is the same: only the gradients of
 * keys, values and weights are sums over positions, and these are taken in descending order. */
#include "fused/backward.h"

#include <string.h>

/* dx [nin] = the gradient of w x, rows in the given order (NULL: descending), for every panel. */
static mg_status backward_input(mg_engine *e, int64_t nout, int64_t nin, const double *w, const int32_t *order,
                                const double *dy, double *dx, mg_poll *poll)
{
    const int64_t panels = e->ws.doc.panels, lanes = e->kernels->lanes;
    mg_linear_backward_input_args a = {.panels = panels,
                                       .nout = nout,
                                       .ncols = nin,
                                       .w = w,
                                       .w_stride = nin,
                                       .order = order,
                                       .dy = dy,
                                       .dy_stride = nout * lanes,
                                       .dx = dx,
                                       .dx_stride = nin * lanes};
    const int64_t work = panels * lanes * nin * nout;
    if (work <= MG_PIECE) {
        e->kernels->linear_backward_input(&a);
        return mg_poll_work(poll, work);
    }
    const int64_t group = 4, cols = mg_piece(nin, group * lanes * nout);
    for (int64_t b = 0; b < panels; b += group) {
        a.panels = panels - b < group ? panels - b : group;
        a.dy = dy + b * a.dy_stride;
        for (int64_t c = 0; c < nin; c += cols) {
            a.ncols = nin - c < cols ? nin - c : cols;
            a.w = w + c;
            a.dx = dx + b * a.dx_stride + c * lanes;
            e->kernels->linear_backward_input(&a);
            const mg_status status = mg_poll_work(poll, a.panels * lanes * nout * a.ncols);
            if (status) return status;
        }
    }
    return MG_OK;
}

/* The rows of x, [positions][stride], into x_rows. Returns the stride. */
static int64_t to_rows(mg_engine *e, int64_t nin, const double *x)
{
    const int64_t lanes = e->kernels->lanes;
    /* Long rows get a vector of padding: a stride that is a power of two maps to few sets of a cache. */
    const int64_t stride = (nin + lanes - 1) / lanes * lanes + (nin > 64 ? lanes : 0);
    e->kernels->panels_to_rows(e->ws.doc.panels, nin, x, nin * lanes, e->ws.scratch.x_rows, stride);
    return stride;
}

/* Adam on `count` parameters from `at` on, whose gradient g is complete. g is 0 afterwards. */
static mg_status update(const mg_engine *e, const mg_fused_update *u, int64_t at, int64_t count, double *g)
{
    return e->kernels->adam_update(u->coefs, 0, count, u->params + at, g, u->m + at, u->v + at);
}

/* dw += the gradient of `nout` rows of w in w x. x_stride: of x_rows. sparse: skip zeros of x. */
static mg_status weight_rows(mg_engine *e, int64_t nout, int64_t nin, int64_t x_stride, const double *dy,
                             int64_t dy_stride, double *dw, int sparse, mg_poll *poll)
{
    const mg_kernels *k = e->kernels;
    const int64_t n = e->ws.doc.n, lanes = k->lanes;
    mg_linear_backward_weight_args a = {.nin = nin, .x_stride = x_stride, .dy_stride = dy_stride};
    /* Blocks of positions, the last first: a block's rows stay in cache while all of dw passes by. */
    const int64_t block = MG_BLOCK * lanes;
    for (int64_t first = (n - 1) / block * block; first >= 0; first -= block) {
        a.n = n - first < block ? n - first : block;
        a.x = e->ws.scratch.x_rows + first * x_stride;
        const int64_t outs = mg_piece(nout, a.n * nin);
        for (int64_t o = 0; o < nout; o += outs) {
            a.nout = nout - o < outs ? nout - o : outs;
            a.dy = dy + first / lanes * dy_stride + o * lanes;
            a.dw = dw + o * nin;
            if (sparse)
                k->linear_backward_weight_sparse(&a, e->ws.scratch.index_scratch);
            else
                k->linear_backward_weight(&a);
            const mg_status status = mg_poll_work(poll, a.n * a.nout * nin);
            if (status) return status;
        }
    }
    return MG_OK;
}

/* The gradient of the matrix at `at` in w x, added to in->grad. With an update: the matrix is updated, some rows at a
 * time, by a gradient that does not leave the cache. x, dy: panels. */
static mg_status backward_weight(mg_engine *e, const mg_backward_args *in, int64_t at, int64_t nout, int64_t nin,
                                 const double *x, const double *dy, int sparse)
{
    const int64_t lanes = e->kernels->lanes, x_stride = to_rows(e, nin, x);
    if (!in->update) return weight_rows(e, nout, nin, x_stride, dy, nout * lanes, in->grad + at, sparse, in->poll);
    const int64_t outs = mg_dw_chunk_rows(nin);
    double *dw_chunk = e->ws.scratch.dw_chunk;
    for (int64_t o = 0; o < nout; o += outs) {
        const int64_t some = nout - o < outs ? nout - o : outs;
        mg_status status = weight_rows(e, some, nin, x_stride, dy + o * lanes, nout * lanes, dw_chunk, sparse,
                                       in->poll);
        if (!status) status = update(e, in->update, at + o * nin, some * nin, dw_chunk);
        if (status) return status;
    }
    return MG_OK;
}

/* dr = the gradient of the MLP's hidden numbers, through mlp_fc2 and relu; dx is that of the MLP's output. */
static mg_status backward_hidden(mg_engine *e, const mg_layer_activations *layer, int sparse, const double *w,
                                 mg_poll *poll)
{
    const mg_kernels *k = e->kernels;
    const mg_activation_grads *d = &e->ws.grad;
    const int64_t panels = e->ws.doc.panels, lanes = k->lanes, n_embd = e->config.n_embd, hidden = 4 * n_embd;
    if (!sparse) {
        const mg_status status = backward_input(e, n_embd, hidden, w, NULL, d->dx, d->dr, poll);
        for (int64_t b = 0; b < panels && !status; b++)
            k->relu_backward(hidden, NULL, layer->r + b * hidden * lanes, d->dr + b * hidden * lanes);
        return status;
    }
    for (int64_t b = 0; b < panels; b++) {
        const int64_t nactive = layer->nactive[b], cols = mg_piece(nactive, n_embd * lanes);
        const int32_t *active = layer->active + b * hidden;
        double *dr = d->dr + b * hidden * lanes;
        for (int64_t c = 0; c < nactive; c += cols) {
            const int64_t count = nactive - c < cols ? nactive - c : cols;
            k->linear_backward_input_active(n_embd, count, active + c, w, hidden, d->dx + b * n_embd * lanes, dr);
            const mg_status status = mg_poll_work(poll, n_embd * count * lanes);
            if (status) return status;
        }
        k->relu_backward(nactive, active, layer->r + b * hidden * lanes, dr);
    }
    return MG_OK;
}

/* The gradients of mlp_fc1, which is at `at`, and of its input, from dr. Zeros of relu are skipped. */
static mg_status backward_mlp_in_sparse(mg_engine *e, const mg_backward_args *in, int64_t at,
                                        const mg_layer_activations *layer)
{
    const mg_kernels *k = e->kernels;
    const int64_t n = e->ws.doc.n, panels = e->ws.doc.panels, lanes = k->lanes;
    const int64_t n_embd = e->config.n_embd, hidden = 4 * n_embd, x_stride = to_rows(e, n_embd, layer->xn2);
    const double *w = in->params + at;
    double *dw = in->grad + at;
    int32_t *descending = e->ws.scratch.index_scratch;
    for (int64_t b = panels - 1; b >= 0; b--) {
        const int64_t nactive = layer->nactive[b], left = n - b * lanes;
        const int32_t *active = layer->active + b * hidden;
        const double *dr = e->ws.grad.dr + b * hidden * lanes;
        for (int64_t s = 0; s < nactive; s++) descending[s] = active[nactive - 1 - s];
        mg_linear_backward_input_args input = {
            .panels = 1, .nout = nactive, .w_stride = n_embd, .order = descending, .dy = dr};
        const int64_t cols = mg_piece(n_embd, (nactive + 1) * lanes);
        for (int64_t c = 0; c < n_embd; c += cols) {
            input.ncols = n_embd - c < cols ? n_embd - c : cols;
            input.w = w + c;
            input.dx = e->ws.grad.dxn + (b * n_embd + c) * lanes;
            k->linear_backward_input(&input);
            const mg_status status = mg_poll_work(in->poll, nactive * input.ncols * lanes);
            if (status) return status;
        }
        mg_linear_backward_weight_args weight = {.n = left < lanes ? left : lanes,
                                                 .nin = n_embd,
                                                 .x = e->ws.scratch.x_rows + b * lanes * x_stride,
                                                 .x_stride = x_stride,
                                                 .dy = dr,
                                                 .dw = dw};
        const int64_t rows = mg_piece(nactive, n_embd * lanes);
        for (int64_t s = 0; s < nactive; s += rows) {
            weight.nout = nactive - s < rows ? nactive - s : rows;
            k->linear_backward_weight_active(&weight, active + s);
            const mg_status status = mg_poll_work(in->poll, rows * n_embd * lanes);
            if (status) return status;
        }
    }
    return in->update ? update(e, in->update, at, hidden * n_embd, dw) : MG_OK;
}

static void backward_norm(mg_engine *e, int64_t norm, const double *x, const double *dout, double *dx)
{
    const int64_t panels = e->ws.doc.panels, lanes = e->kernels->lanes, n_embd = e->config.n_embd;
    for (int64_t b = 0; b < panels; b++) {
        const int64_t at = (norm * panels + b) * lanes, panel = b * n_embd * lanes;
        e->kernels->rmsnorm_backward(n_embd, e->inv_n_embd, x + panel, e->ws.act.norm_scale + at,
                                     e->ws.grad.norm_base_m15 + at, dout + panel, dx + panel);
    }
}

static mg_status backward_attention(mg_engine *e, int64_t l, mg_poll *poll)
{
    const mg_activation_grads *d = &e->ws.grad;
    const int64_t lanes = e->kernels->lanes, head_dim = e->head_dim, panel = e->config.n_embd * lanes;
    for (int64_t b = e->ws.doc.panels - 1; b >= 0; b--) {
        for (int64_t h = 0, heads; h < e->config.n_head; h += heads) {
            heads = mg_heads_together(e, b, h);
            const int64_t row = h * head_dim * lanes;
            const mg_attention_args a = mg_attention_of(e, l, b, h, heads);
            const mg_attention_grads g = {
                .inv_sum_sq = d->attn_inv_sum_sq + (a.inv_sum - e->ws.act.attn_inv_sum),
                .dout = d->dxa + b * panel + row,
                .dq = d->dqkv + b * a.stride + row,
                .dk = d->dqkv + panel + row,
                .dv = d->dqkv + 2 * panel + row,
            };
            e->kernels->attention_backward(&a, &g);
            const mg_status status = mg_poll_work(poll, heads * (4 * head_dim + 8) * (b + 1) * lanes * lanes);
            if (status) return status;
        }
    }
    return MG_OK;
}

/* lm_head and the softmax above it: dx of lm_head's input. */
static mg_status backward_loss(mg_engine *e, const mg_backward_args *in)
{
    const mg_kernels *k = e->kernels;
    const mg_document *doc = &e->ws.doc;
    const mg_activations *act = &e->ws.act;
    const mg_activation_grads *d = &e->ws.grad;
    const int64_t lanes = k->lanes, n_embd = e->config.n_embd, vocab_size = e->config.vocab_size;
    const double *w = in->params + e->at.lm_head;
    for (int64_t b = 0; b < doc->panels; b++) {
        const int64_t at = b * lanes;
        k->loss_backward(vocab_size, act->logits + at * vocab_size, doc->targets + at, act->loss_inv_sum + at,
                         d->loss_inv_sum_sq + at, act->prob + at, doc->inv_n, d->dtarget + at);
    }
    /* The target's row comes after all others. In this product its gradient is 0, which adds nothing: if one of its
     * weights were inf or nan, so would be the target's logit, and log has failed or all of dx is nan. */
    mg_status status = backward_input(e, vocab_size, n_embd, w, NULL, act->logits, d->dx, in->poll);
    if (status) return status;
    for (int64_t b = 0; b < doc->panels; b++) {
        const int64_t at = b * lanes;
        k->linear_backward_target(n_embd, w, doc->targets + at, d->dtarget + at, d->dx + at * n_embd);
        for (int64_t p = 0; p < lanes; p++)
            act->logits[(at * vocab_size) + doc->targets[at + p] * lanes + p] = d->dtarget[at + p];
    }
    return backward_weight(e, in, e->at.lm_head, vocab_size, n_embd, act->xf, act->logits, 0);
}

/* The MLP. dx is the gradient of its output and, by the residual, the first contribution to that of x1. */
static mg_status backward_mlp(mg_engine *e, const mg_backward_args *in, int64_t l)
{
    const mg_kernels *k = e->kernels;
    const mg_layer_activations *layer = &e->ws.act.layers[l];
    const mg_activation_grads *d = &e->ws.grad;
    const int64_t n_embd = e->config.n_embd, first = e->at.layers + l * e->at.layer_size;
    const int64_t fc1 = first + e->at.mlp_fc1, fc2 = first + e->at.mlp_fc2;
    /* -0.0 + 0.0 is 0.0, so with a -0.0 in grad even adding nothing counts. */
    const int sparse = layer->skip_inactive
                       && k->sum_of_magnitudes(e->ws.doc.panels * k->lanes * n_embd, d->dx) < MG_SAFE_MAGNITUDE
                       && !in->grad_has_minus_zero;
    mg_status status = backward_hidden(e, layer, sparse, in->params + fc2, in->poll);
    if (status) return status;
    status = backward_weight(e, in, fc2, n_embd, 4 * n_embd, layer->r, d->dx, sparse && layer->active_share < 0.4);
    if (status) return status;
    if (sparse) {
        status = backward_mlp_in_sparse(e, in, fc1, layer);
    } else {
        status = backward_input(e, 4 * n_embd, n_embd, in->params + fc1, NULL, d->dr, d->dxn, in->poll);
        if (!status) status = backward_weight(e, in, fc1, 4 * n_embd, n_embd, layer->xn2, d->dr, 0);
    }
    if (status) return status;
    backward_norm(e, 2 + 2 * l, layer->x1, d->dxn, d->dx);
    return MG_OK;
}

/* Attention and its products: the same, with x1 for the output and x for the residual. */
static mg_status backward_attention_block(mg_engine *e, const mg_backward_args *in, int64_t l)
{
    const mg_layer_activations *layer = &e->ws.act.layers[l];
    const mg_activation_grads *d = &e->ws.grad;
    const int64_t n_embd = e->config.n_embd, first = e->at.layers + l * e->at.layer_size;
    const int64_t wq = first + e->at.attn_wq, wo = first + e->at.attn_wo;
    mg_status status = backward_input(e, n_embd, n_embd, in->params + wo, NULL, d->dx, d->dxa, in->poll);
    if (status) return status;
    status = backward_weight(e, in, wo, n_embd, n_embd, layer->xa, d->dx, 0);
    if (status) return status;
    status = backward_attention(e, l, in->poll);
    if (status) return status;
    status = backward_input(e, 3 * n_embd, n_embd, in->params + wq, e->qkv_order, d->dqkv, d->dxn, in->poll);
    if (status) return status;
    e->kernels->linear_backward_input_first(3 * n_embd, n_embd, in->params + wq, e->qkv_order_first, d->dqkv, d->dxn);
    status = backward_weight(e, in, wq, 3 * n_embd, n_embd, layer->xn, d->dqkv, 0);
    if (status) return status;
    backward_norm(e, 1 + 2 * l, layer->x, d->dxn, d->dx);
    return MG_OK;
}

mg_status mg_backward(mg_engine *e, const mg_backward_args *in)
{
    const mg_kernels *k = e->kernels;
    const mg_document *doc = &e->ws.doc;
    const mg_activations *act = &e->ws.act;
    const mg_activation_grads *d = &e->ws.grad;
    const int64_t lanes = k->lanes, n_embd = e->config.n_embd, n_layer = e->config.n_layer;
    const int64_t positions = doc->panels * lanes;

    /* The derivatives of all powers at once: x**-0.5 needs x**-1.5, sum**-1 needs sum**-2. */
    k->pow_m15_array((1 + 2 * n_layer) * positions, act->norm_base, d->norm_base_m15);
    k->pow_m2_array(n_layer * e->config.n_head * positions, act->attn_sum, d->attn_inv_sum_sq);
    k->pow_m2_array(positions, act->loss_sum, d->loss_inv_sum_sq);

    mg_status status = backward_loss(e, in);
    for (int64_t l = n_layer - 1; l >= 0 && !status; l--) {
        status = backward_mlp(e, in, l);
        if (!status) status = backward_attention_block(e, in, l);
    }
    if (status) return status;

    memset(d->dx0, 0, (size_t)(positions * n_embd) * sizeof *d->dx0);
    backward_norm(e, 0, act->x0, d->dx, d->dx0);
    for (int64_t b = doc->panels - 1; b >= 0; b--) {
        const int64_t first = b * lanes, count = doc->n - first < lanes ? doc->n - first : lanes;
        k->embed_backward(count, n_embd, doc->tokens + first, d->dx0 + first * n_embd, in->grad + e->at.wte,
                          in->grad + e->at.wpe + first * n_embd);
    }
    return in->update ? update(e, in->update, e->at.wte, in->update->embeddings, in->grad) : MG_OK;
}
