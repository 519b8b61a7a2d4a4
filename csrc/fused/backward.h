#ifndef MG_FUSED_BACKWARD_H
#define MG_FUSED_BACKWARD_H

#include "fused/weights.h"

/* The gradients of the forward pass just done. If the workspace keeps products, grad is not read or written, and
 * mg_kept_gradient (weights.h) and mg_embedding_gradient take it from what is kept. MG_OK or MG_INTERRUPTED, and then the
 * contents of grad are unspecified. */
mg_status mg_backward(mg_engine *e, const mg_backward_args *in);

/* The gradients of wte and wpe, from what mg_backward has left, added to grad. mg_backward does so itself unless products are
 * kept. */
void mg_embedding_gradient(const mg_engine *e, double *grad);

#endif
