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
#include "kernels/body/adam_unresolved.h"

static mg_status adam_update_libm(const mg_adam_coefs *c, int64_t n, double *data, double *grad, double *m, double *v)
{
    return adam_one_by_one(c, 1, n, data, grad, m, v);
}

/* ---- a vector at a time ---- */

/* The coefficients, and the constants of the algorithm, in every lane. */
typedef struct {
    vec beta1, one_minus_beta1, beta2, one_minus_beta2, m_scale, m_inverse, v_scale, v_inverse, lr_t, eps;
    vec square_stretch, v_low, v_high, one;
    vec slack; /* see adam_other: a factor, or a bit pattern */
    vec moderate_shift, moderate_bit; /* bit patterns */
    vec at_fixed_point;                         /* see adam_decay_fixed_point */
    root_constants root;
} adam_vectors;

/* Whether 2**-511 <= |p| < 2**513, for mask_store_bits. Exactly in this range, adding 512 to the exponent sets the first of
 * its 11 bits without overflow. */
#if MG_LANES == 8 || !defined(__SSE2__)
#define MODERATE_SHIFT 0x1p-511 /* the bit pattern 512 << 52 */
ALWAYS mask adam_is_moderate(const adam_vectors *c, vec p)
{
    return mask_any_bit(ivec_add((ivec)p, (ivec)c->moderate_shift), (ivec)c->moderate_bit);
}
#else
#define MODERATE_SHIFT 2.0 /* 512 << 53 */
ALWAYS mask adam_is_moderate(const adam_vectors *c, vec p)
{
    /* The store reads the sign bit only. Doubling the bit pattern moves the first bit of the exponent there. */
    return ivec_add(ivec_add((ivec)p, (ivec)p), (ivec)c->moderate_shift);
}
#endif

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
        .v_low = vec_keep(0x1p-200), .v_high = vec_keep(0x1p+100),
        .one = vec_keep(1.0), .slack = MG_FMA ? vec_keep(0x3p-52) : (vec)ivec_set(-13),
        .moderate_shift = vec_keep(MODERATE_SHIFT), .moderate_bit = vec_keep(2.0), /* 1 << 62 */
        .at_fixed_point = vec_set(adam_decay_fixed_point(c->one_minus_beta1)),
        .root = root_prepare(POW_TIE_WINDOW),
    };
}

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

/* An update has three stages, each of which takes a vector's results from the one before. What it leaves in memory is
 * certain in the lanes of the masks in `old`; m is right in all lanes. (One mask for each condition: to combine them
 * would need the execution ports of the arithmetic.) The old values are kept in `old`, from index i on.
 * unit_m, unit_v: m_scale, v_scale are 1.0, as they become when beta ** t is below 2**-54.
 * may_have_subnormals: check for decaying parameters. */

typedef struct {
    vec m, v_hat;
} adam_first;

/* Stage 1: both moments. */
ALWAYS adam_first adam_moments(const adam_vectors *c, int unit_v, int may_have_subnormals, double *grad, double *m,
                                double *v, adam_chunk *old, int64_t i)
{
    const vec g = vec_load_unaligned(grad);
    vec mm = vec_load_unaligned(m), vv = vec_load_unaligned(v);
    vec_store(old->grad + i, g);
    vec_store(old->v + i, vv);

    mask decaying = may_have_subnormals ? adam_decaying(g, mm) : MASK_NONE;
    const int any_decaying = may_have_subnormals && mask_bits(decaying);
    vec decayed_m = mm, decayed_v_of = vv;
    if (any_decaying) {
        decaying &= mask_between(vv, vec_set(0.0), c->v_high);
        adam_decay(c, decaying, &decayed_m, &decayed_v_of);
        mm = vec_select(decaying, vec_set(0.0), mm);
        vv = vec_select(decaying, vec_set(1.0), vv);
    }
    vec new_m = c->beta1 * mm + c->one_minus_beta1 * g;

    /* v with the square rounded to nearest, and with the double that pow may return instead. Squares too small for an
     * exact residual are too small to move a v that is in range. */
    const vec square = g * g;
    const vec other_square = fma_or_mul_add(square_residual(square, g), c->square_stretch, square);
    const vec decayed_v = c->beta2 * vv;
    vec new_v = decayed_v + c->one_minus_beta2 * square;
    const vec other_v = decayed_v + c->one_minus_beta2 * other_square;
    mask_store_bits(old->v_certain + i / LANES, mask_between(new_v, c->v_low, c->v_high) & vec_equals(new_v, other_v));
    const adam_first first = {new_m, unit_v ? new_v : divide_by_constant(new_v, c->v_scale, c->v_inverse)};

    if (any_decaying) {
        new_m = vec_select(decaying, decayed_m, new_m);
        new_v = vec_select(decaying, decayed_v_of, new_v);
    }
    vec_store_unaligned(grad, vec_set(0.0));
    vec_store_unaligned(m, new_m);
    vec_store_unaligned(v, new_v);
    return first;
}

typedef struct {
    vec m;
    root_answer root;
} adam_second;

