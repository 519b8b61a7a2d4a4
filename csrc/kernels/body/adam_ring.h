/* Adam with AVX-512: a chunk's old values, and the way of its unresolved parameters to the queue. */
#ifndef MG_BODY_ADAM_RING_H
#define MG_BODY_ADAM_RING_H

#include <string.h>

#include "kernels/body/adam_unresolved.h"

#define ADAM_RING (2 * ADAM_CHUNK) /* a chunk is collected when the one after it is done as well */

/* The last two chunks before their update, parameter i at i % ADAM_RING; and for each vector, the lanes in which the new v,
 * and those in which the new parameter, is not certain. */
typedef struct {
    double data[ADAM_RING], grad[ADAM_RING], v[ADAM_RING];
    uint8_t v_uncertain[ADAM_RING / LANES], p_uncertain[ADAM_RING / LANES], decaying[ADAM_RING / LANES];
} __attribute__((aligned(64))) adam_ring;

ALWAYS int64_t adam_ring_at(int64_t i) { return (int64_t)((uint64_t)i % ADAM_RING); }

/* Eight bytes, the first in the lowest bits: AVX-512 is little-endian. */
ALWAYS uint64_t load_bytes(const uint8_t *p)
{
    uint64_t bytes;
    memcpy(&bytes, p, sizeof bytes);
    return bytes;
}

/* Whether a vector, whose index in the ring is `at`, is to stay as it was. */
ALWAYS int adam_idle(const mg_adam_coefs *c, const adam_ring *old, int64_t at, const double *m)
{
    return c->lr_t > 0.0 && !adam_lanes_in_use(vec_load(old->grad + at), vec_load_unaligned(m), vec_load(old->v + at));
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

/* Queue what is not resolved of a chunk, the n parameters from `first` on. Within the loop, and in integer registers, because
 * a call would save and restore all that the vector registers hold. */
ALWAYS void adam_queue_unresolved(const mg_adam_coefs *c, const adam_ring *old, int64_t first, int64_t n, double *data,
                                  const double *m, double *v, adam_queue *queue)
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
            copy_double(queue->data + count, old->data + at);
            copy_double(queue->grad + count, old->grad + at);
            copy_double(queue->v + count, old->v + at);
            count += j < n;
            unresolved &= unresolved - 1;
        }
    }
    queue->count = count;
}

#endif
