/* The forward pass: a document's tokens to its loss (microgpt.py: gpt, softmax, and the loop over positions).
 *
 * Every position is known beforehand, so each step is done for all of them before the next; that leaves each number's
 * own arithmetic as it was. Long products are cut into pieces between which the poll is asked. */
#include "fused/engine.h"

#include "base/libm.h"

/* out [nout] = w x (+ residual), for every panel. */
static int forward_product(mg_engine *e, int64_t nout, int64_t nin, const double *w, const double *x,
                           const double *residual, double *out, mg_poll *poll)
{
    const mg_kernels *k = e->kernels;
    const int64_t lanes = k->lanes, x_stride = nin * lanes, out_stride = nout * lanes;
    const int64_t work = e->panels * lanes * nin * nout;
    if (work <= MG_PIECE) {
        k->linear_forward(e->panels, nout, nin, w, x, x_stride, residual, out, out_stride);
        return mg_poll_work(poll, work);
    }
    const int64_t group = 4, rows = mg_piece(nout, group * lanes * nin);
    for (int64_t b = 0; b < e->panels; b += group) {
        const int64_t panels = e->panels - b < group ? e->panels - b : group;
        for (int64_t o = 0; o < nout; o += rows) {
            const int64_t count = nout - o < rows ? nout - o : rows, at = b * out_stride + o * lanes;
            k->linear_forward(panels, count, nin, w + o * nin, x + b * x_stride, x_stride,
                              residual ? residual + at : NULL, out + at, out_stride);
            const int status = mg_poll_work(poll, panels * lanes * nin * count);
            if (status) return status;
        }
    }
    return MG_OK;
}

/* relu in place, and whether the second product of the MLP, by mlp_fc2, may pass over its zeros. */
static void forward_relu(mg_engine *e, mg_layer *layer, const double *mlp_fc2)
{
    const int64_t lanes = e->kernels->lanes, hidden = 4 * e->config.n_embd;
    int all_finite = 1;
    int64_t nactive = 0;
    for (int64_t b = 0; b < e->panels; b++) {
        const int64_t left = e->n - b * lanes;
        int finite;
        layer->nactive[b] = e->kernels->relu_forward(left < lanes ? left : lanes, hidden, layer->r + b * hidden * lanes,
                                                   layer->active + b * hidden, &finite);
        all_finite &= finite;
        nactive += layer->nactive[b];
    }
    /* A finite sum of products has finite factors: so much for mlp_fc1 and what it multiplied. mlp_fc2 is looked at. */
    layer->active_share = (double)nactive / (double)(e->panels * hidden);
    layer->sparse = all_finite && layer->active_share < 0.8
                    && e->kernels->sum_of_magnitudes(hidden * e->config.n_embd, mlp_fc2) < MG_SAFE_MAGNITUDE;
}

/* The MLP's second product and the residual. */
static int forward_mlp_out(mg_engine *e, const mg_layer *layer, const double *w, double *out, mg_poll *poll)
{
    const int64_t lanes = e->kernels->lanes, n_embd = e->config.n_embd, hidden = 4 * n_embd;
    if (!layer->sparse) return forward_product(e, n_embd, hidden, w, layer->r, layer->x1, out, poll);
    for (int64_t b = 0; b < e->panels; b++) {
        const int64_t nactive = layer->nactive[b], rows = mg_piece(n_embd, (nactive + 1) * lanes);
        for (int64_t o = 0; o < n_embd; o += rows) {
            const int64_t count = n_embd - o < rows ? n_embd - o : rows, at = (b * n_embd + o) * lanes;
            e->kernels->linear_forward_active(count, nactive, layer->active + b * hidden, w + o * hidden, hidden,
                                            layer->r + b * hidden * lanes, layer->x1 + at, out + at);
            const int status = mg_poll_work(poll, count * nactive * lanes);
            if (status) return status;
        }
    }
    return MG_OK;
}

/* norm: 0 for the embedding's, then two for each layer. */
static void forward_norm(mg_engine *e, int64_t norm, const double *x, double *out)
{
    const int64_t lanes = e->kernels->lanes, n_embd = e->config.n_embd;
    for (int64_t b = 0; b < e->panels; b++) {
        const int64_t at = (norm * e->panels + b) * lanes;
        e->kernels->rmsnorm_forward(n_embd, e->inv_n_embd, x + b * n_embd * lanes, e->norm_base + at,
                                    e->norm_scale + at, out + b * n_embd * lanes);
    }
}

