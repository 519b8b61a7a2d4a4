/* The norm of a model's gradient, and its limit (reference.py, clip_gradients). */
#include "base/libm.h"
#include "microgpt.h"
#include "model/layout.h"

/* Rows whose sums are computed side by side: each is a chain of additions, whose latency they share. */
enum { SIDE_BY_SIDE = 8 };

/* *total += the sum of squares of each row in turn, each from left to right. Returns what follows the rows. */
static const double *add_rows(double *total, int64_t rows, int64_t columns, const double *g)
{
    for (; rows >= SIDE_BY_SIDE; rows -= SIDE_BY_SIDE, g += SIDE_BY_SIDE * columns) {
        double sums[SIDE_BY_SIDE] = {0.0};
        for (int64_t i = 0; i < columns; i++)
            for (int r = 0; r < SIDE_BY_SIDE; r++) sums[r] += g[r * columns + i] * g[r * columns + i];
        for (int r = 0; r < SIDE_BY_SIDE; r++) *total += sums[r];
    }
    for (; rows; rows--, g += columns) {
        double sum = 0.0;
        for (int64_t i = 0; i < columns; i++) sum += g[i] * g[i];
        *total += sum;
    }
    return g;
}

void mg_clip_gradient(const mg_config *c, double clip, double *grad)
{
    if (clip == 0.0) return;
    const double *end = grad;
    double total = 0.0;
#define MATRIX(name, rows, columns) end = add_rows(&total, rows, columns, end);
    MG_MODEL_MATRICES(MATRIX)
    for (int64_t l = 0; l < c->n_layer; l++) {
        MG_LAYER_MATRICES(MATRIX)
    }
#undef MATRIX
    const double norm = sqrt(total);
    if (!(norm > clip)) return;
    const double scale = clip / norm;
    for (double *g = grad; g < end; g++) *g *= scale;
}
