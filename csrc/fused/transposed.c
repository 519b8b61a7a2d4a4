#include "fused/transposed.h"

#include <float.h>
#include <string.h>

#include "base/arena.h"
#include "base/checked.h"

static void lay_out(const void *engine, void *transposed, mg_arena *c)
{
    const mg_engine *e = engine;
    mg_transposed *t = transposed;
    const int64_t n_embd = e->config.n_embd, one = mg_padded(e, n_embd), d = sizeof(double);
    t->layers = mg_arena_take(c, e->config.n_layer, sizeof *t->layers);
    for (int64_t l = 0; l < e->config.n_layer; l++) {
        mg_transposed_layer layer;
        layer.qkv = mg_arena_take(c, mg_mul(n_embd, mg_padded(e, 3 * n_embd)), d);
        layer.wo = mg_arena_take(c, mg_mul(n_embd, one), d);
        layer.fc1 = mg_arena_take(c, mg_mul(n_embd, mg_padded(e, 4 * n_embd)), d);
        layer.fc2 = mg_arena_take(c, mg_mul(4 * n_embd, one), d);
        layer.skip_inactive = 0;
        if (c->base) t->layers[l] = layer;
        if (c->used == INT64_MAX) return;
    }
    t->lm_head = mg_arena_take(c, mg_mul(n_embd, mg_padded(e, e->config.vocab_size)), d);
    t->params = mg_arena_take(c, e->at.num_params, d);
}

static mg_status allocate(mg_engine *e)
{
    e->transposed = mg_arena_new(sizeof *e->transposed, lay_out, e);
    if (!e->transposed) return MG_NO_MEMORY;
    e->transposed->is_current = 0;
    e->transposed->version = 0;
    return MG_OK;
}

static mg_environment probe(void)
{
    volatile double one = 1.0, tiny = DBL_TRUE_MIN, smallest = DBL_MIN;
    return (mg_environment){{
        one + smallest,             /* 1.0, or upwards more */
        one - smallest,             /* 1.0, or downwards and towards zero less */
        -one - smallest,            /* -1.0, or downwards more */
        smallest * 0.5,             /* 0.0 where subnormal results are flushed */
        tiny * 4503599627370496.0, /* 0.0 where subnormal operands are */
    }};
}

/* The weights, transposed. */
static mg_status transpose(const mg_engine *e, mg_poll *poll)
{
    const mg_kernels *k = e->kernels;
    const int64_t n_embd = e->config.n_embd, vocab_size = e->config.vocab_size;
    mg_transposed *t = e->transposed;
    for (int64_t l = 0; l < e->config.n_layer; l++) {
        const double *w = t->params + e->at.layers + l * e->at.layer_size;
        mg_transposed_layer *layer = &t->layers[l];
        k->transpose_weights(3 * n_embd, n_embd, w + e->at.attn_wq, layer->qkv, mg_padded(e, 3 * n_embd));
        k->transpose_weights(n_embd, n_embd, w + e->at.attn_wo, layer->wo, mg_padded(e, n_embd));
        k->transpose_weights(4 * n_embd, n_embd, w + e->at.mlp_fc1, layer->fc1, mg_padded(e, 4 * n_embd));
        k->transpose_weights(n_embd, 4 * n_embd, w + e->at.mlp_fc2, layer->fc2, mg_padded(e, n_embd));
        layer->skip_inactive = k->sum_of_magnitudes(4 * n_embd * n_embd, w + e->at.mlp_fc2) < MG_SAFE_MAGNITUDE;
        const mg_status status = mg_poll_work(poll, 12 * n_embd * n_embd * 8);
        if (status) return status;
    }
    k->transpose_weights(vocab_size, n_embd, t->params + e->at.lm_head, t->lm_head, mg_padded(e, vocab_size));
    return mg_poll_work(poll, vocab_size * n_embd * 8);
}

mg_status mg_transpose(mg_engine *e, const double *params, mg_poll *poll)
{
    mg_status status = e->transposed ? MG_OK : allocate(e);
    if (status) return status;
    mg_transposed *t = e->transposed;
    const size_t bytes = (size_t)e->at.num_params * sizeof *params;
    const mg_environment now = probe();
    /* By bits: -0.0 is another number than 0.0, and a nan may be the same. */
    if (t->is_current && !memcmp(&t->fp_env, &now, sizeof now) && !memcmp(t->params, params, bytes)) return MG_OK;
    t->is_current = 0;
    t->version++;
    t->fp_env = now;
    memcpy(t->params, params, bytes);
    status = transpose(e, poll);
    t->is_current = !status;
    return status;
}
