/* Adam: the parameters whose vector result is not certain, a few in a thousand. They are queued with their old values and
 * computed again in vectors of queued parameters, with calls of the C library where needed. To compute each where it is
 * found would be slower: such branches are not predictable. */
#ifndef MG_BODY_ADAM_UNRESOLVED_H
#define MG_BODY_ADAM_UNRESOLVED_H

#include <string.h>

#include "kernels/body/adam_one.h"

#define ADAM_CHUNK 128 /* parameters between two looks at what is unresolved; a multiple of 64 */

/* Unresolved parameters with their old values, and what becomes of them. m is already the new one, in its array. */
enum { ADAM_QUEUE = 2 * ADAM_CHUNK };
typedef struct { /* the doubles first, so that each array is aligned for vectors */
    double data[ADAM_QUEUE + LANES], grad[ADAM_QUEUE + LANES], v[ADAM_QUEUE + LANES];
    double m[ADAM_QUEUE + LANES], new_data[ADAM_QUEUE + LANES], new_v[ADAM_QUEUE + LANES];
    int64_t count, at[ADAM_QUEUE];
    int has_zero; /* whether a parameter became 0 */
    /* Numbers in the queue: those that need the C library's power, and those outside of the ranges of the proof. */
    int64_t powers[ADAM_QUEUE + LANES], outside[ADAM_QUEUE + LANES];
    uint8_t v_outside[ADAM_QUEUE / LANES]; /* the lanes of each vector */
} __attribute__((aligned(64))) adam_queue;

/* Append the numbers of these lanes, the first of which is `first`, to a list. Without a branch for each lane, which could not
 * be predicted. Returns the new length; there must be room for all lanes. */
ALWAYS int64_t adam_note(int64_t *list, int64_t length, int64_t first, unsigned lanes)
{
    if (!lanes) return length;
    UNROLL for (int l = 0; l < LANES; l++)
    {
        list[length] = first + l;
        length += lanes >> l & 1;
    }
    return length;
}

/* The lanes in which g, m and v are not all +0.0, which is the row of a token or a position that has not occurred yet. They stay
 * so, and if lr_t is positive the parameter does not change (p - 0.0 is p, but -0.0 - -0.0 is not). */
ALWAYS unsigned adam_lanes_in_use(vec g, vec m, vec v)
{
    return mask_bits(mask_any_bit((ivec)g | (ivec)m | (ivec)v, ivec_set(-1)));
}

/* A double as an integer register holds it. */
ALWAYS int64_t double_bits(const double *p)
{
    int64_t bits;
    memcpy(&bits, p, sizeof bits);
    return bits;
}
ALWAYS void copy_double(double *to, const double *from)
{
    const int64_t bits = double_bits(from);
    memcpy(to, &bits, sizeof bits);
}

/* For the vectors of the queue, their new v and parameters. Divisions and roots are correctly rounded at any magnitude. pow may
 * differ from the square or the root rounded to nearest: only where that would change the result is the C library called, and
 * then after all vectors, for one parameter after the other. */
ALWAYS void adam_resolve_v(const mg_adam_coefs *c, adam_queue *queue)
{
    const vec square_stretch = vec_set(-1.0 - STRETCH(SQUARE_TIE_WINDOW));
    int64_t powers = 0;
    for (int64_t k = 0; k < queue->count; k += LANES) {
        const vec g = vec_load(queue->grad + k);
        const vec square = g * g, decayed_v = c->beta2 * vec_load(queue->v + k);
        const vec new_v = decayed_v + c->one_minus_beta2 * square;
        /* A unit in the last place of the square is at most 2**-52 of it, in the wide range; pow(0, y) is 0. */
        const ivec wide = (g == 0.0) | ((vec_abs(g) >= 0x1p-480) & (vec_abs(g) < 0x1p+250));
        const ivec near = (vec_abs(g) >= 0x1p-150) & (vec_abs(g) < 0x1p+70);
        const ivec same_v = decayed_v + c->one_minus_beta2 * (square * (1.0 + 0x1p-51))
                            == decayed_v + c->one_minus_beta2 * (square * (1.0 - 0x1p-51));
        const vec other_square = fma_or_mul_add(square_residual(square, g), square_stretch, square);
        const ivec near_same_v = decayed_v + c->one_minus_beta2 * other_square == new_v;
        vec_store(queue->new_v + k, new_v);
        powers = adam_note(queue->powers, powers, k, mask_bits(mask_any_bit(near & ~same_v & ~near_same_v, ivec_set(-1))));
        mask_store_bits(queue->v_outside + k / LANES, mask_any_bit(~((wide & same_v) | near), ivec_set(-1)));
    }
    for (int64_t i = 0; i < powers; i++) {
        const int64_t k = queue->powers[i];
        queue->new_v[k] = c->beta2 * queue->v[k] + c->one_minus_beta2 * mg_pow(queue->grad[k], 2.0);
    }
}

