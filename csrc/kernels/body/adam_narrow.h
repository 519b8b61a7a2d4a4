/* Adam with vectors of two or four lanes: the stages of an update, and the loop in which several vectors are under way at once.
 *
 * For as many parameters there are two or four times the instructions of AVX-512, and these are what takes the time. So nothing
 * is stored in case it is needed again: a vector with an uncertain lane, one in a hundred, takes a branch that queues the lane. */
#ifndef MG_BODY_ADAM_NARROW_H
#define MG_BODY_ADAM_NARROW_H

#include <string.h>

#include "kernels/body/adam_unresolved.h"
#include "kernels/body/adam_vectors.h"

enum {
    ADAM_STAGES = 4,
    ADAM_BEHIND = (ADAM_STAGES - 1) * LANES, /* of the last stage */
};

/* Ranges. A new v is in range if 2**-200 <= v <= 2**99. A step that depends on the last bit of the root must have all its bits and
 * not overflow: so it is if the new p is finite and 2**-546 or more, which a step of less than 2**-960 does not move. */
typedef struct {
    vec least_v, greatest_v, tiny;
} narrow_ranges;

ALWAYS narrow_ranges narrow_ranges_prepare(void)
{
    return (narrow_ranges){vec_keep(0x1p-200), vec_keep(0x1p+99), vec_keep(0x1p-600)};
}

/* ---- decaying parameters ---- */

/* Their new moments, and in which lanes. Until the chunk is done they have m = 0 and v = 1 in memory, where the stages take them
 * from: so no subnormal number gets into the arithmetic. */
typedef struct {
    vec m[ADAM_CHUNK / LANES + ADAM_STAGES], v[ADAM_CHUNK / LANES + ADAM_STAGES];
    mask lanes[ADAM_CHUNK / LANES + ADAM_STAGES];
    int64_t at[ADAM_CHUNK / LANES + ADAM_STAGES], count;
} narrow_decayed;

/* Lanes of vector i that decay: write down their moments and put 0 and 1 in their place. */
ALWAYS void narrow_decay(const adam_vectors *c, mask decaying, const double *data, int64_t i, vec *m, vec *v,
                         narrow_decayed *decayed)
{
    const int64_t k = decayed->count++;
    decaying &= vec_at_least(*v, vec_set(0.0)) & vec_at_least(vec_abs(vec_load_unaligned(data)), vec_set(0x1p-511));
    decayed->m[k] = *m;
    decayed->v[k] = *v;
    decayed->lanes[k] = decaying;
    decayed->at[k] = i;
    adam_decay(c, decaying, decayed->m + k, decayed->v + k);
    *m = vec_select(decaying, vec_set(0.0), *m);
    *v = vec_select(decaying, vec_set(1.0), *v);
}

ALWAYS void narrow_store_decayed(narrow_decayed *decayed, double *m, double *v)
{
    for (int64_t k = 0; k < decayed->count; k++) {
        double *const to_m = m + decayed->at[k], *const to_v = v + decayed->at[k];
        vec_store_unaligned(to_m, vec_select(decayed->lanes[k], decayed->m[k], vec_load_unaligned(to_m)));
        vec_store_unaligned(to_v, vec_select(decayed->lanes[k], decayed->v[k], vec_load_unaligned(to_v)));
    }
    decayed->count = 0;
}

/* ---- queues ----
 *
 * v: the lanes whose new v is not certain, with their old values. p: those whose parameter is not, with the old one; their v is
 * certain, or they are in the first queue as well. */
typedef struct {
    adam_queue v, p;
} narrow_queues;

/* ---- parameters that become 0 ----
 *
 * Where all is known to be in range (see adam_update_in_range), the next step's parameters are only if none is 0 now. With AVX2
 * the least of each lane's upper 16 bits, unsigned, tells, which is one operation instead of two: +0.0 is below all but the
 * least subnormal numbers, and p minus a step is -0.0 only if p is. */
#if MG_LANES == 4
typedef ivec narrow_zeros;
ALWAYS narrow_zeros narrow_no_zeros(void) { return ivec_set(-1); }
ALWAYS narrow_zeros narrow_note_zeros(narrow_zeros z, vec p) { return (ivec)_mm256_min_epu16((__m256i)z, (__m256i)p); }
ALWAYS int narrow_has_zeros(narrow_zeros z)
{
    return mask_bits((mask)_mm256_cmpeq_epi16((__m256i)z, _mm256_setzero_si256())) != 0;
}
#else
typedef mask narrow_zeros;
ALWAYS narrow_zeros narrow_no_zeros(void) { return MASK_NONE; }
ALWAYS narrow_zeros narrow_note_zeros(narrow_zeros z, vec p) { return mask_or(vec_equals(p, vec_set(0.0)), z); }
ALWAYS int narrow_has_zeros(narrow_zeros z) { return mask_bits(z) != 0; }
#endif

