/* exp and **, a vector at a time: a value, and whether it is known to be the C library's.
 *
 * Each function computes its result as a sum high + low of two doubles, far more exactly than the C library does. high
 * is what the C library returns, unless the sum is so near the middle between two doubles that its error could matter
 * (exact.h). Proofs of the errors: docs/explain/exactness.md.
 *
 * wide: how many times wider than necessary the window is to be. 1.0, but for libm_check. */
#ifndef MG_BODY_EXP_POW_VECTORS_H
#define MG_BODY_EXP_POW_VECTORS_H

#include "kernels/body/exact.h"
#include "kernels/body/exp_table.h"

/* The sum rounded to nearest, for |small| << |big|, and whether the C library certainly returns the same. stretch: 1 + STRETCH(its
 * tie window). */
ALWAYS vec round_sum_by(vec big, vec small, vec stretch, mask *certain)
{
    const vec high = big + small;
    const vec low = (big - high) + small; /* exact */
    *certain = vec_equals(fma_or_mul_add(low, stretch, high), high);
    return high;
}
ALWAYS vec round_sum(vec big, vec small, double tie_window, mask *certain)
{
    return round_sum_by(big, small, vec_set(1.0 + STRETCH(tie_window)), certain);
}

ALWAYS mask mask_magnitude_between(vec x, double low, double high)
{
    return mask_between(vec_abs(x), vec_set(low), vec_set(high));
}

/* ---- ** ---- */

/* x * x, and the square root, as Adam takes them */
ALWAYS vec exact_pow_2(vec x, double wide, mask *certain)
{
    const vec square = x * x;
    const vec stretch = vec_set(-1.0 - STRETCH(wide * SQUARE_TIE_WINDOW));
    const vec other = fma_or_mul_add(square_residual(square, x), stretch, square);
    *certain = vec_equals(square, other) & mask_between(square, vec_set(0x1p-300), vec_set(0x1p+140));
    return square;
}
ALWAYS vec exact_pow_05(vec x, double wide, mask *certain)
{
    const root_constants k = root_prepare(wide * POW_TIE_WINDOW);
    const root_answer a = root_by_residual(&k, x);
    *certain = ~root_is_ambiguous(&a) & mask_between(x, vec_set(0x1p-200), vec_set(0x1p+140));
    return a.root;
}

/* 1 / x */
ALWAYS vec exact_pow_m1(vec x, double wide, mask *certain)
{
    const vec y = 1.0 / x;
    const vec yx = y * x;
    const vec residual = ((1.0 - yx) - product_error(y, x, yx)) * y; /* 1 - yx is exact */
    const vec result = round_sum(y, residual, wide * POW_TIE_WINDOW, certain);
    *certain &= mask_magnitude_between(x, 0x1p-100, 0x1p+100);
    return result;
}

/* The inverse of the sum big + small, rounded. */
ALWAYS vec round_inverse(vec big, vec small, double wide, mask *certain)
{
    const vec y = 1.0 / big;
    const vec yx = y * big;
    const vec residual = (((1.0 - yx) - product_error(y, big, yx)) - y * small) * y;
    return round_sum(y, residual, wide * POW_TIE_WINDOW, certain);
}

/* 1 / (x * x) */
ALWAYS vec exact_pow_m2(vec x, double wide, mask *certain)
{
    const vec square = x * x;
    const vec result = round_inverse(square, -square_residual(square, x), wide, certain);
    *certain &= mask_magnitude_between(x, 0x1p-50, 0x1p+50);
    return result;
}

/* sqrt(x) = root + *rest */
ALWAYS vec exact_root(vec x, vec *residual)
{
    const vec root = vec_sqrt(x);
    *residual = square_residual(x, root) * (0.5 / root);
    return root;
}

/* 1 / sqrt(x) */
ALWAYS vec exact_pow_m05(vec x, double wide, mask *certain)
{
    vec residual;
    const vec root = exact_root(x, &residual);
    const vec result = round_inverse(root, residual, wide, certain);
    *certain &= mask_between(x, vec_set(0x1p-100), vec_set(0x1p+100));
    return result;
}

/* 1 / (x * sqrt(x)) */
ALWAYS vec exact_pow_m15(vec x, double wide, mask *certain)
{
    vec residual;
    const vec root = exact_root(x, &residual);
    const vec product = x * root;
    const vec result = round_inverse(product, product_error(x, root, product) + x * residual, wide, certain);
    *certain &= mask_between(x, vec_set(0x1p-60), vec_set(0x1p+60));
    return result;
}

/* ---- exp ---- */

/* What exact_exp uses for every vector. With AVX-512 nearly all of it stays in registers: as operands in memory they would take
 * more time to load than the arithmetic takes. */
typedef struct {
    vec inverse, shift, ln2_high, ln2_low;
    vec half, c3, c4, c5, c6, c7, c8; /* 1 / 3!, ..., 1 / 8! */
    vec stretch, greatest;
#if MG_LANES == 8
    vec high0, high1, low0, low1; /* exp_table_high, exp_table_low */
#endif
} exp_constants;

