/* Generation: one token after the other, with the keys and values of earlier tokens cached (microgpt.py, "Inference").
 */
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/checked.h"
#include "base/libm.h"
#include "fused/engine.h"

/* The weights of one layer, transposed, [nin][nout rounded up to lanes], and its cache. */
typedef struct decoder_layer {
    double *qkv, *wo, *fc1, *fc2;
    double *keys;      /* panels [n_embd][lanes] of positions */
    double *values;    /* rows [n_embd] */
    int skip_inactive; /* whether mlp_fc2 is finite, so that zeros of relu may be skipped */
} decoder_layer;

typedef struct mg_decoder {
    decoder_layer *layers;
    double *lm_head;                             /* transposed */
    double *x, *xn, *qkv, *xa, *hidden, *logits; /* each rounded up to lanes */
    double *scratch;                             /* of attention */
    int32_t *active;                             /* [4 * n_embd] */
} mg_decoder;

static int64_t padded(const mg_engine *e, int64_t n)
{
    const int64_t lanes = e->kernels->lanes;
    return (n + lanes - 1) / lanes * lanes;
}

static void lay_out(const mg_engine *e, mg_decoder *s, mg_arena *c)
{
    const int64_t n_embd = e->config.n_embd, vocab = padded(e, e->config.vocab_size), d = sizeof(double);
    const int64_t block = padded(e, e->config.block_size), one = padded(e, n_embd), three = padded(e, 3 * n_embd);
    const int64_t four = padded(e, 4 * n_embd);
    s->layers = mg_arena_take(c, e->config.n_layer, sizeof(decoder_layer));
    for (int64_t l = 0; l < e->config.n_layer; l++) {
        decoder_layer layer;
        layer.qkv = mg_arena_take(c, mg_mul(n_embd, three), d);
        layer.wo = mg_arena_take(c, mg_mul(n_embd, one), d);
        layer.fc1 = mg_arena_take(c, mg_mul(n_embd, four), d);
        layer.fc2 = mg_arena_take(c, mg_mul(4 * n_embd, one), d);
        layer.keys = mg_arena_take(c, mg_mul(block, n_embd), d);
        layer.values = mg_arena_take(c, mg_mul(block, n_embd), d);
        layer.skip_inactive = 0;
        if (c->base) s->layers[l] = layer;
        if (c->used == INT64_MAX) return;
    }
    s->lm_head = mg_arena_take(c, mg_mul(n_embd, vocab), d);
    s->x = mg_arena_take(c, one, d);
    s->xn = mg_arena_take(c, one, d);
    s->qkv = mg_arena_take(c, three, d);
    s->xa = mg_arena_take(c, one, d);
    s->hidden = mg_arena_take(c, four, d);
    s->logits = mg_arena_take(c, vocab, d);
    s->scratch = mg_arena_take(c, mg_mul(e->config.n_head + e->kernels->lanes, block + 1), d);
    s->active = mg_arena_take(c, 4 * n_embd, sizeof(int32_t));
}

/* Memory, and the current weights, transposed: they may have changed since the last call. */
static mg_status begin(mg_engine *e, const double *params, mg_poll *poll)
{
    const mg_kernels *k = e->kernels;
    const int64_t n_embd = e->config.n_embd, vocab_size = e->config.vocab_size;
    if (!e->decoder) {
        mg_decoder measure;
        mg_arena arena = {NULL, 0};
        mg_arena_take(&arena, 1, sizeof measure);
        lay_out(e, &measure, &arena);
        void *block = mg_arena_allocate(&arena);
        if (!block) return MG_NO_MEMORY;
        /* The block begins with the structure itself, so that free(e->decoder) is enough. */
        mg_arena_take(&arena, 1, sizeof measure);
        lay_out(e, block, &arena);
        e->decoder = block;
    }
    mg_decoder *s = e->decoder;
    for (int64_t l = 0; l < e->config.n_layer; l++) {
        const double *w = params + e->at.layers + l * e->at.layer_size;
        decoder_layer *layer = &s->layers[l];
        k->transpose_weights(3 * n_embd, n_embd, w + e->at.attn_wq, layer->qkv, padded(e, 3 * n_embd));
        k->transpose_weights(n_embd, n_embd, w + e->at.attn_wo, layer->wo, padded(e, n_embd));
        k->transpose_weights(4 * n_embd, n_embd, w + e->at.mlp_fc1, layer->fc1, padded(e, 4 * n_embd));
        k->transpose_weights(n_embd, 4 * n_embd, w + e->at.mlp_fc2, layer->fc2, padded(e, n_embd));
        layer->skip_inactive = k->sum_of_magnitudes(4 * n_embd * n_embd, w + e->at.mlp_fc2) < MG_SAFE_MAGNITUDE;
        const mg_status status = mg_poll_work(poll, 12 * n_embd * n_embd * 8);
        if (status) return status;
    }
    k->transpose_weights(vocab_size, n_embd, params + e->at.lm_head, s->lm_head, padded(e, vocab_size));
    return mg_poll_work(poll, vocab_size * n_embd * 8);
}