/* Of vector i, before anything of it is stored. */
ALWAYS void narrow_queue_v(const mg_adam_coefs *c, adam_queue *queue, mask uncertain, int64_t i, const double *data,
                           const double *grad, const double *m, const double *v)
{
    unsigned lanes = mask_bits(uncertain);
    if (c->lr_t > 0.0) /* the other lanes are what the vector makes of them */
        lanes &= adam_lanes_in_use(vec_load_unaligned(grad + i), vec_load_unaligned(m + i), vec_load_unaligned(v + i));
    for (; lanes; lanes &= lanes - 1) {
        const int64_t at = i + __builtin_ctz(lanes), k = queue->count++;
        queue->at[k] = at;
        copy_double(queue->data + k, data + at);
        copy_double(queue->grad + k, grad + at);
        copy_double(queue->v + k, v + at);
    }
}

/* m: the new one. If it is 0, so is the step, whatever the root. */
ALWAYS void narrow_queue_p(adam_queue *queue, mask uncertain, int64_t i, const double *data, const double *m)
{
    unsigned lanes = mask_bits(uncertain & vec_differs(vec_load_unaligned(m + i), vec_set(0.0)));
    for (; lanes; lanes &= lanes - 1) {
        const int64_t at = i + __builtin_ctz(lanes), k = queue->count++;
        queue->at[k] = at;
        copy_double(queue->data + k, data + at);
    }
}

/* Resolve and empty the queue of parameters, whose new m and v are in memory. */
ALWAYS mg_status narrow_resolve_p(const mg_adam_coefs *c, adam_queue *queue, double *data, const double *m, const double *v)
{
    const int64_t count = queue->count;
    for (int64_t k = 0; k < count; k++) {
        queue->m[k] = m[queue->at[k]];
        queue->new_v[k] = v[queue->at[k]];
    }
    for (int l = 0; l < LANES; l++) queue->data[count + l] = queue->m[count + l] = queue->new_v[count + l] = 1.0;
    memset(queue->v_outside, 0, sizeof queue->v_outside);
    const int64_t outside = adam_resolve_data(c, queue);
    for (int64_t i = 0; i < outside; i++) {
        const int64_t k = queue->outside[i];
        queue->new_data[k] = queue->data[k];
        const mg_status status = adam_one_data(c, 0, queue->new_data + k, queue->m[k], queue->new_v[k]);
        if (status) return status;
    }
    for (int64_t k = 0; k < count; k++) {
        data[queue->at[k]] = queue->new_data[k];
        queue->has_zero |= queue->new_data[k] == 0.0;
    }
    queue->count = 0;
    return MG_OK;
}

/* Resolve what is queued of the first `done` parameters, whose update is done. Of those behind them, which are under way, only a
 * v can be queued. */
static __attribute__((noinline)) mg_status narrow_resolve(const mg_adam_coefs *c, narrow_queues *queues, int64_t done,
                                                          double *data, double *m, double *v)
{
    adam_queue *const q = &queues->v;
    double kept[3][ADAM_BEHIND];
    int64_t kept_at[ADAM_BEHIND], keep = 0;
    while (q->count && q->at[q->count - 1] >= done) {
        const int64_t k = --q->count;
        kept[0][keep] = q->data[k];
        kept[1][keep] = q->grad[k];
        kept[2][keep] = q->v[k];
        kept_at[keep++] = q->at[k];
    }
    mg_status status = adam_resolve_queue(c, q, data, m, v);
    while (keep) {
        const int64_t k = q->count++;
        q->data[k] = kept[0][--keep];
        q->grad[k] = kept[1][keep];
        q->v[k] = kept[2][keep];
        q->at[k] = kept_at[keep];
    }
    return status ? status : narrow_resolve_p(c, &queues->p, data, m, v);
}

/* ---- the stages ---- */

typedef struct {
    vec m, v;
    mask uncertain; /* v */
} narrow_first;

