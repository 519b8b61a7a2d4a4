/* The table of kernels: one for each instruction set that was compiled, filled in by kernels.inc.h.
 *
 * Activations lie in *panels*: as many positions as a vector has lanes, side by side. A panel of a tensor with R rows
 * is [R][lanes], and row r of position p stands at
 *
 *     tensor[(p / lanes) * stride + r * lanes + p % lanes]        with stride >= R * lanes, in doubles.
 *
 * Positions are independent of each other almost everywhere, so that a kernel can follow the script's order of
 * operations for one position, however serial it is, and still fill a vector: lane by lane it *is* the script.
 * The lanes of the last panel that stand for no position hold numbers that nobody reads. Weights need no copy and no
 * padding: they are read where they are, [nout][nin], one at a time.
 *
 * Sizes are counted in elements, strides in doubles. Panels are aligned to 64 bytes; weights and gradients need only
 * the alignment of a double. */
#ifndef MG_KERNELS_H
#define MG_KERNELS_H

#include "microgpt.h"

struct mg_kernels {
    const char *name; /* "scalar", "avx2", "avx512", "neon" */
    int lanes;        /* doubles in a vector, a power of two from 2 to 8 */

    /* ---- linear_forward.inc.h ---- */

    /* out[o] = sum over i ascending of w[o][i] * x[i], for `panels` panels; w is [nout][nin].
     * residual (or NULL), [nout], laid out as out: added last. */
    void (*linear_forward)(int64_t panels, int64_t nout, int64_t nin, const double *w, const double *x,
                           int64_t x_stride, const double *residual, double *out, int64_t out_stride);
    /* The same for one panel, over those i alone that are listed, ascending; w is [nout][w_stride]. */
    void (*linear_forward_active)(int64_t nout, int64_t nactive, const int32_t *active, const double *w, int64_t w_stride,
                                const double *x, const double *residual, double *out);

    /* max(0, h) in place, one panel of n <= lanes positions. live: [nrows], gets the rows that are not 0 throughout,
     * ascending; their number is returned. finite: whether h held no inf and no nan, lanes without a position aside. */
    int64_t (*relu_forward)(int64_t n, int64_t nrows, double *h, int32_t *active, int *finite);

    /* A number that is no smaller than the largest magnitude in x (but for rounding), and not finite, or nan, if one of
     * them is not. It decides only; its order of summation is nobody's business. */
    double (*sum_of_magnitudes)(int64_t n, const double *x);

    /* All the bit patterns of x, or-ed: 0 if and only if x is all +0.0; bit 63 if any sign is set. */
    uint64_t (*or_of_bits)(int64_t n, const double *x);

    /* ---- linear_backward.inc.h ---- */

    /* dx[i] = sum over o of w[o][i] * dy[o], o in the order given (NULL: nout-1 down to 0), for i < ncols.
     * w is [nout][w_stride]. */
    void (*linear_backward_input)(int64_t panels, int64_t nout, int64_t ncols, const double *w, int64_t w_stride,
                                  const int32_t *order, const double *dy, int64_t dy_stride, double *dx,
                                  int64_t dx_stride);
    /* The same for one panel and those i alone that are listed; the other dx are left alone. */
    void (*linear_backward_input_active)(int64_t nout, int64_t nactive, const int32_t *active, const double *w,
                                       int64_t w_stride, const double *dy, double *dx);

    /* dr = 0.0 + float(r > 0) * dr in place, one panel, nrows rows or those listed (live may be NULL). */
    void (*relu_backward)(int64_t nrows, const int32_t *active, const double *r, double *dr);

    /* The same for the first position alone (lane 0 of the first panel), overwriting what is there. */
    void (*linear_backward_input_first)(int64_t nout, int64_t nin, const double *w, const int32_t *order,
                                        const double *dy, double *dx);

    /* dx[i] += w[targets[p]][i] * dtarget[p] for the positions p of one panel. targets: [lanes], all of them valid. */
    void (*linear_backward_target)(int64_t nin, const double *w, const int32_t *targets, const double *dtarget,
                                   double *dx);

    /* dw[o][i] += x[p][i] * dy[p][o], p from n-1 down to 0. x: rows, [n][x_stride], x_stride a multiple of lanes;
     * dy: panels. */
    void (*linear_backward_weight)(int64_t n, int64_t nout, int64_t nin, const double *x, int64_t x_stride,
                                   const double *dy, int64_t dy_stride, double *dw);

    /* The same for one panel of n positions and those rows o alone that are listed. */
    void (*linear_backward_weight_active)(int64_t n, int64_t nactive, const int32_t *active, int64_t nin, const double *x,
                                        int64_t x_stride, const double *dy, double *dw);
    /* The same as linear_backward_weight, passing over what is 0 in x, a vector's width of it at a time.
     * live: [nin / lanes, rounded up][n + 1], to be used as one likes. */
    void (*linear_backward_weight_sparse)(int64_t n, int64_t nout, int64_t nin, const double *x, int64_t x_stride,
                                          const double *dy, int64_t dy_stride, double *dw, int32_t *active);

    /* ---- rows.inc.h ---- */

    /* x[p][i] = wte[tokens[p]][i] + wpe[p][i] for one panel of n <= lanes positions; the other lanes become 0. */
    void (*embed_forward)(int64_t n, int64_t n_embd, const int32_t *tokens, const double *wte, const double *wpe,
                          double *x);
    /* dwte[tokens[p]][i] += dx[p][i], dwpe[p][i] += dx[p][i], p descending, one panel of n <= lanes positions. */
    void (*embed_backward)(int64_t n, int64_t n_embd, const int32_t *tokens, const double *dx, double *dwte,
                           double *dwpe);
    /* Panels [panels][nrows][lanes] to rows [positions][rows_stride]. May write up to a multiple of lanes in each row,
     * and rows of positions that do not exist; may read lanes * lanes doubles beyond the last panel. */
    void (*panels_to_rows)(int64_t panels, int64_t nrows, const double *x, int64_t x_stride, double *rows,
                           int64_t rows_stride);

