/* The script's arithmetic in C: every number a node, the graph sorted and walked as Value.backward does it.
 *
 * The oracle of these tests where there is no Python: slow, plain, and independent of the kernels. */
#ifndef MG_TESTS_GRAPH_H
#define MG_TESTS_GRAPH_H

#include "microgpt.h"

/* loss = document_loss(tokens, model); loss.backward(). Arguments as for mg_document_gradient. */
double graph_document_gradient(const mg_config *config, const double *params, double *grad, const int32_t *tokens,
                               int64_t n);

/* The gradient of the whole model scaled to a norm, if it is larger. */
void graph_clip(const mg_config *config, double clip, double *grad);

/* One update as the script writes it, after any weight decay; arrays of num_params. */
void graph_adam_step(const mg_adam_config *config, int64_t step, int64_t num_params, double *params, double *grad,
                     double *m, double *v);

#endif