ALWAYS exp_constants exp_prepare(double wide)
{
    exp_constants k;
    k.inverse = vec_keep(INVERSE_LN2_16);
    k.shift = vec_keep(0x1.8p+52); /* adding it rounds to an integer, in the last bits of the sum */
    k.ln2_high = vec_keep(LN2_16_HIGH);
    k.ln2_low = vec_keep(LN2_16_LOW);
    k.half = vec_keep(0.5);
    k.c3 = vec_keep(1.0 / 6);
    k.c4 = vec_keep(1.0 / 24);
    k.c5 = vec_keep(1.0 / 120);
    k.c6 = vec_keep(1.0 / 720);
    k.c7 = vec_keep(1.0 / 5040);
    k.c8 = vec_keep(1.0 / 40320);
    k.stretch = vec_keep(1.0 + STRETCH(wide * EXP_TIE_WINDOW));
    k.greatest = vec_keep(700.0);
#if MG_LANES == 8
    k.high0 = vec_load(exp_table_high);
    k.high1 = vec_load(exp_table_high + LANES);
    k.low0 = vec_load(exp_table_low);
    k.low1 = vec_load(exp_table_low + LANES);
    __asm__("" : "+v"(k.high0), "+v"(k.high1), "+v"(k.low0), "+v"(k.low1));
#endif
    return k;
}

/* e**x = 2**(i/16) * e**r, where i is the integer next to x / (ln(2)/16) and |r| <= ln(2)/32. */
typedef struct {
    vec r, r_low; /* r as a sum of two doubles */
    ivec i;       /* in the last bits of each lane */
} exp_reduced;

ALWAYS exp_reduced exp_reduce(const exp_constants *k, vec x)
{
    exp_reduced a;
    const vec shifted = fma_or_mul_add(x, k->inverse, k->shift);
    const vec id = shifted - k->shift;
    a.i = (ivec)shifted;
    /* The product and the difference in the first line are exact. */
    const vec r0 = x - id * k->ln2_high;
    const vec cut = id * k->ln2_low;
    a.r = r0 - cut;
    a.r_low = (r0 - a.r) - cut;
    return a;
}

/* 2**(i/16) without whole powers of two: with AVX-512 from registers, otherwise from this place of exp_table on. */
#if MG_LANES == 8
#define LOOK_UP(k, name, index) \
    ((vec)_mm512_permutex2var_pd((__m512d)(k)->name##0, (__m512i)(index), (__m512d)(k)->name##1))
#else
ALWAYS vec exp_table_at(ivec i) { return (vec)ivec_shift_left(i & ivec_set(15), 1); }
#endif

/* at: exp_table_at(a.i), in memory, because its lanes are addresses; not used with AVX-512. */
ALWAYS vec exp_of_reduced(const exp_constants *k, exp_reduced a, const int64_t *at, mask *certain)
{
    /* e**r - 1 - r, at most 2**-12, by Taylor's series; what is left out is below 2**-68. */
    const vec r = a.r, r2 = r * r;
    const vec p01 = fma_or_mul_add(r, k->c3, k->half);
    const vec p23 = fma_or_mul_add(r, k->c5, k->c4);
    const vec p45 = fma_or_mul_add(r, k->c7, k->c6);
    const vec p46 = fma_or_mul_add(r2, k->c8, p45);
    const vec p = fma_or_mul_add(r2, fma_or_mul_add(r2, p46, p23), p01);
    const vec small = fma_or_mul_add(r2, p, fma_or_mul_add(a.r_low, r, a.r_low));

    /* (t + t_low) * (1 + r + small), where t + t * r is kept exactly. */
#if MG_LANES == 8
    (void)at;
    const vec t = LOOK_UP(k, high, a.i), t_low = LOOK_UP(k, low, a.i);
#else
    vec t, t_low;
    vec_load_pairs(exp_table, at, &t, &t_low);
#endif
    const vec tr = t * r;
    const vec sum = t + tr;
    const vec residual = ((t - sum) + tr)
                         + (product_error(t, r, tr) + fma_or_mul_add(t, small, fma_or_mul_add(t_low, r, t_low)));
    const vec result = round_sum_by(sum, residual, k->stretch, certain);
    /* times 2**(i >> 4), by the exponent */
    return (vec)ivec_add((ivec)result, ivec_shift_left(a.i & ivec_set(~15LL), 48));
}

ALWAYS vec exp_by(const exp_constants *k, vec x, mask *certain)
{
    const exp_reduced a = exp_reduce(k, x);
    int64_t at[LANES] __attribute__((aligned(64)));
#if MG_LANES < 8
    vec_store((double *)at, exp_table_at(a.i));
#endif
    const vec scaled = exp_of_reduced(k, a, at, certain);
    /* Far below the least double the result is 0, as for the -inf of keys that attention masks. */
    const mask vanishes = vec_at_least(vec_set(-800.0), x);
    *certain = (*certain & vec_greater(k->greatest, vec_abs(x))) | vanishes;
    return vec_select(vanishes, vec_set(0.0), scaled);
}

ALWAYS vec exact_exp(vec x, double wide, mask *certain)
{
    const exp_constants k = exp_prepare(wide);
    return exp_by(&k, x, certain);
}

#endif
