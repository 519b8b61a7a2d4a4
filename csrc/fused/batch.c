#include "fused/batch.h"

#include <stdlib.h>
#include <string.h>

#include "fused/backward.h"

mg_status mg_batch_prepare(mg_engine *e)
{
    mg_status status = mg_make_slices(e);
    for (int i = 0; e->pool && i < mg_pool_threads(e->pool) && !status; i++)
        status = mg_thread_scratch_reserve(&e->thread_scratch[i], &e->config, e->kernels->lanes, 1);
    return status;
}

int64_t mg_batch_longest(const int64_t *starts, int64_t documents)
{
    int64_t most = 1;
    for (int64_t d = 0; d < documents; d++)
        if (starts[d + 1] - starts[d] - 1 > most) most = starts[d + 1] - starts[d] - 1;
    return most;
}

static int64_t panels_of(const mg_engine *e, int64_t positions)
{
    return (positions + e->kernels->lanes - 1) / e->kernels->lanes;
}

int64_t mg_batch_capacity(const mg_engine *e, int64_t positions, int64_t bytes)
{
    const int64_t fit = bytes / mg_workspace_bytes(&e->config, e->kernels->lanes, panels_of(e, positions), 1);
    return fit > 1 ? fit : 1;
}

/* Memory of each thread for the member that it works on. */
static mg_status reserve_passing(mg_engine *e)
{
    const int64_t threads = mg_pool_threads(e->pool), has = e->passing_count;
    if (threads <= has) return MG_OK;
    mg_passing *grown = realloc(e->passing, (size_t)threads * sizeof *grown);
    if (!grown) return MG_NO_MEMORY;
    memset(grown + has, 0, (size_t)(threads - has) * sizeof *grown);
    e->passing = grown;
    e->passing_count = threads;
    return MG_OK;
}

/* An engine as e is, but for what is e's own. */
static mg_engine copy_of(const mg_engine *e, int keeps_products)
{
    mg_engine copy = *e;
    copy.ws = (mg_workspace){.keeps_products = keeps_products};
    copy.pool = copy.team = NULL;
    copy.members = copy.workers = NULL;
    copy.snapshot = copy.dw_chunk = NULL;
    copy.transposed = NULL;
    copy.decoders = NULL;
    copy.num_decoders = 0;
    return copy;
}

mg_status mg_reserve_workers(mg_engine *e)
{
    const int64_t count = mg_pool_threads(e->pool) - 1;
    if (count <= e->workers_count) return MG_OK;
    mg_engine *grown = realloc(e->workers, (size_t)count * sizeof *grown);
    if (!grown) return MG_NO_MEMORY;
    e->workers = grown;
    while (e->workers_count < count) grown[e->workers_count++] = copy_of(e, 0);
    return MG_OK;
}

mg_status mg_batch_reserve(mg_engine *e, int64_t count)
{
    const mg_status status = reserve_passing(e);
    if (status) return status;
    if (count <= e->members_capacity) return MG_OK;
    mg_engine *grown = realloc(e->members, (size_t)count * sizeof *grown);
    if (!grown) return MG_NO_MEMORY;
    e->members = grown;
    while (e->members_capacity < count) grown[e->members_capacity++] = copy_of(e, 1);
    return MG_OK;
}

mg_status mg_batch_document(mg_engine *e, const mg_backward_args *in, const int32_t *tokens, const int64_t *start,
                            double seed, mg_poll *poll, double *loss)
{
    const mg_status status = mg_document_loss(e, in->params, tokens + start[0], start[1] - start[0] - 1, poll, loss);
    if (status) return status;
    e->ws.doc.inv_n *= seed; /* in the graph, the gradient of a document's sum is 1 / n times that of its loss */
    return mg_backward(e, in);
}

typedef struct {
    mg_engine *e;
    const double *params;
    const int32_t *tokens;
    const int64_t *starts;
    int64_t first, alone; /* alone: how many documents one thread each does */
    double seed;
    int grad_has_minus_zero;
    const mg_batch_slices *slices;
    double *losses;
    mg_pool *pool;
} documents;