/* Stage 1: both moments. Nothing is stored. */
ALWAYS narrow_first narrow_moments(const adam_vectors *c, const narrow_ranges *ranges, int in_range, int may_have_subnormals,
                                   int64_t i, const double *data, const double *grad, const double *m, const double *v,
                                   narrow_decayed *decayed)
{
    const vec g = vec_load_unaligned(grad + i);
    vec mm = vec_load_unaligned(m + i), vv = vec_load_unaligned(v + i);
    if (may_have_subnormals) {
        const mask decaying = adam_decaying(g, mm);
        if (__builtin_expect(mask_bits(decaying) != 0, 0)) narrow_decay(c, decaying, data + i, i, &mm, &vv, decayed);
    }
    const vec new_m = c->beta1 * mm + c->one_minus_beta1 * g;

    /* v with the square rounded to nearest, and with the double that pow may return instead. Squares too small for an exact
     * residual are too small to move a v that is in range. */
    const vec square = g * g;
    const vec other_square = fma_or_mul_add(square_residual(square, g), c->square_stretch, square);
    const vec decayed_v = c->beta2 * vv;
    const vec new_v = decayed_v + c->one_minus_beta2 * square;
    const vec other_v = decayed_v + c->one_minus_beta2 * other_square;
    mask uncertain = vec_differs(new_v, other_v);
    if (!in_range)
        uncertain = mask_or(mask_or(vec_greater(ranges->least_v, new_v), vec_greater(new_v, ranges->greatest_v)), uncertain);
    return (narrow_first){new_m, new_v, uncertain};
}

typedef struct {
    vec v_hat, root;
} narrow_second;

/* Stage 2: v_hat and its root. */
ALWAYS narrow_second narrow_root(const adam_vectors *c, int unit_v, vec v)
{
    const vec v_hat = unit_v ? v : divide_by_constant(v, c->v_scale, c->v_inverse);
    return (narrow_second){v_hat, vec_sqrt(v_hat)};
}

typedef struct {
    vec step, residual;
    mask ambiguous; /* whether it depends on the last bit of the root, and then residual's sign tells the other one */
} narrow_third;

/* Stage 3: the step. The new moments are loaded again, because to pass them on takes registers. */
ALWAYS narrow_third narrow_step(const adam_vectors *c, int unit_m, int unit_v, narrow_second s, const double *m, const double *v)
{
    const vec residual = square_residual(unit_v ? vec_load_unaligned(v) : s.v_hat, s.root);
    const mask ambiguous = vec_at_least(vec_abs(residual), root_residual_limit(&c->root, s.root));
    const vec new_m = vec_load_unaligned(m), m_hat = unit_m ? new_m : divide_by_constant(new_m, c->m_scale, c->m_inverse);
    return (narrow_third){c->lr_t * m_hat / (s.root + c->eps), residual, ambiguous};
}

/* Stage 4: the new parameters; uncertain: in which lanes they are not. */
ALWAYS vec narrow_move(const adam_vectors *c, const narrow_ranges *ranges, int in_range, int unit_m, narrow_third t,
                       const double *data, mask *uncertain)
{
    const vec p = vec_load_unaligned(data), new_p = p - t.step;
    mask matters = vec_differs(new_p, adam_other(c, p, t.step, t.residual));
    if (!in_range) {
        const vec lost = (new_p + ranges->tiny) - new_p; /* 0; but not if new_p is too small, and a nan if it is infinite */
        matters |= vec_differs(lost, vec_set(0.0));
    }
    *uncertain = t.ambiguous & matters;
    /* A quotient m_hat of an m beyond 2**900 makes p huge, one below 2**-900 does not move a p of 2**-511. */
    if (!in_range && !unit_m) *uncertain |= ~mask_between(vec_abs(new_p), vec_set(0x1p-511), vec_set(0x1p+513));
    return new_p;
}

/* ---- the loop ---- */

/* The last parameters, fewer than a vector. */
static __attribute__((noinline)) mg_status narrow_rest(const mg_adam_coefs *c, int64_t n, double *data, double *grad, double *m,
                                                       double *v)
{
    return adam_one_by_one(c, 0, n, data, grad, m, v);
}

/* Software pipelining: an update is a long dependency chain, so as many vectors are in flight as there are stages. The last
 * stage comes first: what a stage hands on is then used before the next vector's takes its place. All is stored after the
 * branch, which needs the old values.
 *
 * unit_m, unit_v, may_have_subnormals: see adam.h. has_zero: NULL, or all is known to be in range, and *has_zero becomes whether
 * some parameter may be 0 now. */
