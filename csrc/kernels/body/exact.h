/* Vector arithmetic with known rounding errors: fused multiply-adds that *decide*, masks, exact residuals.
 *
 * The package never keeps the result of a fused multiply-add where the script rounds twice. It does use the instruction
 * to learn how far a rounded result is from the exact one, and so whether the C library's pow, which is not correctly
 * rounded, can possibly differ from it. docs/explain/exactness.md has the argument and the bounds. */
#ifndef MG_BODY_EXACT_H
#define MG_BODY_EXACT_H

#include <math.h>
#include <string.h>

#include "base/libm.h"
#include "kernels/body/vec.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* Whether this file is being compiled for processors that all have a fused multiply-add. */
#if defined(__FMA__) || defined(__aarch64__)
#define MG_FMA 1
#else
#define MG_FMA 0
#endif

/* ---- masks: one truth value a lane, as vec.h's comparisons return them ---- */

typedef lane_mask mask;
enum { ALL_LANES = (1 << LANES) - 1 };

#if MG_LANES == 8
#define MASK_ALL ((mask)0xff)
#define MASK_NONE ((mask)0)
ALWAYS mask mask_unequal(mask where, vec a, vec b)
{
    return _mm512_mask_cmp_pd_mask(where, (__m512d)a, (__m512d)b, _CMP_NEQ_UQ);
}
ALWAYS mask mask_between(vec x, vec low, vec high) /* low <= x < high, false for a nan */
{
    return _mm512_mask_cmp_pd_mask(vec_at_least(x, low), (__m512d)x, (__m512d)high, _CMP_LT_OQ);
}
ALWAYS mask mask_any_bit(ivec a, ivec b) { return _mm512_test_epi64_mask((__m512i)a, (__m512i)b); }
ALWAYS unsigned mask_bits(mask m) { return m; }
ALWAYS void mask_store_bits(uint8_t *p, mask m) { _store_mask8((__mmask8 *)p, m); }
#else
#define MASK_ALL (~(mask){0})
#define MASK_NONE ((mask){0})
ALWAYS mask mask_unequal(mask where, vec a, vec b) { return where & vec_differs(a, b); }
ALWAYS mask mask_between(vec x, vec low, vec high) { return vec_at_least(x, low) & vec_greater(high, x); }
ALWAYS mask mask_any_bit(ivec a, ivec b)
{
#if MG_LANES == 2 && defined(__SSE2__)
    const __m128i none = _mm_cmpeq_epi32(_mm_and_si128((__m128i)a, (__m128i)b), _mm_setzero_si128()); /* by halves */
    return ~(mask)_mm_and_si128(none, _mm_shuffle_epi32(none, 0xb1));
#else
    return (a & b) != 0;
#endif
}
/* a | b. GCC would make a blend of it if one is the result of a comparison, which takes the ports of the products. */
ALWAYS mask mask_or(mask a, mask b)
{
#if defined(__x86_64__)
    __asm__("" : "+x"(a));
#endif
    return a | b;
}
ALWAYS unsigned mask_bits(mask m)
{
#if MG_LANES == 4
    return (unsigned)_mm256_movemask_pd((__m256d)m);
#elif defined(__SSE2__)
    return (unsigned)_mm_movemask_pd((__m128d)m);
#else
    return (unsigned)(m[0] & 1) | (unsigned)(m[1] & 2);
#endif
}
ALWAYS void mask_store_bits(uint8_t *p, mask m) { *p = (uint8_t)mask_bits(m); }
#endif

ALWAYS ivec ivec_set(int64_t x) { return (ivec){0} + x; }

/* x in every lane, kept in a register: otherwise compilers broadcast a constant again in each iteration, on the execution
 * ports of the arithmetic. */
ALWAYS vec vec_keep(double x)
{
    vec v = vec_set(x);
#if defined(__x86_64__)
    __asm__("" : "+v"(v));
#elif defined(__aarch64__)
    __asm__("" : "+w"(v));
#endif
    return v;
}

/* ---- the operations ---- */

#if MG_FMA
#ifdef MG_FMA_CALLS
/* Only to check the assembly: every intended fused multiply-add is a call, so an instruction that remains was made by the
 * compiler from a product and a sum (tools/targets.py, tests/package/test_build.py). */
vec mg_vec_fma(vec a, vec b, vec c);
double mg_fma(double a, double b, double c);
#endif

ALWAYS vec vec_fma(vec a, vec b, vec c) /* a * b + c, rounded once */
{
#if defined(MG_FMA_CALLS)
    return mg_vec_fma(a, b, c);
#elif defined(__aarch64__)
    return (vec)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#elif MG_LANES == 8
    return (vec)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif MG_LANES == 4
    return (vec)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
    return (vec)_mm_fmadd_pd((__m128d)a, (__m128d)b, (__m128d)c);
#endif
}

