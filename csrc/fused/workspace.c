#include "fused/workspace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/checked.h"

static int32_t *take_index_scratch(mg_arena *a, const mg_config *config, int64_t lanes)
{
    return mg_arena_take(a, mg_mul(4 * config->n_embd / lanes + 1, MG_BLOCK * lanes + 1), sizeof(int32_t));
}

static double *take_attention_scratch(mg_arena *a, int64_t lanes, int64_t panels)
{
    return mg_arena_take(a, mg_mul(2 * lanes, mg_mul(panels, lanes)), sizeof(double));
}

static void lay_out_scratch(mg_scratch *scratch, mg_arena *a, const mg_config *config, int64_t lanes, int64_t panels)
{
    scratch->index_scratch = take_index_scratch(a, config, lanes);
    scratch->attention = take_attention_scratch(a, lanes, panels);
}

static void lay_out_kept(mg_workspace *ws, int64_t index, mg_arena *a, int64_t lanes, int64_t positions, int64_t nin,
                         int64_t nout)
{
    mg_kept_product p = {0};
    p.x_stride = mg_row_stride(nin, lanes);
    p.x_rows = mg_arena_take(a, mg_mul(positions, p.x_stride), sizeof(double));
    if (nout) p.dy = mg_arena_take(a, mg_mul(positions, nout), sizeof(double));
    if (a->base) ws->kept[index] = p;
}

/* The two lists of the workspace's arrays. Each is run twice: see base/arena.h. First what outlives the backward pass if products
 * are kept. */
static void lay_out_lasting(mg_workspace *ws, mg_arena *a, const mg_config *config, int64_t lanes, int64_t panels)
{
    const int64_t n_embd = config->n_embd, n_layer = config->n_layer, positions = mg_mul(panels, lanes);

    ws->doc.tokens = mg_arena_take(a, positions, sizeof(int32_t));
    ws->doc.targets = mg_arena_take(a, positions, sizeof(int32_t));
    ws->act.layers = mg_arena_take(a, n_layer, sizeof *ws->act.layers);
    for (int64_t l = 0; l < n_layer; l++) {
        mg_layer_activations layer = {.active_share = 1.0, .fc2_gradient = NAN};
        layer.active = mg_arena_take(a, mg_mul(4 * n_embd, panels), sizeof(int32_t));
        layer.nactive = mg_arena_take(a, panels, sizeof(int64_t));
        if (a->base) ws->act.layers[l] = layer;
        if (a->used == INT64_MAX) return; /* n_layer may be as absurd as the size */
    }
    ws->act.logits = mg_arena_take(a, mg_mul(positions, config->vocab_size), sizeof(double));
    ws->grad.dx0 = mg_arena_take(a, mg_mul(positions, n_embd), sizeof(double));
    ws->scratch.index_scratch = take_index_scratch(a, config, lanes);
    if (!ws->keeps_products) return;
    ws->kept = mg_arena_take(a, 1 + MG_LAYER_PRODUCTS * n_layer, sizeof *ws->kept);
    lay_out_kept(ws, MG_LM_HEAD, a, lanes, positions, n_embd, 0); /* its dy is logits */
    if (a->base) ws->kept[MG_LM_HEAD].dy = ws->act.logits;
    for (int64_t l = 0; l < n_layer; l++) {
        const int64_t first = MG_LAYER_PRODUCTS * l;
        lay_out_kept(ws, first + MG_QKV, a, lanes, positions, n_embd, 3 * n_embd);
        lay_out_kept(ws, first + MG_WO, a, lanes, positions, n_embd, n_embd);
        lay_out_kept(ws, first + MG_FC1, a, lanes, positions, n_embd, 4 * n_embd);
        lay_out_kept(ws, first + MG_FC2, a, lanes, positions, 4 * n_embd, n_embd);
        if (a->used == INT64_MAX) return;
    }
}

/* Then what does not. */
static void lay_out_passing(mg_workspace *ws, mg_arena *a, const mg_config *config, int64_t lanes, int64_t panels)
{
    const int64_t n_embd = config->n_embd, n_layer = config->n_layer;
    const int64_t positions = mg_mul(panels, lanes), activation = mg_mul(positions, n_embd);
    const int64_t norms = mg_mul(mg_mul_add(2, n_layer, 1), positions);
    const int64_t heads = mg_mul(mg_mul(n_layer, config->n_head), positions);
    const int64_t exps = mg_mul(mg_mul(lanes * lanes, config->n_head), mg_mul(panels, panels + 1) / 2);
    const int64_t d = sizeof(double);

    mg_activations *act = &ws->act;
    act->x0 = mg_arena_take(a, activation, d);
    for (int64_t l = 0; l < n_layer; l++) {
        mg_layer_activations nowhere = {0}, *layer = a->base ? &act->layers[l] : &nowhere;
        layer->x = mg_arena_take(a, activation, d);
        layer->xn = mg_arena_take(a, activation, d);
        layer->qkv = mg_arena_take(a, mg_mul(3, activation), d);
        layer->exps = mg_arena_take(a, exps, d);
        layer->xa = mg_arena_take(a, activation, d);
        layer->x1 = mg_arena_take(a, activation, d);
        layer->xn2 = mg_arena_take(a, activation, d);
        layer->r = mg_arena_take(a, mg_mul(4, activation), d);
        layer->magnitude = mg_arena_take(a, panels, d);
        if (a->used == INT64_MAX) return;
    }
    act->xf = mg_arena_take(a, activation, d); /* panels_to_rows may read on, where no thread writes in the backward pass */
    act->norm_base = mg_arena_take(a, norms, d);
    act->norm_scale = mg_arena_take(a, norms, d);
    act->norm_base_m15 = mg_arena_take(a, norms, d);
    act->attn_sum = mg_arena_take(a, heads, d);
    act->attn_inv_sum = mg_arena_take(a, heads, d);
    act->attn_inv_sum_sq = mg_arena_take(a, heads, d);
    act->loss_sum = mg_arena_take(a, positions, d);
    act->loss_inv_sum = mg_arena_take(a, positions, d);
    act->loss_inv_sum_sq = mg_arena_take(a, positions, d);
    act->prob = mg_arena_take(a, positions, d);

    mg_activation_grads *grad = &ws->grad;
    grad->dtarget = mg_arena_take(a, positions, d);
    grad->dx = mg_arena_take(a, activation, d);
    grad->dxn = mg_arena_take(a, activation, d);
    grad->dxa = mg_arena_take(a, activation, d);

    mg_scratch *scratch = &ws->scratch;
    scratch->attention = take_attention_scratch(a, lanes, panels);
    grad->dr = grad->dqkv = scratch->x_rows = NULL;
    if (!ws->keeps_products) {
        grad->dr = mg_arena_take(a, mg_mul(4, activation), d);
        grad->dqkv = mg_arena_take(a, mg_mul(3, activation), d);
        scratch->x_rows = mg_arena_take(a, mg_mul(positions, mg_row_stride(4 * n_embd, lanes) + lanes), d);
    }
    mg_arena_take(a, lanes * lanes, d); /* panels_to_rows may read beyond a panel */
}

