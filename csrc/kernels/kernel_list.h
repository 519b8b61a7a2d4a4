/* The kernels, one line each: KERNEL(result, name, parameters). The includer defines KERNEL; there is no include guard.
 *
 * From this list come the table's struct (kernels.h), the table of every instruction set (body/table.h), the addresses
 * that tests call (dispatch.c) and the tests' signatures (tests/support/kernels.py). Each comment is the contract of the
 * kernels below it. Panels and argument structs are explained in kernels.h. */

/* ---- body/linear_forward.h ---- */

/* out[o] = sum over i ascending of w[o][i] * x[i], then + residual[o]. */
/* clang-format off */
KERNEL(void, linear_forward, (const mg_linear_forward_args *a))

/* The same for one panel, over the `nactive` indices i in `active` (ascending) alone. w: [nout][w_stride]. */
KERNEL(void, linear_forward_active, (int64_t nout, int64_t nactive, const int32_t *active, const double *w,
                                     int64_t w_stride, const double *x, const double *residual, double *out))

/* A bound for the largest magnitude in x (up to rounding); inf or nan if x holds an inf or a nan. Only for decisions:
 * the order of summation is not specified. */
KERNEL(double, sum_of_magnitudes, (int64_t n, const double *x))

/* The bit patterns of x, or-ed. 0 if and only if x is all +0.0; bit 63 is set if any sign is. */
KERNEL(uint64_t, or_of_bits, (int64_t n, const double *x))

/* Whether least <= |x[i]| <= greatest for all i; so none is a nan. */
KERNEL(int, are_between, (int64_t n, const double *x, double least, double greatest))

/* Whether products use tiles for units half as wide as a vector (tile.h); the bits are the same. choice: 1 or 0 sets it, where
 * there is a choice; -1 returns it, and -1 is returned if nothing was chosen yet. */
KERNEL(int, half_units, (int choice))

/* ---- body/linear_backward.h ---- */

/* dx[i] = sum over o of w[o][i] * dy[o] for i < ncols, o in the given order, which may be another one for the first position. */
KERNEL(void, linear_backward_input, (const mg_linear_backward_input_args *a))

/* The same for one panel and the `nactive` columns i in `active` alone, o descending; other dx are not written. */
KERNEL(void, linear_backward_input_active, (int64_t nout, int64_t nactive, const int32_t *active, const double *w,
                                            int64_t w_stride, const double *dy, double *dx))

/* dx[i] += w[targets[p]][i] * dtarget[p] for the positions p of one panel. targets: [lanes], all of them valid. */
KERNEL(void, linear_backward_target, (int64_t nin, const double *w, const int32_t *targets, const double *dtarget,
                                      double *dx))

/* dw[o][i] += x[p][i] * dy[p][o], p from n - 1 down to 0. */
KERNEL(void, linear_backward_weight, (const mg_linear_backward_weight_args *a))

/* The same for one panel of a->n positions and the a->nout rows o in `active` alone. */
KERNEL(void, linear_backward_weight_active, (const mg_linear_backward_weight_args *a, const int32_t *active))

/* linear_backward_weight, skipping zeros of x, a vector of columns at a time.
 * index_scratch: [nin / lanes, rounded up][n + 1], overwritten. */
KERNEL(void, linear_backward_weight_sparse, (const mg_linear_backward_weight_args *a, int32_t *index_scratch))

/* ---- body/relu.h ---- */

/* max(0, h) in place, one panel of n <= lanes positions. active: [nrows], receives the rows that are not 0 in all
 * positions, ascending; returns their number. *magnitude: sum_of_magnitudes of h as it was, in the lanes of positions. */
KERNEL(int64_t, relu_forward, (int64_t n, int64_t nrows, double *h, int32_t *active, double *magnitude))

/* dr = 0.0 + float(r > 0) * dr in place, one panel, nrows rows: those in `active`, or the first if active is NULL. */
KERNEL(void, relu_backward, (int64_t nrows, const int32_t *active, const double *r, double *dr))

/* ---- body/rows.h ---- */

