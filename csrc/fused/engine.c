/* The engine's memory, and being asked to stop. */
#include "fused/engine.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/libm.h"

/* ---- sizes ---- */

/* a * b + c for counts, which are never negative; saturates, so that one check at the end is enough. */
static int64_t mul_add(int64_t a, int64_t b, int64_t c)
{
    int64_t r;
    if (__builtin_mul_overflow(a, b, &r) || __builtin_add_overflow(r, c, &r)) return INT64_MAX;
    return r;
}
int64_t mg_mul(int64_t a, int64_t b) { return mul_add(a, b, 0); }

int64_t mg_count_params(const mg_config *c)
{
    int64_t embeddings = mg_mul(mul_add(2, c->vocab_size, c->block_size), c->n_embd);
    int64_t count = mul_add(mg_mul(12, mg_mul(c->n_embd, c->n_embd)), c->n_layer, embeddings);
    return count > INT64_MAX / (int64_t)sizeof(double) ? -1 : count;
}

enum { ALIGN = 64 };

void *mg_arena_take(mg_arena *c, int64_t count, int64_t size)
{
    char *piece = c->base ? c->base + c->used : NULL;
    int64_t bytes = mg_mul(count, size);
    c->used = bytes > INT64_MAX - ALIGN ? INT64_MAX : mul_add(1, c->used, (bytes + ALIGN - 1) / ALIGN * ALIGN);
    return piece;
}

void *mg_arena_allocate(mg_arena *c)
{
    const int64_t size = c->used;
    c->base = NULL;
    c->used = 0;
    if (size >= INT64_MAX - ALIGN || (uint64_t)size > SIZE_MAX - ALIGN) return NULL;
    void *block = malloc((size_t)size + ALIGN);
    if (block) c->base = (char *)(((uintptr_t)block + ALIGN - 1) / ALIGN * ALIGN);
    return block;
}

static void lay_out(mg_engine *e, mg_arena *c, int64_t panels)
{
    const int64_t lanes = e->kernels->lanes, n_embd = e->config.n_embd, n_layer = e->config.n_layer;
    const int64_t positions = mg_mul(panels, lanes), activation = mg_mul(positions, n_embd);
    const int64_t norms = mg_mul(mul_add(2, n_layer, 1), positions);
    const int64_t heads = mg_mul(mg_mul(n_layer, e->config.n_head), positions);
    const int64_t exps = mg_mul(mg_mul(lanes * lanes, e->config.n_head), mg_mul(panels, panels + 1) / 2);
    const int64_t row = (4 * n_embd + lanes - 1) / lanes * lanes + lanes;
    const int64_t d = sizeof(double);

    e->tokens = mg_arena_take(c, positions, sizeof(int32_t));
    e->targets = mg_arena_take(c, positions, sizeof(int32_t));
    e->layers = mg_arena_take(c, n_layer, sizeof(mg_layer));
    e->x0 = mg_arena_take(c, activation, d);
    for (int64_t l = 0; l < n_layer; l++) {
        mg_layer layer;
        layer.x = mg_arena_take(c, activation, d);
        layer.xn = mg_arena_take(c, activation, d);
        layer.qkv = mg_arena_take(c, mg_mul(3, activation), d);
        layer.exps = mg_arena_take(c, exps, d);
        layer.xa = mg_arena_take(c, activation, d);
        layer.x1 = mg_arena_take(c, activation, d);
        layer.xn2 = mg_arena_take(c, activation, d);
        layer.r = mg_arena_take(c, mg_mul(4, activation), d);
        layer.active = mg_arena_take(c, mg_mul(4 * n_embd, panels), sizeof(int32_t));
        layer.nactive = mg_arena_take(c, panels, sizeof(int64_t));
        layer.sparse = 0;
        if (c->base) e->layers[l] = layer;
        if (c->used == INT64_MAX) return; /* n_layer may be as absurd as the size */
    }
    e->xf = mg_arena_take(c, activation, d);
    e->logits = mg_arena_take(c, mg_mul(positions, e->config.vocab_size), d);
    e->norm_base = mg_arena_take(c, norms, d);
    e->norm_scale = mg_arena_take(c, norms, d);
    e->norm_base_m15 = mg_arena_take(c, norms, d);
    e->attn_sum = mg_arena_take(c, heads, d);
    e->attn_inv_sum = mg_arena_take(c, heads, d);
    e->attn_inv_sum_sq = mg_arena_take(c, heads, d);
    e->loss_sum = mg_arena_take(c, positions, d);
    e->loss_inv_sum = mg_arena_take(c, positions, d);
    e->loss_inv_sum_sq = mg_arena_take(c, positions, d);
    e->prob = mg_arena_take(c, positions, d);
    e->dtarget = mg_arena_take(c, positions, d);
    e->dx = mg_arena_take(c, activation, d);
    e->dx0 = mg_arena_take(c, activation, d);
    e->dxn = mg_arena_take(c, activation, d);
    e->dxa = mg_arena_take(c, activation, d);
    e->dr = mg_arena_take(c, mg_mul(4, activation), d);
    e->dqkv = mg_arena_take(c, mg_mul(3, activation), d);
    e->index_scratch = mg_arena_take(c, mg_mul(4 * n_embd / lanes + 1, MG_BLOCK * lanes + 1), sizeof(int32_t));
    e->rows = mg_arena_take(c, mg_mul(positions, row), d);
    e->scratch = mg_arena_take(c, mg_mul(2 * lanes, positions), d);
    e->chunk = mg_arena_take(c, mg_dw_chunk_size(n_embd), d);
    mg_arena_take(c, lanes * lanes, d); /* panels_to_rows may read beyond a panel */
}

