/* A batch of documents, in two parts: what each document computes for itself, and the gradients of parameters, of which any
 * slice is a sum over the documents, the last first. So neither part depends on how many threads share it. */
#ifndef MG_FUSED_BATCH_H
#define MG_FUSED_BATCH_H

#include "fused/slices.h"

/* e->slices, all parameters, and scratch for mg_batch_slice on each thread of e->pool. MG_OK or MG_NO_MEMORY. */
mg_status mg_batch_prepare(mg_engine *e);

/* e->workers for all threads of e->pool but the first. MG_OK or MG_NO_MEMORY. */
mg_status mg_reserve_workers(mg_engine *e);

/* So many members at least, as e is, but for what is e's own; and what passes of each thread's documents. MG_OK or
 * MG_NO_MEMORY. */
mg_status mg_batch_reserve(mg_engine *e, int64_t count);

/* Loss and backward pass of one document of a batch, tokens from start[0] to start[1] - 1. seed: the gradient of its loss.
 * Statuses of mg_document_loss and mg_backward. */
mg_status mg_batch_document(mg_engine *e, const mg_backward_args *in, const int32_t *tokens, const int64_t *start,
                            double seed, mg_poll *poll, double *loss);

/* The second part, as items of a job: each is a call of mg_batch_slice for its slice. */
typedef struct {
    mg_pool_work work;
    void *context;
    mg_pool_items items;
} mg_batch_slices;

/* The first part for documents `first` to `end` - 1, which are e->members afterwards: losses, and what gradients are made
 * of. pool: the threads that share them, e->pool or NULL. seed: the gradient of each document's loss. losses: indexed as the
 * documents are. slices: the second part, which threads begin as soon as no document is left to begin; NULL: not now. MG_OK,
 * MG_LOG_DOMAIN, MG_NO_MEMORY, MG_NO_THREAD, MG_INTERRUPTED. */
mg_status mg_batch_documents(mg_engine *e, mg_pool *pool, const double *params, const int32_t *tokens,
                             const int64_t *starts, int64_t first, int64_t end, double seed, int grad_has_minus_zero,
                             const mg_batch_slices *slices, mg_poll *poll, double *losses);

/* The second for one slice: the gradients of the members, the last first, added to grad; it waits for each of them.
 * index_scratch: the calling thread's. */
mg_status mg_batch_slice(mg_engine *e, const mg_slice *slice, int64_t members, double *grad, int32_t *index_scratch,
                         mg_poll *poll);

/* Positions of the longest of these documents. */
int64_t mg_batch_longest(const int64_t *starts, int64_t documents);

/* How many documents of this many positions fit into this many bytes, as members; at least 1. And how many bytes members may take. */
int64_t mg_batch_capacity(const mg_engine *e, int64_t positions, int64_t bytes);
#define MG_BATCH_BYTES (INT64_C(1) << 28)

#endif