/* x[p][i] = wte[tokens[p]][i] + wpe[p][i] for one panel of n <= lanes positions; the other lanes become 0. */
KERNEL(void, embed_forward, (int64_t n, int64_t n_embd, const int32_t *tokens, const double *wte, const double *wpe,
                             double *x))

/* dwte[tokens[p]][i] += dx[p][i], dwpe[p][i] += dx[p][i], p descending, one panel of n <= lanes positions. */
KERNEL(void, embed_backward, (int64_t n, int64_t n_embd, const int32_t *tokens, const double *dx, double *dwte,
                              double *dwpe))

/* Panels [panels][nrows][lanes] to rows [positions][rows_stride]. May write up to a multiple of lanes in each row, and
 * rows of positions that do not exist; may read lanes * lanes doubles beyond the last panel. */
KERNEL(void, panels_to_rows, (int64_t panels, int64_t nrows, const double *x, int64_t x_stride, double *rows,
                              int64_t rows_stride))

/* ---- body/rmsnorm.h ---- */

/* base = mean of squares + 1e-5, scale = base ** -0.5, out[i] = x[i] * scale, panels that follow one another; base_m15: base ** -1.5,
 * for the backward pass. base, scale, base_m15: [panels][lanes]. inv_n_embd: n_embd ** -1. */
KERNEL(void, rmsnorm_forward, (int64_t panels, int64_t n_embd, double inv_n_embd, const double *x, double *base, double *scale,
                               double *base_m15, double *out))

/* dx += the gradient that reaches x through the norm, of the same panels. dout: gradient of the norm's result. */
KERNEL(void, rmsnorm_backward, (int64_t panels, int64_t n_embd, double inv_n_embd, const double *x, const double *scale,
                                const double *base_m15, const double *dout, double *dx))

/* ---- body/attention.h ---- */

/* Some heads of one panel of queries. Writes a->exps, the sums and their powers, and out, one panel [heads * head_dim]. */
KERNEL(void, attention_forward, (const mg_attention_args *a, double *out))

/* Its gradient, from what attention_forward wrote. */
KERNEL(void, attention_backward, (const mg_attention_args *a, const mg_attention_grads *g))

/* ---- body/attention_heads.h ---- */

/* The same for as many heads as there are lanes and a whole document. out: panels [lanes * head_dim]. Positions that do not exist
 * become 0 in out, and in all gradients. */
KERNEL(void, attention_heads_forward, (const mg_attention_heads_args *a, double *out))
KERNEL(void, attention_heads_backward, (const mg_attention_heads_args *a, const mg_attention_heads_grads *g))

/* ---- body/loss.h ---- */

/* Panels of logits [vocab_size] that follow one another become their exponentials, in place. sum, inv_sum, inv_sum_sq:
 * [panels][lanes], the sum of these, its ** -1 and ** -2. prob: [panels][lanes], the probability of each position's target. targets:
 * [panels][lanes], all of them valid. */
KERNEL(void, loss_forward, (int64_t panels, int64_t vocab_size, double *logits, const int32_t *targets, double *sum, double *inv_sum,
                            double *inv_sum_sq, double *prob))

/* The exponentials become the gradients of the logits, in place, but 0 at each position's target, whose gradient goes to
 * dtarget [lanes]. dloss: the gradient of each position's loss. */
KERNEL(void, loss_backward, (int64_t vocab_size, double *exps, const int32_t *targets, const double *inv_sum,
                             const double *inv_sum_sq, const double *prob, double dloss, double *dtarget))

/* ---- body/exp_pow.h: CPython's math.exp and **, n values, n a multiple of lanes; out may be x ---- */

KERNEL(void, exp_array, (int64_t n, const double *x, double *out))
KERNEL(void, pow_2_array, (int64_t n, const double *x, double *out))   /* x ** 2 */
KERNEL(void, pow_05_array, (int64_t n, const double *x, double *out))  /* x ** 0.5 */
KERNEL(void, pow_m05_array, (int64_t n, const double *x, double *out)) /* x ** -0.5 */
KERNEL(void, pow_m1_array, (int64_t n, const double *x, double *out))  /* x ** -1 */
KERNEL(void, pow_m15_array, (int64_t n, const double *x, double *out)) /* x ** -1.5 */
KERNEL(void, pow_m2_array, (int64_t n, const double *x, double *out))  /* x ** -2 */

