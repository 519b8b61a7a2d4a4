/* Adam with AVX-512, a vector at a time: the stages of an update, and the loop in which several vectors are under way at once. */
#ifndef MG_BODY_ADAM_UPDATE_H
#define MG_BODY_ADAM_UPDATE_H

#include <string.h>

#include "kernels/body/adam_ring.h"
#include "kernels/body/adam_vectors.h"

/* ---- ranges ----
 *
 * A new p and v are in range if 2**-511 <= |p| < 2**513 (then no step overflowed, and none that lost bits, being too small,
 * moved its parameter) and 2**-200 <= v < 2**100. |p| is if bits 62 and 61 differ, the first of its exponent. Usually
 * 2**-127 <= v < 2: numbers whose exponents begin with the bits 0111. So the loop only collects whether the two bits of p always
 * differ and in which bits v is not like the least of these, and where that does not settle it, adam_check_ranges takes a closer
 * look. */
typedef struct {
    ivec p_differ; /* bit 62: the two bits of each p differ */
    vec v_bits;    /* in which bits some v differs from v_usual */
} adam_ranges;
#define P_USUAL_BITS ((int64_t)1 << 62)
#define V_USUAL_BITS ((int64_t)((uint64_t)31 << 59))

ALWAYS adam_ranges adam_no_ranges(void) { return (adam_ranges){ivec_set(-1), vec_set(0.0)}; }

ALWAYS void adam_range_of_p(adam_ranges *r, vec p)
{
    r->p_differ = ivec_and_xor(r->p_differ, (ivec)p, ivec_add((ivec)p, (ivec)p));
}

ALWAYS void adam_range_of_v(const adam_vectors *c, adam_ranges *r, vec v)
{
    r->v_bits = vec_or_xor(r->v_bits, v, c->v_usual);
}

ALWAYS int adam_unusual(const adam_ranges *r)
{
    return lanes_any(mask_any_bit(~r->p_differ, ivec_set(P_USUAL_BITS))
                     | mask_any_bit((ivec)r->v_bits, ivec_set(V_USUAL_BITS)));
}

/* The lanes of a new p and a new v that are out of range. */
ALWAYS mask adam_out_of_range(vec p, vec v)
{
    return ~(mask_between(vec_abs(p), vec_set(0x1p-511), vec_set(0x1p+513))
             & mask_between(v, vec_set(0x1p-200), vec_set(0x1p+100)));
}

/* Of some whole vectors of a chunk, whose update is done: a result out of range is uncertain, unless its v decays. */
static __attribute__((noinline)) void adam_check_vectors(adam_ring *old, int may_have_subnormals, int64_t first,
                                                         int64_t vectors, const double *data, const double *v)
{
    for (int64_t i = first; i < first + vectors * LANES; i += LANES) {
        const int64_t k = adam_ring_at(i) / LANES;
        const mask p_out = adam_out_of_range(vec_load_unaligned(data + i), vec_set(1.0));
        const mask v_out = adam_out_of_range(vec_set(1.0), vec_load_unaligned(v + i));
        const unsigned decaying = may_have_subnormals ? old->decaying[k] : 0;
        old->p_uncertain[k] |= (uint8_t)((mask_bits(v_out) & ~decaying) | mask_bits(p_out));
    }
}

/* Of the n parameters from `first` on. */
static __attribute__((noinline)) void adam_check_ranges(const adam_vectors *c, adam_ring *old, int may_have_subnormals,
                                                        int64_t first, int64_t n, const double *data, const double *v)
{
    for (int64_t i = first; i + LANES <= first + n; i += 8 * LANES) {
        const int64_t left = (first + n - i) / LANES, vectors = left < 8 ? left : 8;
        adam_ranges ranges = adam_no_ranges();
        for (int64_t k = i; k < i + vectors * LANES; k += LANES) {
            adam_range_of_p(&ranges, vec_load_unaligned(data + k));
            adam_range_of_v(c, &ranges, vec_load_unaligned(v + k));
        }
        if (adam_unusual(&ranges)) adam_check_vectors(old, may_have_subnormals, i, vectors, data, v);
    }
}

