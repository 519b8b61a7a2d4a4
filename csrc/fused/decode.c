/* Generation: one token after the other, with the keys and values of earlier tokens cached (microgpt.py, "Inference").
 *
 * What was computed stays for later calls, as long as a call finds the parameters and the floating-point environment as
 * they were: the transposed weights, the inputs of the first layer, the keys and values of the last tokens, and for each
 * prefix the distribution of the next token. All of it is computed from a copy of the parameters, so that it belongs to that
 * copy even if another thread writes to the parameters meanwhile. */
#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/checked.h"
#include "base/libm.h"
#include "fused/engine.h"
#include "fused/prefix_tree.h"

/* The weights of one layer, transposed, [nin][nout rounded up to lanes], and its cache. */
typedef struct decoder_layer {
    double *qkv, *wo, *fc1, *fc2;
    double *keys;      /* panels [n_embd][lanes] of positions */
    double *values;    /* rows [n_embd] */
    int skip_inactive; /* whether mlp_fc2 is finite, so that zeros of relu may be skipped */
} decoder_layer;

/* The bits of a few results that depend on the rounding mode and on whether subnormal numbers are flushed to zero. */
enum { PROBES = 5 };
typedef struct {
    double results[PROBES];
} environment;

/* The input of the first layer by token and position, if that takes no more memory than this. */
enum { MOST_FIRST_BYTES = 1 << 22 };

typedef struct mg_decoder {
    int is_current;     /* whether all the rest belongs to these: */
    double *params;     /* [num_params], a copy */
    environment fp_env;

    decoder_layer *layers;
    double *lm_head;                             /* transposed */
    double *x, *xn, *qkv, *xa, *hidden, *logits; /* each rounded up to lanes */
    double *weights;                             /* [vocab_size], rounded up to lanes */
    double *scratch;                             /* of attention */
    int32_t *active;                             /* [4 * n_embd], rounded up to lanes */

    /* x and qkv of the first layer, [vocab_size][block_size][n_embd rounded up + 3 * n_embd rounded up], and whether an
     * entry is there. NULL where it would take too much memory. */
    double *first;
    char *first_known;

    /* The tokens whose keys and values the layers hold, and the number of those that the logits follow (0: none). */
    int32_t *cached; /* [block_size] */
    int64_t cached_length, logits_length;

    int32_t *text; /* [block_size], the tokens of the text in hand */
    int64_t *path; /* [block_size], the node of text[0..p] in the tree */
    mg_prefix_tree tree;
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
    s->weights = mg_arena_take(c, vocab, d);
    s->scratch = mg_arena_take(c, mg_mul(e->config.n_head + e->kernels->lanes, block + 1), d);
    s->active = mg_arena_take(c, four, sizeof(int32_t));
    s->params = mg_arena_take(c, e->at.num_params, d);
    s->cached = mg_arena_take(c, e->config.block_size, sizeof *s->cached);
    s->text = mg_arena_take(c, e->config.block_size, sizeof *s->text);
    s->path = mg_arena_take(c, e->config.block_size, sizeof *s->path);
    const int64_t pairs = mg_mul(e->config.vocab_size, e->config.block_size);
    s->first = NULL;
    if (mg_mul(pairs, (one + three) * d) <= MOST_FIRST_BYTES) {
        s->first = mg_arena_take(c, pairs * (one + three), d);
        s->first_known = mg_arena_take(c, pairs, 1);
    }
    mg_prefix_tree_lay_out(&s->tree, c, e->config.vocab_size, vocab, mg_mul(e->config.n_layer, 2 * n_embd));
}

static mg_status allocate(mg_engine *e)
{
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
    e->decoder->is_current = 0;
    return MG_OK;
}

static environment probe(void)
{
    volatile double one = 1.0, tiny = DBL_TRUE_MIN, smallest = DBL_MIN;
    return (environment){{
        one + smallest,             /* 1.0, or upwards more */
        one - smallest,             /* 1.0, or downwards and towards zero less */
        -one - smallest,            /* -1.0, or downwards more */
        smallest * 0.5,             /* 0.0 where subnormal results are flushed */
        tiny * 4503599627370496.0, /* 0.0 where subnormal operands are */
    }};
}