static mg_status do_document(const documents *a, int worker, int64_t i, mg_poll *poll)
{
    mg_engine *member = &a->e->members[i];
    member->ws.passing = &a->e->passing[worker];
    const int64_t d = a->first + i, *start = a->starts + d;
    const mg_backward_args backward = {
        .params = a->params, .grad_has_minus_zero = a->grad_has_minus_zero, .poll = poll};
    const mg_status status = mg_batch_document(member, &backward, a->tokens, start, a->seed, poll, a->losses + d);
    if (!status) mg_pool_set_done(a->pool, &member->complete);
    return status;
}

/* The documents that one thread each does, the last first, because the sums begin with it; and slices. */
static mg_status do_item(void *context, int worker, int64_t item, mg_poll *poll)
{
    const documents *a = context;
    if (item < a->alone) return do_document(a, worker, a->alone - 1 - item, poll);
    return a->slices->work(a->slices->context, worker, item - a->alone, poll);
}

mg_status mg_batch_documents(mg_engine *e, mg_pool *pool, const double *params, const int32_t *tokens,
                             const int64_t *starts, int64_t first, int64_t end, double seed, int grad_has_minus_zero,
                             const mg_batch_slices *slices, mg_poll *poll, double *losses)
{
    const int64_t threads = mg_pool_threads(pool), count = end - first;
    mg_status status = mg_batch_reserve(e, count);
    if (status) return status;
    mg_take_magnitudes(e, params);
    for (int64_t i = 0; i < count; i++) e->members[i].complete = 0;
    /* A document for each thread, as often as there are that many. What is left of them is shared, each by all threads. */
    const int64_t panels = panels_of(e, mg_batch_longest(starts + first, count));
    const int64_t alone = panels > 1 ? count / threads * threads : count;
    const mg_pool_items those = {.count = alone, .dealt = 1}, none = {0};
    documents a = {e, params, tokens, starts, first, alone, seed, grad_has_minus_zero, slices, losses, pool};
    for (int i = 1; i < threads && alone < count && !status; i++)
        status = mg_thread_scratch_reserve(&e->thread_scratch[i], &e->config, e->kernels->lanes, panels);
    for (int64_t i = count - 1; i >= alone && !status; i--) {
        e->members[i].team = pool;
        e->members[i].thread_scratch = e->thread_scratch;
        status = do_document(&a, 0, i, poll);
        e->members[i].team = NULL;
    }
    if (!status) status = mg_pool_run_two(pool, do_item, &a, &those, slices ? &slices->items : &none, poll);
    mg_forget_bounds(e);
    return status;
}

mg_status mg_batch_slice(mg_engine *e, const mg_slice *slice, int64_t members, double *grad, int32_t *index_scratch,
                         mg_poll *poll)
{
    mg_status status = MG_OK;
    for (int64_t d = members - 1; d >= 0 && !status; d--) {
        const mg_engine *member = &e->members[d];
        status = mg_pool_wait(e->pool, &member->complete, poll);
        if (status) break;
        if (slice->matrix.which < 0) {
            mg_embedding_gradient(member, grad);
        } else {
            const mg_matrix *matrix = &slice->matrix;
            mg_prefetch_kept(member, matrix);
            status = mg_kept_gradient(member, matrix, slice->first, slice->end,
                                      grad + matrix->at + slice->first * matrix->nin, index_scratch, poll);
        }
    }
    return status;
}

typedef struct {
    mg_engine *e;
    const double *params;
    const int32_t *tokens;
    const int64_t *starts;
    double *losses;
} evaluation;

static mg_status do_losses(void *context, int worker, int64_t item, mg_poll *poll)
{
    const evaluation *a = context;
    const int64_t *start = a->starts + item;
    a->e->members[worker].ws.passing = &a->e->passing[worker];
    return mg_position_losses(&a->e->members[worker], a->params, a->tokens + start[0], start[1] - start[0] - 1, poll,
                              a->losses + start[0] - item);
}

mg_status mg_position_losses_of(mg_engine *e, const double *params, const int32_t *tokens, const int64_t *starts,
                                int64_t documents, mg_poll *poll, double *losses)
{
    evaluation a = {e, params, tokens, starts, losses};
    mg_status status = mg_batch_reserve(e, mg_pool_threads(e->pool));
    if (status) return status;
    mg_take_magnitudes(e, params);
    status = mg_pool_run(e->pool, do_losses, &a, documents, poll);
    mg_forget_bounds(e);
    return status;
}
