#include "fused/batch.h"

#include <stdlib.h>
#include <string.h>

#include "fused/backward.h"

/* What members may take together, in bytes. */
static const int64_t MEMBERS_BYTES = INT64_C(1) << 28;

/* Parameters of a slice, about. Few, and what gradients are made of is read from memory once for each slice; many, and threads
 * wait for each other. */
enum { LEAST_SLICE = 4096, MOST_SLICE = 65536, SLICES_OF_A_THREAD = 8 };

/* Rows of a matrix in a slice: a multiple of 8, which kernels take together. */
static int64_t rows_of_slice(const mg_engine *e, const mg_matrix *m)
{
    const int64_t sharers = e->processes ? e->processes : mg_pool_threads(e->pool);
    int64_t size = e->at.num_params / (SLICES_OF_A_THREAD * sharers);
    size = size < LEAST_SLICE ? LEAST_SLICE : size > MOST_SLICE ? MOST_SLICE : size;
    return size / m->nin / 8 * 8 + 8;
}

/* The matrices in the order of their parameters: lm_head, then those of each layer. */
static mg_matrix matrix_at(const mg_engine *e, int64_t i)
{
    return mg_matrix_of(e, i ? (i - 1) / MG_LAYER_PRODUCTS : 0, i ? 1 + (i - 1) % MG_LAYER_PRODUCTS : MG_LM_HEAD);
}

static mg_status make_slices(mg_engine *e)
{
    if (e->slices) return MG_OK;
    const int64_t matrices = 1 + MG_LAYER_PRODUCTS * e->config.n_layer;
    int64_t count = 1;
    for (int64_t i = 0; i < matrices; i++) {
        const mg_matrix m = matrix_at(e, i);
        const int64_t rows = rows_of_slice(e, &m);
        count += (m.nout + rows - 1) / rows;
    }
    mg_slice *s = malloc((size_t)count * sizeof *s);
    if (!s) return MG_NO_MEMORY;
    e->slices = s;
    e->num_slices = count;
    *s++ = (mg_slice){.matrix.which = -1, .count = e->at.lm_head};
    for (int64_t i = 0; i < matrices; i++) {
        const mg_matrix m = matrix_at(e, i);
        const int64_t rows = rows_of_slice(e, &m);
        for (int64_t o = 0; o < m.nout; o += rows) {
            const int64_t some = m.nout - o < rows ? m.nout - o : rows;
            *s++ = (mg_slice){m, o, o + some, m.at + o * m.nin, some * m.nin};
        }
    }
    return MG_OK;
}

mg_status mg_batch_prepare(mg_engine *e)
{
    mg_status status = make_slices(e);
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

int64_t mg_batch_capacity(const mg_engine *e, int64_t positions)
{
    const int64_t fit =
        MEMBERS_BYTES / mg_workspace_bytes(&e->config, e->kernels->lanes, panels_of(e, positions), 1);
    return fit > 1 ? fit : 1;
}

/* Members as e is, but for what is e's own. */
static mg_status reserve_members(mg_engine *e, int64_t count)
{
    if (count <= e->members_capacity) return MG_OK;
    mg_engine *grown = realloc(e->members, (size_t)count * sizeof *grown);
    if (!grown) return MG_NO_MEMORY;
    e->members = grown;
    for (int64_t i = e->members_capacity; i < count; i++) {
        mg_engine *member = &grown[i];
        *member = *e;
        member->ws = (mg_workspace){.keeps_products = 1};
        member->pool = member->team = NULL;
        member->members = NULL;
        member->snapshot = NULL;
        member->decoder = NULL;
    }
    e->members_capacity = count;
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
    int64_t first;
    double seed;
    int grad_has_minus_zero;
    double *losses;
} documents;

static mg_status do_document(void *context, int worker, int64_t item, mg_poll *poll)
{
    (void)worker;
    const documents *a = context;
    mg_engine *member = &a->e->members[item];
    const int64_t d = a->first + item, *start = a->starts + d;
    const mg_backward_args backward = {
        .params = a->params, .grad_has_minus_zero = a->grad_has_minus_zero, .poll = poll};
    return mg_batch_document(member, &backward, a->tokens, start, a->seed, poll, a->losses + d);
}

mg_status mg_batch_documents(mg_engine *e, mg_pool *pool, const double *params, const int32_t *tokens,
                             const int64_t *starts, int64_t first, int64_t end, double seed, int grad_has_minus_zero,
                             mg_poll *poll, double *losses)
{
    documents a = {e, params, tokens, starts, first, seed, grad_has_minus_zero, losses};
    const int64_t threads = mg_pool_threads(pool), count = end - first;
    mg_status status = reserve_members(e, count);
    if (status) return status;
    /* A document for each thread, as often as there are that many. What is left of them is shared, each by all threads. */
    const int64_t panels = panels_of(e, mg_batch_longest(starts + first, count));
    const int64_t alone = panels > 1 ? count / threads * threads : count;
    status = mg_pool_run(pool, do_document, &a, alone, poll);
    for (int i = 1; i < threads && alone < count && !status; i++)
        status = mg_thread_scratch_reserve(&e->thread_scratch[i], &e->config, e->kernels->lanes, panels);
    for (int64_t item = alone; item < count && !status; item++) {
        e->members[item].team = pool;
        e->members[item].thread_scratch = e->thread_scratch;
        status = do_document(&a, 0, item, poll);
        e->members[item].team = NULL;
    }
    return status;
}

mg_status mg_batch_slice(mg_engine *e, const mg_slice *slice, int64_t members, double *grad, int32_t *index_scratch,
                         mg_poll *poll)
{
    if (slice->matrix.which < 0) {
        for (int64_t d = members - 1; d >= 0; d--) mg_embedding_gradient(&e->members[d], grad);
        return MG_OK;
    }
    mg_status status = MG_OK;
    for (int64_t d = members - 1; d >= 0 && !status; d--)
        status = mg_kept_gradient(&e->members[d], &slice->matrix, slice->first, slice->end, grad, index_scratch, poll);
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
    return mg_position_losses(&a->e->members[worker], a->params, a->tokens + start[0], start[1] - start[0] - 1, poll,
                              a->losses + start[0] - item);
}

mg_status mg_position_losses_of(mg_engine *e, const double *params, const int32_t *tokens, const int64_t *starts,
                                int64_t documents, mg_poll *poll, double *losses)
{
    evaluation a = {e, params, tokens, starts, losses};
    const mg_status status = reserve_members(e, mg_pool_threads(e->pool));
    return status ? status : mg_pool_run(e->pool, do_losses, &a, documents, poll);
}
