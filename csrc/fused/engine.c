#include "fused/engine.h"

#include <math.h>
#include <stdlib.h>

#include "base/libm.h"

/* The order in which rows of q, k and v are visited. The script computes q, then k, then v, but the graph is walked
 * depth first from the first head's first logit: a head's q rows, k rows and v rows before those of the next head. At
 * position 0 the products of that logit are also the first to reach k, so q and k alternate. Gradients arrive in the
 * reverse. */
static void fill_orders(mg_engine *e)
{
    const int64_t n_embd = e->config.n_embd, head_dim = e->head_dim;
    int32_t *end = e->qkv_order + 3 * n_embd, *end_first = e->qkv_order_first + 3 * n_embd;
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

/* The four of each layer, and lm_head. */
static int64_t count_matrices(const mg_config *config) { return MG_LAYER_PRODUCTS * config->n_layer + 1; }

mg_engine *mg_engine_new(const mg_config *config, const mg_kernels *kernels)
{
    const int64_t n_embd = config->n_embd;
    if (mg_count_params(config) < 0 || n_embd > INT32_MAX / 4 || config->vocab_size > INT32_MAX) return NULL;
    mg_engine *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    e->config = *config;
    e->kernels = kernels;
    e->at = mg_layout_of(config);
    e->head_dim = n_embd / config->n_head;
    e->inv_n_embd = mg_pow((double)n_embd, -1.0);
    e->attn_scale = mg_pow(mg_pow((double)e->head_dim, 0.5), -1.0);
    e->qkv_order = malloc(6 * (size_t)n_embd * sizeof *e->qkv_order);
    e->fc2_magnitude = malloc(2 * ((size_t)config->n_layer + 1) * sizeof *e->fc2_magnitude);
    e->known_ranges = malloc((size_t)count_matrices(config) * sizeof *e->known_ranges);
    if (!e->qkv_order || !e->fc2_magnitude || !e->known_ranges) {
        mg_engine_free(e);
        return NULL;
    }
    e->fc2_moments = e->fc2_magnitude + config->n_layer;
    mg_forget_bounds(e);
    e->qkv_order_first = e->qkv_order + 3 * n_embd;
    fill_orders(e);
    return e;
}

void mg_engine_free(mg_engine *e)
{
    if (!e) return;
    free(e->qkv_order);
    free(e->fc2_magnitude);
    free(e->known_ranges);
    mg_workspace_free(&e->ws);
    free(e->snapshot);
    free(e->dw_chunk);
    free(e->transposed);
    for (int64_t i = 0; i < e->num_decoders; i++) free(e->decoders[i]);
    free(e->decoders);
    for (int64_t i = 0; i < e->members_capacity; i++) mg_workspace_free(&e->members[i].ws);
    free(e->members);
    for (int64_t i = 0; i < e->workers_count; i++) mg_workspace_free(&e->workers[i].ws);
    free(e->workers);
    for (int64_t i = 0; i < e->passing_count; i++) free(e->passing[i].block);
    free(e->passing);
    mg_engine_set_threads(e, 1, 0.0);
    mg_forget_slices(e);
    free(e);
}

void mg_forget_slices(mg_engine *e)
{
    free(e->slices);
    free(e->slice_starts);
    e->slices = NULL;
    e->slice_starts = NULL;
}

mg_status mg_engine_set_threads(mg_engine *e, int threads, double least_work)
{
    if (threads < 1) threads = 1;
    e->least_shared_work = least_work;
    if (threads == mg_pool_threads(e->pool)) return MG_OK;
    mg_pool *pool = threads > 1 ? mg_pool_new(threads) : NULL;
    mg_thread_scratch *scratch = pool ? calloc((size_t)threads, sizeof *scratch) : NULL;
    if (threads > 1 && !scratch) {
        mg_pool_free(pool);
        return MG_NO_MEMORY;
    }
    for (int i = 0; e->pool && i < mg_pool_threads(e->pool); i++) free(e->thread_scratch[i].block);
    free(e->thread_scratch);
    mg_pool_free(e->pool);
    mg_forget_slices(e); /* which depend on the number of threads */
    e->pool = pool;
    e->thread_scratch = scratch;
    return MG_OK;
}

void mg_take_magnitudes(mg_engine *e, const double *params)
{
    const int64_t hidden = 4 * e->config.n_embd;
    for (int64_t l = 0; l < e->config.n_layer; l++)
        e->fc2_magnitude[l] = e->kernels->sum_of_magnitudes(
            hidden * e->config.n_embd, params + e->at.layers + l * e->at.layer_size + e->at.mlp_fc2);
}

void mg_forget_bounds(const mg_engine *e)
{
    for (int64_t l = 0; l < e->config.n_layer; l++) e->fc2_magnitude[l] = e->fc2_moments[l] = NAN;
    mg_forget_ranges(e, 0);
}

void mg_forget_ranges(const mg_engine *e, int64_t steps)
{
    const mg_known_range unknown = {.wait = steps < MG_LEAST_STEPS_TO_LOOK ? MG_LOOK_AGAIN : 0};
    for (int64_t i = 0; i < count_matrices(&e->config); i++) e->known_ranges[i] = unknown;
}

int64_t mg_engine_sparse_layers(const mg_engine *e)
{
    int64_t count = 0;
    if (!e->ws.capacity && e->members) e = e->members;
    for (int64_t l = 0; e->ws.capacity && l < e->config.n_layer; l++) count += e->ws.act.layers[l].skip_inactive;
    return count;
}

int mg_engine_shares(const mg_engine *e, int64_t positions)
{
    return mg_pool_threads(e->pool) > 1 && (double)e->at.num_params * (double)positions >= e->least_shared_work;
}
