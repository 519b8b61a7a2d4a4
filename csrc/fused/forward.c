/* The forward pass: from a document's tokens to its loss (microgpt.py: gpt, softmax, and the loop over positions).
 *
 * All positions are known in advance, so each operation is done for all of them before the next operation. The
 * arithmetic of each number is the script's. Long products are cut into pieces, with a poll after each. What is between
 * two operations that need all positions is a stage: threads may share its panels (fused/share.h). */
#include "fused/forward.h"

#include "base/libm.h"
#include "fused/share.h"

/* out [nout] = w x (+ residual), for some panels. */
static mg_status forward_product(const mg_engine *e, mg_panels some, int64_t nout, int64_t nin, const double *w,
                                 const double *x, const double *residual, double *out, mg_poll *poll)
{
    const int64_t panels = some.end - some.first, lanes = e->kernels->lanes;
    mg_linear_forward_args a = {.n = mg_positions_in(e, some.first, some.end),
                                .nout = nout,
                                .nin = nin,
                                .w = w,
                                .x_stride = nin * lanes,
                                .out_stride = nout * lanes};
    a.x = x += some.first * a.x_stride;
    a.out = out += some.first * a.out_stride;
    if (residual) a.residual = residual += some.first * a.out_stride;
    const int64_t work = panels * lanes * nin * nout;
    if (work <= MG_PIECE) {
        e->kernels->linear_forward(&a);
        return mg_poll_work(poll, work);
    }
    const int64_t group = 4, rows = mg_piece(nout, group * lanes * nin);
    for (int64_t b = 0; b < panels; b += group) {
        const int64_t count = panels - b < group ? panels - b : group, at_panel = some.first + b;
        a.n = mg_positions_in(e, at_panel, at_panel + count);
        a.x = x + b * a.x_stride;
        for (int64_t o = 0; o < nout; o += rows) {
            const int64_t at = b * a.out_stride + o * lanes;
            a.nout = nout - o < rows ? nout - o : rows;
            a.w = w + o * nin;
            a.residual = residual ? residual + at : NULL;
            a.out = out + at;
            e->kernels->linear_forward(&a);
            const mg_status status = mg_poll_work(poll, count * lanes * nin * a.nout);
            if (status) return status;
        }
    }
    return MG_OK;
}

/* relu in place. */
static void forward_relu(const mg_engine *e, mg_panels some, mg_layer_activations *layer)
{
    const mg_document *doc = &e->ws.doc;
    const int64_t lanes = e->kernels->lanes, hidden = 4 * e->config.n_embd;
    for (int64_t b = some.first; b < some.end; b++) {
        const int64_t left = doc->n - b * lanes;
        layer->nactive[b] = e->kernels->relu_forward(left < lanes ? left : lanes, hidden, layer->r + b * hidden * lanes,
                                                     layer->active + b * hidden, layer->magnitude + b);
    }
}

/* Whether the MLP's second product, by mlp_fc2, may skip relu's zeros. */
static void decide_to_skip(const mg_engine *e, int64_t l, const double *mlp_fc2)
{
    mg_layer_activations *layer = &e->ws.act.layers[l];
    const int64_t panels = e->ws.doc.panels, hidden = 4 * e->config.n_embd;
    int all_finite = 1;
    int64_t nactive = 0;
    for (int64_t b = 0; b < panels; b++) {
        all_finite &= layer->magnitude[b] < INFINITY;
        nactive += layer->nactive[b];
    }
    /* A finite sum of products has finite factors: mlp_fc1 and its input are finite. mlp_fc2 is checked. */
    layer->active_share = (double)nactive / (double)(panels * hidden);
    layer->skip_inactive = all_finite && layer->active_share < 0.8
                           && (e->fc2_magnitude[l] < MG_SAFE_MAGNITUDE
                               || e->kernels->sum_of_magnitudes(hidden * e->config.n_embd, mlp_fc2) < MG_SAFE_MAGNITUDE);
}

