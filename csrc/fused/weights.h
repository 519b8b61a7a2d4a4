/* The gradients of matrices: sums over the positions of a document, and over the documents of a batch, the last first. */
#ifndef MG_FUSED_WEIGHTS_H
#define MG_FUSED_WEIGHTS_H

#include "fused/share.h"
#include "fused/turns.h"

typedef struct {
    const double *params;
    double *grad;            /* [num_params], added to; not used if the workspace keeps products */
    int grad_has_minus_zero; /* whether grad holds a -0.0: then even adding 0.0 counts, and no zeros are skipped */
    mg_poll *poll;           /* or NULL: the pass is not interruptible */
    const mg_turns *turns;   /* or NULL: no other document is added to grad meanwhile */
} mg_backward_args;

/* One matrix of the model: its name, its offset, its shape. */
typedef struct {
    int64_t layer, which; /* as for mg_matrix_of */
    int64_t at, nout, nin;
} mg_matrix;

/* Of layer l (0 for MG_LM_HEAD); which: MG_LM_HEAD, MG_QKV (the three are one), MG_WO, MG_FC1 or MG_FC2. */
static inline mg_matrix mg_matrix_of(const mg_engine *e, int64_t l, int64_t which)
{
    const int64_t n_embd = e->config.n_embd, layer = e->at.layers + l * e->at.layer_size;
    switch (which) {
    case MG_QKV: return (mg_matrix){l, which, layer + e->at.attn_wq, 3 * n_embd, n_embd};
    case MG_WO: return (mg_matrix){l, which, layer + e->at.attn_wo, n_embd, n_embd};
    case MG_FC1: return (mg_matrix){l, which, layer + e->at.mlp_fc1, 4 * n_embd, n_embd};
    case MG_FC2: return (mg_matrix){l, which, layer + e->at.mlp_fc2, n_embd, 4 * n_embd};
    }
    return (mg_matrix){0, MG_LM_HEAD, e->at.lm_head, e->config.vocab_size, n_embd};
}

/* The places at which documents take turns: a matrix, the embeddings, and how many there are. */
static inline int64_t mg_turn_of(const mg_matrix *m) { return MG_LAYER_PRODUCTS * m->layer + m->which; }
static inline int64_t mg_turn_of_embeddings(const mg_config *config) { return MG_LAYER_PRODUCTS * config->n_layer + 1; }
static inline int64_t mg_count_turns(const mg_config *config) { return mg_turn_of_embeddings(config) + 1; }

/* What a workspace that keeps products keeps of that matrix. */
static inline mg_kept_product *mg_kept_of(const mg_engine *e, int64_t l, int64_t which)
{
    return &e->ws.kept[MG_LAYER_PRODUCTS * l + which];
}

/* The gradient of a matrix w in w x, added to in->grad. Or, if the workspace keeps products, what the gradient is made of is
 * kept, for some panels; otherwise these are all. x, dy: panels. sparse: skip zeros of x (which a kept product knows itself).
 * MG_OK or MG_INTERRUPTED. */
mg_status mg_weight_gradient(mg_engine *e, const mg_backward_args *in, const mg_matrix *matrix, mg_panels some,
                             const double *x, const double *dy, int sparse, mg_poll *poll);

/* The same for mlp_fc1 where rows of dy that are not active are skipped, one panel after the other. */
mg_status mg_weight_gradient_active(mg_engine *e, const mg_backward_args *in, const mg_matrix *matrix, int64_t panel,
                                    const mg_layer_activations *layer, const double *dy, mg_poll *poll);

/* Rows `first` to `end` - 1 of the gradient of a matrix, the whole of one document's kept product, added to dw, where row
 * `first` begins. index_scratch: the calling thread's. */
mg_status mg_kept_gradient(const mg_engine *document, const mg_matrix *matrix, int64_t first, int64_t end, double *dw,
                           int32_t *index_scratch, mg_poll *poll);

/* Bring its rows of x into the cache. They were written long ago, perhaps on another processor, and the products read them by
 * columns, which the hardware does not foresee. Small products gain nothing. */
void mg_prefetch_kept(const mg_engine *document, const mg_matrix *matrix);

/* The rows of x of some panels into x_rows, [positions][x_stride]. */
void mg_to_rows(const mg_engine *e, mg_panels some, int64_t nin, const double *x, double *x_rows);

#endif
