/* Adam: one pass over the parameters, the script's arithmetic operation by operation (reference.py, Adam.step).
 *
 * g**2 and v_hat**0.5 are what the C library's pow returns, which is not correctly rounded, but nearly so: where the
 * exact square or root is far enough from the middle between two doubles, pow returns the nearer one, and arithmetic
 * finds it. Near the middle there are two candidates. Mostly both give the same v and the same parameter, and then either
 * will do. The few parameters for which they do not are queued and resolved later (adam_unresolved.h). */
#ifndef MG_BODY_ADAM_H
#define MG_BODY_ADAM_H

#include <string.h>

#include "kernels/body/adam_one.h"
#if MG_LANES == 8
#include "kernels/body/adam_update.h"
#else
#include "kernels/body/adam_narrow.h"
#endif

static mg_status adam_update_libm(const mg_adam_coefs *c, int64_t n, double *data, double *grad, double *m, double *v)
{
    return adam_one_by_one(c, 1, n, data, grad, m, v);
}

/* unit_m, unit_v: m_scale, v_scale are 1.0, as they become when beta ** t is below 2**-54.
 * may_have_subnormals: check for decaying parameters. */
typedef mg_status adam_kernel(const mg_adam_coefs *c, int64_t n, double *data, double *grad, double *m, double *v);
#define ADAM_KERNEL1(name, ...) \
    static mg_status name(const mg_adam_coefs *c, int64_t n, double *data, double *grad, double *m, double *v) \
    { \
        return adam_update_all(c, __VA_ARGS__, n, data, grad, m, v); \
    }
#if MG_LANES == 8
#define ADAM_KERNEL(name, unit_m, unit_v, may_have_subnormals) \
    ADAM_KERNEL1(name, unit_m, unit_v, may_have_subnormals, 0) \
    ADAM_KERNEL1(name##_by_instruction, unit_m, unit_v, may_have_subnormals, 1)
#else
#define ADAM_KERNEL(name, unit_m, unit_v, may_have_subnormals)                                                         \
    ADAM_KERNEL1(name, unit_m, unit_v, may_have_subnormals, NULL)                                                     \
    static int name##_in_range(const mg_adam_coefs *c, int64_t n, double *data, double *grad, double *m, double *v)   \
    {                                                                                                                 \
        int has_zero = 1;                                                                                             \
        adam_update_all(c, unit_m, unit_v, may_have_subnormals, &has_zero, n, data, grad, m, v);                      \
        return has_zero;                                                                                              \
    }
#endif
ADAM_KERNEL(adam_update_early, 0, 0, 0)
ADAM_KERNEL(adam_update_unit_m, 1, 0, 0)
ADAM_KERNEL(adam_update_unit, 1, 1, 0)
ADAM_KERNEL(adam_update_unit_m_subnormals, 1, 0, 1)
ADAM_KERNEL(adam_update_unit_subnormals, 1, 1, 1)
#undef ADAM_KERNEL
#undef ADAM_KERNEL1

/* Whether AVX-512's roots are the processor's own or come from its estimate: see dispatch.c. */
static int adam_root_instruction = -1; /* not chosen yet */

static int adam_square_root(int choice)
{
    if (choice >= 0) adam_root_instruction = choice;
    return MG_LANES == 8 ? adam_root_instruction : 1;
}

#define ADAM_CHOOSE(c, chosen)                                                                                       \
    (c->m_scale != 1.0                                                                                                \
         ? chosen(adam_update_early)                                                                                  \
         : c->may_have_subnormals                                                                                     \
               ? (c->v_scale != 1.0 ? chosen(adam_update_unit_m_subnormals) : chosen(adam_update_unit_subnormals))   \
               : (c->v_scale != 1.0 ? chosen(adam_update_unit_m) : chosen(adam_update_unit)))

static adam_kernel *adam_choose(const mg_adam_coefs *c)
{
#if MG_LANES == 8
#define CHOSEN(name) (adam_root_instruction > 0 ? name##_by_instruction : name)
#else
#define CHOSEN(name) name
#endif
    return ADAM_CHOOSE(c, CHOSEN);
#undef CHOSEN
}

/* On an error in a piece: undo the piece and repeat it in the script's way, which stops where the script stops. */
static mg_status adam_update_or_undo(adam_kernel *update, const mg_adam_coefs *c, int64_t n, double *data, double *grad,
                               double *m, double *v)
{
    enum { PIECE = 256 };
    double old[4][PIECE];
    double *const whole[4] = {data, grad, m, v};
    for (int64_t i = 0; i < n; i += PIECE) {
        const int64_t count = n - i < PIECE ? n - i : PIECE;
        for (int a = 0; a < 4; a++) memcpy(old[a], whole[a] + i, (size_t)count * sizeof(double));
        if (update(c, count, data + i, grad + i, m + i, v + i)) {
            for (int a = 0; a < 4; a++) memcpy(whole[a] + i, old[a], (size_t)count * sizeof(double));
            return adam_one_by_one(c, 0, count, data + i, grad + i, m + i, v + i);
        }
    }
    return MG_OK;
}

static mg_status adam_update(const mg_adam_coefs *c, int may_fail, int64_t n, double *data, double *grad, double *m,
                             double *v)
{
    if (!libm_is_trusted) return adam_one_by_one(c, 1, n, data, grad, m, v);
    if (!c->vectorizable) return adam_one_by_one(c, 0, n, data, grad, m, v);
    adam_kernel *const update = adam_choose(c);
    if (may_fail) return adam_update_or_undo(update, c, n, data, grad, m, v);
    return update(c, n, data, grad, m, v);
}

static int adam_update_in_range(const mg_adam_coefs *c, int64_t n, double *data, double *grad, double *m, double *v)
{
#if MG_LANES == 8
    adam_update(c, 0, n, data, grad, m, v); /* which looks at the ranges of many results at once */
    return 1;
#else
    if (!libm_is_trusted) {
        adam_one_by_one(c, 1, n, data, grad, m, v);
        return 1;
    }
#define CHOSEN(name) name##_in_range
    return ADAM_CHOOSE(c, CHOSEN)(c, n, data, grad, m, v);
#undef CHOSEN
#endif
}

#endif