    /* ---- rmsnorm.inc.h ---- */

    /* base = mean of squares + 1e-5, scale = base ** -0.5, out[i] = x[i] * scale, one panel. base, scale: [lanes].
     * inverse: n_embd ** -1. */
    void (*rmsnorm_forward)(int64_t n_embd, double inverse, const double *x, double *base, double *scale,
                            double *out);
    /* dx += the gradient that reaches x through the norm. power: base ** -1.5; dout: d of the norm's result. */
    void (*rmsnorm_backward)(int64_t n_embd, double inverse, const double *x, const double *scale, const double *power,
                             const double *dout, double *dx);

    /* ---- attention.inc.h ---- */

    /* Some heads of the queries of panel `panel`. q, k, v: the first head's rows in the *first* panel of their tensor,
     * whose panels are `stride` apart; n: positions in the document. nkeys below is the keys that the panel's queries
     * see, the lesser of n and (panel + 1) * lanes.
     * exps: [heads][nkeys][lanes], the exponential of each attention logit, 0 where the key comes after the query.
     * total, inverse: [heads][lanes], the sum of them and its ** -1. out: [heads * head_dim], one panel.
     * scratch: [(panel + 1) * lanes][lanes]. */
    void (*attention_forward)(int64_t panel, int64_t n, int64_t heads, int64_t head_dim, double factor,
                              const double *q, const double *k, const double *v, int64_t stride, double *exps,
                              double *total, double *inverse, double *out, double *scratch);
    /* Its gradient. dout: [heads * head_dim], one panel. power: total ** -2. dq of this panel is set; dk and dv (all
     * panels up to this one) are added to, or set if `panel` is the document's last (panels come in descending order).
     * scratch: [2 * (panel + 1) * lanes][lanes]. */
    void (*attention_backward)(int64_t panel, int64_t n, int64_t heads, int64_t head_dim, double factor,
                               const double *q, const double *k, const double *v, int64_t stride, const double *exps,
                               const double *inverse, const double *power, const double *dout, double *dq, double *dk,
                               double *dv, double *scratch);

    /* ---- loss.inc.h ---- */

    /* One panel of logits [vocab_size] becomes their exponentials, in place. total, inverse: as in attention;
     * prob: that of each position's target. targets: [lanes], all of them valid. */
    void (*loss_forward)(int64_t vocab_size, double *logits, const int32_t *targets, double *total, double *inverse,
                         double *prob);
    /* The exponentials become the gradients of the logits, in place, but 0 at each position's target, whose gradient
     * goes to dtarget [lanes]. power: total ** -2; dloss: what reaches each position's loss. */
    void (*loss_backward)(int64_t vocab_size, double *exps, const int32_t *targets, const double *inverse,
                          const double *power, const double *prob, double dloss, double *dtarget);

    /* ---- math.inc.h: CPython's exp and **, n values, n a multiple of lanes; out may be x ---- */

    void (*exp_array)(int64_t n, const double *x, double *out);
    void (*pow_2_array)(int64_t n, const double *x, double *out);   /* x ** 2 */
    void (*pow_05_array)(int64_t n, const double *x, double *out);  /* x ** 0.5 */
    void (*pow_m05_array)(int64_t n, const double *x, double *out); /* x ** -0.5 */
    void (*pow_m1_array)(int64_t n, const double *x, double *out);  /* x ** -1 */
    void (*pow_m15_array)(int64_t n, const double *x, double *out); /* x ** -1.5 */
    void (*pow_m2_array)(int64_t n, const double *x, double *out);  /* x ** -2 */

    /* Whether these and Adam compute in vectors (1) or call the C library for every number (0): the same bits. choice:
     * 1 or 0 set it; -1 asks, and decides it the first time, by a trial of this process's C library. */
    int (*vector_math)(int choice);

    /* ---- sample.inc.h: one position at a time, the outputs in the lanes ---- */

    /* wt[i][o] = w[o][i], [nin][wt_stride], wt_stride being nout rounded up to lanes; the padding becomes 0. */
    void (*transpose_weights)(int64_t nout, int64_t nin, const double *w, double *wt, int64_t wt_stride);
    /* out[o] = sum of wt[i][o] * x[i], i ascending to nin, or those nin i that live lists; out: [wt_stride]. */
    void (*linear_decode)(int64_t nout, int64_t nin, const int32_t *active, const double *wt, int64_t wt_stride,
                       const double *x, double *out);
    /* softmax of logits * factor in place. logits: [n], rounded up to lanes. */
    void (*softmax_decode)(int64_t n, double factor, double *logits);
    /* All heads of one query that sees n keys. q, out: [n_embd]; keys: panels [n_embd][lanes] of positions;
     * values: rows [n_embd]. scratch: [n_head][n rounded up to lanes], then [n_head rounded up to lanes]. */
    void (*attention_decode)(int64_t n_head, int64_t head_dim, int64_t n, double factor, const double *q,
                          const double *keys, const double *values, double *scratch, double *out);

    /* ---- adam.inc.h ---- */

    /* mg_adam_update, and the same asking the C library for every power. may_fail: the script's error at some parameter
     * is possible, and the arrays must be as the script leaves them then; else, should one happen, they are worthless. */
    int (*adam_update)(const mg_adam_coefs *c, int may_fail, int64_t n, double *data, double *grad, double *m,
                       double *v);
    int (*adam_update_libm)(const mg_adam_coefs *c, int64_t n, double *data, double *grad, double *m, double *v);
};

#endif