static void norm(int64_t n, double inverse, const double *x, double *out)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    const double scale = mg_pow(sum * inverse + 1e-5, -0.5);
    for (int64_t i = 0; i < n; i++) out[i] = x[i] * scale;
}

/* gpt(token, position, keys, values) of the script, up to the last layer; the logits only if want_logits. */
static mg_status decode_token(mg_engine *e, const double *params, int64_t token, int64_t position, int want_logits,
                              mg_poll *poll)
{
    const mg_kernels *k = e->kernels;
    mg_decoder *s = e->decoder;
    const int64_t n_embd = e->config.n_embd, lanes = k->lanes;
    const int64_t one = padded(e, n_embd), three = padded(e, 3 * n_embd), four = padded(e, 4 * n_embd);
    const double *te = params + e->at.wte + token * n_embd, *pe = params + e->at.wpe + position * n_embd;
    double *x = s->x;
    for (int64_t i = 0; i < n_embd; i++) x[i] = te[i] + pe[i];
    norm(n_embd, e->inv_n_embd, x, x);
    for (int64_t l = 0; l < e->config.n_layer; l++) {
        decoder_layer *layer = &s->layers[l];
        norm(n_embd, e->inv_n_embd, x, s->xn);
        k->linear_decode(3 * n_embd, n_embd, NULL, layer->qkv, three, s->xn, s->qkv);
        double *keys = layer->keys + position / lanes * lanes * n_embd + position % lanes;
        for (int64_t j = 0; j < n_embd; j++) keys[j * lanes] = s->qkv[n_embd + j];
        memcpy(layer->values + position * n_embd, s->qkv + 2 * n_embd, (size_t)n_embd * sizeof *s->qkv);
        k->attention_decode(e->config.n_head, e->head_dim, position + 1, e->attn_scale, s->qkv, layer->keys,
                            layer->values, s->scratch, s->xa);
        k->linear_decode(n_embd, n_embd, NULL, layer->wo, one, s->xa, s->hidden);
        for (int64_t i = 0; i < n_embd; i++) x[i] = s->hidden[i] + x[i];
        norm(n_embd, e->inv_n_embd, x, s->xn);
        k->linear_decode(4 * n_embd, n_embd, NULL, layer->fc1, four, s->xn, s->hidden);
        int64_t nactive = 0;
        for (int64_t i = 0; i < 4 * n_embd; i++) {
            const int positive = s->hidden[i] > 0;
            s->hidden[i] = positive ? s->hidden[i] : 0.0;
            s->active[nactive] = (int32_t)i;
            nactive += positive;
        }
        if (layer->skip_inactive)
            k->linear_decode(n_embd, nactive, s->active, layer->fc2, one, s->hidden, s->xa);
        else
            k->linear_decode(n_embd, 4 * n_embd, NULL, layer->fc2, one, s->hidden, s->xa);
        for (int64_t i = 0; i < n_embd; i++) x[i] = s->xa[i] + x[i];
        const mg_status status = mg_poll_work(poll, 12 * n_embd * n_embd + 2 * n_embd * position);
        if (status) return status;
    }
    if (!want_logits) return MG_OK;
    k->linear_decode(e->config.vocab_size, n_embd, NULL, s->lm_head, padded(e, e->config.vocab_size), x, s->logits);
    return mg_poll_work(poll, e->config.vocab_size * n_embd);
}

mg_status mg_next_probabilities(mg_engine *e, const double *params, double factor, const int32_t *tokens, int64_t n,
                                mg_poll *poll, double *probs)
{
    mg_status status = begin(e, params, poll);
    for (int64_t p = 0; p < n && !status; p++) status = decode_token(e, params, tokens[p], p, p == n - 1, poll);
    if (status) return status;
    e->kernels->softmax_decode(e->config.vocab_size, factor, e->decoder->logits);
    memcpy(probs, e->decoder->logits, (size_t)e->config.vocab_size * sizeof *probs);
    return MG_OK;
}

mg_status mg_generate(mg_engine *e, const double *params, mg_mt19937 *stream, double factor, const int32_t *tokens,
                      int64_t n, int64_t max_tokens, mg_poll *poll, int32_t *out, int64_t *count)
{
    const int64_t vocab_size = e->config.vocab_size, bos = vocab_size - 1;
    const mg_mt19937 start = *stream;
    *count = 0;
    mg_status status = begin(e, params, poll);
    for (int64_t p = 0; p < n - 1 && !status; p++) status = decode_token(e, params, tokens[p], p, 0, poll);
    int64_t token = tokens[n - 1];
    for (int64_t p = n - 1; p < e->config.block_size && *count < max_tokens && !status; p++) {
        status = decode_token(e, params, token, p, 1, poll);
        if (status) break;
        double *cum_weights = e->decoder->logits;
        e->kernels->softmax_decode(vocab_size, factor, cum_weights);
        for (int64_t o = 1; o < vocab_size; o++) cum_weights[o] = cum_weights[o - 1] + cum_weights[o];
        token = mg_mt19937_choice(stream, cum_weights, vocab_size);
        if (token < 0) {
            status = (mg_status)token;
            break;
        }
        if (token == bos) break;
        out[(*count)++] = (int32_t)token;
    }
    if (status) *stream = start;
    return status;
}