/* The weights, transposed. */
static mg_status transpose(mg_engine *e, mg_poll *poll)
{
    const mg_kernels *k = e->kernels;
    const int64_t n_embd = e->config.n_embd, vocab_size = e->config.vocab_size;
    mg_decoder *s = e->decoder;
    for (int64_t l = 0; l < e->config.n_layer; l++) {
        const double *w = s->params + e->at.layers + l * e->at.layer_size;
        decoder_layer *layer = &s->layers[l];
        k->transpose_weights(3 * n_embd, n_embd, w + e->at.attn_wq, layer->qkv, padded(e, 3 * n_embd));
        k->transpose_weights(n_embd, n_embd, w + e->at.attn_wo, layer->wo, padded(e, n_embd));
        k->transpose_weights(4 * n_embd, n_embd, w + e->at.mlp_fc1, layer->fc1, padded(e, 4 * n_embd));
        k->transpose_weights(n_embd, 4 * n_embd, w + e->at.mlp_fc2, layer->fc2, padded(e, n_embd));
        layer->skip_inactive = k->sum_of_magnitudes(4 * n_embd * n_embd, w + e->at.mlp_fc2) < MG_SAFE_MAGNITUDE;
        const mg_status status = mg_poll_work(poll, 12 * n_embd * n_embd * 8);
        if (status) return status;
    }
    k->transpose_weights(vocab_size, n_embd, s->params + e->at.lm_head, s->lm_head, padded(e, vocab_size));
    return mg_poll_work(poll, vocab_size * n_embd * 8);
}

/* Memory, and what belongs to the parameters as they are now: unless nothing has changed, all is forgotten. */
static mg_status begin(mg_engine *e, const double *params, mg_poll *poll)
{
    mg_status status = e->decoder ? MG_OK : allocate(e);
    if (status) return status;
    mg_decoder *s = e->decoder;
    const size_t bytes = (size_t)e->at.num_params * sizeof *params;
    const environment now = probe();
    /* By bits: -0.0 is another number than 0.0, and a nan may be the same. */
    if (s->is_current && !memcmp(&s->fp_env, &now, sizeof now) && !memcmp(s->params, params, bytes)) return MG_OK;
    s->is_current = 0;
    s->fp_env = now;
    memcpy(s->params, params, bytes);
    s->cached_length = s->logits_length = 0;
    if (s->first) memset(s->first_known, 0, (size_t)(e->config.vocab_size * e->config.block_size));
    mg_prefix_tree_clear(&s->tree);
    status = transpose(e, poll);
    s->is_current = !status;
    return status;
}

static void norm(int64_t n, double inverse, const double *x, double *out)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    const double scale = mg_pow(sum * inverse + 1e-5, -0.5);
    for (int64_t i = 0; i < n; i++) out[i] = x[i] * scale;
}

/* The first layer's input and its queries, keys and values, in x and qkv: they follow from token and position. */
static void embed(mg_engine *e, int32_t token, int64_t position, double *x, double *qkv)
{
    const int64_t n_embd = e->config.n_embd;
    const mg_decoder *s = e->decoder;
    const double *te = s->params + e->at.wte + token * n_embd, *pe = s->params + e->at.wpe + position * n_embd;
    for (int64_t i = 0; i < n_embd; i++) x[i] = te[i] + pe[i];
    norm(n_embd, e->inv_n_embd, x, x);
    if (!e->config.n_layer) return;
    norm(n_embd, e->inv_n_embd, x, s->xn);
    e->kernels->linear_decode(3 * n_embd, n_embd, NULL, s->layers[0].qkv, padded(e, 3 * n_embd), s->xn, qkv);
}

/* The same from the table, if there is one; qkv: in the table or in s->qkv. */
static const double *look_up_first(mg_engine *e, int32_t token, int64_t position)
{
    mg_decoder *s = e->decoder;
    if (!s->first) {
        embed(e, token, position, s->x, s->qkv);
        return s->qkv;
    }
    const int64_t one = padded(e, e->config.n_embd), pair = token * e->config.block_size + position;
    double *entry = s->first + pair * (one + padded(e, 3 * e->config.n_embd));
    if (!s->first_known[pair]) {
        embed(e, token, position, entry, entry + one);
        s->first_known[pair] = 1;
    }
    memcpy(s->x, entry, (size_t)e->config.n_embd * sizeof *entry);
    return entry + one;
}