ALWAYS double fma_of(double a, double b, double c) /* the same for one number */
{
#if defined(MG_FMA_CALLS)
    return mg_fma(a, b, c);
#else
    return __builtin_fma(a, b, c);
#endif
}
#endif

/* The magnitude of a positive number with the sign of another. */
ALWAYS vec vec_copysign(vec magnitude, vec sign)
{
    const ivec top = ivec_set(INT64_MIN);
#if MG_LANES == 8
    return (vec)_mm512_ternarylogic_epi64((__m512i)magnitude, (__m512i)sign, (__m512i)top, 0xf8); /* a | b & c */
#else
    return (vec)((ivec)magnitude | ((ivec)sign & top));
#endif
}

ALWAYS vec vec_sqrt(vec x)
{
#if defined(__aarch64__)
    return (vec)vsqrtq_f64((float64x2_t)x);
#elif MG_LANES == 8
    return (vec)_mm512_sqrt_pd((__m512d)x);
#elif MG_LANES == 4
    return (vec)_mm256_sqrt_pd((__m256d)x);
#elif defined(__SSE2__)
    return (vec)_mm_sqrt_pd((__m128d)x);
#else
    return (vec){sqrt(x[0]), sqrt(x[1])};
#endif
}

/* The first 26 bits of a number, and so the square is exact. What is missing has 27. */
ALWAYS vec high_half(vec x) { return (vec)((ivec)x & ivec_set(~((1LL << 27) - 1))); }

/* a * b - product, where product is a * b rounded (and nothing over- or underflows): exactly, or without fused
 * multiply-adds but for the rounding of a2 * b2, 2**-52 units in the last place of the product. */
ALWAYS vec product_error(vec a, vec b, vec product)
{
#if MG_FMA
    return vec_fma(a, b, -product);
#else
    const vec a1 = high_half(a), b1 = high_half(b), a2 = a - a1, b2 = b - b1;
    return ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2;
#endif
}

/* y - x * x, where y is next to x * x (and nothing over- or underflows): exactly, or without fused multiply-adds but for
 * the rounding of (x - x1) * (x + x1), which is that much smaller than x * x: 2**-23 units in the last place of y. */
ALWAYS vec square_residual(vec y, vec x)
{
#if MG_FMA
    return vec_fma(-x, x, y);
#else
    const vec x1 = high_half(x);
    return (y - x1 * x1) - (x - x1) * (x + x1);
#endif
}

/* a * b + c where a * b is small beside c, so that it does not matter here whether the product was rounded first. */
ALWAYS vec fma_or_mul_add(vec a, vec b, vec c)
{
#if MG_FMA
    return vec_fma(a, b, c);
#else
    return a * b + c;
#endif
}

/* x / c, correctly rounded, for a constant c whose rounded reciprocal is r. Markstein: the quotient x * r is corrected
 * by its exact residual. Needs 2**-60 <= c <= 1 and 2**-900 <= |x| <= 2**900. */
ALWAYS vec divide_by_constant(vec x, vec c, vec r)
{
#if MG_FMA
    const vec q = x * r;
    return vec_fma(vec_fma(-q, c, x), r, q);
#else
    (void)r;
    return x / c;
#endif
}

/* ---- error bounds of libm, in ulp ----
 *
 * The C library's pow and exp compute a number close to the exact result and round it to nearest. A window says how
 * close we take it to be, and our own number as well, in units in the last place of the result. glibc (2.28 and later;
 * musl, FreeBSD and newlib have the same functions) documents 0.011 for exp without fused multiply-adds, and for
 * pow(x, y) that plus |y * log(x)| * 1.5 * 2**-68 * 2**53. docs/explain/exactness.md adds it up.
 *
 * An exact result high + low, with high rounded to nearest, is rounded to high even if it is off by the window, unless
 * high + low * (1 + stretch) is another double than high. */
#define EXP_TIE_WINDOW 0.0145    /* e**x, -700 <= x <= 700: at most 0.0136, of which 0.0026 are ours */
#define POW_TIE_WINDOW 0.0155    /* the others, |y * log(x)| <= 70: at most 0.0144 */
#define SQUARE_TIE_WINDOW 0.0225 /* x**2 where 2**-300 <= x * x <= 2**140: at most 0.0206 */
#define STRETCH(tie_window) ((tie_window) * 1.001 / (0.5 - (tie_window)))

/* Whether the C library in this process keeps within these windows: see libm_check. */
static int libm_is_trusted = 0;

