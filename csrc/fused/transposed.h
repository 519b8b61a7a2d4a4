/* The weights of a model, transposed for decode.c. All threads read them. */
#ifndef MG_FUSED_TRANSPOSED_H
#define MG_FUSED_TRANSPOSED_H

#include "fused/engine.h"

/* Of one layer, [nin][nout rounded up to lanes] each. */
typedef struct {
    double *qkv, *wo, *fc1, *fc2;
    int skip_inactive; /* whether mlp_fc2 is finite, so that zeros of relu may be skipped */
} mg_transposed_layer;

/* The bits of a few results that depend on the rounding mode and on whether subnormal numbers are flushed to zero. */
enum { MG_PROBES = 5 };
typedef struct {
    double results[MG_PROBES];
} mg_environment;

typedef struct mg_transposed {
    int64_t version; /* 1 or more; another one for other parameters */
    int is_current;  /* whether all the rest belongs to these: */
    double *params;  /* [num_params], a copy */
    mg_environment fp_env;

    mg_transposed_layer *layers;
    double *lm_head;
} mg_transposed;

/* e->transposed is made, and belongs to the parameters as they are now. MG_OK, MG_NO_MEMORY or MG_INTERRUPTED. */
mg_status mg_transpose(mg_engine *e, const double *params, mg_poll *poll);

static inline int64_t mg_padded(const mg_engine *e, int64_t n)
{
    const int64_t lanes = e->kernels->lanes;
    return (n + lanes - 1) / lanes * lanes;
}

#endif
