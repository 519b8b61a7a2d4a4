#include "fused/rollback.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t bytes(const mg_engine *e) { return (size_t)e->at.num_params * sizeof(double); }

mg_status mg_save_grad(const mg_engine *e, const double *grad, double **copy)
{
    *copy = NULL;
    if (!e->kernels->or_of_bits(e->at.num_params, grad)) return MG_OK;
    *copy = malloc(bytes(e));
    if (!*copy) return MG_NO_MEMORY;
    memcpy(*copy, grad, bytes(e));
    return MG_OK;
}

void mg_restore_grad(const mg_engine *e, double *grad, const double *copy)
{
    if (copy)
        memcpy(grad, copy, bytes(e));
    else
        memset(grad, 0, bytes(e));
}

double *mg_allocate_copy(const mg_engine *e) { return bytes(e) <= SIZE_MAX / 3 ? malloc(3 * bytes(e)) : NULL; }

void mg_copy_state(const mg_engine *e, double *copy, const mg_state *state)
{
    const int64_t n = e->at.num_params;
    memcpy(copy, state->params, bytes(e));
    memcpy(copy + n, state->m, bytes(e));
    memcpy(copy + 2 * n, state->v, bytes(e));
}

void mg_restore_state(const mg_engine *e, const double *copy, const mg_state *state)
{
    const int64_t n = e->at.num_params;
    memcpy(state->params, copy, bytes(e));
    memcpy(state->m, copy + n, bytes(e));
    memcpy(state->v, copy + 2 * n, bytes(e));
}

int mg_has_minus_zero(const mg_engine *e, const double *grad)
{
    for (int64_t i = 0; i < e->at.num_params; i++)
        if (grad[i] == 0.0 && signbit(grad[i])) return 1;
    return 0;
}
