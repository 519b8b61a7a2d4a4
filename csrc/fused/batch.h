/* A batch of documents, in two parts: what each document computes for itself, and the gradients of parameters, of which any
 * slice is a sum over the documents, the last first. So neither part depends on how many threads share it. */
#ifndef MG_FUSED_BATCH_H
#define MG_FUSED_BATCH_H

#include "fused/weights.h"

/* Parameters whose gradients are computed together: some rows of a matrix, or, for the first slice, all embeddings. */
typedef struct mg_slice {
    mg_matrix matrix;   /* its product is negative for the embeddings */
    int64_t first, end; /* rows */
    int64_t at, count;  /* its parameters */
} mg_slice;

/* e->slices and e->num_slices: all parameters, in their order. MG_OK or MG_NO_MEMORY. */
mg_status mg_batch_make_slices(mg_engine *e);

/* The first part for documents `first` to `end` - 1, which are e->members afterwards: losses, and what gradients are made
 * of. seed: the gradient of each document's loss. losses: indexed as the documents are. MG_OK, MG_LOG_DOMAIN, MG_NO_MEMORY,
 * MG_NO_THREAD, MG_INTERRUPTED. */
mg_status mg_batch_documents(mg_engine *e, const double *params, const int32_t *tokens, const int64_t *starts,
                             int64_t first, int64_t end, double seed, int grad_has_minus_zero, mg_poll *poll,
                             double *losses);

/* The second for one slice: the gradients of the members, the last first, added to grad. */
mg_status mg_batch_slice(mg_engine *e, const mg_slice *slice, int64_t members, double *grad, int32_t *index_scratch,
                         mg_poll *poll);

/* How many documents of these to hold in memory together. */
int64_t mg_batch_group(const mg_engine *e, const int64_t *starts, int64_t documents);

#endif
