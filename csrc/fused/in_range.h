/* For which matrices the parameters and moments are known to be in the ranges that the vector kernels' proofs need, so that Adam
 * need not look at each of its results (adam_update_in_range). One look serves for several steps, because ranges change slowly:
 *
 * - |p| from 2**-40 to 2**400 keeps above 2**-511 for eight steps, unless it becomes 0, which the kernel reports: p minus a step
 *   is 0, or at least half a unit in the last place of p, 2**-54 |p|.
 * - v from 2**-100 to 2**90 keeps above 2**-199 for 64 steps, because v decays by beta2, which is 1/2 or more. It keeps below
 *   2**91, because the squares of gradients are below 2**80.
 * - m of at most 2**50 stays so, with gradients below 2**40; then a step is below 2**621, and no p overflows. */
#ifndef MG_FUSED_IN_RANGE_H
#define MG_FUSED_IN_RANGE_H

#include "fused/rollback.h"
#include "fused/weights.h"

/* Gradients below this, or their bound. */
#define MG_GRADIENT_IN_RANGE 0x1p+40

/* What is known of a matrix before a step (mg_forget_ranges: nothing). */
typedef enum { MG_RANGE_UNKNOWN, MG_RANGE_KNOWN, MG_LOOK_AT_P, MG_LOOK_AT_ALL } mg_range;

/* What to do in the next step, all gradients of which are below MG_GRADIENT_IN_RANGE; before another step, mg_forget_ranges. */
mg_range mg_range_of(const mg_engine *e, const mg_matrix *matrix, const mg_adam_coefs *coefs);

/* Whether n parameters of that matrix, from `at` on, are in range. */
int mg_are_in_range(const mg_engine *e, mg_range range, const mg_state *s, int64_t at, int64_t n);

/* After that step: whether all of the matrix were in range, and whether one may be 0 now. */
void mg_note_range(const mg_engine *e, const mg_matrix *matrix, mg_range range, int all_in_range, int has_zero);

#endif
