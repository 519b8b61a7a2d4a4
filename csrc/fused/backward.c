/* The backward pass: from the loss to the gradient of every parameter (microgpt.py: Value.backward).
 *
 * The script finishes the positions in descending order, each from the logits down to the embeddings. Here each
 * operation is done for all positions before the next operation. The arithmetic is the same: only the gradients of
 * keys, values and weights are sums over positions, and these are taken in descending order.
 *
 * The gradients of weights are taken at once, or, if the workspace keeps products, later by weights.c. Then the stages
 * between two operations that need all positions may be shared by threads (fused/share.h). */
#include "fused/backward.h"

#include <string.h>

#include "fused/share.h"
#include "fused/weights.h"

static double *hidden_grad(const mg_engine *e, int64_t l)
{
    return e->ws.kept ? mg_kept_of(e, l, MG_FC1)->dy : e->ws.grad.dr;
}

static double *qkv_grad(const mg_engine *e, int64_t l)
{
    return e->ws.kept ? mg_kept_of(e, l, MG_QKV)->dy : e->ws.grad.dqkv;
}

/* dx [nin] = the gradient of w x, rows in the given order (NULL: descending; the first position's may be another one), for some
 * panels. */
static mg_status backward_input(const mg_engine *e, mg_panels some, int64_t nout, int64_t nin, const double *w,
                                const int32_t *order, const int32_t *order_first, const double *dy, double *dx, mg_poll *poll)
{
    const int64_t panels = some.end - some.first, lanes = e->kernels->lanes;
    mg_linear_backward_input_args a = {.n = mg_positions_in(e, some.first, some.end),
                                       .nout = nout,
                                       .ncols = nin,
                                       .w = w,
                                       .w_stride = nin,
                                       .order = order,
                                       .order_first = some.first ? NULL : order_first,
                                       .dy_stride = nout * lanes,
                                       .dx_stride = nin * lanes};
    a.dy = dy += some.first * a.dy_stride;
    a.dx = dx += some.first * a.dx_stride;
    const int64_t work = panels * lanes * nin * nout;
    if (work <= MG_PIECE) {
        e->kernels->linear_backward_input(&a);
        return mg_poll_work(poll, work);
    }
    /* Narrow vectors: as many panels as share a copy of the weights. */
    const int64_t group = lanes == 8 ? 4 : 64 / lanes, cols = mg_piece(nin, group * lanes * nout);
    for (int64_t b = 0; b < panels; b += group) {
        const int64_t count = panels - b < group ? panels - b : group, at_panel = some.first + b;
        a.n = mg_positions_in(e, at_panel, at_panel + count);
        if (b) a.order_first = NULL;
        a.dy = dy + b * a.dy_stride;
        for (int64_t c = 0; c < nin; c += cols) {
            a.ncols = nin - c < cols ? nin - c : cols;
            a.w = w + c;
            a.dx = dx + b * a.dx_stride + c * lanes;
            e->kernels->linear_backward_input(&a);
            const mg_status status = mg_poll_work(poll, count * lanes * nout * a.ncols);
            if (status) return status;
        }
    }
    return MG_OK;
}

/* dr = the gradient of the MLP's hidden numbers, through mlp_fc2 and relu; dx is that of the MLP's output. */
static mg_status backward_hidden(const mg_engine *e, mg_panels some, const mg_layer_activations *layer, int sparse,
                                 const double *w, double *dr, mg_poll *poll)
{
    const mg_kernels *k = e->kernels;
    const mg_activation_grads *d = &e->ws.grad;
    const int64_t lanes = k->lanes, n_embd = e->config.n_embd, hidden = 4 * n_embd;
    if (!sparse) {
        const mg_status status = backward_input(e, some, n_embd, hidden, w, NULL, NULL, d->dx, dr, poll);
        for (int64_t b = some.first; b < some.end && !status; b++)
            k->relu_backward(hidden, NULL, layer->r + b * hidden * lanes, dr + b * hidden * lanes);
        return status;
    }
    for (int64_t b = some.first; b < some.end; b++) {
        const int64_t nactive = layer->nactive[b], cols = mg_piece(nactive, n_embd * lanes);
        const int32_t *active = layer->active + b * hidden;
        double *panel = dr + b * hidden * lanes;
        for (int64_t c = 0; c < nactive; c += cols) {
            const int64_t count = nactive - c < cols ? nactive - c : cols;
            k->linear_backward_input_active(n_embd, count, active + c, w, hidden, d->dx + b * n_embd * lanes, panel);
            const mg_status status = mg_poll_work(poll, n_embd * count * lanes);
            if (status) return status;
        }
        k->relu_backward(nactive, active, layer->r + b * hidden * lanes, panel);
    }
    return MG_OK;
}

