/* What forward.c and backward.c share: the memory of one document. Not part of the interface. */
#ifndef MG_ENGINE_H
#define MG_ENGINE_H

#include "kernels/kernels.h"
#include "microgpt.h"

/* Where each matrix begins in the flat parameters, and its gradient in the flat gradients. */
typedef struct {
    int64_t wte, wpe, lm_head, layers, layer_size;
    int64_t attn_wq, attn_wo, mlp_fc1, mlp_fc2; /* within a layer; attn_wk and attn_wv follow attn_wq, so that the
                                                 * three are one matrix [3 * n_embd][n_embd] */
} mg_offsets;

/* One layer's activations that the backward pass needs again, all in panels (kernels.h). */
typedef struct {
    double *x;    /* [n_embd] input */
    double *xn;   /* [n_embd] normed, for attention */
    double *qkv;  /* [3 * n_embd] */
    double *exps; /* for each panel and head: [keys][lanes], mg_exps_at */
    double *xa;   /* [n_embd] the heads' outputs */
    double *x1;   /* [n_embd] after attention */
    double *xn2;  /* [n_embd] normed, for the MLP */
    double *r;    /* [4 * n_embd] after relu */
    int32_t *active;  /* [panels][4 * n_embd] which rows of r are not 0 in all of the panel's positions, ascending */
    int64_t *nactive; /* [panels] how many */
    double active_share; /* of all rows */
    int sparse;        /* whether the others may be passed over, and are many enough to */
} mg_layer;

typedef struct mg_decoder mg_decoder; /* sample.c */

/* Adam, to follow as soon as a matrix's gradient is known. */
typedef struct {
    const mg_adam_coefs *coefs;
    double *params, *grad, *m, *v;
} mg_update;

struct mg_engine {
    mg_config config;
    const mg_kernels *kernels;
    mg_offsets at;
    int64_t head_dim;
    double attn_scale;   /* head_dim**0.5 ** -1 */
    double inv_n_embd;  /* n_embd ** -1 */
    int32_t *order;       /* rows of qkv in the order in which they reach attention's input, [3 * n_embd] */
    int32_t *order_first; /* the same for position 0 */

    /* The document in hand. */
    int64_t n, panels;
    double inv_n; /* 1 / n */
    int has_minus_zero;     /* whether some gradient to be added to is -0.0 */
    const mg_update *update; /* NULL: the backward pass leaves the gradients as they are */

    /* Memory for `capacity` panels. */
    int64_t capacity;
    void *arena;
    int32_t *tokens, *targets;                     /* [panels * lanes] */
    double *x0;                                    /* [n_embd] token plus position embedding */
    mg_layer *layers;                              /* [n_layer] */
    double *xf;                                    /* [n_embd] what lm_head reads */
    double *logits;                                /* [vocab_size], later their exponentials, later gradients */
    double *norm_base, *norm_scale, *norm_base_m15;   /* [1 + 2 * n_layer][panels][lanes] */
    double *attn_sum, *attn_inv_sum, *attn_inv_sum_sq; /* [n_layer][panels][n_head][lanes] */
    double *loss_sum, *loss_inv_sum, *loss_inv_sum_sq, *prob, *dtarget; /* [panels][lanes] */
    double *dx, *dx0, *dxn, *dxa, *dr, *dqkv;      /* gradients of what they are named for */
    int32_t *index_scratch; /* for whatever is listed: [4 * n_embd / lanes + 1][MG_BLOCK * lanes + 1] */
    double *rows;                                  /* [panels * lanes][4 * n_embd, rounded up, + lanes] */
    double *scratch;                               /* [2 * panels * lanes * lanes] */
    double *chunk;                                 /* some rows of a gradient on their way to Adam, else 0 [mg_dw_chunk_size] */

    int64_t positions_seen;     /* positions whose rows of wpe Adam may have changed: see mg_count_embeddings_seen */
    double *snapshot;     /* parameters and moments to go back to, [3][num_params]; NULL until mg_train needs it */
    mg_decoder *decoder; /* NULL until something is sampled */
};

/* Take a document in hand, tokens [n + 1], and the memory for it; MG_OK or MG_NO_MEMORY. */
int mg_engine_begin(mg_engine *engine, const int32_t *tokens, int64_t n);

/* Everything up to the loss, for the document in hand. */
int mg_forward(mg_engine *engine, const double *params, mg_poll *poll, double *loss);