static int forward_attention(mg_engine *e, int64_t l, mg_poll *poll)
{
    const mg_layer *layer = &e->layers[l];
    const int64_t lanes = e->kernels->lanes, n_embd = e->config.n_embd, head_dim = e->head_dim;
    const double *q = layer->qkv, *k = q + n_embd * lanes, *v = k + n_embd * lanes;
    for (int64_t b = 0; b < e->panels; b++) {
        for (int64_t h = 0, heads; h < e->config.n_head; h += heads) {
            heads = mg_heads_together(e, b, h);
            const int64_t row = h * head_dim * lanes;
            const int64_t at = ((l * e->panels + b) * e->config.n_head + h) * lanes;
            e->kernels->attention_forward(b, e->n, heads, head_dim, e->attn_scale, q + row, k + row, v + row,
                                          3 * n_embd * lanes, layer->exps + mg_exps_at(e, b, h), e->attn_sum + at,
                                          e->attn_inv_sum + at, layer->xa + b * n_embd * lanes + row, e->scratch);
            const int status = mg_poll_work(poll, heads * (2 * head_dim + 16) * (b + 1) * lanes * lanes);
            if (status) return status;
        }
    }
    return MG_OK;
}

static int forward_loss(mg_engine *e, mg_poll *poll, double *loss)
{
    const int64_t lanes = e->kernels->lanes, vocab_size = e->config.vocab_size;
    double sum = 0.0;
    for (int64_t b = 0; b < e->panels; b++) {
        const int64_t at = b * lanes;
        e->kernels->loss_forward(vocab_size, e->logits + at * vocab_size, e->targets + at, e->loss_sum + at,
                                 e->loss_inv_sum + at, e->prob + at);
        for (int64_t p = at; p < e->n && p < at + lanes; p++) {
            if (e->prob[p] == 0.0) return MG_LOG_DOMAIN;
            sum += mg_log(e->prob[p]) * -1.0;
        }
        const int status = mg_poll_work(poll, 16 * vocab_size * lanes);
        if (status) return status;
    }
    *loss = sum * e->inv_n;
    return MG_OK;
}

int mg_forward(mg_engine *e, const double *params, mg_poll *poll, double *loss)
{
    const mg_kernels *k = e->kernels;
    const int64_t lanes = k->lanes, n_embd = e->config.n_embd, n_layer = e->config.n_layer;
    int status;
    for (int64_t b = 0; b < e->panels; b++) {
        const int64_t first = b * lanes, count = e->n - first < lanes ? e->n - first : lanes;
        k->embed_forward(count, n_embd, e->tokens + first, params + e->at.wte, params + e->at.wpe + first * n_embd,
                         e->x0 + first * n_embd);
    }
    forward_norm(e, 0, e->x0, n_layer ? e->layers[0].x : e->xf);
    for (int64_t l = 0; l < n_layer; l++) {
        mg_layer *layer = &e->layers[l];
        const double *w = params + e->at.layers + l * e->at.layer_size;
        double *x_next = l + 1 < n_layer ? e->layers[l + 1].x : e->xf;
        forward_norm(e, 1 + 2 * l, layer->x, layer->xn);
        status = forward_product(e, 3 * n_embd, n_embd, w + e->at.attn_wq, layer->xn, NULL, layer->qkv, poll);
        if (status) return status;
        status = forward_attention(e, l, poll);
        if (status) return status;
        status = forward_product(e, n_embd, n_embd, w + e->at.attn_wo, layer->xa, layer->x, layer->x1, poll);
        if (status) return status;
        forward_norm(e, 2 + 2 * l, layer->x1, layer->xn2);
        status = forward_product(e, 4 * n_embd, n_embd, w + e->at.mlp_fc1, layer->xn2, NULL, layer->r, poll);
        if (status) return status;
        forward_relu(e, layer, w + e->at.mlp_fc2);
        status = forward_mlp_out(e, layer, w + e->at.mlp_fc2, x_next, poll);
        if (status) return status;
    }
    status = forward_product(e, e->config.vocab_size, n_embd, params + e->at.lm_head, e->xf, NULL, e->logits, poll);
    if (status) return status;
    return forward_loss(e, poll, loss);
}