/* The gradients of mlp_fc1 and of its input, from dr. Zeros of relu are skipped. */
static mg_status backward_mlp_in_sparse(mg_engine *e, const mg_backward_args *in, const mg_matrix *fc1, mg_panels some,
                                        const mg_layer_activations *layer, const double *dr, mg_poll *poll)
{
    const mg_kernels *k = e->kernels;
    const int64_t lanes = k->lanes, n_embd = e->config.n_embd, hidden = 4 * n_embd;
    const double *w = in->params + fc1->at;
    int32_t *descending = e->ws.scratch.index_scratch;
    mg_to_rows(e, some, n_embd, layer->xn2, e->ws.kept ? mg_kept_of(e, fc1->layer, MG_FC1)->x_rows : e->ws.scratch.x_rows);
    const mg_status turn = mg_begin_turn(in->turns, mg_turn_of(fc1), poll);
    if (turn) return turn;
    for (int64_t b = some.end - 1; b >= some.first; b--) {
        const int64_t nactive = layer->nactive[b];
        const int32_t *active = layer->active + b * hidden;
        const double *panel = dr + b * hidden * lanes;
        for (int64_t s = 0; s < nactive; s++) descending[s] = active[nactive - 1 - s];
        mg_linear_backward_input_args input = {
            .n = mg_positions_in(e, b, b + 1), .nout = nactive, .w_stride = n_embd, .order = descending, .dy = panel};
        const int64_t cols = mg_piece(n_embd, (nactive + 1) * lanes);
        for (int64_t c = 0; c < n_embd; c += cols) {
            input.ncols = n_embd - c < cols ? n_embd - c : cols;
            input.w = w + c;
            input.dx = e->ws.grad.dxn + (b * n_embd + c) * lanes;
            k->linear_backward_input(&input);
            const mg_status status = mg_poll_work(poll, nactive * input.ncols * lanes);
            if (status) return status;
        }
        if (e->ws.kept) continue;
        const mg_status status = mg_weight_gradient_active(e, in, fc1, b, layer, panel, poll);
        if (status) return status;
    }
    mg_end_turn(in->turns, mg_turn_of(fc1));
    return MG_OK;
}

static void backward_norm(const mg_engine *e, mg_panels some, int64_t norm, const double *x, const double *dout,
                          double *dx)
{
    const int64_t lanes = e->kernels->lanes, n_embd = e->config.n_embd, first = some.first * n_embd * lanes;
    const int64_t at = (norm * e->ws.doc.panels + some.first) * lanes;
    e->kernels->rmsnorm_backward(some.end - some.first, n_embd, e->inv_n_embd, x + first, e->ws.act.norm_scale + at,
                                 e->ws.act.norm_base_m15 + at, dout + first, dx + first);
}

/* The pass, and the layer that a stage belongs to. sparse: zeros of its relu are skipped. */
typedef struct {
    const mg_backward_args *in;
    int64_t l;
    int sparse;
} backward_args;

/* lm_head and the softmax above it: dx of lm_head's input. */
static mg_status stage_loss(mg_engine *e, const void *args, mg_panels some, mg_poll *poll)
{
    const mg_backward_args *in = ((const backward_args *)args)->in;
    const mg_kernels *k = e->kernels;
    const mg_document *doc = &e->ws.doc;
    const mg_activations *act = &e->ws.act;
    const mg_activation_grads *d = &e->ws.grad;
    const int64_t lanes = k->lanes, n_embd = e->config.n_embd, vocab_size = e->config.vocab_size;
    const mg_matrix lm_head = mg_matrix_of(e, 0, MG_LM_HEAD);
    const double *w = in->params + lm_head.at;
    for (int64_t b = some.first; b < some.end; b++) {
        const int64_t at = b * lanes;
        k->loss_backward(vocab_size, act->logits + at * vocab_size, doc->targets + at, act->loss_inv_sum + at,
                         act->loss_inv_sum_sq + at, act->prob + at, doc->inv_n, d->dtarget + at);
    }
    /* The target's row comes after all others. In this product its gradient is 0, which adds nothing: if one of its
     * weights were inf or nan, so would be the target's logit, and log has failed or all of dx is nan. */
    const mg_status status = backward_input(e, some, vocab_size, n_embd, w, NULL, NULL, act->logits, d->dx, poll);
    if (status) return status;
    for (int64_t b = some.first; b < some.end; b++) {
        const int64_t at = b * lanes;
        k->linear_backward_target(n_embd, w, doc->targets + at, d->dtarget + at, d->dx + at * n_embd);
        for (int64_t p = 0; p < lanes; p++)
            act->logits[(at * vocab_size) + doc->targets[at + p] * lanes + p] = d->dtarget[at + p];
    }
    return mg_weight_gradient(e, in, &lm_head, some, act->xf, act->logits, 0, poll);
}

