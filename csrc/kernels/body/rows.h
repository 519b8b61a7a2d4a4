/* Between panels (positions in the lanes) and rows (one position after another). */
#ifndef MG_BODY_ROWS_H
#define MG_BODY_ROWS_H

#include "kernels/body/vec.h"

static void embed_forward(int64_t n, int64_t n_embd, const int32_t *tokens, const double *wte, const double *wpe,
                          double *x)
{
    int64_t i = 0;
    for (; i + LANES <= n_embd; i += LANES) {
        vec row[LANES];
        for (int64_t p = 0; p < n; p++)
            row[p] = vec_load_unaligned(wte + tokens[p] * n_embd + i) + vec_load_unaligned(wpe + p * n_embd + i);
        for (int64_t p = n; p < LANES; p++) row[p] = (vec){0};
        vec_transpose(row);
        UNROLL for (int l = 0; l < LANES; l++) vec_store(x + (i + l) * LANES, row[l]);
    }
    for (; i < n_embd; i++)
        for (int64_t p = 0; p < LANES; p++)
            x[i * LANES + p] = p < n ? wte[tokens[p] * n_embd + i] + wpe[p * n_embd + i] : 0.0;
}

static void embed_backward(int64_t n, int64_t n_embd, const int32_t *tokens, const double *dx, double *dwte,
                           double *dwpe)
{
    int64_t i = 0;
    for (; i + LANES <= n_embd; i += LANES) {
        vec row[LANES];
        vec_load_transposed(dx + i * LANES, row);
        for (int64_t p = n - 1; p >= 0; p--) {
            double *te = dwte + tokens[p] * n_embd + i, *pe = dwpe + p * n_embd + i;
            vec_store_unaligned(te, vec_load_unaligned(te) + row[p]);
            vec_store_unaligned(pe, vec_load_unaligned(pe) + row[p]);
        }
    }
    for (; i < n_embd; i++) {
        for (int64_t p = n - 1; p >= 0; p--) {
            dwte[tokens[p] * n_embd + i] += dx[i * LANES + p];
            dwpe[p * n_embd + i] += dx[i * LANES + p];
        }
    }
}

static void panels_to_rows(int64_t panels, int64_t nrows, const double *x, int64_t x_stride, double *rows,
                           int64_t rows_stride)
{
    for (int64_t b = 0; b < panels; b++) {
        for (int64_t i = 0; i < nrows; i += LANES) {
            vec row[LANES];
            vec_load_transposed(x + i * LANES, row);
            UNROLL for (int p = 0; p < LANES; p++) vec_store(rows + p * rows_stride + i, row[p]);
        }
        x += x_stride;
        rows += LANES * rows_stride;
    }
}

#endif