/* ---- the stages of an update, each of which takes a vector's results from the one before ----
 *
 * What they leave in memory is certain in the lanes of no mask in `old`; m is right in all lanes. The old values are kept in
 * `old`, from index `at` on. (One mask for each condition: to combine them would need the execution ports of the arithmetic.)
 * unit_m, unit_v, may_have_subnormals: see adam.h. by_instruction: the root is the processor's (see adam_square_root). */

typedef struct {
    vec m, v;
} adam_first;

/* Stage 1: both moments. */
ALWAYS adam_first adam_moments(const adam_vectors *c, int may_have_subnormals, const double *data, double *grad, double *m,
                               double *v, adam_ring *old, int64_t at, adam_ranges *ranges)
{
    const vec g = vec_load_unaligned(grad);
    vec mm = vec_load_unaligned(m), vv = vec_load_unaligned(v);
    vec_store(old->data + at, vec_load_unaligned(data));
    vec_store(old->grad + at, g);
    vec_store(old->v + at, vv);

    mask decaying = may_have_subnormals ? adam_decaying(g, mm) : MASK_NONE;
    const int any_decaying = may_have_subnormals && lanes_any(decaying);
    vec decayed_m = mm, decayed_v_of = vv;
    if (any_decaying) {
        decaying &= mask_between(vv, vec_set(0.0), vec_set(0x1p+100));
        adam_decay(c, decaying, &decayed_m, &decayed_v_of);
        mm = vec_select(decaying, vec_set(0.0), mm);
        vv = vec_select(decaying, vec_set(1.0), vv);
    }
    if (may_have_subnormals) mask_store_bits(old->decaying + at / LANES, decaying);
    vec new_m = c->beta1 * mm + c->one_minus_beta1 * g;

    /* v with the square rounded to nearest, and with the double that pow may return instead. Squares too small for an
     * exact residual are too small to move a v that is in range. */
    const vec square = g * g;
    const vec other_square = fma_or_mul_add(square_residual(square, g), c->square_stretch, square);
    const vec decayed_v = c->beta2 * vv;
    vec new_v = decayed_v + c->one_minus_beta2 * square;
    const vec other_v = decayed_v + c->one_minus_beta2 * other_square;
    mask_store_bits(old->v_uncertain + at / LANES, vec_differs(new_v, other_v));
    adam_range_of_v(c, ranges, new_v);
    const adam_first first = {new_m, new_v};

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
    vec m, v_hat;
    vec root; /* the estimate, unless the third stage takes it by the instruction */
} adam_second;

/* Stage 2: v_hat, and perhaps the estimate of its root. */
ALWAYS adam_second adam_root(const adam_vectors *c, int unit_v, int by_instruction, adam_first f)
{
    const vec v_hat = unit_v ? f.v : divide_by_constant(f.v, c->v_scale, c->v_inverse);
    return (adam_second){f.m, v_hat, by_instruction ? v_hat : root_estimate(v_hat)};
}

typedef struct {
    adam_second s;
    vec near; /* the root, nearly */
} adam_third;

/* Stage 3: the root, or a better estimate. */
ALWAYS adam_third adam_near(const adam_vectors *c, int by_instruction, adam_second s)
{
    if (!by_instruction) return (adam_third){s, root_near(&c->root, s.v_hat, s.root)};
    s.root = vec_sqrt(s.v_hat);
    return (adam_third){s, s.root};
}

typedef struct {
    vec step, residual;
    mask ambiguous; /* whether it depends on the last bit of the root, and then residual's sign tells the other one */
} adam_fourth;

/* Stage 4: the root, and the step. m: the new one of the same vector, from memory, because passing it on takes registers; but
 * not subnormal numbers (see adam_decaying). */