/* Put a key and a value, [n_embd] each and one after the other, where attention looks for those of a position. */
static void put_cache(mg_engine *e, decoder_layer *layer, int64_t position, const double *key_value)
{
    const int64_t n_embd = e->config.n_embd, lanes = e->kernels->lanes;
    double *keys = layer->keys + position / lanes * lanes * n_embd + position % lanes;
    for (int64_t j = 0; j < n_embd; j++) keys[j * lanes] = key_value[j];
    memcpy(layer->values + position * n_embd, key_value + n_embd, (size_t)n_embd * sizeof *key_value);
}

/* gpt(token, position, keys, values) of the script, up to the last layer; the logits only if want_logits. kept: where the
 * position's keys and values are written to as well, [n_layer][2 * n_embd]; or NULL. */
static mg_status decode_token(mg_engine *e, int32_t token, int64_t position, int want_logits, mg_poll *poll, double *kept)
{
    const mg_kernels *k = e->kernels;
    mg_decoder *s = e->decoder;
    const int64_t n_embd = e->config.n_embd;
    const int64_t one = padded(e, n_embd), three = padded(e, 3 * n_embd), four = padded(e, 4 * n_embd);
    double *x = s->x;
    const double *qkv = look_up_first(e, token, position);
    for (int64_t l = 0; l < e->config.n_layer; l++) {
        decoder_layer *layer = &s->layers[l];
        if (l > 0) {
            norm(n_embd, e->inv_n_embd, x, s->xn);
            k->linear_decode(3 * n_embd, n_embd, NULL, layer->qkv, three, s->xn, s->qkv);
            qkv = s->qkv;
        }
        put_cache(e, layer, position, qkv + n_embd);
        if (kept) memcpy(kept + l * 2 * n_embd, qkv + n_embd, 2 * (size_t)n_embd * sizeof *qkv);
        k->attention_decode(e->config.n_head, e->head_dim, position + 1, e->attn_scale, qkv, layer->keys, layer->values,
                            s->scratch, s->xa);
        k->linear_decode(n_embd, n_embd, NULL, layer->wo, one, s->xa, s->hidden);
        for (int64_t i = 0; i < n_embd; i++) x[i] = s->hidden[i] + x[i];
        norm(n_embd, e->inv_n_embd, x, s->xn);
        k->linear_decode(4 * n_embd, n_embd, NULL, layer->fc1, four, s->xn, s->hidden);
        const int64_t nactive = k->relu_decode(4 * n_embd, s->hidden, s->active);
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

/* The logits of what follows tokens [n]. path: the nodes of its beginnings, [n]; or NULL. What the layers hold of the
 * same tokens stays. */
static mg_status compute_logits(mg_engine *e, const int32_t *tokens, int64_t n, const int64_t *path, mg_poll *poll)
{
    mg_decoder *s = e->decoder;
    int64_t p = 0;
    while (p < n && p < s->cached_length && s->cached[p] == tokens[p]) p++;
    if (p == n && s->logits_length == n) return MG_OK;
    if (p == n) p--; /* its logits were not computed, or are not there any more */
    s->cached_length = p;
    s->logits_length = 0;
    for (; p < n; p++) {
        mg_prefix *node = path && path[p] != MG_NO_PREFIX ? mg_prefix_at(&s->tree, path[p]) : NULL;
        double *kept = node ? mg_prefix_cache(&s->tree, path[p]) : NULL;
        if (node && node->has_cache && p < n - 1) {
            for (int64_t l = 0; l < e->config.n_layer; l++)
                put_cache(e, &s->layers[l], p, kept + l * 2 * e->config.n_embd);
        } else {
            const mg_status status = decode_token(e, tokens[p], p, p == n - 1, poll, kept);
            if (status) return status;
            if (node) node->has_cache = 1;
        }
        s->cached[p] = tokens[p];
        s->cached_length = p + 1;
    }
    s->logits_length = n;
    return MG_OK;
}

mg_status mg_next_probabilities(mg_engine *e, const double *params, double factor, const int32_t *tokens, int64_t n,
                                mg_poll *poll, double *probs)
{
    mg_status status = begin(e, params, poll);
    if (!status) status = compute_logits(e, tokens, n, NULL, poll);
    if (status) return status;
    /* On a copy: the logits stay for another factor. */
    mg_decoder *s = e->decoder;
    memcpy(s->weights, s->logits, (size_t)e->config.vocab_size * sizeof *s->logits);
    e->kernels->softmax_decode(e->config.vocab_size, factor, s->weights);
    memcpy(probs, s->weights, (size_t)e->config.vocab_size * sizeof *probs);
    return MG_OK;
}

/* The running sums of the probabilities of what follows text[0..p], [vocab_size]; NULL on error, which is in *status. */
static const double *cumulative_weights(mg_engine *e, double factor, int64_t p, mg_poll *poll, mg_status *status)
{
    mg_decoder *s = e->decoder;
    const int64_t vocab_size = e->config.vocab_size, at = s->path[p];
    mg_prefix *node = at == MG_NO_PREFIX ? NULL : mg_prefix_at(&s->tree, at);
    double *weights = node ? mg_prefix_weights(&s->tree, at) : s->weights;
    if (node && node->has_weights && !memcmp(&node->factor, &factor, sizeof factor)) {
        *status = mg_poll_work(poll, vocab_size);
        return *status ? NULL : weights;
    }
    *status = compute_logits(e, s->text, p + 1, s->path, poll);
    if (*status) return NULL;
    memcpy(weights, s->logits, (size_t)vocab_size * sizeof *weights);
    e->kernels->softmax_decode(vocab_size, factor, weights);
    for (int64_t o = 1; o < vocab_size; o++) weights[o] = weights[o - 1] + weights[o];
    if (node) {
        node->factor = factor;
        node->has_weights = 1;
    }
    return weights;
}

/* One text after the prompt of n tokens that s->text and s->path begin with. */
static mg_status generate_text(mg_engine *e, mg_mt19937 *stream, double factor, int64_t n, int64_t max_tokens,
                               mg_poll *poll, int32_t *out, int64_t *count)
{
    mg_decoder *s = e->decoder;
    const int64_t vocab_size = e->config.vocab_size, bos = vocab_size - 1;
    for (int64_t p = n - 1; p < e->config.block_size && *count < max_tokens; p++) {
        mg_status status;
        const double *weights = cumulative_weights(e, factor, p, poll, &status);
        if (!weights) return status;
        const int64_t token = mg_mt19937_choice(stream, weights, vocab_size);
        if (token < 0) return (mg_status)token;
        if (token == bos) return MG_OK;
        out[(*count)++] = (int32_t)token;
        if (p + 1 == e->config.block_size) return MG_OK;
        s->text[p + 1] = (int32_t)token;
        s->path[p + 1] = mg_prefix_child(&s->tree, s->path[p], (int32_t)token);
    }
    return MG_OK;
}

mg_status mg_generate(mg_engine *e, const double *params, mg_mt19937 *stream, double factor, const int32_t *tokens,
                      int64_t n, int64_t max_tokens, int64_t texts, mg_poll *poll, int32_t *out, int64_t *counts)
{
    const mg_mt19937 start = *stream;
    for (int64_t i = 0; i < texts; i++) counts[i] = 0;
    mg_status status = begin(e, params, poll);
    if (status) return status;
    mg_decoder *s = e->decoder;
    int64_t node = MG_PREFIX_ROOT;
    for (int64_t p = 0; p < n; p++) {
        s->text[p] = tokens[p];
        s->path[p] = node = mg_prefix_child(&s->tree, node, tokens[p]);
    }
    for (int64_t i = 0; i < texts && !status; i++)
        status = generate_text(e, stream, factor, n, max_tokens, poll, out + i * e->config.block_size, &counts[i]);
    if (status) *stream = start;
    return status;
}