ALWAYS mg_status adam_update_all(const mg_adam_coefs *coefs, int unit_m, int unit_v, int may_have_subnormals, int *has_zero,
                                 int64_t n, double *data, double *grad, double *m, double *v)
{
    const int in_range = has_zero != NULL;
    enum { LINE = 8 }; /* doubles in a line of the cache, or a vector of them */
    const adam_vectors c = adam_prepare(coefs);
    const narrow_ranges ranges = narrow_ranges_prepare();
    const int64_t whole = n / LANES * LANES;
    narrow_queues queues;
    queues.v.count = queues.p.count = 0;
    queues.v.has_zero = queues.p.has_zero = 0;
    narrow_decayed decayed;
    decayed.count = 0;
    vec new_v = c.one;
    narrow_second second = {c.one, c.one};
    narrow_third third = {c.one, c.one, MASK_NONE};
    narrow_zeros zeros = narrow_no_zeros();
    int64_t i = 0;
/* Whether the vector that is `stage` vectors behind exists. */
#define NARROW_HAS(stage) (i >= (stage)*LANES && i < whole + (stage)*LANES)
#define NARROW_STAGES(all)                                                                                           \
    {                                                                                                                \
        const int64_t j = i - ADAM_BEHIND, k = j + LANES;                                                            \
        const int has_first = all || NARROW_HAS(0), has_last = all || NARROW_HAS(3);                                 \
        narrow_first first = {c.one, c.one, MASK_NONE};                                                              \
        mask p_uncertain = MASK_NONE;                                                                                \
        vec new_p = c.one;                                                                                           \
        if (has_last) new_p = narrow_move(&c, &ranges, in_range, unit_m, third, data + j, &p_uncertain);             \
        if (all || NARROW_HAS(2)) third = narrow_step(&c, unit_m, unit_v, second, m + k, v + k);                     \
        second = narrow_root(&c, unit_v, new_v);                                                                     \
        if (has_first)                                                                                               \
            first = narrow_moments(&c, &ranges, in_range, may_have_subnormals, i, data, grad, m, v, &decayed);       \
        if (__builtin_expect(mask_bits(mask_or(first.uncertain, p_uncertain)) != 0, 0)) {                            \
            if (has_last) narrow_queue_p(&queues.p, p_uncertain, j, data, m);                                        \
            if (has_first) narrow_queue_v(coefs, &queues.v, first.uncertain, i, data, grad, m, v);                   \
        }                                                                                                            \
        if (in_range) zeros = narrow_note_zeros(zeros, new_p);                                                       \
        if (has_last) vec_store_unaligned(data + j, new_p);                                                          \
        if (has_first) {                                                                                             \
            vec_store_unaligned(grad + i, vec_set(0.0));                                                             \
            vec_store_unaligned(m + i, first.m);                                                                     \
            vec_store_unaligned(v + i, first.v);                                                                     \
            new_v = first.v;                                                                                         \
        }                                                                                                            \
        i += LANES;                                                                                                  \
    }
    while (i < whole && i < ADAM_BEHIND) NARROW_STAGES(0)
    while (i < whole) {
        const int64_t end = whole - i < ADAM_CHUNK ? whole : i + ADAM_CHUNK;
        if (coefs->fetch_ahead) {
            while (i <= end - LINE) {
                prefetch(data, i + ADAM_AHEAD);
                prefetch(m, i + ADAM_AHEAD);
                prefetch(v, i + ADAM_AHEAD);
                NARROW_STAGES(1) /* written out: compilers unroll no loop that has loops in it */
                NARROW_STAGES(1)
                if (LINE / LANES == 4) {
                    NARROW_STAGES(1)
                    NARROW_STAGES(1)
                }
            }
        }
        while (i < end) NARROW_STAGES(1)
        narrow_store_decayed(&decayed, m, v);
        if (queues.v.count > ADAM_QUEUE - ADAM_CHUNK || queues.p.count > ADAM_QUEUE - ADAM_CHUNK) {
            const mg_status status = narrow_resolve(coefs, &queues, i - ADAM_BEHIND, data, m, v);
            if (status) return status;
        }
    }
    while (i < whole + ADAM_BEHIND) NARROW_STAGES(0)
    narrow_store_decayed(&decayed, m, v);
    mg_status status = narrow_resolve(coefs, &queues, whole, data, m, v);
    if (!status && whole < n) status = narrow_rest(coefs, n - whole, data + whole, grad + whole, m + whole, v + whole);
    if (in_range) *has_zero = narrow_has_zeros(zeros) | queues.v.has_zero | queues.p.has_zero | (whole < n);
    return status;
#undef NARROW_STAGES
#undef NARROW_HAS
}

#endif
