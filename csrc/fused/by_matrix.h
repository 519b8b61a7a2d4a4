/* A step of a large model, matrix by matrix. The backward pass keeps what gradients are made of (weights.h), and bounds for them,
 * from these few numbers, show that Adam cannot fail. Only then does any parameter change: Adam takes the gradient of some rows
 * while it is in cache, and needs no way back. */
#ifndef MG_FUSED_BY_MATRIX_H
#define MG_FUSED_BY_MATRIX_H

#include "fused/run.h"

/* From this number of parameters on. Below, all of them stay in cache until the backward pass is done. Processors without vectors of
 * 8 lanes have half as much of it for themselves. (tools/targets.py sets less, so that the small models of its tests do both.) */
#ifndef MG_BY_MATRIX_PARAMS
#define MG_BY_MATRIX_PARAMS (1 << 16)
#endif
static inline int mg_is_by_matrix(const mg_engine *e)
{
    return e->at.num_params >= (e->kernels->lanes < 8 ? MG_BY_MATRIX_PARAMS / 2 : MG_BY_MATRIX_PARAMS);
}

/* *document: the engine, a member of e, for the document of the next step. MG_OK or MG_NO_MEMORY. */
mg_status mg_begin_by_matrix(mg_engine *e, mg_engine **document);

/* Backward and Adam, after the forward pass of this document; without clipping and weight decay. No v is negative. grad: all +0.0,
 * also afterwards. On error the state is unchanged, and grad unspecified. */
mg_status mg_step_by_matrix(mg_engine *e, mg_engine *document, const mg_adam_coefs *coefs, int64_t positions_seen,
                            const mg_state *s, double *grad, mg_poll *poll);

#endif
