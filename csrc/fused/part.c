/* A part of a batch, of which other processes have the rest: its losses, and then its gradients, which continue the sums of the
 * documents after it, some parameters at a time. */
#include <stdlib.h>

#include "fused/batch.h"
#include "fused/rollback.h"
#include "fused/weights.h"

int64_t mg_part_capacity(const mg_engine *e, int64_t positions) { return mg_batch_capacity(e, positions, MG_BATCH_BYTES); }

mg_status mg_part_slices(mg_engine *e, int64_t processes, int64_t *count)
{
    if (e->processes != processes) {
        mg_forget_slices(e);
        e->processes = processes;
    }
    const mg_status status = mg_batch_prepare(e);
    *count = e->num_slices;
    return status;
}

int64_t mg_part_slice_start(const mg_engine *e, int64_t slice)
{
    return slice < e->num_slices ? e->slices[slice].at : e->at.num_params;
}

mg_status mg_part_losses(mg_engine *e, const double *params, const double *grad, const int32_t *tokens,
                         const int64_t *starts, int64_t documents, int64_t batch_size, mg_poll *poll, double *losses)
{
    if (!documents) return MG_OK;
    const int has_minus_zero = e->kernels->or_of_bits(e->at.num_params, grad) && mg_has_minus_zero(e, grad);
    mg_pool *pool = mg_engine_shares(e, starts[documents] - starts[0] - documents) ? e->pool : NULL;
    const mg_status status = mg_batch_prepare(e); /* now, because mg_part_gradients should not fail */
    if (status) return status;
    return mg_batch_documents(e, pool, params, tokens, starts, 0, documents, 1.0 / (double)batch_size, has_minus_zero,
                              NULL, poll, losses);
}

typedef struct {
    mg_engine *e;
    int64_t documents, first, pieces; /* pieces: of each slice, for threads */
    mg_pool *pool;                    /* of the threads that share it, or NULL */
    double *grad;
} part;

static mg_status do_piece(void *context, int worker, int64_t item, mg_poll *poll)
{
    const part *p = context;
    mg_engine *e = p->e;
    mg_slice slice = e->slices[p->first + item / p->pieces];
    const int64_t piece = item % p->pieces, rows = ((slice.end - slice.first) / p->pieces + 7) / 8 * 8 + 8;
    if (slice.matrix.which < 0) { /* embeddings are one piece */
        if (piece) return MG_OK;
    } else {
        const int64_t end = slice.first + (piece + 1) * rows;
        slice.first += piece * rows;
        slice.end = end < slice.end ? end : slice.end;
        if (slice.first >= slice.end) return MG_OK;
    }
    const mg_scratch *scratch = p->pool ? &e->thread_scratch[worker].scratch : &e->members->ws.scratch;
    return mg_batch_slice(e, &slice, p->documents, p->grad, scratch->index_scratch, poll);
}

mg_status mg_part_gradients(mg_engine *e, int64_t documents, int64_t first, int64_t end, double *grad)
{
    if (!documents) return MG_OK;
    const mg_status status = mg_batch_prepare(e); /* nothing to do, unless the number of threads has changed */
    int64_t positions = 0;
    for (int64_t d = 0; d < documents; d++) positions += e->members[d].ws.doc.n;
    mg_pool *pool = mg_engine_shares(e, positions) ? e->pool : NULL;
    part p = {e, documents, first, pool ? 4 * mg_pool_threads(pool) : 1, pool, grad};
    return status ? status : mg_pool_run(pool, do_piece, &p, (end - first) * p.pieces, NULL);
}
