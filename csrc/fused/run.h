/* What the training loops share: the state of a run, and Adam over all parameters. */
#ifndef MG_FUSED_RUN_H
#define MG_FUSED_RUN_H

#include "fused/adam.h"
#include "fused/backward.h"
#include "fused/rollback.h"

/* What holds from step to step of one call. */
typedef struct {
    double *saved_grad; /* grad as the caller left it; NULL: all +0.0, as after every step */
    int grad_has_minus_zero;
    int negative_v;         /* or a -0.0, or a nan with a sign */
    int64_t positions_seen; /* up to the last whose row of wpe has moments, or will have */
} mg_run;

/* MG_OK or MG_NO_MEMORY. */
mg_status mg_begin_run(const mg_engine *e, const mg_state *s, const double *grad, mg_run *r);

/* After a step: grad is all +0.0. */
void mg_end_step(mg_run *r);

/* The embedding parameters, from the first on, that an update can change: wte and the rows of wpe that a document has
 * reached. For the others, gradient and moments are +0.0, stay so, and leave the parameter as it is (if lr_t is
 * positive: p - 0.0 is p, but -0.0 - -0.0 is not). */
int64_t mg_count_embeddings_seen(const mg_engine *e, const mg_adam_coefs *coefs, int64_t positions_seen);

/* mg_adam_prepare, for this engine. */
mg_status mg_prepare_update(const mg_engine *e, const mg_adam_config *config, int64_t step, mg_adam_coefs *coefs);

/* Weight decay and Adam for the parameters from first to end - 1; Adam, of the embeddings, for those that it can change. Does not
 * check whether it may fail. */
mg_status mg_update_range(const mg_engine *e, const mg_adam_coefs *coefs, int64_t positions_seen, const mg_state *s, double *grad,
                          int64_t first, int64_t end);

/* Adam over all parameters that it can change, after any weight decay. Does not check whether it may fail. */
mg_status mg_adam_unchecked(const mg_engine *e, const mg_adam_coefs *coefs, int64_t positions_seen, const mg_state *s,
                            double *grad);

/* Clipping, weight decay and Adam; on failure the state is unchanged, and grad unspecified. may_fail: see mg_adam_may_fail; a
 * gradient with which Adam cannot fail is still one when it is clipped. */
mg_status mg_adam_or_rollback(const mg_engine *e, const mg_adam_coefs *coefs, int64_t positions_seen, const mg_state *s,
                              double *grad, int may_fail);

#endif