ALWAYS adam_fourth adam_step(const adam_vectors *c, int unit_m, int may_have_subnormals, int by_instruction, adam_third t,
                             const double *m)
{
    vec root = t.s.root, residual;
    mask ambiguous;
    if (!by_instruction) {
        const root_answer a = root_of_near(&c->root, t.s.v_hat, t.s.root, t.near);
        root = a.root;
        residual = a.residual;
        ambiguous = root_is_ambiguous(&a);
    } else {
        residual = square_residual(t.s.v_hat, root);
        ambiguous = vec_at_least(vec_abs(residual), root_residual_limit(&c->root, root));
    }
    const vec new_m = may_have_subnormals ? t.s.m : vec_load_unaligned(m);
    const vec m_hat = unit_m ? new_m : divide_by_constant(new_m, c->m_scale, c->m_inverse);
    return (adam_fourth){c->lr_t * m_hat / (root + c->eps), residual, ambiguous};
}

/* Stage 5: the parameters. */
ALWAYS void adam_move(const adam_vectors *c, adam_fourth f, double *data, adam_ring *old, int64_t at, adam_ranges *ranges)
{
    const vec p = vec_load_unaligned(data);
    const vec new_p = p - f.step;
    vec_store_unaligned(data, new_p);
    adam_range_of_p(ranges, new_p);
    mask_store_bits(old->p_uncertain + at / LANES,
                    mask_unequal(f.ambiguous, new_p, adam_other(c, p, f.step, f.residual)));
}

/* The last parameters, fewer than a vector. */
static void adam_part(const adam_vectors *c, int unit_m, int unit_v, int may_have_subnormals, int64_t lanes,
                      double *data, double *grad, double *m, double *v, adam_ring *old, int64_t at)
{
    double part[4][LANES] = {{0.0}};
    double *const whole[4] = {data, grad, m, v};
    adam_ranges ranges = adam_no_ranges(); /* not used */
    for (int a = 0; a < 4; a++) memcpy(part[a], whole[a], (size_t)lanes * sizeof(double));
    const adam_first first = adam_moments(c, may_have_subnormals, part[0], part[1], part[2], part[3], old, at, &ranges);
    const adam_third third = adam_near(c, 1, adam_root(c, unit_v, 1, first));
    adam_move(c, adam_step(c, unit_m, may_have_subnormals, 1, third, part[2]), part[0], old, at, &ranges);
    const unsigned decaying = may_have_subnormals ? old->decaying[at / LANES] : 0;
    const unsigned p_out = mask_bits(adam_out_of_range(vec_load_unaligned(part[0]), vec_set(1.0)));
    const unsigned v_out = mask_bits(adam_out_of_range(vec_set(1.0), vec_load_unaligned(part[3])));
    old->p_uncertain[at / LANES] |= (uint8_t)((v_out & ~decaying) | p_out);
    for (int a = 0; a < 4; a++) memcpy(whole[a], part[a], (size_t)lanes * sizeof(double));
}

/* Collect what is not resolved of the chunk at `first`, of n parameters in all, and resolve it when there is enough. */
ALWAYS mg_status adam_collect(const mg_adam_coefs *coefs, const adam_vectors *c, int may_have_subnormals, adam_ring *old,
                              int unusual, int64_t first, int64_t n, double *data, double *m, double *v,
                              adam_queue *queue)
{
    const int64_t count = n - first < ADAM_CHUNK ? n - first : ADAM_CHUNK;
    if (count < ADAM_CHUNK) adam_end_chunk(old, first, count);
    if (unusual) adam_check_ranges(c, old, may_have_subnormals, first, count, data, v);
    if (!adam_any_uncertain(old, first)) return MG_OK;
    adam_queue_unresolved(coefs, old, first, count, data, m, v, queue);
    return queue->count > ADAM_QUEUE - ADAM_CHUNK ? adam_resolve_queue(coefs, queue, data, m, v) : MG_OK;
}