/* The MLP's second product and the residual. */
static mg_status forward_mlp_out(const mg_engine *e, mg_panels some, const mg_layer_activations *layer, const double *w,
                                 double *out, mg_poll *poll)
{
    const int64_t lanes = e->kernels->lanes, n_embd = e->config.n_embd, hidden = 4 * n_embd;
    if (!layer->skip_inactive) return forward_product(e, some, n_embd, hidden, w, layer->r, layer->x1, out, poll);
    for (int64_t b = some.first; b < some.end; b++) {
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
static void forward_norm(const mg_engine *e, mg_panels some, int64_t norm, const double *x, double *out)
{
    const int64_t lanes = e->kernels->lanes, n_embd = e->config.n_embd, first = some.first * n_embd * lanes;
    const int64_t at = (norm * e->ws.doc.panels + some.first) * lanes;
    e->kernels->rmsnorm_forward(some.end - some.first, n_embd, e->inv_n_embd, x + first, e->ws.act.norm_base + at,
                                e->ws.act.norm_scale + at, e->ws.act.norm_base_m15 + at, out + first);
}

static mg_status forward_attention(const mg_engine *e, mg_panels some, int64_t l, mg_poll *poll)
{
    const int64_t lanes = e->kernels->lanes, head_dim = e->head_dim;
    double *xa = e->ws.act.layers[l].xa;
    if (mg_attention_by_heads(e)) {
        for (int64_t h = 0; h < e->config.n_head; h += lanes) {
            const mg_attention_heads_args a = mg_attention_heads_of(e, l, h);
            e->kernels->attention_heads_forward(&a, xa + h * head_dim * lanes);
        }
        return mg_poll_work(poll, e->config.n_head * (2 * head_dim + 16) * e->ws.doc.n * e->ws.doc.n);
    }
    for (int64_t b = some.first; b < some.end; b++) {
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

/* The parameters of the pass, and the layer that a stage belongs to. */
typedef struct {
    const double *params;
    int64_t l;
} forward_args;

static const double *weights_of(const mg_engine *e, const double *params, int64_t l)
{
    return params + e->at.layers + l * e->at.layer_size;
}

/* The first stage of a layer: queries, keys and values. */
static mg_status forward_qkv(const mg_engine *e, const double *params, int64_t l, mg_panels some, mg_poll *poll)
{
    const mg_layer_activations *layer = &e->ws.act.layers[l];
    const int64_t n_embd = e->config.n_embd;
    forward_norm(e, some, 1 + 2 * l, layer->x, layer->xn);
    return forward_product(e, some, 3 * n_embd, n_embd, weights_of(e, params, l) + e->at.attn_wq, layer->xn, NULL,
                           layer->qkv, poll);
}

/* Its second: attention, for which keys and values of all positions are there, up to relu. */
static mg_status stage_attention(mg_engine *e, const void *args, mg_panels some, mg_poll *poll)
{
    const forward_args *in = args;
    mg_layer_activations *layer = &e->ws.act.layers[in->l];
    const double *w = weights_of(e, in->params, in->l);
    const int64_t n_embd = e->config.n_embd;
    mg_status status = forward_attention(e, some, in->l, poll);
    if (status) return status;
    status = forward_product(e, some, n_embd, n_embd, w + e->at.attn_wo, layer->xa, layer->x, layer->x1, poll);
    if (status) return status;
    forward_norm(e, some, 2 + 2 * in->l, layer->x1, layer->xn2);
    status = forward_product(e, some, 4 * n_embd, n_embd, w + e->at.mlp_fc1, layer->xn2, NULL, layer->r, poll);
    if (status) return status;
    forward_relu(e, some, layer);
    return MG_OK;
}

/* lm_head and the probabilities of the targets. */
static mg_status forward_logits(const mg_engine *e, const double *params, mg_panels some, mg_poll *poll)
{
    const mg_document *doc = &e->ws.doc;
    const mg_activations *act = &e->ws.act;
    const int64_t lanes = e->kernels->lanes, vocab_size = e->config.vocab_size;
    mg_status status = forward_product(e, some, vocab_size, e->config.n_embd, params + e->at.lm_head, act->xf, NULL,
                                       act->logits, poll);
    /* Panels in one call: so few that they stay in the first-level cache. */
    const int64_t together = 1 + 2048 / (vocab_size * lanes);
    for (int64_t b = some.first, count; b < some.end && !status; b += count) {
        const int64_t at = b * lanes;
        count = some.end - b < together ? some.end - b : together;
        e->kernels->loss_forward(count, vocab_size, act->logits + at * vocab_size, doc->targets + at, act->loss_sum + at,
                                 act->loss_inv_sum + at, act->loss_inv_sum_sq + at, act->prob + at);
        status = mg_poll_work(poll, 16 * count * vocab_size * lanes);
    }
    return status;
}

/* Its third, for which all of relu's zeros are known: the MLP's output; and what of the next layer needs no more. */
static mg_status stage_mlp_out(mg_engine *e, const void *args, mg_panels some, mg_poll *poll)
{
    const forward_args *in = args;
    const int64_t next = in->l + 1, n_layer = e->config.n_layer;
    const mg_status status = forward_mlp_out(e, some, &e->ws.act.layers[in->l],
                                             weights_of(e, in->params, in->l) + e->at.mlp_fc2,
                                             next < n_layer ? e->ws.act.layers[next].x : e->ws.act.xf, poll);
    if (status) return status;
    return next < n_layer ? forward_qkv(e, in->params, next, some, poll) : forward_logits(e, in->params, some, poll);
}

/* The stage before all layers: the embeddings. */
static mg_status stage_embed(mg_engine *e, const void *args, mg_panels some, mg_poll *poll)
{
    const forward_args *in = args;
    const mg_document *doc = &e->ws.doc;
    const mg_activations *act = &e->ws.act;
    const int64_t lanes = e->kernels->lanes, n_embd = e->config.n_embd, n_layer = e->config.n_layer;
    for (int64_t b = some.first; b < some.end; b++) {
        const int64_t first = b * lanes, count = doc->n - first < lanes ? doc->n - first : lanes;
        e->kernels->embed_forward(count, n_embd, doc->tokens + first, in->params + e->at.wte,
                                  in->params + e->at.wpe + first * n_embd, act->x0 + first * n_embd);
    }
    forward_norm(e, some, 0, act->x0, n_layer ? act->layers[0].x : act->xf);
    return n_layer ? forward_qkv(e, in->params, 0, some, poll) : forward_logits(e, in->params, some, poll);
}

/* The mean of -log(probability), position by position. */
static mg_status sum_losses(const mg_engine *e, double *loss)
{
    const mg_document *doc = &e->ws.doc;
    double sum = 0.0;
    for (int64_t p = 0; p < doc->n; p++) {
        if (e->ws.act.prob[p] == 0.0) return MG_LOG_DOMAIN;
        sum += mg_log(e->ws.act.prob[p]) * -1.0;
    }
    *loss = sum * doc->inv_n;
    return MG_OK;
}

mg_status mg_forward(mg_engine *e, const double *params, mg_poll *poll, double *loss)
{
    forward_args args = {params, 0};
    mg_status status = mg_share_panels(e, stage_embed, &args, poll);
    for (int64_t l = 0; l < e->config.n_layer && !status; l++) {
        args.l = l;
        status = mg_share_panels(e, stage_attention, &args, poll);
        if (status) return status;
        decide_to_skip(e, l, weights_of(e, params, l) + e->at.mlp_fc2);
        status = mg_share_panels(e, stage_mlp_out, &args, poll);
    }
    return status ? status : sum_losses(e, loss);
}
