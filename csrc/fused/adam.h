#ifndef MG_FUSED_ADAM_H
#define MG_FUSED_ADAM_H

#include "microgpt.h"

/* Whether Adam may stop at some parameter (kernels/body/adam_one.h, adam_one_from_m): an overflow of grad**2, a
 * division by a sum of 0, a negative v. With usual settings and gradients it cannot. negative_v: whether v may hold a
 * negative number. */
int mg_adam_may_fail(const mg_kernels *kernels, const mg_adam_coefs *coefs, int64_t n, const double *grad,
                     int negative_v);

#endif
