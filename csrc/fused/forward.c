/* The forward pass: from a document's tokens to its loss (microgpt.py: gpt, softmax, and the loop over positions).
 *
 * All positions are known beforehand, so each operation is done for all of them before the next operation. The
 * arithmetic of each number is the script's. Long products are cut into pieces, with a poll after each. */
#include "fused/forward.h"

#include "base/libm.h"

/* out [nout] = w x (+ residual), for every panel. */
static mg_status forward_product(mg_engine *e, int64_t nout, int64_t nin, const double *w, const double *x,
                                 const double *residual, double *out, mg_poll *poll)
{
    const int64_t panels = e->ws.doc.panels, lanes = e->kernels->lanes;
    mg_linear_forward_args a = {.panels = panels,
                                .nout = nout,
                                .nin = nin,
                                .w = w,
                                .x = x,
                                .x_stride = nin * lanes,
                                .residual = residual,
                                .out = out,
                                .out_stride = nout * lanes};
    const int64_t work = panels * lanes * nin * nout;
    if (work <= MG_PIECE) {
        e->kernels->linear_forward(&a);
        return mg_poll_work(poll, work);
    }
    const int64_t group = 4, rows = mg_piece(nout, group * lanes * nin);
    for (int64_t b = 0; b < panels; b += group) {
        a.panels = panels - b < group ? panels - b : group;
        a.x = x + b * a.x_stride;
        for (int64_t o = 0; o < nout; o += rows) {
            const int64_t at = b * a.out_stride + o * lanes;
            a.nout = nout - o < rows ? nout - o : rows;
            a.w = w + o * nin;
            a.residual = residual ? residual + at : NULL;
            a.out = out + at;
            e->kernels->linear_forward(&a);
            const mg_status status = mg_poll_work(poll, a.panels * lanes * nin * a.nout);
            if (status) return status;
        }
    }
    return MG_OK;
}

/* relu in place, and whether the MLP's second product, by mlp_fc2, may skip its zeros. */
static void forward_relu(mg_engine *e, mg_layer_activations *layer, const double *mlp_fc2)
{
    const mg_document *doc = &e->ws.doc;
    const int64_t lanes = e->kernels->lanes, hidden = 4 * e->config.n_embd;
    int all_finite = 1;
    int64_t nactive = 0;
    for (int64_t b = 0; b < doc->panels; b++) {
        const int64_t left = doc->n - b * lanes;
        int finite;
        layer->nactive[b] = e->kernels->relu_forward(left < lanes ? left : lanes, hidden, layer->r + b * hidden * lanes,
                                                     layer->active + b * hidden, &finite);
        all_finite &= finite;
        nactive += layer->nactive[b];
    }
    /* A finite sum of products has finite factors: mlp_fc1 and its input are finite. mlp_fc2 is checked. */
    layer->active_share = (double)nactive / (double)(doc->panels * hidden);
    layer->skip_inactive = all_finite && layer->active_share < 0.8
                           && e->kernels->sum_of_magnitudes(hidden * e->config.n_embd, mlp_fc2) < MG_SAFE_MAGNITUDE;
}

/* The MLP's second product and the residual. */
static mg_status forward_mlp_out(mg_engine *e, const mg_layer_activations *layer, const double *w, double *out,
                                 mg_poll *poll)
{
    const int64_t lanes = e->kernels->lanes, n_embd = e->config.n_embd, hidden = 4 * n_embd;
    if (!layer->skip_inactive) return forward_product(e, n_embd, hidden, w, layer->r, layer->x1, out, poll);
    for (int64_t b = 0; b < e->ws.doc.panels; b++) {
        const int64_t nactive = layer->nactive[b], rows = mg_piece(n_embd, (nactive + 1) * lanes);
        for (int64_t o = 0; o < n_embd; o += rows) {
            const int64_t count = n_embd - o < rows ? n_embd - o : rows, at = (b * n_embd + o) * lanes;
            e->kernels->linear_forward_active(count, nactive, layer->active + b * hidden, w + o * hidden, hidden,
                                              layer->r + b * hidden * lanes, layer->x1 + at, out + at);
            const mg_status status = mg_poll_work(poll, count * nactive * lanes);
            if (status) return status;
        }
    }
    return MG_OK;
}

