#ifndef MG_FUSED_BACKWARD_H
#define MG_FUSED_BACKWARD_H

#include "fused/engine.h"

/* An update by Adam, done matrix by matrix as soon as a gradient is complete, while it is in cache. */
typedef struct {
    const mg_adam_coefs *coefs;
    double *params, *m, *v;
    int64_t embeddings; /* parameters from the first on, of wte and wpe, that can change: the others are not touched */
} mg_fused_update;

typedef struct {
    const double *params;
    double *grad;            /* [num_params], added to. With an update: all +0.0, and it stays so */
    int grad_has_minus_zero; /* whether grad holds a -0.0: then even adding 0.0 counts, and no zeros are skipped */
    const mg_fused_update *update; /* or NULL; its params are those above */
    mg_poll *poll;                 /* or NULL: the pass is not interruptible */
} mg_backward_args;

/* The gradients of the forward pass just done. If the workspace keeps products, grad is not read or written, and
 * mg_kept_gradient (weights.h) and mg_embedding_gradient take it from what is kept. MG_OK or MG_INTERRUPTED, or, with an update, Adam's error. On any status
 * but MG_OK the contents of grad, and of the update's arrays and of dw_chunk, are unspecified: the caller rolls back. */
mg_status mg_backward(mg_engine *e, const mg_backward_args *in);

/* The gradients of wte and wpe, from what mg_backward has left, added to grad. mg_backward does so itself unless products are
 * kept. */
void mg_embedding_gradient(const mg_engine *e, double *grad);

#endif