/* Constants of the function below. */
typedef struct {
    vec one, half, third, fourth, stretch, shrink;
    ivec last_place; /* see root_residual_limit */
} root_constants;

ALWAYS root_constants root_prepare(double tie_window)
{
    root_constants k;
    memset(&k, 0, sizeof k);
    k.last_place = ivec_add((ivec)vec_set(0x1p-52 * (1.0 - 2.0 * tie_window)), -(ivec)vec_set(1.0));
#if MG_LANES == 8
    k.one = vec_keep(1.0);
    k.half = vec_keep(0.5);
    k.third = vec_keep(0.375);
    k.fourth = vec_keep(0.3125);
    k.stretch = vec_keep(0.5 * (1.0 + STRETCH(tie_window + 0x1p-14))); /* y has 14 bits */
    k.shrink = vec_keep(0.5 * (1.0 - STRETCH(tie_window + 0x1p-14)));
#endif
    return k;
}

/* x ** 0.5 rounded to nearest, and whether pow may return another double: the next one above if the residual is positive,
 * the next one below if it is negative. */
typedef struct {
    vec root, residual;
#if MG_LANES == 8
    vec other; /* the root or, where ambiguous, its neighbour */
#else
    mask ambiguous;
#endif
} root_answer;

ALWAYS mask root_is_ambiguous(const root_answer *a)
{
#if MG_LANES == 8
    return mask_unequal(MASK_ALL, a->root, a->other);
#else
    return a->ambiguous;
#endif
}

/* The residual of a correctly rounded root from which on pow may return its neighbour: root times its unit in the last place
 * times 1 - 2 * window. The product of the last two is a sum of bit patterns, because the unit is a power of two. */
ALWAYS vec root_residual_limit(const root_constants *k, vec root)
{
    const ivec binade = (ivec)root & ivec_set(0x7ff0000000000000); /* 2**52 units in the last place of root */
    return root * (vec)ivec_add(binade, k->last_place);
}

#if MG_LANES == 8
/* Of root_by_residual: sqrt(x) to two units in the last place, from y, which is 1/sqrt(x) to 14 bits, by one step of fourth
 * order. */
ALWAYS vec root_near(const root_constants *k, vec x, vec y)
{
    const vec t = x * y;
    const vec e = vec_fma(-t, y, k->one);
    return vec_fma(t * e, vec_fma(e, vec_fma(e, k->fourth, k->third), k->half), t);
}

/* The residual is twice what is missing, to 14 bits. The candidates are the roundings of near + residual / 2 at both ends of
 * the window. */
ALWAYS root_answer root_of_near(const root_constants *k, vec x, vec y, vec near)
{
    root_answer a;
    a.residual = vec_fma(-near, near, x) * y;
    a.other = vec_fma(a.residual, k->stretch, near);
    a.root = vec_fma(a.residual, k->shrink, near);
    return a;
}

ALWAYS vec root_estimate(vec x) { return (vec)_mm512_rsqrt14_pd((__m512d)x); }
#endif

/* For 2**-200 <= x <= 2**140. */
ALWAYS root_answer root_by_residual(const root_constants *k, vec x)
{
#if MG_LANES == 8
    /* On some processors the instruction vsqrtpd takes longer than all this (see adam_root_instruction). */
    const vec y = root_estimate(x);
    return root_of_near(k, x, y, root_near(k, x, y));
#else
    root_answer a;
    a.root = vec_sqrt(x);
    a.residual = square_residual(x, a.root);
    a.ambiguous = vec_at_least(vec_abs(a.residual), root_residual_limit(k, a.root));
    return a;
#endif
}

/* The same for one number x of any size: x ** 2 and x ** 0.5 rounded to nearest, and in *other what pow may return
 * instead, the same number if nothing else. Where neither is known, pow is called. */
ALWAYS double square_of(double x, double *other)
{
#if MG_FMA
    const double square = x * x;
    if (square > 0x1p-300 && square < 0x1p+140) {
        *other = fma_of(fma_of(x, x, -square), 1.0 + STRETCH(SQUARE_TIE_WINDOW), square);
        return square;
    }
#endif
    return *other = x == 0.0 ? 0.0 : mg_pow(x, 2.0);
}

ALWAYS double root_of(double x, double *other)
{
#if MG_FMA
    if (x > 0x1p-200 && x < 0x1p+140) {
        const double root = __builtin_sqrt(x);
        *other = fma_of(fma_of(-root, root, x) / root, 0.5 * (1.0 + STRETCH(POW_TIE_WINDOW)), root);
        return root;
    }
#endif
    return *other = x == 0.0 ? 0.0 : mg_pow(x, 0.5);
}

#endif
