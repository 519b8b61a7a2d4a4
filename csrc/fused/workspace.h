/* The engine's memory for one document: tokens, activations, gradients of activations, scratch.
 *
 * All arrays of doubles but the last are in panels (kernels/kernels.h); the comment gives the rows of a panel, or a
 * shape in words. `positions` is panels * lanes. */
#ifndef MG_FUSED_WORKSPACE_H
#define MG_FUSED_WORKSPACE_H

#include "base/status.h"
#include "model/layout.h"

/* The document being worked on. */
typedef struct {
    int64_t n;                 /* positions */
    int64_t panels;            /* n / lanes, rounded up */
    double inv_n;              /* 1 / n */
    int32_t *tokens, *targets; /* [positions]; 0 beyond n */
} mg_document;

/* What a matrix's gradient is made of, kept until all documents of a batch have theirs. */
typedef struct {
    double *x_rows; /* the matrix's input by position: [positions][x_stride] */
    int64_t x_stride;
    double *dy; /* panels [nout], the gradient of its output */
    int sparse; /* whether zeros of the input, or rows of dy that are not active, are skipped */
} mg_kept_product;

/* The matrices that are multiplied by at once, in a document's list of what is kept: lm_head, then four for each layer. */
enum { MG_LM_HEAD, MG_QKV, MG_WO, MG_FC1, MG_FC2, MG_LAYER_PRODUCTS = MG_FC2 };

/* What one layer computes and its backward pass needs. */
typedef struct {
    double *x;       /* [n_embd] input */
    double *xn;      /* [n_embd] normed, for attention */
    double *qkv;     /* [3 * n_embd] */
    double *exps;    /* [keys] for each panel and head: mg_exps_at in engine.h */
    double *xa;      /* [n_embd] outputs of the heads */
    double *x1;      /* [n_embd] after attention */
    double *xn2;     /* [n_embd] normed, for the MLP */
    double *r;       /* [4 * n_embd] after relu */
    int32_t *active; /* [panels][4 * n_embd], the rows of r that are not 0 in all of the panel's positions, ascending */
    int64_t *nactive;    /* [panels], how many */
    double *magnitude;   /* [panels], sum_of_magnitudes of what came to relu */
    double active_share; /* of all rows */
    double fc2_gradient; /* a bound for each number in the gradient of mlp_fc2; inf or nan: none is known */
    int skip_inactive;   /* whether the others may be skipped, and are so many that it pays */
} mg_layer_activations;

typedef struct {
    double *x0;                   /* [n_embd] token plus position embedding */
    mg_layer_activations *layers; /* [n_layer] */
    double *xf;                   /* [n_embd] input of lm_head */
    double *logits;               /* [vocab_size], then their exponentials, then their gradients */
    /* The norms: the embedding's, then two for each layer. base = mean of squares + 1e-5, scale = base ** -0.5. Its derivative, here
     * and below, needs one power more. */
    double *norm_base, *norm_scale, *norm_base_m15; /* [1 + 2 * n_layer][positions] */
    /* softmax: the sum of exponentials, its ** -1, and its ** -2. */
    double *attn_sum, *attn_inv_sum, *attn_inv_sum_sq; /* [n_layer][panels][n_head][lanes] */
    double *loss_sum, *loss_inv_sum, *loss_inv_sum_sq; /* [positions] */
    double *prob;                                      /* [positions], of each target */
} mg_activations;

typedef struct {
    double *dx, *dx0, *dxn, *dxa; /* [n_embd] */
    double *dr;                   /* [4 * n_embd]; NULL if products are kept */
    double *dqkv;                 /* [3 * n_embd]; NULL if products are kept */
    double *dtarget;              /* [positions], of each target's logit */
} mg_activation_grads;

typedef struct {
    int32_t *index_scratch; /* [4 * n_embd / lanes + 1][MG_BLOCK * lanes + 1] */
    double *x_rows;         /* the x of a product, by position: [positions][mg_row_stride(4 * n_embd)] */
    double *attention;      /* [2 * positions][lanes] */
} mg_scratch;

/* The memory of one thread for what a document needs until its backward pass is done: it is still in cache when the thread takes
 * the next document. All zero is none. */
typedef struct {
    int64_t capacity; /* panels */
    void *block;
    char *base; /* in block, aligned */
} mg_passing;

typedef struct {
    int64_t capacity; /* panels that there is memory for */
    void *block;
    mg_document doc;
    mg_activations act;
    mg_activation_grads grad;
    mg_scratch scratch;
    int keeps_products;    /* whether there is memory for: */
    mg_kept_product *kept; /* [1 + 4 * n_layer]: lm_head, then qkv, wo, fc1 and fc2 of each layer; or NULL */
    /* If products are kept, only what their gradients need is memory of the workspace, the rest the calling thread's. */
    mg_passing *passing, laid_out; /* laid_out: to which the pointers point */
} mg_workspace;

/* The scratch of one thread that shares a document with others. All zero is an empty one. */
typedef struct {
    int64_t capacity; /* panels */
    void *block;
    mg_scratch scratch;
} mg_thread_scratch;

/* Panels whose positions are summed together in the gradients of weights. */
enum { MG_BLOCK = 16 };

/* Rows of nin columns that go to Adam together: few enough to stay in cache. And the size of the largest such chunk,
 * nin being n_embd or 4 * n_embd. */
static inline int64_t mg_dw_chunk_rows(int64_t nin) { return nin < 256 ? 4096 / nin : 16; }
static inline int64_t mg_dw_chunk_size(int64_t n_embd) { return n_embd < 64 ? 4096 : 64 * n_embd; }

/* Doubles from one row of x_rows to the next. Long rows get a vector of padding: a stride that is a power of two maps to few
 * sets of a cache. */
static inline int64_t mg_row_stride(int64_t nin, int64_t lanes)
{
    return ((nin + lanes - 1) & -lanes) + (nin > 64 ? lanes : 0);
}

/* Begin a document, tokens [n + 1]: its memory, tokens and targets. MG_OK or MG_NO_MEMORY. */
mg_status mg_workspace_begin(mg_workspace *ws, const mg_config *config, int64_t lanes, const int32_t *tokens,
                             int64_t n);

/* The bytes that a workspace takes for this many panels, without what passes; INT64_MAX if that is not a size. */
int64_t mg_workspace_bytes(const mg_config *config, int64_t lanes, int64_t panels, int keeps_products);

/* Scratch for documents of this many panels. MG_OK or MG_NO_MEMORY. */
mg_status mg_thread_scratch_reserve(mg_thread_scratch *s, const mg_config *config, int64_t lanes, int64_t panels);

/* Free the memory of a workspace; all zero is an empty one. */
void mg_workspace_free(mg_workspace *ws);

#endif
