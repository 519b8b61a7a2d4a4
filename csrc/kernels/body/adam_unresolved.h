/* Adam: the parameters whose vector result is not certain, a few in a thousand. They are queued with their old values and
 * computed again in vectors of queued parameters, with calls of the C library where needed. To compute each where it is
 * found would be slower: such branches are not predictable. */
#ifndef MG_BODY_ADAM_UNRESOLVED_H
#define MG_BODY_ADAM_UNRESOLVED_H

#include <string.h>

#include "kernels/body/adam_one.h"

#define ADAM_CHUNK 128             /* parameters between two collections of unresolved ones; a multiple of 64 */
#define ADAM_RING (2 * ADAM_CHUNK) /* a chunk is collected when the one after it is done as well */

/* The last two chunks before their update, parameter i at i % ADAM_RING; and for each vector, the lanes in which the new v,
 * and those in which the new parameter, is not certain. */
typedef struct {
    double data[ADAM_RING], grad[ADAM_RING], v[ADAM_RING];
    uint8_t v_uncertain[ADAM_RING / LANES], p_uncertain[ADAM_RING / LANES], decaying[ADAM_RING / LANES];
} __attribute__((aligned(64))) adam_ring;

ALWAYS int64_t adam_ring_at(int64_t i) { return (int64_t)((uint64_t)i % ADAM_RING); }

/* Eight bytes, the first in the lowest bits on either byte order. */
ALWAYS uint64_t load_bytes(const uint8_t *p)
{
    uint64_t bytes;
    memcpy(&bytes, p, sizeof bytes);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    bytes = __builtin_bswap64(bytes);
#endif
    return bytes;
}

/* Unresolved parameters with their old values. m is already the new one, in its array. */
enum { ADAM_QUEUE = 4 * ADAM_CHUNK };
typedef struct { /* the doubles first, so that each array is aligned for vectors */
    double data[ADAM_QUEUE + LANES], grad[ADAM_QUEUE + LANES], v[ADAM_QUEUE + LANES];
    int64_t count, at[ADAM_QUEUE];
} __attribute__((aligned(64))) adam_queue;

/* Whether g, m and v are all +0.0: the row of a token or a position that has not occurred yet. They stay so, and if lr_t is
 * positive the parameter does not change (p - 0.0 is p, but -0.0 - -0.0 is not). */
ALWAYS int adam_idle(const mg_adam_coefs *c, const adam_ring *old, int64_t at, const double *m)
{
    const ivec any = (ivec)vec_load(old->grad + at) | (ivec)vec_load_unaligned(m) | (ivec)vec_load(old->v + at);
    return c->lr_t > 0.0 && !mask_bits(mask_any_bit(any, ivec_set(-1)));
}

/* Nothing is uncertain beyond the n parameters of the chunk that begins at `first`. */
ALWAYS void adam_end_chunk(adam_ring *old, int64_t first, int64_t n)
{
    const size_t end = (size_t)(n + LANES - 1) / LANES, beyond = ADAM_CHUNK / LANES - end;
    memset(old->v_uncertain + adam_ring_at(first) / LANES + end, 0, beyond);
    memset(old->p_uncertain + adam_ring_at(first) / LANES + end, 0, beyond);
}

/* Whether anything is uncertain in the chunk that begins at `first`. */
ALWAYS int adam_any_uncertain(const adam_ring *old, int64_t first)
{
    const int64_t vector = adam_ring_at(first) / LANES;
    uint64_t any = 0;
    UNROLL for (int64_t k = vector; k < vector + ADAM_CHUNK / LANES; k += 8)
        any |= load_bytes(old->v_uncertain + k) | load_bytes(old->p_uncertain + k);
    return any != 0;
}

/* Queue what is not resolved of a chunk, the n parameters from `first` on. */
static __attribute__((noinline)) void adam_queue_unresolved(const mg_adam_coefs *c, const adam_ring *old,
                                                            int64_t first, int64_t n, double *data, const double *m,
                                                            double *v, adam_queue *queue)
{
    const int64_t chunk = adam_ring_at(first);
    int64_t count = queue->count;
    for (int64_t k = 0; k < ADAM_CHUNK; k += 8 * LANES) { /* eight vectors, a byte each */
        uint64_t unresolved = load_bytes(old->v_uncertain + (chunk + k) / LANES)
                              | load_bytes(old->p_uncertain + (chunk + k) / LANES);
        while (unresolved) {
            const int bit = __builtin_ctzll(unresolved), from = bit & ~7;
            const int64_t i = k + LANES * (bit / 8), j = i + bit % 8, at = chunk + j;
            if ((unresolved >> from & ALL_LANES) == ALL_LANES && n - i >= LANES
                && adam_idle(c, old, chunk + i, m + first + i)) {
                vec_store_unaligned(data + first + i, vec_load(old->data + chunk + i));
                vec_store_unaligned(v + first + i, vec_set(0.0));
                unresolved &= ~((uint64_t)ALL_LANES << from);
                continue;
            }
            queue->at[count] = first + j;
            queue->data[count] = old->data[at];
            queue->grad[count] = old->grad[at];
            queue->v[count] = old->v[at];
            count += j < n;
            unresolved &= unresolved - 1;
        }
    }
    queue->count = count;
}

