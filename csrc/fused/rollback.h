/* Copies of what a step changes, to go back to if it fails. */
#ifndef MG_FUSED_ROLLBACK_H
#define MG_FUSED_ROLLBACK_H

#include "fused/engine.h"

/* Parameters and Adam's moments, [num_params] each. */
typedef struct {
    double *params, *m, *v;
} mg_state;

/* *copy = a copy of grad for restore_grad; NULL if grad is all +0.0, which needs none. MG_OK or MG_NO_MEMORY. */
mg_status mg_save_grad(const mg_engine *e, const double *grad, double **copy);
void mg_restore_grad(const mg_engine *e, double *grad, const double *copy);

/* Copy a state to copy [3][num_params], and back. */
void mg_copy_state(const mg_engine *e, double *copy, const mg_state *state);
void mg_restore_state(const mg_engine *e, const double *copy, const mg_state *state);

/* Memory for such a copy, for free(); NULL: out of memory. */
double *mg_allocate_copy(const mg_engine *e);

/* Whether grad holds a -0.0. */
int mg_has_minus_zero(const mg_engine *e, const double *grad);

#endif