/* Stage 2: the root. */
ALWAYS adam_second adam_root(const adam_vectors *c, adam_first first)
{
    return (adam_second){first.m, root_by_residual(&c->root, first.v_hat)};
}

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

/* Stage 3: the parameters. */
ALWAYS void adam_parameters(const adam_vectors *c, int unit_m, int may_have_subnormals, adam_second second, double *data,
                            const double *m, adam_chunk *old, int64_t i)
{
    const vec p = vec_load_unaligned(data);
    vec_store(old->data + i, p);
    const root_answer *a = &second.root;
    /* From memory: passing it on takes two copies of a register. But not subnormal numbers (see adam_decaying). */
    const vec new_m = may_have_subnormals ? second.m : vec_load_unaligned(m);
    const vec m_hat = unit_m ? new_m : divide_by_constant(new_m, c->m_scale, c->m_inverse);
    const vec step = c->lr_t * m_hat / (a->root + c->eps);
    const vec new_p = p - step;
    vec_store_unaligned(data, new_p);
    /* Then no step overflowed, and none that lost bits, being too small, moved its parameter. */
    mask_store_bits(old->p_moderate + i / LANES, adam_is_moderate(c, new_p));
    const mask ambiguous = mask_unequal(root_is_ambiguous(a), new_p, adam_other(c, p, step, a->residual));
    mask_store_bits(old->p_ambiguous + i / LANES, ambiguous);
}

/* Software pipelining: the update of a vector is a long dependency chain, so three vectors are in flight, one per stage. */
ALWAYS int64_t adam_whole(const adam_vectors *c, int unit_m, int unit_v, int may_have_subnormals, int64_t count,
                          double *data, double *grad, double *m, double *v, adam_chunk *old)
{
    const int64_t whole = count / LANES * LANES, behind = 2 * LANES;
    adam_first first = {c->one, c->one};
    adam_second second = {0};
    int64_t i = 0;
    for (; i < whole && i < behind; i += LANES) {
        second = adam_root(c, first);
        first = adam_moments(c, unit_v, may_have_subnormals, grad + i, m + i, v + i, old, i);
    }
    for (; i < whole; i += LANES) {
        const adam_first next = adam_moments(c, unit_v, may_have_subnormals, grad + i, m + i, v + i, old, i);
        adam_parameters(c, unit_m, may_have_subnormals, second, data + i - behind, m + i - behind, old, i - behind);
        second = adam_root(c, first);
        first = next;
    }
    for (; i < whole + behind; i += LANES) {
        if (i >= behind)
            adam_parameters(c, unit_m, may_have_subnormals, second, data + i - behind, m + i - behind, old, i - behind);
        second = adam_root(c, first);
    }
    return whole;
}

#if MG_LANES == 8
/* The same with the processor's square root, whose long latency is a stage of its own: four vectors are in flight. */

typedef struct {
    vec m, x, root;
} adam_rooted;

typedef struct {
    vec step, residual, limit;
} adam_stepped;

/* Stage 2 of 4: v_hat and its root. */
ALWAYS adam_rooted adam_take_root(const adam_vectors *c, int unit_v, adam_first first)
{
    const vec x = unit_v ? first.v_hat : divide_by_constant(first.v_hat, c->v_scale, c->v_inverse);
    return (adam_rooted){first.m, x, vec_sqrt(x)};
}

/* Stage 3 of 4: the step, and how far the root is from a tie. m: of the same vector, in memory. */
ALWAYS adam_stepped adam_divide(const adam_vectors *c, int unit_m, int may_have_subnormals, adam_rooted r, const double *m)
{
    const vec new_m = may_have_subnormals ? r.m : vec_load_unaligned(m);
    const vec m_hat = unit_m ? new_m : divide_by_constant(new_m, c->m_scale, c->m_inverse);
    return (adam_stepped){c->lr_t * m_hat / (r.root + c->eps), vec_fma(-r.root, r.root, r.x),
                          root_residual_limit(&c->root, r.root)};
}

/* Stage 4 of 4: the parameters. */
ALWAYS void adam_move(const adam_vectors *c, adam_stepped s, double *data, adam_chunk *old, int64_t i)
{
    const vec p = vec_load_unaligned(data);
    vec_store(old->data + i, p);
    const vec new_p = p - s.step;
    vec_store_unaligned(data, new_p);
    mask_store_bits(old->p_moderate + i / LANES, adam_is_moderate(c, new_p));
    const mask near_tie = vec_at_least(vec_abs(s.residual), s.limit);
    mask_store_bits(old->p_ambiguous + i / LANES, mask_unequal(near_tie, new_p, adam_other(c, p, s.step, s.residual)));
}