/* A vector of the queue, with its m: data and v become the new ones. Divisions and roots are correctly rounded at any
 * magnitude. pow may differ from the square or the root rounded to nearest: only where that would change the result is
 * the C library called. Returns the lanes that are resolved; the others are outside of the ranges of the proof. */
ALWAYS unsigned adam_resolve(const mg_adam_coefs *c, double *data, const double *grad, const double *m, double *v)
{
    const vec p = vec_load(data), g = vec_load(grad), new_m = vec_load(m);
    const vec square = g * g, decayed_v = c->beta2 * vec_load(v);
    vec new_v = decayed_v + c->one_minus_beta2 * square;
    /* A unit in the last place of the square is at most 2**-52 of it, in the wide range; pow(0, y) is 0. */
    const ivec wide = (g == 0.0) | ((vec_abs(g) >= 0x1p-480) & (vec_abs(g) < 0x1p+250));
    const ivec near = (vec_abs(g) >= 0x1p-150) & (vec_abs(g) < 0x1p+70);
    const ivec same_v = decayed_v + c->one_minus_beta2 * (square * (1.0 + 0x1p-51))
                        == decayed_v + c->one_minus_beta2 * (square * (1.0 - 0x1p-51));
    const vec square_stretch = vec_set(-1.0 - STRETCH(SQUARE_TIE_WINDOW));
    const vec other_square = fma_or_mul_add(square_residual(square, g), square_stretch, square);
    const ivec near_same_v = decayed_v + c->one_minus_beta2 * other_square == new_v;
    ivec resolved = (wide & same_v) | near;
    unsigned uncertain = mask_bits(mask_any_bit(near & ~same_v & ~near_same_v, ivec_set(-1)));
    for (; uncertain; uncertain &= uncertain - 1) {
        const int l = __builtin_ctz(uncertain);
        new_v[l] = decayed_v[l] + c->one_minus_beta2 * mg_pow(g[l], 2.0);
    }

    const vec v_hat = new_v / c->v_scale, root = vec_sqrt(v_hat), scaled_m = c->lr_t * (new_m / c->m_scale);
    const vec step = scaled_m / (root + c->eps);
    vec new_p = p - step;
    /* The same for the root. A step so small that it lost bits (below 2**-960) does not move a parameter of 2**-900 or
     * more. */
    resolved &= (vec_abs(p) >= 0x1p-900) & (vec_abs(new_m) < 0x1p+500) & (new_v >= 0.0) & (new_v < 0x1p+500);
    const ivec same_p = p - step * (1.0 + 0x1p-49) == p - step * (1.0 - 0x1p-49);
    const ivec near_root = (v_hat >= 0x1p-200) & (v_hat < 0x1p+140);
    const vec root_stretch = vec_set(0.5 * (1.0 + STRETCH(POW_TIE_WINDOW)));
    const vec other_root = fma_or_mul_add(square_residual(v_hat, root) / root, root_stretch, root);
    const ivec near_same_p = p - scaled_m / (other_root + c->eps) == new_p;
    resolved &= same_p | near_root;
    uncertain = mask_bits(mask_any_bit(near_root & ~same_p & ~near_same_p, ivec_set(-1)));
    for (; uncertain; uncertain &= uncertain - 1) {
        const int l = __builtin_ctz(uncertain);
        new_p[l] = p[l] - scaled_m[l] / (mg_pow(v_hat[l], 0.5) + c->eps);
    }
    vec_store(data, new_p);
    vec_store(v, new_v);
    return mask_bits(mask_any_bit(resolved, ivec_set(-1)));
}

/* Resolve and empty the queue. */
static __attribute__((noinline)) mg_status adam_resolve_queue(const mg_adam_coefs *c, adam_queue *queue, double *data,
                                                              double *m, double *v)
{
    for (int l = 0; l < LANES; l++) /* padding of the last vector */
        queue->data[queue->count + l] = queue->grad[queue->count + l] = queue->v[queue->count + l] = 1.0;
    for (int64_t k = 0; k < queue->count; k += LANES) {
        double new_data[LANES] __attribute__((aligned(64))), new_v[LANES] __attribute__((aligned(64)));
        double new_m[LANES] __attribute__((aligned(64))) = {0.0};
        const int lanes = queue->count - k < LANES ? (int)(queue->count - k) : LANES;
        for (int l = 0; l < lanes; l++) new_m[l] = m[queue->at[k + l]];
        memcpy(new_data, queue->data + k, sizeof new_data);
        memcpy(new_v, queue->v + k, sizeof new_v);
        const unsigned resolved = adam_resolve(c, new_data, queue->grad + k, new_m, new_v);
        for (int l = 0; l < lanes; l++) {
            const int64_t j = queue->at[k + l];
            if (!(resolved >> l & 1)) {
                new_data[l] = queue->data[k + l];
                new_v[l] = queue->v[k + l];
                const mg_status status = adam_one_from_m(c, 0, new_data + l, queue->grad + k + l, m + j, new_v + l);
                if (status) return status;
            }
            data[j] = new_data[l];
            v[j] = new_v[l];
        }
    }
    queue->count = 0;
    return MG_OK;
}

#endif
