#include "fused/slices.h"

#include <stdlib.h>

/* Parameters of a slice, about. Few, and what gradients are made of is read once for each slice; many, and threads wait for each
 * other. So the last slices of a thread, at which others help it, are small. */
enum { LEAST_SLICE = 8192, MOST_SLICE = 32768, SLICES_OF_A_THREAD = 8, LAST_SLICE = 2048 };

/* Rows that kernels take together: slices and shares are cut at multiples of them. */
enum { ROWS = 8 };

/* Lists of matrices: all of them in the order of their parameters, those with dense gradients, and those where relu's zeros are
 * skipped. The embeddings begin the first two, as a matrix of one row. */
typedef enum { ALL, DENSE, SPARSE } list;

static int64_t length(const mg_engine *e, list which)
{
    return which == ALL      ? 2 + MG_LAYER_PRODUCTS * e->config.n_layer
           : which == DENSE ? 2 + (MG_FC1 - MG_QKV) * e->config.n_layer
                            : (MG_LAYER_PRODUCTS + 1 - MG_FC1) * e->config.n_layer;
}

static mg_matrix matrix_of(const mg_engine *e, list which, int64_t i)
{
    const int64_t of_layer = which == ALL ? MG_LAYER_PRODUCTS : MG_LAYER_PRODUCTS / 2, before = which == SPARSE ? 0 : 2;
    if (i >= before)
        return mg_matrix_of(e, (i - before) / of_layer, (which == SPARSE ? MG_FC1 : MG_QKV) + (i - before) % of_layer);
    return i ? mg_matrix_of(e, 0, MG_LM_HEAD) : (mg_matrix){.which = -1, .nout = 1, .nin = e->at.lm_head};
}

static int64_t size_of(const mg_matrix *m) { return m->nout * m->nin; }

/* The matrix around a parameter, which is counted in the list, and the first parameter of the matrix, counted so. */
static mg_matrix matrix_around(const mg_engine *e, list which, int64_t parameter, int64_t *first)
{
    mg_matrix m = matrix_of(e, which, 0);
    *first = 0;
    for (int64_t i = 1; parameter >= *first + size_of(&m); i++) {
        *first += size_of(&m);
        m = matrix_of(e, which, i);
    }
    return m;
}

static int64_t params_of(const mg_engine *e, list which)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < length(e, which); i++) {
        const mg_matrix m = matrix_of(e, which, i);
        sum += size_of(&m);
    }
    return sum;
}

/* Where thread i's share of a list begins: shares are of equal size, and cut between rows. */
static int64_t share_start(const mg_engine *e, list which, int64_t i, int64_t threads)
{
    const int64_t params = params_of(e, which), wanted = params * i / threads;
    if (wanted == params) return params;
    int64_t first;
    const mg_matrix m = matrix_around(e, which, wanted, &first);
    const int64_t row = (wanted - first + ROWS * m.nin / 2) / (ROWS * m.nin) * ROWS;
    return first + (row < m.nout ? row : m.nout) * m.nin;
}

/* The slice of about `size` parameters at the beginning, or at the end, of those from first to end - 1 in a list. */
static mg_slice slice_of(const mg_engine *e, list which, int64_t first, int64_t end, int at_end, int64_t size)
{
    int64_t before;
    const mg_matrix m = matrix_around(e, which, at_end ? end - 1 : first, &before);
    const int64_t from = first > before ? (first - before) / m.nin : 0;
    const int64_t to = end < before + size_of(&m) ? (end - before) / m.nin : m.nout;
    int64_t rows = size / m.nin / ROWS * ROWS;
    if (rows < ROWS) rows = ROWS;
    if (rows > to - from) rows = to - from;
    mg_slice s = {.matrix = m, .first = at_end ? to - rows : from, .count = rows * m.nin};
    s.end = s.first + rows;
    s.at = m.at + s.first * m.nin;
    return s;
}

/* Slices as they are made: only counted if `slices` is NULL. */
typedef struct {
    mg_slice *slices;
    int64_t count;
    int64_t most, least; /* parameters of a slice, about */
} slicing;

/* Cut the parameters from first to end - 1 of a list, in descending order if at_end. after: how many the same thread has after them. */
static void cut(const mg_engine *e, slicing *s, list which, int64_t first, int64_t end, int at_end, int64_t after)
{
    while (first < end) {
        int64_t size = (end - first + after) / 2;
        if (size < s->least) size = s->least;
        if (size > s->most) size = s->most;
        const mg_slice next = slice_of(e, which, first, end, at_end, size);
        if (s->slices) s->slices[s->count] = next;
        s->count++;
        if (at_end)
            end -= next.count;
        else
            first += next.count;
    }
}

/* All slices; how many. For processes in the order of parameters. Threads have as much of the dense list and as much of the sparse
 * one: then they have as much to do for gradients as for Adam, and what they had in cache for one they need for the other. Of the
 * dense list every second thread has its share in descending order, so that neighbours help each other at one matrix. */
static int64_t cut_all(mg_engine *e, mg_slice *slices)
{
    const int64_t threads = mg_pool_threads(e->pool), sharers = e->processes ? e->processes : threads;
    const int64_t most = e->at.num_params / (SLICES_OF_A_THREAD * sharers);
    slicing s = {slices, 0, most < LEAST_SLICE ? LEAST_SLICE : most > MOST_SLICE ? MOST_SLICE : most, LAST_SLICE};
    if (e->processes) {
        s.least = s.most;
        cut(e, &s, ALL, 0, e->at.num_params, 0, 0);
        return s.count;
    }
    for (int64_t i = 0; i < threads; i++) {
        const int64_t first = share_start(e, DENSE, i, threads), end = share_start(e, DENSE, i + 1, threads);
        if (slices) e->slice_starts[i] = s.count;
        cut(e, &s, SPARSE, share_start(e, SPARSE, i, threads), share_start(e, SPARSE, i + 1, threads), 0, end - first);
        cut(e, &s, DENSE, first, end, i % 2 == 1, 0);
    }
    if (slices) e->slice_starts[threads] = s.count;
    return s.count;
}

mg_status mg_make_slices(mg_engine *e)
{
    if (e->slices) return MG_OK;
    const int64_t count = cut_all(e, NULL);
    mg_slice *s = malloc((size_t)count * sizeof *s);
    int64_t *starts = e->processes ? NULL : malloc(((size_t)mg_pool_threads(e->pool) + 1) * sizeof *starts);
    if (!s || (!e->processes && !starts)) {
        free(s);
        free(starts);
        return MG_NO_MEMORY;
    }
    e->slices = s;
    e->slice_starts = starts;
    e->num_slices = cut_all(e, s);
    return MG_OK;
}