/* The MLP, and attention's output. dx is the gradient of the MLP's output and, by the residual, the first contribution to
 * that of x1; then the same for x1 and x. */
static mg_status stage_mlp(mg_engine *e, const void *args, mg_panels some, mg_poll *poll)
{
    const backward_args *a = args;
    const mg_backward_args *in = a->in;
    const mg_layer_activations *layer = &e->ws.act.layers[a->l];
    const mg_activation_grads *d = &e->ws.grad;
    const mg_matrix fc1 = mg_matrix_of(e, a->l, MG_FC1), fc2 = mg_matrix_of(e, a->l, MG_FC2);
    const mg_matrix wo = mg_matrix_of(e, a->l, MG_WO);
    const int64_t n_embd = e->config.n_embd;
    double *dr = hidden_grad(e, a->l);
    mg_status status = backward_hidden(e, some, layer, a->sparse, in->params + fc2.at, dr, poll);
    if (status) return status;
    status = mg_weight_gradient(e, in, &fc2, some, layer->r, d->dx, a->sparse && layer->active_share < 0.4, poll);
    if (status) return status;
    if (a->sparse) {
        status = backward_mlp_in_sparse(e, in, &fc1, some, layer, dr, poll);
    } else {
        status = backward_input(e, some, 4 * n_embd, n_embd, in->params + fc1.at, NULL, NULL, dr, d->dxn, poll);
        if (!status) status = mg_weight_gradient(e, in, &fc1, some, layer->xn2, dr, 0, poll);
    }
    if (status) return status;
    backward_norm(e, some, 2 + 2 * a->l, layer->x1, d->dxn, d->dx);
    status = backward_input(e, some, n_embd, n_embd, in->params + wo.at, NULL, NULL, d->dx, d->dxa, poll);
    return status ? status : mg_weight_gradient(e, in, &wo, some, layer->xa, d->dx, 0, poll);
}

/* Attention, for some heads: the gradients of keys and values are sums over later positions. */
static mg_status stage_attention(mg_engine *e, const void *args, mg_panels some, mg_poll *poll)
{
    const int64_t l = ((const backward_args *)args)->l;
    const mg_activation_grads *d = &e->ws.grad;
    const int64_t lanes = e->kernels->lanes, head_dim = e->head_dim, panel = e->config.n_embd * lanes;
    double *dqkv = qkv_grad(e, l);
    if (mg_attention_by_heads(e)) {
        for (int64_t h = 0; h < e->config.n_head; h += lanes) {
            const int64_t row = h * head_dim * lanes;
            const mg_attention_heads_args a = mg_attention_heads_of(e, l, h);
            const mg_attention_heads_grads g = {d->dxa + row, dqkv + row, dqkv + panel + row, dqkv + 2 * panel + row};
            e->kernels->attention_heads_backward(&a, &g);
        }
        return mg_poll_work(poll, e->config.n_head * (4 * head_dim + 8) * e->ws.doc.n * e->ws.doc.n);
    }
    for (int64_t b = e->ws.doc.panels - 1; b >= 0; b--) {
        for (int64_t h = some.first, heads; h < some.end; h += heads) {
            heads = mg_heads_together(e, b, h);
            if (heads > some.end - h) heads = some.end - h;
            const int64_t row = h * head_dim * lanes;
            const mg_attention_args a = mg_attention_of(e, l, b, h, heads);
            const mg_attention_grads g = {
                .dout = d->dxa + b * panel + row,
                .dq = dqkv + b * a.stride + row,
                .dk = dqkv + panel + row,
                .dv = dqkv + 2 * panel + row,
            };
            e->kernels->attention_backward(&a, &g);
            const mg_status status = mg_poll_work(poll, heads * (4 * head_dim + 8) * (b + 1) * lanes * lanes);
            if (status) return status;
        }
    }
    return MG_OK;
}