/* Half of relu's results are 0, or, in a trained model, nearly all. A 0 times anything finite adds nothing to a sum
 * that is not -0.0, and sums begin at +0.0: so rows of zeros are passed over wherever everything they would be
 * multiplied by is known to be finite, and what would be summed up before it is multiplied by 0 cannot overflow. */
#define MG_SAFE_MAGNITUDE 1e150 /* the product of two such is finite */

/* Multiplications in one call of a kernel, at most, if the shape allows: a few milliseconds without vectors. */
enum { MG_PIECE = 1 << 24 };

/* Panels whose positions are taken together when the gradients of weights are summed up. */
enum { MG_BLOCK = 16 };

/* How many of `count` things, `work` multiplications each, make a piece: a multiple of 16. */
static inline int64_t mg_piece(int64_t count, int64_t work)
{
    const int64_t things = work < MG_PIECE / 16 ? MG_PIECE / work / 16 * 16 : 16;
    return things < count ? things : count;
}

/* The gradients of the forward pass just done, added to grad; or, with engine->update, the parameters updated by them,
 * while grad stays 0. */
int mg_backward(mg_engine *engine, const double *params, double *grad, mg_poll *poll);

/* Rows of nin columns that go to Adam together, few enough to stay in cache meanwhile, and the most numbers that they
 * are, nin being n_embd or 4 * n_embd. */
static inline int64_t mg_dw_chunk_rows(int64_t nin) { return nin < 256 ? 4096 / nin : 16; }
static inline int64_t mg_dw_chunk_size(int64_t n_embd) { return n_embd < 64 ? 4096 : 64 * n_embd; }

/* The embeddings that an update can change: wte and the rows of wpe up to the last position that a document has reached.
 * Beyond, gradient and moments are +0.0, stay so, and take nothing from the parameter (if lr_t is positive: p - 0.0 is p,
 * but -0.0 - -0.0 is not). */
static inline int64_t mg_count_embeddings_seen(const mg_engine *e, const mg_adam_coefs *coefs)
{
    return coefs->vectorizable && coefs->lr_t > 0.0 ? e->at.wpe + e->positions_seen * e->config.n_embd : e->at.lm_head;
}

/* Whether Adam may stop half-way, at some parameter (kernels/body/adam.h, adam_one_from_m): an overflow of grad**2, a division
 * by a sum of 0, a negative v. With everyday settings and gradients it cannot. (adam.c) */
int mg_adam_may_fail(const mg_kernels *kernels, const mg_adam_coefs *coefs, int64_t n, const double *grad,
                     int negative_v);

/* ---- engine.c ---- */

/* Hands out pieces of one block of memory, each aligned to 64 bytes. With base NULL it only adds up their sizes, up to
 * INT64_MAX for what cannot be addressed. */
typedef struct {
    char *base;
    int64_t used;
} mg_arena;
int64_t mg_mul(int64_t a, int64_t b); /* of counts; saturates at INT64_MAX */
void *mg_arena_take(mg_arena *arena, int64_t count, int64_t size);
/* The block, once the sizes are known, and the carver ready to hand it out; NULL if there is no such memory. */
void *mg_arena_allocate(mg_arena *arena);

void mg_decoder_free(mg_decoder *decoder); /* sample.c */

int mg_poll_slow(mg_poll *poll);

/* Count work, and now and then ask whether to stop. */
static inline int mg_poll_work(mg_poll *poll, int64_t multiplications)
{
    enum { LOOK_AT_CLOCK = 1 << 21 };
    if (!poll) return MG_OK;
    poll->work += multiplications;
    return poll->work < LOOK_AT_CLOCK ? MG_OK : mg_poll_slow(poll);
}

/* Offset of the exponentials of panel b, head h, in a layer's exps: [nkeys][lanes] for each. */
static inline int64_t mg_exps_at(const mg_engine *e, int64_t b, int64_t h)
{
    const int64_t lanes = e->kernels->lanes, nkeys = (b + 1) * lanes < e->n ? (b + 1) * lanes : e->n;
    return lanes * (e->config.n_head * lanes * (b * (b + 1) / 2) + h * nkeys);
}

/* Heads to be done together: as many as keep the exponentials in the fastest cache. */
static inline int64_t mg_heads_together(const mg_engine *e, int64_t b, int64_t h)
{
    const int64_t lanes = e->kernels->lanes, left = e->config.n_head - h, few = 2048 / ((b + 1) * lanes * lanes) + 1;
    return left < few ? left : few;
}

#endif