ALWAYS int64_t adam_whole_by_instruction(const adam_vectors *c, int unit_m, int unit_v, int may_have_subnormals,
                                         int64_t count, double *data, double *grad, double *m, double *v,
                                         adam_chunk *old)
{
    const int64_t whole = count / LANES * LANES;
    adam_first first = {c->one, c->one};
    adam_rooted rooted = {c->one, c->one, c->one};
    adam_stepped stepped = {c->one, c->one, c->one};
    int64_t i = 0;
#define STAGES(has_1, has_3, has_4) \
    { \
        if (has_4) adam_move(c, stepped, data + i - 3 * LANES, old, i - 3 * LANES); \
        if (has_3) stepped = adam_divide(c, unit_m, may_have_subnormals, rooted, m + i - 2 * LANES); \
        rooted = adam_take_root(c, unit_v, first); \
        if (has_1) first = adam_moments(c, 1, may_have_subnormals, grad + i, m + i, v + i, old, i); \
    }
    for (; i < whole && i < 3 * LANES; i += LANES) STAGES(1, i >= 2 * LANES, 0)
    for (; i < whole; i += LANES) STAGES(1, 1, 1)
    for (; i < whole + 3 * LANES; i += LANES) STAGES(0, i >= 2 * LANES && i < whole + 2 * LANES, i >= 3 * LANES)
#undef STAGES
    return whole;
}
#endif

/* The rest, fewer than a vector. */
static void adam_part(const adam_vectors *c, int unit_m, int unit_v, int may_have_subnormals, int64_t lanes,
                      double *data, double *grad, double *m, double *v, adam_chunk *old, int64_t i)
{
    double part[4][LANES] = {{0.0}};
    double *const whole[4] = {data, grad, m, v};
    for (int a = 0; a < 4; a++) memcpy(part[a], whole[a], (size_t)lanes * sizeof(double));
    const adam_first first = adam_moments(c, unit_v, may_have_subnormals, part[1], part[2], part[3], old, i);
    adam_parameters(c, unit_m, may_have_subnormals, adam_root(c, first), part[0], part[2], old, i);
    for (int a = 0; a < 4; a++) memcpy(whole[a], part[a], (size_t)lanes * sizeof(double));
}

ALWAYS mg_status adam_chunks(const mg_adam_coefs *coefs, int unit_m, int unit_v, int may_have_subnormals,
                             int by_instruction, int64_t n, double *data, double *grad, double *m, double *v)
{
    const adam_vectors c = adam_prepare(coefs);
    adam_chunk old;
    adam_queue queue;
    queue.count = 0;
    for (int64_t first = 0; first < n; first += ADAM_CHUNK) {
        const int64_t count = n - first < ADAM_CHUNK ? n - first : ADAM_CHUNK;
        double *const d = data + first, *const g = grad + first, *const mm = m + first, *const vv = v + first;
        if (count < ADAM_CHUNK) adam_all_resolved(&old); /* beyond the end */
#if MG_LANES == 8
        const int64_t i = by_instruction
            ? adam_whole_by_instruction(&c, unit_m, unit_v, may_have_subnormals, count, d, g, mm, vv, &old)
            : adam_whole(&c, unit_m, unit_v, may_have_subnormals, count, d, g, mm, vv, &old);
#else
        (void)by_instruction;
        const int64_t i = adam_whole(&c, unit_m, unit_v, may_have_subnormals, count, d, g, mm, vv, &old);
#endif
        if (i < count)
            adam_part(&c, unit_m, unit_v, may_have_subnormals, count - i, d + i, g + i, mm + i, vv + i, &old, i);
        adam_queue_unresolved(coefs, &old, first, count, data, m, v, &queue);
        if (queue.count > ADAM_QUEUE - ADAM_CHUNK) {
            const mg_status status = adam_resolve_queue(coefs, &queue, data, m, v);
            if (status) return status;
        }
    }
    return adam_resolve_queue(coefs, &queue, data, m, v);
}

typedef mg_status adam_kernel(const mg_adam_coefs *c, int64_t n, double *data, double *grad, double *m, double *v);
#define ADAM_KERNEL1(name, unit_m, unit_v, may_have_subnormals, by_instruction) \
    static mg_status name(const mg_adam_coefs *c, int64_t n, double *data, double *grad, double *m, double *v) \
    { \
        return adam_chunks(c, unit_m, unit_v, may_have_subnormals, by_instruction, n, data, grad, m, v); \
    }
#if MG_LANES == 8
#define ADAM_KERNEL(name, unit_m, unit_v, may_have_subnormals) \
    ADAM_KERNEL1(name, unit_m, unit_v, may_have_subnormals, 0) \
    ADAM_KERNEL1(name##_by_instruction, unit_m, unit_v, may_have_subnormals, 1)
#else
#define ADAM_KERNEL(name, unit_m, unit_v, may_have_subnormals) ADAM_KERNEL1(name, unit_m, unit_v, may_have_subnormals, 0)
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

static adam_kernel *adam_choose(const mg_adam_coefs *c)
{
#if MG_LANES == 8
#define CHOSEN(name) (adam_root_instruction > 0 ? name##_by_instruction : name)
#else
#define CHOSEN(name) name
#endif
    if (c->m_scale != 1.0) return CHOSEN(adam_update_early);
    if (c->may_have_subnormals)
        return c->v_scale != 1.0 ? CHOSEN(adam_update_unit_m_subnormals) : CHOSEN(adam_update_unit_subnormals);
    return c->v_scale != 1.0 ? CHOSEN(adam_update_unit_m) : CHOSEN(adam_update_unit);
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

#endif
