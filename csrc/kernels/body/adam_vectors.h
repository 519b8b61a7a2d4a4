/* Adam: what the loops of all vector widths have in common. */
#ifndef MG_BODY_ADAM_VECTORS_H
#define MG_BODY_ADAM_VECTORS_H

#include "kernels/body/exact.h"
#include "kernels/kernels.h"

/* The coefficients, and the constants of the algorithm, in every lane. */
typedef struct {
    vec beta1, one_minus_beta1, beta2, one_minus_beta2, m_scale, m_inverse, v_scale, v_inverse, lr_t, eps;
    vec square_stretch, one;
    vec slack;          /* see adam_other: a factor, or a bit pattern */
    vec v_usual;        /* see adam_unusual */
    vec at_fixed_point; /* see adam_decay_fixed_point */
    root_constants root;
} adam_vectors;

/* The fixed point of decay: a number of this magnitude or less equals beta1 times itself, rounded. It is a small multiple of
 * 2**-1074, the least double, and where m ends after a thousand or so steps without a gradient. */
ALWAYS double adam_decay_fixed_point(double one_minus_beta1)
{
    double multiple = 0.49 / one_minus_beta1;
    if (!(multiple < 0x1p+51)) multiple = 0x1p+51;
    return (double)(int64_t)multiple * 0x1p-1074;
}

ALWAYS adam_vectors adam_prepare(const mg_adam_coefs *c)
{
    return (adam_vectors){
        vec_keep(c->beta1), vec_keep(c->one_minus_beta1), vec_keep(c->beta2), vec_keep(c->one_minus_beta2),
        vec_keep(c->m_scale), vec_keep(1.0 / c->m_scale), vec_keep(c->v_scale), vec_keep(1.0 / c->v_scale),
        vec_keep(c->lr_t), vec_keep(c->eps),
        .square_stretch = vec_keep(-1.0 - STRETCH(SQUARE_TIE_WINDOW)),
        .one = vec_keep(1.0), .slack = MG_FMA ? vec_keep(0x3p-52) : (vec)ivec_set(-13),
        .v_usual = vec_keep(0x1p-127),
        .at_fixed_point = vec_set(adam_decay_fixed_point(c->one_minus_beta1)),
        .root = root_prepare(POW_TIE_WINDOW),
    };
}

/* How far ahead of the first stage parameters and moments are fetched: a page, because processors do not fetch beyond the
 * page by themselves. */
enum { ADAM_AHEAD = 4096 / (int)sizeof(double) };

/* ---- decaying parameters ---- */

/* beta * x + 0.0, 0 <= beta <= 1, without the hundreds of cycles that a product with a subnormal number takes. A subnormal
 * number is its bits, as an integer, times 2**-1074, and so is the product. */
ALWAYS vec decay(vec x, vec beta)
{
#if MG_FMA
    const vec two52 = vec_set(0x1p+52);
    const ivec bits = (ivec)x & ivec_set(INT64_MAX);
    const vec product = vec_fma(beta, (vec)(bits | (ivec)two52) - two52, two52); /* the sum rounds to an integer */
    const ivec product_bits = (ivec)product & ivec_set((1LL << 52) - 1);
    const ivec subnormal = bits < ivec_set(1LL << 52);
    const vec normal = beta * (vec)((ivec)x & ~subnormal) + 0.0;
    const ivec decayed = product_bits | ((ivec)x & ivec_set(INT64_MIN) & (product_bits != 0));
    return (vec)((decayed & subnormal) | ((ivec)normal & ~subnormal));
#else
    return beta * x + 0.0;
#endif
}

/* Lanes of parameters without a gradient for thousands of steps. With g = 0 and |m| < 2**-895 a step is below 2**-780 (eps
 * is 2**-40 or more) and does not move a p of 2**-511 or more. m, and later v, become subnormal and are kept out of the
 * arithmetic. */
ALWAYS mask adam_decaying(vec g, vec m)
{
    return ~mask_any_bit((ivec)g | ((ivec)m & ivec_set(0x780LL << 52)), ivec_set(-1)) & MASK_ALL;
}

/* Their new moments. */
ALWAYS void adam_decay(const adam_vectors *c, mask decaying, vec *m, vec *v)
{
    const mask at_fixed_point = vec_at_least(c->at_fixed_point, vec_abs(*m));
    if (mask_bits(decaying & (~at_fixed_point | mask_between(*v, vec_set(0x1p-1074), vec_set(0x1p-1000))))) {
        *m = decay(*m, c->beta1);
        *v = decay(*v, c->beta2);
    } else {
        *m += 0.0; /* it may be -0.0 */
        *v = c->beta2 * *v + 0.0;
    }
}

/* ---- the other parameter ---- */

/* p minus a step that is at least as far from this one as any that the other root may give. Where it gives the same
 * parameter, so does every step in between.
 *
 * The other root, one unit in the last place above or below, moves root + eps by at most two units in its last place,
 * 2**-51 of itself. That moves the quotient, of s units, 2**52 <= s < 2**53, the other way by s * 2**-51 of them, and
 * the step, which is the quotient rounded, by a whole number that is less than one more: by 3 where s < 1.5 * 2**52, by
 * 4 or 5 above, and so by at most 3 * 2**-52 of itself. */
ALWAYS vec adam_other(const adam_vectors *c, vec p, vec step, vec residual)
{
#if MG_FMA
    return vec_fma(step, vec_copysign(c->slack, residual) - c->one, p);
#else
    /* 5 to 7 units less where the residual is positive, 9 to 11 more where it is negative, 5 being enough (from a power of two
     * downwards, where they are halves, as well). If ambiguous, 2**-254 <= |residual| < 2**90: the upper four of its
     * exponent's bits are 6, 7 or 8; with the sign before them 22, 23 or 24. */
    return p - (vec)ivec_add((ivec)step, ivec_add((ivec)((uvec)residual >> 59), (ivec)c->slack));
#endif
}

#endif