/* Whether these and Adam compute in vectors (1) or call the C library for every number (0); the bits are the same.
 * choice: 1 or 0 sets it; -1 returns it, and the first time decides it by a trial of this process's C library. */
KERNEL(int, vector_math, (int choice))

/* ---- body/decode.h: one position at a time, the outputs in the lanes ---- */

/* wt[i][o] = w[o][i], [nin][wt_stride], wt_stride being nout rounded up to lanes; the padding becomes 0. */
KERNEL(void, transpose_weights, (int64_t nout, int64_t nin, const double *w, double *wt, int64_t wt_stride))

/* out[o] = sum of wt[i][o] * x[i], i ascending to nin, or over the nin indices in `active`. out: [wt_stride]. */
KERNEL(void, linear_decode, (int64_t nout, int64_t nin, const int32_t *active, const double *wt, int64_t wt_stride,
                             const double *x, double *out))

/* x[i] = max(x[i], 0), [n], rounded up to lanes, of which those from n on are not greater than 0. Returns how many are
 * greater than 0; active: [n rounded up to lanes], their indices come first. */
KERNEL(int64_t, relu_decode, (int64_t n, double *x, int32_t *active))

/* softmax(logits * factor) in place. logits: [n], rounded up to lanes. */
KERNEL(void, softmax_decode, (int64_t n, double factor, double *logits))

/* All heads of one query that sees n keys. q, out: [n_embd]; keys: panels [n_embd][lanes] of positions;
 * values: rows [n_embd]. scratch: [n_head][n rounded up to lanes], then [n_head rounded up to lanes]. */
KERNEL(void, attention_decode, (int64_t n_head, int64_t head_dim, int64_t n, double scale, const double *q,
                                const double *keys, const double *values, double *scratch, double *out))

/* ---- body/adam.h ---- */

/* mg_adam_update. may_fail: an error of the script's is possible at some parameter, and then the arrays must be as the
 * script leaves them. If 0 and an error happens all the same, the contents of the arrays are unspecified. */
KERNEL(mg_status, adam_update, (const mg_adam_coefs *c, int may_fail, int64_t n, double *data, double *grad, double *m,
                                double *v))

/* The same where everything is known to be in range, so that results need not be looked at: the coefficients are vectorizable,
 * 2**-511 <= |data| <= 2**500, |m| <= 2**400, |grad| <= 2**49, and v, before and after, from 2**-199 to 2**98. It cannot fail.
 * Returns 0 if no parameter is 0 now, which is the only way in which one can be out of range after the next few steps (see
 * fused/in_range.h); 1 if one may be. */
KERNEL(int, adam_update_in_range, (const mg_adam_coefs *c, int64_t n, double *data, double *grad, double *m, double *v))

/* adam_update by the script's arithmetic, every power from the C library. */
KERNEL(mg_status, adam_update_libm, (const mg_adam_coefs *c, int64_t n, double *data, double *grad, double *m,
                                     double *v))

/* Whether its vectors take square roots by the processor's instruction (1) or from its estimate (0); the bits are the same.
 * choice: 1 or 0 sets it, where there is a choice; -1 returns it, and -1 is returned if nothing was chosen yet. */
KERNEL(int, adam_square_root, (int choice))

/* ---- body/replay.h ---- */

/* Run a compiled program's forward or backward instructions over a frame. leaf_grads + program->leaf_grad: the leaves'
 * gradients (in the frame itself, or elsewhere). ints: its int inputs, checked by the caller. Returns whether Python
 * might have raised an error on the way: then the contents of the frame are unspecified. */
KERNEL(int, replay, (const struct mg_program *program, int backward, double *frame, double *leaf_grads,
                     const int32_t *ints))