/* norm: 0 for the embedding's, then two for each layer. */
static void forward_norm(mg_engine *e, int64_t norm, const double *x, double *out)
{
    const int64_t panels = e->ws.doc.panels, lanes = e->kernels->lanes, n_embd = e->config.n_embd;
    for (int64_t b = 0; b < panels; b++) {
        const int64_t at = (norm * panels + b) * lanes;
        e->kernels->rmsnorm_forward(n_embd, e->inv_n_embd, x + b * n_embd * lanes, e->ws.act.norm_base + at,
                                    e->ws.act.norm_scale + at, out + b * n_embd * lanes);
    }
}

static mg_status forward_attention(mg_engine *e, int64_t l, mg_poll *poll)
{
    const int64_t lanes = e->kernels->lanes, head_dim = e->head_dim;
    double *xa = e->ws.act.layers[l].xa;
    for (int64_t b = 0; b < e->ws.doc.panels; b++) {
        for (int64_t h = 0, heads; h < e->config.n_head; h += heads) {
            heads = mg_heads_together(e, b, h);
            const mg_attention_args a = mg_attention_of(e, l, b, h, heads);
            e->kernels->attention_forward(&a, xa + (b * e->config.n_embd + h * head_dim) * lanes);
            const mg_status status = mg_poll_work(poll, heads * (2 * head_dim + 16) * (b + 1) * lanes * lanes);
            if (status) return status;
        }
    }
    return MG_OK;
}

static mg_status forward_loss(mg_engine *e, mg_poll *poll, double *loss)
{
    const mg_document *doc = &e->ws.doc;
    const mg_activations *act = &e->ws.act;
    const int64_t lanes = e->kernels->lanes, vocab_size = e->config.vocab_size;
    double sum = 0.0;
    for (int64_t b = 0; b < doc->panels; b++) {
        const int64_t at = b * lanes;
        e->kernels->loss_forward(vocab_size, act->logits + at * vocab_size, doc->targets + at, act->loss_sum + at,
                                 act->loss_inv_sum + at, act->prob + at);
        for (int64_t p = at; p < doc->n && p < at + lanes; p++) {
            if (act->prob[p] == 0.0) return MG_LOG_DOMAIN;
            sum += mg_log(act->prob[p]) * -1.0;
        }
        const mg_status status = mg_poll_work(poll, 16 * vocab_size * lanes);
        if (status) return status;
    }
    *loss = sum * doc->inv_n;
    return MG_OK;
}

mg_status mg_forward(mg_engine *e, const double *params, mg_poll *poll, double *loss)
{
    const mg_kernels *k = e->kernels;
    const mg_document *doc = &e->ws.doc;
    const mg_activations *act = &e->ws.act;
    const mg_layout *at = &e->at;
    const int64_t lanes = k->lanes, n_embd = e->config.n_embd, n_layer = e->config.n_layer;
    mg_status status;
    for (int64_t b = 0; b < doc->panels; b++) {
        const int64_t first = b * lanes, count = doc->n - first < lanes ? doc->n - first : lanes;
        k->embed_forward(count, n_embd, doc->tokens + first, params + at->wte, params + at->wpe + first * n_embd,
                         act->x0 + first * n_embd);
    }
    forward_norm(e, 0, act->x0, n_layer ? act->layers[0].x : act->xf);
    for (int64_t l = 0; l < n_layer; l++) {
        mg_layer_activations *layer = &act->layers[l];
        const double *w = params + at->layers + l * at->layer_size;
        double *x_next = l + 1 < n_layer ? act->layers[l + 1].x : act->xf;
        forward_norm(e, 1 + 2 * l, layer->x, layer->xn);
        status = forward_product(e, 3 * n_embd, n_embd, w + at->attn_wq, layer->xn, NULL, layer->qkv, poll);
        if (status) return status;
        status = forward_attention(e, l, poll);
        if (status) return status;
        status = forward_product(e, n_embd, n_embd, w + at->attn_wo, layer->xa, layer->x, layer->x1, poll);
        if (status) return status;
        forward_norm(e, 2 + 2 * l, layer->x1, layer->xn2);
        status = forward_product(e, 4 * n_embd, n_embd, w + at->mlp_fc1, layer->xn2, NULL, layer->r, poll);
        if (status) return status;
        forward_relu(e, layer, w + at->mlp_fc2);
        status = forward_mlp_out(e, layer, w + at->mlp_fc2, x_next, poll);
        if (status) return status;
    }
    status = forward_product(e, e->config.vocab_size, n_embd, params + at->lm_head, act->xf, NULL, act->logits, poll);
    if (status) return status;
    return forward_loss(e, poll, loss);
}
