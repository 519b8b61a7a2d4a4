#include "fused/by_matrix.h"

#include <stdlib.h>

#include "fused/batch.h"
#include "fused/in_range.h"

mg_status mg_begin_by_matrix(mg_engine *e, mg_engine **document)
{
    const mg_status status = mg_batch_reserve(e, 1);
    if (status) return status;
    if (!e->dw_chunk) e->dw_chunk = calloc((size_t)mg_dw_chunk_size(e->config.n_embd), sizeof *e->dw_chunk);
    if (!e->dw_chunk) return MG_NO_MEMORY;
    *document = e->members;
    (*document)->ws.passing = e->passing;
    return MG_OK;
}

static double sum_of_panels(const mg_engine *d, int64_t rows, const double *x)
{
    return d->kernels->sum_of_magnitudes(d->ws.doc.panels * d->kernels->lanes * rows, x);
}

/* Of the gradient of mlp_fc1's output. If it is sparse, only the active rows are there. */
static double sum_of_hidden(const mg_engine *d, int64_t l, int64_t hidden)
{
    const mg_kept_product *kept = mg_kept_of(d, l, MG_FC1);
    if (!kept->sparse) return sum_of_panels(d, hidden, kept->dy);
    const mg_layer_activations *layer = &d->ws.act.layers[l];
    const int64_t lanes = d->kernels->lanes;
    double sum = 0.0;
    for (int64_t b = 0; b < d->ws.doc.panels; b++)
        for (int64_t s = 0; s < layer->nactive[b]; s++)
            sum += d->kernels->sum_of_magnitudes(lanes, kept->dy + (b * hidden + layer->active[b * hidden + s]) * lanes);
    return sum;
}

/* Whether all gradients are below MG_SAFE_MAGNITUDE, so that Adam cannot fail. Each of a matrix is a sum over positions of x times
 * dy, and so at most the sum of all |x| times that of all |dy|. *in_range: whether those of matrices are below
 * MG_GRADIENT_IN_RANGE as well. */
static int is_bounded(const mg_engine *d, int *in_range)
{
    const int64_t n_embd = d->config.n_embd, hidden = 4 * n_embd;
    const mg_activations *act = &d->ws.act;
    const double head = sum_of_panels(d, n_embd, act->xf) * sum_of_panels(d, d->config.vocab_size, act->logits);
    *in_range = head < MG_GRADIENT_IN_RANGE;
    if (!(head < MG_SAFE_MAGNITUDE) || !(sum_of_panels(d, n_embd, d->ws.grad.dx0) < MG_SAFE_MAGNITUDE)) return 0;
    for (int64_t l = 0; l < d->config.n_layer; l++) {
        const mg_layer_activations *layer = &act->layers[l];
        const double products[] = {
            sum_of_panels(d, n_embd, layer->xn) * sum_of_panels(d, 3 * n_embd, mg_kept_of(d, l, MG_QKV)->dy),
            sum_of_panels(d, n_embd, layer->xa) * sum_of_panels(d, n_embd, mg_kept_of(d, l, MG_WO)->dy),
            sum_of_panels(d, n_embd, layer->xn2) * sum_of_hidden(d, l, hidden),
            sum_of_panels(d, hidden, layer->r) * sum_of_panels(d, n_embd, mg_kept_of(d, l, MG_FC2)->dy),
        };
        for (int i = 0; i < MG_LAYER_PRODUCTS; i++) {
            if (!(products[i] < MG_SAFE_MAGNITUDE)) return 0; /* or a nan */
            *in_range &= products[i] < MG_GRADIENT_IN_RANGE;
        }
    }
    return 1;
}

/* The gradient of a matrix, some rows at a time, and Adam; or, without coefs, the gradient alone, into grad. in_range: whether
 * its gradient is. */
static mg_status do_matrix(const mg_engine *e, const mg_engine *document, const mg_matrix *matrix, const mg_adam_coefs *coefs,
                           int in_range, const mg_state *s, double *grad, mg_poll *poll)
{
    const int64_t nin = matrix->nin, rows = mg_dw_chunk_rows(nin);
    int32_t *index_scratch = document->ws.scratch.index_scratch;
    if (!coefs) return mg_kept_gradient(document, matrix, 0, matrix->nout, grad + matrix->at, index_scratch, poll);
    const mg_range range = in_range ? mg_range_of(e, matrix, coefs) : MG_RANGE_UNKNOWN;
    int all_in_range = 1, has_zero = 0;
    for (int64_t o = 0; o < matrix->nout; o += rows) {
        const int64_t end = o + rows < matrix->nout ? o + rows : matrix->nout, at = matrix->at + o * nin;
        mg_status status = mg_kept_gradient(document, matrix, o, end, e->dw_chunk, index_scratch, NULL);
        in_range = mg_are_in_range(e, range, s, at, (end - o) * nin);
        all_in_range &= in_range;
        if (!status && in_range)
            has_zero |= e->kernels->adam_update_in_range(coefs, (end - o) * nin, s->params + at, e->dw_chunk, s->m + at, s->v + at);
        else if (!status)
            status = e->kernels->adam_update(coefs, 0, (end - o) * nin, s->params + at, e->dw_chunk, s->m + at, s->v + at);
        if (status) return status;
    }
    mg_note_range(e, matrix, range, all_in_range, has_zero);
    return MG_OK;
}

/* All matrices, those first whose weights the backward pass has read last. */
static mg_status do_matrices(const mg_engine *e, const mg_engine *document, const mg_adam_coefs *coefs, int in_range,
                             const mg_state *s, double *grad, mg_poll *poll)
{
    mg_status status = MG_OK;
    for (int64_t l = 0; l < e->config.n_layer; l++)
        for (int64_t which = MG_QKV; which <= MG_LAYER_PRODUCTS && !status; which++) {
            const mg_matrix matrix = mg_matrix_of(e, l, which);
            status = do_matrix(e, document, &matrix, coefs, in_range, s, grad, poll);
        }
    if (status) return status;
    const mg_matrix lm_head = mg_matrix_of(e, 0, MG_LM_HEAD);
    return do_matrix(e, document, &lm_head, coefs, in_range, s, grad, poll);
}

mg_status mg_step_by_matrix(mg_engine *e, mg_engine *document, const mg_adam_coefs *coefs, int64_t positions_seen,
                            const mg_state *s, double *grad, mg_poll *poll)
{
    const int is_long = mg_is_long(document, document->ws.doc.n);
    const mg_backward_args backward = {.params = s->params, .poll = is_long ? poll : NULL};
    mg_status status = mg_backward(document, &backward);
    if (status) return status;
    int in_range = 0;
    if (!is_long && coefs->vectorizable && is_bounded(document, &in_range)) {
        if (!in_range) mg_forget_ranges(e, 0);
        status = do_matrices(e, document, coefs, in_range, s, grad, NULL);
        mg_embedding_gradient(document, grad);
        const int64_t seen = mg_count_embeddings_seen(e, coefs, positions_seen);
        return status ? status : e->kernels->adam_update(coefs, 0, seen, s->params, grad, s->m, s->v);
    }
    status = do_matrices(e, document, NULL, 0, s, grad, backward.poll);
    if (status) return status;
    mg_embedding_gradient(document, grad);
    const int may_fail = mg_adam_may_fail(e->kernels, coefs, e->at.num_params, grad, 0);
    return mg_adam_or_rollback(e, coefs, positions_seen, s, grad, may_fail);
}
