/* All parameters in slices, whose gradients are computed together, for threads or processes that share them. */
#ifndef MG_FUSED_SLICES_H
#define MG_FUSED_SLICES_H

#include "fused/weights.h"

/* Some rows of a matrix, or all embeddings. */
typedef struct mg_slice {
    mg_matrix matrix;   /* its `which` is negative for the embeddings */
    int64_t first, end; /* rows */
    int64_t at, count;  /* its parameters */
} mg_slice;

/* e->slices, if they are not there. MG_OK or MG_NO_MEMORY. */
mg_status mg_make_slices(mg_engine *e);

#endif
