/* One model on one instruction set, and its memory. Not part of the interface.
 *
 * The passes over a document are in forward.c and backward.c, a document's loss and gradient in document.c, training in
 * train.c, sampling in generate.c. Nothing here refers to them. */
#ifndef MG_FUSED_ENGINE_H
#define MG_FUSED_ENGINE_H

#include "base/pool.h"
#include "fused/workspace.h"
#include "kernels/kernels.h"
#include "microgpt.h"

/* What is known of a matrix's parameters and moments (in_range.h). */
typedef struct {
    int8_t steps_of_p, steps_of_v; /* for how many more steps p and v are in range; if neither is 0, so is m */
    int8_t wait;                   /* steps until the next look */
} mg_known_range;

struct mg_engine {
    mg_config config;
    const mg_kernels *kernels;
    mg_layout at;
    int64_t head_dim;
    double attn_scale; /* head_dim ** 0.5 ** -1 */
    double inv_n_embd; /* n_embd ** -1 */
    /* The rows of qkv in the order in which they reach attention's input, [3 * n_embd]; and the same for position 0. */
    int32_t *qkv_order, *qkv_order_first;
    /* [n_layer], sum_of_magnitudes of each mlp_fc2, or a bound for it; nan: not known. Who changes parameters renews it or forgets
     * it. The same for its first moments, which train.c needs for that bound. */
    double *fc2_magnitude, *fc2_moments;
    mg_known_range *known_ranges; /* of each matrix, by its number (mg_turn_of) */
    mg_workspace ws;
    /* Threads: NULL for one. The team shares the document that this engine works on; NULL: one thread does. */
    mg_pool *pool, *team;
    double least_shared_work;          /* of a step, in multiplications */
    mg_thread_scratch *thread_scratch; /* [threads], of those that share a document */
    /* The documents of a batch that are in memory together, each with a workspace of its own; NULL until needed. */
    struct mg_engine *members;
    int64_t members_capacity;
    struct mg_engine *workers; /* of threads but the first, which each have a document and add to the same gradients; or NULL */
    int64_t workers_count;
    mg_passing *passing; /* of each thread that works on members; NULL until needed */
    int64_t passing_count;
    int complete; /* Atomic. Of a member: whether its document has had its backward pass */
    /* All parameters, in pieces for threads (batch.h); NULL until needed. And with which of them each thread's share begins,
     * [threads + 1]; or NULL. */
    struct mg_slice *slices;
    int64_t num_slices, *slice_starts;
    /* That share each batch: slices depend on them, not on threads, and are in the order of parameters (part.c). 0: this one
     * alone. */
    int64_t processes;
    /* Rows of a gradient on their way to Adam, [mg_dw_chunk_size]. All +0.0 between uses: Adam leaves it so. NULL until
     * needed. */
    double *dw_chunk;
    /* Parameters and moments, [3][num_params], for a rollback; NULL until mg_train needs it. */
    double *snapshot;
    /* Sampling: the transposed weights, and a decoder for each thread that has drawn, each one block of memory; NULL until needed. */
    struct mg_transposed *transposed;
    struct mg_decoder **decoders;
    int64_t num_decoders;
};

/* e->fc2_magnitude, for documents that are about to meet the same parameters. */
void mg_take_magnitudes(mg_engine *e, const double *params);

/* Before parameters or moments change: fc2_magnitude, fc2_moments and known_ranges are not known. */
void mg_forget_bounds(const mg_engine *e);

/* known_ranges alone. steps: that are about to be taken. A look takes a fifth of the time of Adam's update, which takes an eighth
 * less after it, so it pays from a few on; steps until the next one, after one in vain. */
void mg_forget_ranges(const mg_engine *e, int64_t steps);
#define MG_LEAST_STEPS_TO_LOOK 4
#define MG_LOOK_AGAIN 16

/* They are made again when needed. */
void mg_forget_slices(mg_engine *e);

/* Multiplications in one call of a kernel, at most, if the shape allows: a few milliseconds without vectors. */
enum { MG_PIECE = 1 << 24 };

/* How many of `count` things, `work` multiplications each, make a piece: a multiple of 16. */
static inline int64_t mg_piece(int64_t count, int64_t work)
{
    const int64_t things = work < MG_PIECE / 16 ? MG_PIECE / work / 16 * 16 : 16;
    return things < count ? things : count;
}