/* Panels to have memory for: half as much again, up to what a full block needs, so that growing is rare. */
static int64_t wanted(const mg_config *config, int64_t lanes, int64_t panels)
{
    const int64_t most = (config->block_size + lanes - 1) / lanes;
    return panels + panels / 2 < most ? panels + panels / 2 : most;
}

static void lay_out(mg_workspace *ws, mg_arena *a, const mg_config *config, int64_t lanes, int64_t panels)
{
    lay_out_lasting(ws, a, config, lanes, panels);
    if (!ws->keeps_products && a->used < INT64_MAX) lay_out_passing(ws, a, config, lanes, panels);
}

/* The memory of a thread for what passes, as part of the workspace of the document that it works on. */
static mg_status use_passing(mg_workspace *ws, const mg_config *config, int64_t lanes, int64_t panels)
{
    mg_passing *p = ws->passing;
    if (panels > p->capacity) {
        mg_arena arena = {NULL, 0};
        const int64_t count = wanted(config, lanes, panels);
        lay_out_passing(ws, &arena, config, lanes, count);
        free(p->block);
        p->capacity = 0;
        p->block = mg_arena_allocate(&arena);
        if (!p->block) return MG_NO_MEMORY;
        p->base = arena.base;
        p->capacity = count;
    } else if (ws->laid_out.base == p->base && ws->laid_out.capacity == p->capacity) {
        return MG_OK;
    }
    mg_arena arena = {p->base, 0};
    lay_out_passing(ws, &arena, config, lanes, p->capacity);
    ws->laid_out = *p;
    return MG_OK;
}

static mg_status reserve(mg_workspace *ws, const mg_config *config, int64_t lanes, int64_t panels)
{
    if (panels > ws->capacity) {
        const int64_t count = wanted(config, lanes, panels);
        mg_arena arena = {NULL, 0};
        lay_out(ws, &arena, config, lanes, count);
        mg_workspace_free(ws);
        ws->block = mg_arena_allocate(&arena);
        if (!ws->block) return MG_NO_MEMORY;
        lay_out(ws, &arena, config, lanes, count);
        ws->capacity = count;
        ws->laid_out = (mg_passing){0};
    }
    return ws->keeps_products ? use_passing(ws, config, lanes, panels) : MG_OK;
}

int64_t mg_workspace_bytes(const mg_config *config, int64_t lanes, int64_t panels, int keeps_products)
{
    mg_workspace ws = {.keeps_products = keeps_products};
    mg_arena arena = {NULL, 0};
    lay_out(&ws, &arena, config, lanes, panels);
    return arena.used;
}

mg_status mg_thread_scratch_reserve(mg_thread_scratch *s, const mg_config *config, int64_t lanes, int64_t panels)
{
    if (panels <= s->capacity) return MG_OK;
    mg_arena arena = {NULL, 0};
    lay_out_scratch(&s->scratch, &arena, config, lanes, panels);
    free(s->block);
    s->capacity = 0;
    s->block = mg_arena_allocate(&arena);
    if (!s->block) return MG_NO_MEMORY;
    lay_out_scratch(&s->scratch, &arena, config, lanes, panels);
    s->capacity = panels;
    return MG_OK;
}

mg_status mg_workspace_begin(mg_workspace *ws, const mg_config *config, int64_t lanes, const int32_t *tokens, int64_t n)
{
    mg_document *doc = &ws->doc;
    doc->n = n;
    doc->panels = (n + lanes - 1) / lanes;
    doc->inv_n = 1.0 / (double)n;
    const mg_status status = reserve(ws, config, lanes, doc->panels);
    if (status) return status;
    const int64_t positions = doc->panels * lanes;
    for (int64_t p = 0; p < positions; p++) {
        doc->tokens[p] = p < n ? tokens[p] : 0;
        doc->targets[p] = p < n ? tokens[p + 1] : 0;
    }
    return MG_OK;
}

void mg_workspace_free(mg_workspace *ws)
{
    free(ws->block);
    ws->block = NULL;
    ws->capacity = 0;
}