/* The parameters, from new_v. Returns how many are outside. */
ALWAYS int64_t adam_resolve_data(const mg_adam_coefs *c, adam_queue *queue)
{
    const vec root_stretch = vec_set(0.5 * (1.0 + STRETCH(POW_TIE_WINDOW)));
    int64_t powers = 0, outside = 0;
    for (int64_t k = 0; k < queue->count; k += LANES) {
        const unsigned lanes = queue->count - k < LANES ? (1u << (queue->count - k)) - 1 : ALL_LANES;
        const vec p = vec_load(queue->data + k), new_m = vec_load(queue->m + k), new_v = vec_load(queue->new_v + k);
        const vec v_hat = new_v / c->v_scale, root = vec_sqrt(v_hat), scaled_m = c->lr_t * (new_m / c->m_scale);
        const vec step = scaled_m / (root + c->eps), new_p = p - step;
        /* The same for the root. A step so small that it lost bits (below 2**-960) does not move a parameter of 2**-900 or
         * more. */
        const ivec in_range = (vec_abs(p) >= 0x1p-900) & (vec_abs(new_m) < 0x1p+500) & (new_v >= 0.0) & (new_v < 0x1p+500);
        const ivec same_p = p - step * (1.0 + 0x1p-49) == p - step * (1.0 - 0x1p-49);
        const ivec near_root = (v_hat >= 0x1p-200) & (v_hat < 0x1p+140);
        const vec other_root = fma_or_mul_add(square_residual(v_hat, root) / root, root_stretch, root);
        const ivec near_same_p = p - scaled_m / (other_root + c->eps) == new_p;
        vec_store(queue->new_data + k, new_p);
        const mask power = mask_any_bit(near_root & ~same_p & ~near_same_p, ivec_set(-1));
        const mask p_outside = mask_any_bit(~(in_range & (same_p | near_root)), ivec_set(-1));
        powers = adam_note(queue->powers, powers, k, mask_bits(power));
        outside = adam_note(queue->outside, outside, k, (mask_bits(p_outside) | queue->v_outside[k / LANES]) & lanes);
    }
    for (int64_t i = 0; i < powers; i++) {
        const int64_t k = queue->powers[i];
        const double root = mg_pow(queue->new_v[k] / c->v_scale, 0.5);
        queue->new_data[k] = queue->data[k] - c->lr_t * (queue->m[k] / c->m_scale) / (root + c->eps);
    }
    return outside;
}

/* Resolve and empty the queue. */
static __attribute__((noinline)) mg_status adam_resolve_queue(const mg_adam_coefs *c, adam_queue *queue, double *data,
                                                              double *m, double *v)
{
    const int64_t count = queue->count;
    for (int64_t k = 0; k < count; k++) queue->m[k] = m[queue->at[k]];
    for (int l = 0; l < LANES; l++) /* padding of the last vector */
        queue->data[count + l] = queue->grad[count + l] = queue->m[count + l] = queue->v[count + l] = 1.0;
    adam_resolve_v(c, queue);
    const int64_t outside = adam_resolve_data(c, queue);
    for (int64_t i = 0; i < outside; i++) {
        const int64_t k = queue->outside[i];
        double p = queue->data[k], new_v = queue->v[k];
        const mg_status status = adam_one_from_m(c, 0, &p, queue->grad + k, m + queue->at[k], &new_v);
        if (status) return status;
        queue->new_data[k] = p;
        queue->new_v[k] = new_v;
    }
    for (int64_t k = 0; k < count; k++) {
        data[queue->at[k]] = queue->new_data[k];
        v[queue->at[k]] = queue->new_v[k];
        queue->has_zero |= queue->new_data[k] == 0.0;
    }
    queue->count = 0;
    return MG_OK;
}

#endif