/* Memory for a document of n positions; MG_OK or MG_NO_MEMORY. */
static int reserve(mg_engine *e, int64_t n)
{
    const int64_t lanes = e->kernels->lanes, panels = (n + lanes - 1) / lanes;
    e->n = n;
    e->panels = panels;
    if (panels <= e->capacity) return MG_OK;

    /* Room to spare, up to what a full block needs, so that growing stays rare. */
    const int64_t most = (e->config.block_size + lanes - 1) / lanes;
    int64_t wanted = panels + panels / 2 < most ? panels + panels / 2 : most;
    mg_arena arena = {NULL, 0};
    lay_out(e, &arena, wanted);
    free(e->arena);
    e->capacity = 0;
    e->arena = mg_arena_allocate(&arena);
    if (!e->arena) return MG_NO_MEMORY;
    lay_out(e, &arena, wanted);
    memset(e->chunk, 0, (size_t)mg_dw_chunk_size(e->config.n_embd) * sizeof *e->chunk);
    e->capacity = wanted;
    return MG_OK;
}

/* ---- the engine ---- */

/* Which row of q, k and v is visited when. The script computes q, then k, then v, but the graph is walked depth first
 * from the first head's first logit: a head's q rows, k rows and v rows before the next head's. At position 0 that
 * logit's products are the first to reach k as well, so q and k take turns. Gradients arrive in the reverse. */
static void fill_orders(mg_engine *e)
{
    const int64_t n_embd = e->config.n_embd, head_dim = e->head_dim;
    int32_t *end = e->order + 3 * n_embd, *end_first = e->order_first + 3 * n_embd;
    for (int64_t start = 0; start < n_embd; start += head_dim) {
        for (int64_t part = 0; part < 3; part++)
            for (int64_t j = start; j < start + head_dim; j++) *--end = (int32_t)(part * n_embd + j);
        for (int64_t j = start; j < start + head_dim; j++) {
            *--end_first = (int32_t)j;
            *--end_first = (int32_t)(n_embd + j);
        }
        for (int64_t j = start; j < start + head_dim; j++) *--end_first = (int32_t)(2 * n_embd + j);
    }
}

mg_engine *mg_engine_new(const mg_config *config, const mg_kernels *kernels)
{
    const int64_t n_embd = config->n_embd;
    if (mg_count_params(config) < 0 || n_embd > INT32_MAX / 4 || config->vocab_size > INT32_MAX) return NULL;
    mg_engine *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    e->config = *config;
    e->kernels = kernels;
    e->head_dim = n_embd / config->n_head;
    e->inv_n_embd = mg_pow((double)n_embd, -1.0);
    e->attn_scale = mg_pow(mg_pow((double)e->head_dim, 0.5), -1.0);

    const int64_t square = n_embd * n_embd;
    e->at = (mg_offsets){
        .wte = 0,
        .wpe = config->vocab_size * n_embd,
        .lm_head = (config->vocab_size + config->block_size) * n_embd,
        .layers = (2 * config->vocab_size + config->block_size) * n_embd,
        .layer_size = 12 * square,
        .attn_wq = 0,
        .attn_wo = 3 * square,
        .mlp_fc1 = 4 * square,
        .mlp_fc2 = 8 * square,
    };
    e->order = malloc(6 * (size_t)n_embd * sizeof *e->order);
    if (!e->order) {
        free(e);
        return NULL;
    }
    e->order_first = e->order + 3 * n_embd;
    fill_orders(e);
    return e;
}

void mg_engine_free(mg_engine *e)
{
    if (!e) return;
    free(e->order);
    free(e->arena);
    free(e->snapshot);
    mg_decoder_free(e->decoder);
    free(e);
}

int64_t mg_engine_sparse_layers(const mg_engine *e)
{
    int64_t count = 0;
    for (int64_t l = 0; e->capacity && l < e->config.n_layer; l++) count += e->layers[l].sparse;
    return count;
}

/* ---- polling ---- */

int mg_poll_slow(mg_poll *poll)
{
    const double interval = 0.02; /* seconds */
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    const double now = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    poll->work = 0;
    if (now >= poll->asked && now < poll->asked + interval) return MG_OK;
    poll->asked = now;
    return poll->ask(poll->context) ? MG_INTERRUPTED : MG_OK;
}

/* ---- one document ---- */

int mg_engine_begin(mg_engine *e, const int32_t *tokens, int64_t n)
{
    const int status = reserve(e, n);
    if (status) return status;
    const int64_t positions = e->panels * e->kernels->lanes;
    for (int64_t p = 0; p < positions; p++) {
        e->tokens[p] = p < n ? tokens[p] : 0;
        e->targets[p] = p < n ? tokens[p + 1] : 0;
    }
    e->inv_n = 1.0 / (double)n;
    return MG_OK;
}
