/* The layout of activations, the argument structs of kernels, and the kernel table: one table for each instruction set.
 * What each kernel computes is in kernel_list.h.
 *
 * Activations are stored in *panels*: as many positions as a vector has lanes, side by side. A panel of a tensor with R
 * rows is [R][lanes], and row r of position p is
 *
 *     tensor[(p / lanes) * stride + r * lanes + p % lanes]        with stride >= R * lanes, in doubles.
 *
 * Positions are independent of each other almost everywhere. So a kernel follows the script's order of operations for
 * one position, however serial that order is, and still fills a vector: each lane does what the script does.
 * Lanes of the last panel that belong to no position hold numbers that nothing reads. Weights are read in place,
 * [nout][nin], without copy or padding.
 *
 * Sizes are in elements, strides in doubles. Panels are aligned to 64 bytes; weights and gradients to 8 bytes. */
#ifndef MG_KERNELS_KERNELS_H
#define MG_KERNELS_KERNELS_H

#include "base/status.h"
#include "microgpt.h"

/* out = w x + residual. */
typedef struct {
    int64_t n, nout, nin; /* n positions */
    const double *w;      /* [nout][nin] */
    const double *x; /* panels [nin] */
    int64_t x_stride;
    const double *residual; /* panels [nout], added last; NULL: none */
    double *out;            /* panels [nout] */
    int64_t out_stride;     /* of out and residual */
} mg_linear_forward_args;

/* dx = transposed w dy. */
typedef struct {
    int64_t n, nout, ncols;
    const double *w; /* [nout][w_stride], of which the first ncols columns */
    int64_t w_stride;
    const int32_t *order; /* [nout], the rows in the order of summation; NULL: nout - 1 down to 0 */
    const int32_t *order_first; /* another order for the first position, if there is an order at all; NULL: the same */
    const double *dy;     /* panels [nout] */
    int64_t dy_stride;
    double *dx; /* panels [ncols] */
    int64_t dx_stride;
} mg_linear_backward_input_args;

/* dw += dy x, summed over positions. */
typedef struct {
    int64_t n, nout, nin;
    const double *x;  /* rows [n][x_stride] */
    int64_t x_stride; /* a multiple of lanes */
    const double *dy; /* panels [nout] */
    int64_t dy_stride;
    double *dw; /* [nout][nin] */
} mg_linear_backward_weight_args;

/* Some heads of the queries of one panel. nkeys below is the number of keys that these queries see, the lesser of n and
 * (panel + 1) * lanes. */
typedef struct {
    int64_t panel; /* index of the queries' panel */
    int64_t n;     /* positions in the document */
    int64_t heads, head_dim;
    double scale;            /* head_dim ** 0.5 ** -1 */
    const double *q, *k, *v; /* [heads * head_dim], the first head's rows in the *first* panel of the tensor */
    int64_t stride;          /* of the panels of q, k, v, dk and dv */
    double *exps;            /* [heads][nkeys][lanes], exp of each attention logit; 0 for a key after the query */
    /* [heads][lanes], the sum of exps over keys, its ** -1 and, for the backward pass, its ** -2 */
    double *sum, *inv_sum, *inv_sum_sq;
    double *scratch;         /* [2 * (panel + 1) * lanes][lanes] */
} mg_attention_args;

/* Panels come in descending order: at the document's last panel dk and dv are set, at the others added to. */
typedef struct {
    const double *dout; /* [heads * head_dim], one panel */
    double *dq;         /* [heads * head_dim], one panel, set */
    double *dk, *dv;    /* [heads * head_dim] in the first panel; all panels up to this one */
} mg_attention_grads;

/* As many heads as there are lanes, all queries of a document of at most MG_SHORT_DOCUMENT positions. All panels are those of the
 * document, from the first one's rows of these heads on. */
typedef struct {
    int64_t n, head_dim;
    double scale;
    double *q, *k, *v; /* [lanes * head_dim]; in the forward pass heads and positions change places, and remain so */
    int64_t stride;    /* of the panels of q, k, v and their gradients */
    int64_t out_stride;
    double *exps;      /* [n * (n + 1) / 2][lanes]: of each query the keys that it sees */
    double *sum, *inv_sum, *inv_sum_sq; /* [n][lanes] */
} mg_attention_heads_args;

typedef struct {
    double *dout;          /* panels [lanes * head_dim], overwritten */
    double *dq, *dk, *dv;  /* panels [lanes * head_dim], set */
} mg_attention_heads_grads;

#define MG_SHORT_DOCUMENT 16

/* Two numbers below this have a finite product. Compared with sum_of_magnitudes.
 *
 * About half of relu's results are 0, in a trained model nearly all. 0 times a finite number adds nothing to a sum that
 * is not -0.0, and sums begin at +0.0. So rows of zeros are skipped if everything they would be multiplied by is known
 * to be finite, and if no sum that would be multiplied by 0 can overflow. */
#define MG_SAFE_MAGNITUDE 1e150

struct mg_program; /* compiler/program.h */

struct mg_kernels {
    const char *name; /* "scalar", "avx2", "avx512", "neon" */
    int lanes;        /* doubles in a vector, a power of two from 2 to 8 */
#define KERNEL(result, name, parameters) result(*name) parameters;
#include "kernels/kernel_list.h"
#undef KERNEL
};

#endif