/* Whether a backward pass over n positions must be interruptible. Shorter ones, some 25 ms without vectors, are not, so
 * they cannot fail. */
static inline int mg_is_long(const mg_engine *e, int64_t n)
{
    return (double)e->at.num_params * 2.0 * (double)n > (double)(1 << 27);
}

/* Positions in the panels from first to end - 1, which may be cut off at the document's end. */
static inline int64_t mg_positions_in(const mg_engine *e, int64_t first, int64_t end)
{
    const int64_t lanes = e->kernels->lanes, n = e->ws.doc.n;
    return (end * lanes < n ? end * lanes : n) - first * lanes;
}

/* Offset of the exponentials of panel b, head h, in a layer's exps: [nkeys][lanes] for each. */
static inline int64_t mg_exps_at(const mg_engine *e, int64_t b, int64_t h)
{
    const int64_t lanes = e->kernels->lanes, n = e->ws.doc.n, nkeys = (b + 1) * lanes < n ? (b + 1) * lanes : n;
    return lanes * (e->config.n_head * lanes * (b * (b + 1) / 2) + h * nkeys);
}

/* Heads from h on to be done in one call: as many as keep the exponentials in the first-level cache. */
static inline int64_t mg_heads_together(const mg_engine *e, int64_t b, int64_t h)
{
    const int64_t lanes = e->kernels->lanes, left = e->config.n_head - h, few = 2048 / ((b + 1) * lanes * lanes) + 1;
    return left < few ? left : few;
}

/* The arguments of attention for heads h to h + heads of the queries of panel b in layer l. */
static inline mg_attention_args mg_attention_of(const mg_engine *e, int64_t l, int64_t b, int64_t h, int64_t heads)
{
    const mg_layer_activations *layer = &e->ws.act.layers[l];
    const int64_t lanes = e->kernels->lanes, panel = e->config.n_embd * lanes, row = h * e->head_dim * lanes;
    const int64_t at = ((l * e->ws.doc.panels + b) * e->config.n_head + h) * lanes;
    return (mg_attention_args){
        .panel = b,
        .n = e->ws.doc.n,
        .heads = heads,
        .head_dim = e->head_dim,
        .scale = e->attn_scale,
        .q = layer->qkv + row,
        .k = layer->qkv + panel + row,
        .v = layer->qkv + 2 * panel + row,
        .stride = 3 * panel,
        .exps = layer->exps + mg_exps_at(e, b, h),
        .sum = e->ws.act.attn_sum + at,
        .inv_sum = e->ws.act.attn_inv_sum + at,
        .inv_sum_sq = e->ws.act.attn_inv_sum_sq + at,
        .scratch = e->ws.scratch.attention,
    };
}

/* Whether heads are in the lanes of attention: not if threads share a document, of which each takes panels or heads. Not with 8
 * lanes: there attention.h has a way of its own. Large heads gain nothing (docs/develop/kernels.md). */
static inline int mg_attention_by_heads(const mg_engine *e)
{
    const int64_t lanes = e->kernels->lanes;
    return lanes < 8 && e->config.n_head % lanes == 0 && e->head_dim <= 4 * lanes && e->ws.doc.n <= MG_SHORT_DOCUMENT && !e->team;
}

/* Its arguments for the heads from h on in layer l. */
static inline mg_attention_heads_args mg_attention_heads_of(const mg_engine *e, int64_t l, int64_t h)
{
    const mg_layer_activations *layer = &e->ws.act.layers[l];
    const int64_t lanes = e->kernels->lanes, panel = e->config.n_embd * lanes, n = e->ws.doc.n;
    const int64_t at = l * e->ws.doc.panels * e->config.n_head * lanes + h * n;
    double *q = layer->qkv + h * e->head_dim * lanes;
    return (mg_attention_heads_args){
        .n = n,
        .head_dim = e->head_dim,
        .scale = e->attn_scale,
        .q = q,
        .k = q + panel,
        .v = q + 2 * panel,
        .stride = 3 * panel,
        .out_stride = panel,
        .exps = layer->exps + h * (n * (n + 1) / 2),
        .sum = e->ws.act.attn_sum + at,
        .inv_sum = e->ws.act.attn_inv_sum + at,
        .inv_sum_sq = e->ws.act.attn_inv_sum_sq + at,
    };
}

#endif