/* The products that attention begins with, and, below the first layer, the embeddings' norm. */
static mg_status stage_qkv(mg_engine *e, const void *args, mg_panels some, mg_poll *poll)
{
    const backward_args *a = args;
    const mg_backward_args *in = a->in;
    const mg_layer_activations *layer = &e->ws.act.layers[a->l];
    const mg_activation_grads *d = &e->ws.grad;
    const mg_matrix qkv = mg_matrix_of(e, a->l, MG_QKV);
    const int64_t n_embd = e->config.n_embd;
    const double *w = in->params + qkv.at;
    double *dqkv = qkv_grad(e, a->l);
    mg_status status = backward_input(e, some, 3 * n_embd, n_embd, w, e->qkv_order, e->qkv_order_first, dqkv, d->dxn,
                                      poll);
    if (status) return status;
    status = mg_weight_gradient(e, in, &qkv, some, layer->xn, dqkv, 0, poll);
    if (status) return status;
    backward_norm(e, some, 1 + 2 * a->l, layer->x, d->dxn, d->dx);
    return MG_OK;
}

/* Whether the MLP's backward pass skips zeros of relu. It may: they are multiplied by finite numbers, and no sum holds a -0.0,
 * to which even adding 0.0 counts. And it pays: of long documents, products with all rows take less time than with half of them. */
static int skips_zeros(const mg_engine *e, const mg_backward_args *in, int64_t l)
{
    mg_layer_activations *layer = &e->ws.act.layers[l];
    const int64_t numbers = e->ws.doc.panels * e->kernels->lanes * e->config.n_embd;
    const double dx = e->kernels->sum_of_magnitudes(numbers, e->ws.grad.dx);
    double hidden = 0.0;
    for (int64_t b = 0; b < e->ws.doc.panels; b++) hidden += layer->magnitude[b];
    layer->fc2_gradient = dx * hidden; /* sums over positions of dx times what relu gives */
    const int pays = e->kernels->lanes == 8 || e->ws.doc.n <= 12 || layer->active_share < 0.5;
    return pays && layer->skip_inactive && !in->grad_has_minus_zero && dx < MG_SAFE_MAGNITUDE;
}

void mg_embedding_gradient(const mg_engine *e, double *grad)
{
    const mg_document *doc = &e->ws.doc;
    const int64_t lanes = e->kernels->lanes, n_embd = e->config.n_embd;
    for (int64_t b = doc->panels - 1; b >= 0; b--) {
        const int64_t first = b * lanes, count = doc->n - first < lanes ? doc->n - first : lanes;
        e->kernels->embed_backward(count, n_embd, doc->tokens + first, e->ws.grad.dx0 + first * n_embd,
                                   grad + e->at.wte, grad + e->at.wpe + first * n_embd);
    }
}

mg_status mg_backward(mg_engine *e, const mg_backward_args *in)
{
    const mg_kernels *k = e->kernels;
    const mg_activations *act = &e->ws.act;
    const mg_activation_grads *d = &e->ws.grad;
    const int64_t n_embd = e->config.n_embd, n_layer = e->config.n_layer;
    const int64_t panels = e->ws.doc.panels, positions = panels * k->lanes;

    backward_args args = {.in = in};
    mg_status status = mg_share_panels(e, stage_loss, &args, in->poll);
    for (int64_t l = n_layer - 1; l >= 0 && !status; l--) {
        args.l = l;
        args.sparse = skips_zeros(e, in, l);
        if (e->ws.kept) {
            mg_kept_of(e, l, MG_FC1)->sparse = args.sparse;
            mg_kept_of(e, l, MG_FC2)->sparse = args.sparse && act->layers[l].active_share < 0.4;
        }
        status = mg_share_panels(e, stage_mlp, &args, in->poll);
        if (!status) status = mg_share_heads(e, stage_attention, &args, in->poll);
        if (!status) status = mg_share_panels(e, stage_qkv, &args, in->poll);
    }
    if (status) return status;

    memset(d->dx0, 0, (size_t)(positions * n_embd) * sizeof *d->dx0);
    backward_norm(e, (mg_panels){0, panels}, 0, act->x0, d->dx, d->dx0);
    if (e->ws.kept) return MG_OK;
    status = mg_begin_turn(in->turns, mg_turn_of_embeddings(&e->config), in->poll);
    if (status) return status;
    mg_embedding_gradient(e, in->grad);
    mg_end_turn(in->turns, mg_turn_of_embeddings(&e->config));
    return MG_OK;
}