/* Software pipelining: an update is a long dependency chain, so as many vectors are in flight as there are stages. The last
 * stage comes first: what a stage hands on is then used before the next vector's takes its place. A chunk is collected when
 * the one after it is done as well, because a branch that depends on what was just stored would wait for it. */
ALWAYS mg_status adam_update_all(const mg_adam_coefs *coefs, int unit_m, int unit_v, int may_have_subnormals,
                                 int by_instruction, int64_t n, double *data, double *grad, double *m, double *v)
{
    const adam_vectors c = adam_prepare(coefs);
    const int64_t whole = n / LANES * LANES;
    const int64_t last = 4;
    adam_ring old;
    adam_queue queue;
    queue.count = queue.has_zero = 0;
    adam_first first = {c.one, c.one};
    adam_second second = {c.one, c.one, c.one};
    adam_third third = {second, c.one};
    adam_fourth fourth = {c.one, c.one, MASK_NONE};
    adam_ranges ranges = adam_no_ranges();
    int64_t i = 0, collected = 0;
    int unusual = 0;
/* Whether the vector that is `stage` vectors behind exists. */
#define ADAM_HAS(stage) (i >= (stage)*LANES && i < whole + (stage)*LANES)
#define ADAM_STAGES(all)                                                                                             \
    {                                                                                                                \
        const int64_t j = i - last * LANES, k = j + LANES;                                                           \
        if (all || ADAM_HAS(last)) adam_move(&c, fourth, data + j, &old, adam_ring_at(j), &ranges);                  \
        if (all || ADAM_HAS(last - 1))                                                                               \
            fourth = adam_step(&c, unit_m, may_have_subnormals, by_instruction, third, m + k);                       \
        third = adam_near(&c, by_instruction, second);                                                               \
        second = adam_root(&c, unit_v, by_instruction, first);                                                       \
        if (all || ADAM_HAS(0))                                                                                      \
            first = adam_moments(&c, may_have_subnormals, data + i, grad + i, m + i, v + i, &old, adam_ring_at(i),   \
                                 &ranges);                                                                           \
    }
    for (; i < whole && i < last * LANES; i += LANES) ADAM_STAGES(0)
    while (i < whole) {
        const int64_t next = i / ADAM_CHUNK * ADAM_CHUNK + ADAM_CHUNK, end = next < whole ? next : whole;
        if (coefs->fetch_ahead) {
            for (; i < end; i += LANES) {
                prefetch(data, i + ADAM_AHEAD);
                prefetch(m, i + ADAM_AHEAD);
                prefetch(v, i + ADAM_AHEAD);
                ADAM_STAGES(1)
            }
        } else {
            for (; i < end; i += LANES) ADAM_STAGES(1)
        }
        if (i < next) break;
        /* The chunk before this one has its last parameters among the numbers of this one. */
        const int now = adam_unusual(&ranges);
        ranges = adam_no_ranges();
        if (i > ADAM_CHUNK) {
            const mg_status status = adam_collect(coefs, &c, may_have_subnormals, &old, unusual | now, collected, n, data, m,
                                                  v, &queue);
            if (status) return status;
            collected += ADAM_CHUNK;
        }
        unusual = now;
    }
    for (; i < whole + last * LANES; i += LANES) ADAM_STAGES(0)
    unusual |= adam_unusual(&ranges);
    if (whole < n)
        adam_part(&c, unit_m, unit_v, may_have_subnormals, n - whole, data + whole, grad + whole, m + whole, v + whole, &old,
                  adam_ring_at(whole));
    for (; collected < n; collected += ADAM_CHUNK) {
        const mg_status status = adam_collect(coefs, &c, may_have_subnormals, &old, unusual, collected, n, data, m, v, &queue);
        if (status) return status;
    }
    return adam_resolve_queue(coefs, &queue, data, m, v);
#undef ADAM_STAGES
#undef ADAM_HAS
}

#endif
