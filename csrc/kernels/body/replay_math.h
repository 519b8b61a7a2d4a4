/* Compiled programs' functions of one number: CPython's bits, and a note where Python might raise an error. */
#ifndef MG_BODY_REPLAY_MATH_H
#define MG_BODY_REPLAY_MATH_H

#include "base/libm.h"
#include "compiler/graph.h"
#include "compiler/program.h"
#include "kernels/body/exp_pow.h"
#include "kernels/body/vec.h"

typedef void array_function(int64_t n, const double *x, double *out);

static array_function *power_function(double exponent)
{
    return exponent == 2.0 ? pow_2_array : exponent == 0.5 ? pow_05_array : exponent == -0.5 ? pow_m05_array
           : exponent == -1.0 ? pow_m1_array : exponent == -1.5 ? pow_m15_array : exponent == -2.0 ? pow_m2_array : NULL;
}

/* f of n numbers; out is not x. Lanes beyond n are computed on ones. */
ALWAYS void apply_array(array_function *f, int64_t n, const double *x, double *out)
{
    const int64_t whole = n / LANES * LANES;
    if (whole) f(whole, x, out);
    if (whole == n) return;
    double last[LANES] __attribute__((aligned(64)));
    for (int64_t l = 0; l < LANES; l++) last[l] = l < n - whole ? x[whole + l] : 1.0;
    f(LANES, last, last);
    for (int64_t l = 0; l < n - whole; l++) out[whole + l] = last[l];
}

static void powers(double exponent, int64_t n, const double *x, double *out, int *odd)
{
    array_function *f = power_function(exponent);
    if (exponent == 1.0) /* pow(x, 1) is x */
        for (int64_t l = 0; l < n; l++) out[l] = x[l];
    else if (f && n > 2) {
        const double least = exponent == 2.0 ? -INFINITY : 0.0; /* a square is an error only if it overflows */
        int64_t doubtful = 0;
        apply_array(f, n, x, out);
        for (int64_t l = 0; l < n; l++) doubtful += !(x[l] > least) || !isfinite(out[l]);
        for (int64_t l = 0; doubtful && l < n; l++)
            if (!(x[l] > least) || !isfinite(out[l])) mg_python_pow(x[l], exponent, odd);
    } else
        for (int64_t l = 0; l < n; l++) out[l] = mg_python_pow(x[l], exponent, odd);
}

static void one_operand(const mg_instruction *i, int64_t n, const double *x, double *out, int *odd)
{
    switch (i->kind) {
    case MG_I_EXP:
        if (n > 2)
            apply_array(exp_array, n, x, out);
        else
            for (int64_t l = 0; l < n; l++) out[l] = mg_exp(x[l]);
        for (int64_t l = 0; l < n; l++)
            if (!isfinite(out[l])) *odd = 1;
        return;
    case MG_I_POW: powers(i->constant, n, x, out, odd); return;
    case MG_I_GRAD_POW:
        powers(i->constant - 1.0, n, x, out, odd);
        for (int64_t l = 0; l < n; l++) out[l] = i->constant * out[l];
        return;
    case MG_I_LOG:
        for (int64_t l = 0; l < n; l++) {
            if (!(x[l] > 0.0) || !isfinite(x[l])) *odd = 1;
            out[l] = mg_log(x[l]);
        }
        return;
    case MG_I_GRAD_LOG:
        for (int64_t l = 0; l < n; l++) out[l] = 1.0 / x[l];
        return;
    case MG_I_RELU:
        for (int64_t l = 0; l < n; l++) out[l] = x[l] > 0.0 ? x[l] : 0.0;
        return;
    case MG_I_GRAD_RELU:
        for (int64_t l = 0; l < n; l++) out[l] = x[l] > 0.0 ? 1.0 : 0.0;
        return;
    case MG_I_NEG:
        for (int64_t l = 0; l < n; l++) out[l] = -x[l];
        return;
    default:
        for (int64_t l = 0; l < n; l++) out[l] = mg_call_function((int)i->constant, x[l], odd);
    }
}

static __attribute__((noinline)) void replay_function(const mg_instruction *i, const mg_tile *t, double *frame, double *scratch,
                                                      int64_t scratch_size, int *odd)
{
    const int64_t R = i->R, total = (int64_t)i->nt * R;
    if (i->nt == 1 && i->da == 1) {
        one_operand(i, R, frame + t->a, frame + t->o, odd);
        return;
    }
    /* All operands side by side, then all results back. */
    double *x = scratch, *out = scratch + scratch_size;
    int64_t q = 0;
    for (int32_t j = 0; j < i->nt; j++)
        for (int64_t r = 0; r < R; r++) x[q++] = frame[t[j].a + r * i->da];
    one_operand(i, total, x, out, odd);
    q = 0;
    for (int32_t j = 0; j < i->nt; j++)
        for (int64_t r = 0; r < R; r++) frame[t[j].o + r] = out[q++];
}

#endif
