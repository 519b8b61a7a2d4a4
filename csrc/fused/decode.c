/* One token after the other, with the keys and values of earlier tokens cached (microgpt.py, "Inference").
 *
 * All is computed from a copy of the parameters (transposed.h), so that it belongs to that copy even if another thread writes
 * to the parameters meanwhile. */
#include "fused/decode.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/libm.h"
#include "fused/transposed.h"

/* The input of the first layer by token and position, if that takes no more memory than this. */
enum { MOST_FIRST_BYTES = 1 << 22 };

static void lay_out(const void *engine, void *decoder, mg_arena *c)
{
    const mg_engine *e = engine;
    mg_decoder *s = decoder;
    const int64_t n_embd = e->config.n_embd, vocab = mg_padded(e, e->config.vocab_size), d = sizeof(double);
    const int64_t block = mg_padded(e, e->config.block_size), one = mg_padded(e, n_embd), three = mg_padded(e, 3 * n_embd);
    const int64_t four = mg_padded(e, 4 * n_embd);
    s->keys = mg_arena_take(c, mg_mul(e->config.n_layer, mg_mul(block, n_embd)), d);
    s->values = mg_arena_take(c, mg_mul(e->config.n_layer, mg_mul(block, n_embd)), d);
    s->x = mg_arena_take(c, one, d);
    s->xn = mg_arena_take(c, one, d);
    s->qkv = mg_arena_take(c, three, d);
    s->xa = mg_arena_take(c, one, d);
    s->hidden = mg_arena_take(c, four, d);
    s->logits = mg_arena_take(c, vocab, d);
    s->weights = mg_arena_take(c, vocab, d);
    s->scratch = mg_arena_take(c, mg_mul(e->config.n_head + e->kernels->lanes, block + 1), d);
    s->active = mg_arena_take(c, four, sizeof(int32_t));
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

/* One more decoder. */
static mg_status allocate(mg_engine *e)
{
    mg_decoder *s = mg_arena_new(sizeof *s, lay_out, e);
    if (!s) return MG_NO_MEMORY;
    s->version = 0;
    e->decoders[e->num_decoders++] = s;
    return MG_OK;
}

/* Forget what does not belong to the weights. */
static void bring_up_to_date(const mg_engine *e, mg_decoder *s)
{
    if (s->version == e->transposed->version) return;
    s->version = e->transposed->version;
    s->cached_length = s->logits_length = 0;
    if (s->first) memset(s->first_known, 0, (size_t)(e->config.vocab_size * e->config.block_size));
    mg_prefix_tree_clear(&s->tree);
}

mg_status mg_reserve_decoders(mg_engine *e, int64_t count)
{
    mg_status status = MG_OK;
    if (count > e->num_decoders) {
        mg_decoder **grown = realloc(e->decoders, (size_t)count * sizeof *grown);
        if (!grown) return MG_NO_MEMORY;
        e->decoders = grown;
    }
    while (!status && e->num_decoders < count) status = allocate(e);
    for (int64_t i = 0; i < count && !status; i++) bring_up_to_date(e, e->decoders[i]);
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
static void embed(const mg_engine *e, mg_decoder *s, int32_t token, int64_t position, double *x, double *qkv)
{
    const int64_t n_embd = e->config.n_embd;
    const mg_transposed *t = e->transposed;
    const double *te = t->params + e->at.wte + token * n_embd, *pe = t->params + e->at.wpe + position * n_embd;
    for (int64_t i = 0; i < n_embd; i++) x[i] = te[i] + pe[i];
    norm(n_embd, e->inv_n_embd, x, x);
    if (!e->config.n_layer) return;
    norm(n_embd, e->inv_n_embd, x, s->xn);
    e->kernels->linear_decode(3 * n_embd, n_embd, NULL, t->layers[0].qkv, mg_padded(e, 3 * n_embd), s->xn, qkv);
}

/* The same from the table, if there is one; qkv: in the table or in s->qkv. */
static const double *look_up_first(const mg_engine *e, mg_decoder *s, int32_t token, int64_t position)
{
    if (!s->first) {
        embed(e, s, token, position, s->x, s->qkv);
        return s->qkv;
    }
    const int64_t one = mg_padded(e, e->config.n_embd), pair = token * e->config.block_size + position;
    double *entry = s->first + pair * (one + mg_padded(e, 3 * e->config.n_embd));
    if (!s->first_known[pair]) {
        embed(e, s, token, position, entry, entry + one);
        s->first_known[pair] = 1;
    }
    memcpy(s->x, entry, (size_t)e->config.n_embd * sizeof *entry);
    return entry + one;
}

static double *keys_of(const mg_engine *e, const mg_decoder *s, int64_t l)
{
    return s->keys + l * mg_padded(e, e->config.block_size) * e->config.n_embd;
}

static double *values_of(const mg_engine *e, const mg_decoder *s, int64_t l)
{
    return s->values + l * mg_padded(e, e->config.block_size) * e->config.n_embd;
}

/* Put a key and a value, [n_embd] each and one after the other, where attention looks for those of a position. */
static void put_cache(const mg_engine *e, mg_decoder *s, int64_t l, int64_t position, const double *key_value)
{
    const int64_t n_embd = e->config.n_embd, lanes = e->kernels->lanes;
    double *keys = keys_of(e, s, l) + position / lanes * lanes * n_embd + position % lanes;
    for (int64_t j = 0; j < n_embd; j++) keys[j * lanes] = key_value[j];
    memcpy(values_of(e, s, l) + position * n_embd, key_value + n_embd, (size_t)n_embd * sizeof *key_value);
}

/* gpt(token, position, keys, values) of the script, up to the last layer; the logits only if want_logits. kept: where the
 * position's keys and values are written to as well, [n_layer][2 * n_embd]; or NULL. */
static mg_status decode_token(const mg_engine *e, mg_decoder *s, int32_t token, int64_t position, int want_logits, mg_poll *poll,
                              double *kept)
{
    const mg_kernels *k = e->kernels;
    const int64_t n_embd = e->config.n_embd;
    const int64_t one = mg_padded(e, n_embd), three = mg_padded(e, 3 * n_embd), four = mg_padded(e, 4 * n_embd);
    double *x = s->x;
    const double *qkv = look_up_first(e, s, token, position);
    for (int64_t l = 0; l < e->config.n_layer; l++) {
        const mg_transposed_layer *layer = &e->transposed->layers[l];
        if (l > 0) {
            norm(n_embd, e->inv_n_embd, x, s->xn);
            k->linear_decode(3 * n_embd, n_embd, NULL, layer->qkv, three, s->xn, s->qkv);
            qkv = s->qkv;
        }
        put_cache(e, s, l, position, qkv + n_embd);
        if (kept) memcpy(kept + l * 2 * n_embd, qkv + n_embd, 2 * (size_t)n_embd * sizeof *qkv);
        k->attention_decode(e->config.n_head, e->head_dim, position + 1, e->attn_scale, qkv, keys_of(e, s, l),
                            values_of(e, s, l), s->scratch, s->xa);
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
    k->linear_decode(e->config.vocab_size, n_embd, NULL, e->transposed->lm_head, mg_padded(e, e->config.vocab_size), x,
                     s->logits);
    return mg_poll_work(poll, e->config.vocab_size * n_embd);
}

/* The logits of what follows tokens [n]. path: the nodes of its beginnings, [n]; or NULL. What the layers hold of the
 * same tokens stays. */
static mg_status compute_logits(const mg_engine *e, mg_decoder *s, const int32_t *tokens, int64_t n, const int64_t *path,
                                mg_poll *poll)
{
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
            for (int64_t l = 0; l < e->config.n_layer; l++) put_cache(e, s, l, p, kept + l * 2 * e->config.n_embd);
        } else {
            const mg_status status = decode_token(e, s, tokens[p], p, p == n - 1, poll, kept);
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
    mg_status status = mg_transpose(e, params, poll);
    if (!status) status = mg_reserve_decoders(e, 1);
    if (status) return status;
    mg_decoder *s = e->decoders[0];
    status = compute_logits(e, s, tokens, n, NULL, poll);
    if (status) return status;
    /* On a copy: the logits stay for another factor. */
    memcpy(s->weights, s->logits, (size_t)e->config.vocab_size * sizeof *s->logits);
    e->kernels->softmax_decode(e->config.vocab_size, factor, s->weights);
    memcpy(probs, s->weights, (size_t)e->config.vocab_size * sizeof *probs);
    return MG_OK;
}

const double *mg_cumulative_weights(const mg_engine *e, mg_decoder *s, double factor, int64_t p, mg_poll *poll, mg_status *status)
{
    const int64_t vocab_size = e->config.vocab_size, at = s->path[p];
    mg_prefix *node = at == MG_NO_PREFIX ? NULL : mg_prefix_at(&s->tree, at);
    double *weights = node ? mg_prefix_weights(&s->tree, at) : s->weights;
    if (node && node->has_weights && !memcmp(&node->factor, &factor, sizeof factor)) {
        *status = mg_poll_work(poll, vocab_size);
        return *status ? NULL : weights;
    }
    *status = compute_logits(e, s, s->text, p + 1, s->path, poll);
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
