#include "model/layout.h"

#include "base/checked.h"

mg_layout mg_layout_of(const mg_config *config)
{
    /* 4 * n_embd must not overflow. */
    mg_config limited = *config, *c = &limited;
    if (c->n_embd > INT64_MAX / 4) c->n_embd = INT64_MAX / 4;
    mg_layout at;
    int64_t end = 0;
#define MATRIX(name, rows, columns) \
    at.name = end;                  \
    end = mg_mul_add(rows, columns, end);
    MG_MODEL_MATRICES(MATRIX)
    at.layers = end;
    end = 0;
    MG_LAYER_MATRICES(MATRIX)
#undef MATRIX
    at.layer_size = end;
    at.num_params = mg_mul_add(at.layer_size, c->n_layer, at.layers);
    return at;
}

int64_t mg_count_params(const mg_config *config)
{
    const int64_t count = mg_layout_of(config).num_params;
    return count > INT64_MAX / (int64_t)sizeof(double) ? -1 : count;
}
