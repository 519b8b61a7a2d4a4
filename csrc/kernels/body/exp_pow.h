/* exp and ** on arrays, CPython's bits: the C library's results, most of them found without calling it (exp_pow_vectors.h). Those
 * few of which that is not certain are calls of the C library. */
#ifndef MG_BODY_EXP_POW_H
#define MG_BODY_EXP_POW_H

#include "base/libm.h"
#include "kernels/body/exp_pow_vectors.h"

/* ---- arrays ---- */

enum { MATH_CHUNK = 256 };

/* The vectors of a chunk that have uncertain lanes, and these lanes: a branch for each vector would be mispredicted often. */
typedef struct {
    double inputs[MATH_CHUNK]; /* out may be x */
    uint8_t listed[MATH_CHUNK / LANES], uncertain_lanes[MATH_CHUNK / LANES];
#if MG_LANES < 8
    /* Between the passes of exp_by_passes. */
    double r[MATH_CHUNK] __attribute__((aligned(64))), r_low[MATH_CHUNK] __attribute__((aligned(64)));
    int64_t i[MATH_CHUNK] __attribute__((aligned(64))), at[MATH_CHUNK] __attribute__((aligned(64)));
#endif
} math_chunk;

/* out = exact(x), `count` values; exact NULL: exp. Returns how many vectors are listed. */
ALWAYS int64_t exact_chunk(vec (*exact)(vec, double, mask *), int64_t count, const double *x, double *out, math_chunk *chunk)
{
    const exp_constants k = exact ? (exp_constants){0} : exp_prepare(1.0);
    int64_t num_listed = 0;
    for (int64_t i = 0; i < count; i += LANES) {
        mask certain;
        vec v = vec_load_unaligned(x + i);
        vec_store_unaligned(chunk->inputs + i, v);
        v = exact ? exact(v, 1.0, &certain) : exp_by(&k, v, &certain);
        vec_store_unaligned(out + i, v);
        const unsigned uncertain = ALL_LANES & ~mask_bits(certain);
        chunk->listed[num_listed] = (uint8_t)(i / LANES);
        chunk->uncertain_lanes[num_listed] = (uint8_t)uncertain;
        num_listed += uncertain != 0;
    }
    return num_listed;
}

/* A function without calls, across which no register would keep a constant. */
static __attribute__((noinline)) int64_t exp_chunk(int64_t count, const double *x, double *out, math_chunk *chunk)
{
    return exact_chunk(NULL, count, x, out, chunk);
}

#if MG_LANES < 8
/* exp in two passes: the operations on one vector, one after the other, take so long that the next ones that a processor sees are too
 * few to keep it busy. uncertain_lanes: of every vector, none listed: if stores went where results decide, the next loads would wait.
 * Returns whether all numbers are in the range of the proofs; otherwise out is unspecified. */
static __attribute__((noinline)) int exp_by_passes(int64_t count, const double *x, double *out, math_chunk *chunk)
{
    const exp_constants k = exp_prepare(1.0);
    mask in_range = MASK_ALL;
    for (int64_t i = 0; i < count; i += LANES) {
        const vec v = vec_load_unaligned(x + i);
        vec_store_unaligned(chunk->inputs + i, v);
        const exp_reduced a = exp_reduce(&k, v);
        in_range &= vec_greater(k.greatest, vec_abs(v));
        vec_store(chunk->r + i, a.r);
        vec_store(chunk->r_low + i, a.r_low);
        vec_store((double *)(chunk->i + i), (vec)a.i);
        vec_store((double *)(chunk->at + i), exp_table_at(a.i));
    }
    if (mask_bits(in_range) != ALL_LANES) return 0;
    memset(chunk->uncertain_lanes, 0, sizeof chunk->uncertain_lanes);
    for (int64_t i = 0; i < count; i += LANES) {
        const exp_reduced a = {vec_load(chunk->r + i), vec_load(chunk->r_low + i), (ivec)vec_load((double *)(chunk->i + i))};
        mask certain;
        vec_store_unaligned(out + i, exp_of_reduced(&k, a, chunk->at + i, &certain));
        mask_store_bits(chunk->uncertain_lanes + i / LANES, ~certain);
    }
    return 1;
}

/* What exp_by_passes leaves to the C library, of 64 numbers at a time: most branches on whether there are more are mispredicted. */
ALWAYS void exp_uncertain(int64_t count, const math_chunk *chunk, double *out)
{
    for (int64_t begin = 0; begin < count; begin += 64) {
        uint64_t uncertain = 0; /* from the lowest bit up: lane, then which eight vectors, then which of them */
        UNROLL for (int eight = 0; eight < 8 / LANES; eight++) {
            uint64_t bytes;
            memcpy(&bytes, chunk->uncertain_lanes + begin / LANES + eight * 8, sizeof bytes);
            uncertain |= bytes << eight * LANES;
        }
        for (; uncertain; uncertain &= uncertain - 1) {
            const int bit = __builtin_ctzll(uncertain), lane = bit % LANES, eight = bit % 8 / LANES;
            const int byte = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? bit / 8 : 7 - bit / 8;
            const int64_t i = begin + (eight * 8 + byte) * LANES + lane;
            out[i] = mg_exp(chunk->inputs[i]);
        }
    }
}
#endif

/* n is a multiple of LANES. */
ALWAYS void exact_array(vec (*exact)(vec, double, mask *), double (*libm)(double), int64_t n, const double *x,
                        double *out)
{
    for (int64_t begin = 0; begin < n; begin += MATH_CHUNK) {
        const int64_t count = n - begin < MATH_CHUNK ? n - begin : MATH_CHUNK;
        math_chunk chunk;
#if MG_LANES < 8
        if (!exact && exp_by_passes(count, x + begin, out + begin, &chunk)) {
            exp_uncertain(count, &chunk, out + begin);
            continue;
        }
#endif
        const int64_t num_listed = exact ? exact_chunk(exact, count, x + begin, out + begin, &chunk)
                                         : exp_chunk(count, x + begin, out + begin, &chunk);
        for (int64_t s = 0; s < num_listed; s++) {
            unsigned uncertain = chunk.uncertain_lanes[s];
            do {
                const int64_t i = chunk.listed[s] * LANES + __builtin_ctz(uncertain);
                out[begin + i] = libm(chunk.inputs[i]);
                uncertain &= uncertain - 1;
            } while (uncertain);
        }
    }
}

#define MATH_ARRAY_BY(name, exact, expression)                                                   \
    static double libm_##name(double x) { return expression; }                                   \
    static __attribute__((noinline)) void name##_array(int64_t n, const double *x, double *out) \
    {                                                                                            \
        if (libm_is_trusted)                                                                     \
            exact_array(exact, libm_##name, n, x, out);                                          \
        else                                                                                     \
            for (int64_t i = 0; i < n; i++) out[i] = libm_##name(x[i]);                          \
    }
#define MATH_ARRAY(name, expression) MATH_ARRAY_BY(name, exact_##name, expression)

MATH_ARRAY_BY(exp, NULL, mg_exp(x))
MATH_ARRAY(pow_2, mg_pow(x, 2.0))
MATH_ARRAY(pow_05, mg_pow(x, 0.5))
MATH_ARRAY(pow_m05, mg_pow(x, -0.5))
MATH_ARRAY(pow_m1, mg_pow(x, -1.0))
MATH_ARRAY(pow_m15, mg_pow(x, -1.5))
MATH_ARRAY(pow_m2, mg_pow(x, -2.0))

/* ---- two powers of the same number, of which the second has the first one's derivative ---- */

/* out may not be x. With one list for both, so that there is one branch on whether a lane is uncertain, often mispredicted. */
ALWAYS void exact_pairs(vec (*exact)(vec, double, mask *), vec (*exact2)(vec, double, mask *), double (*libm)(double),
                        double (*libm2)(double), int64_t n, const double *x, double *out, double *out2)
{
    for (int64_t begin = 0; begin < n; begin += MATH_CHUNK) {
        const int64_t count = n - begin < MATH_CHUNK ? n - begin : MATH_CHUNK;
        uint8_t listed[MATH_CHUNK / LANES];
        uint16_t uncertain_lanes[MATH_CHUNK / LANES]; /* the second power's after the first one's */
        int64_t num_listed = 0;
        for (int64_t i = 0; i < count; i += LANES) {
            mask certain, certain2;
            const vec v = vec_load(x + begin + i);
            vec_store(out + begin + i, exact(v, 1.0, &certain));
            vec_store(out2 + begin + i, exact2(v, 1.0, &certain2));
            const unsigned uncertain = (ALL_LANES & ~mask_bits(certain)) | (ALL_LANES & ~mask_bits(certain2)) << LANES;
            listed[num_listed] = (uint8_t)(i / LANES);
            uncertain_lanes[num_listed] = (uint16_t)uncertain;
            num_listed += uncertain != 0;
        }
        for (int64_t s = 0; s < num_listed; s++) {
            for (unsigned uncertain = uncertain_lanes[s]; uncertain; uncertain &= uncertain - 1) {
                const int bit = __builtin_ctz(uncertain);
                const int64_t i = begin + listed[s] * LANES + bit % LANES;
                if (bit < LANES)
                    out[i] = libm(x[i]);
                else
                    out2[i] = libm2(x[i]);
            }
        }
    }
}

#define MATH_PAIRS(name, name2)                                                                                   \
    static __attribute__((noinline)) void name##_and_##name2##_array(int64_t n, const double *x, double *out, double *out2) \
    {                                                                                                             \
        if (libm_is_trusted) {                                                                                    \
            exact_pairs(exact_##name, exact_##name2, libm_##name, libm_##name2, n, x, out, out2);                 \
        } else {                                                                                                  \
            name##_array(n, x, out);                                                                              \
            name2##_array(n, x, out2);                                                                            \
        }                                                                                                         \
    }
MATH_PAIRS(pow_m05, pow_m15)
MATH_PAIRS(pow_m1, pow_m2)

/* ---- is this process's C library within the error bounds? ----
 *
 * Draw numbers whose results are just outside of the tie window, up to twice its width, where a C library within its
 * error bound must agree with us. A less exact one differs in many of these cases; after the first difference the C
 * library is called for everything. */

ALWAYS int agrees(vec (*exact)(vec, double, mask *), double (*libm)(double), double low, double high, uint64_t *seed)
{
    for (int cases = 0, vectors = 0; cases < 48 && vectors < 20000 / LANES; vectors++) {
        double x[LANES] __attribute__((aligned(64)));
        UNROLL for (int l = 0; l < LANES; l++) {
            *seed = *seed * 6364136223846793005u + 1442695040888963407u;
            x[l] = low + (high - low) * 0x1p-53 * (double)(*seed >> 11);
        }
        mask inside, outside;
        const vec result = exact(vec_load(x), 1.0, &inside);
        exact(vec_load(x), 2.0, &outside);
        for (unsigned ring = mask_bits(inside) & ~mask_bits(outside); ring; ring &= ring - 1, cases++) {
            const int l = __builtin_ctz(ring);
            if (libm(x[l]) != result[l]) return 0;
        }
    }
    return 1;
}

static __attribute__((noinline)) int libm_check(void)
{
    uint64_t seed = 42;
    return agrees(exact_exp, libm_exp, -20.0, 0.0, &seed) && agrees(exact_pow_2, libm_pow_2, 0.0, 1.0, &seed)
           && agrees(exact_pow_05, libm_pow_05, 0.0, 1.0, &seed) && agrees(exact_pow_m05, libm_pow_m05, 0.0, 4.0, &seed)
           && agrees(exact_pow_m1, libm_pow_m1, 1.0, 30.0, &seed)
           && agrees(exact_pow_m15, libm_pow_m15, 0.0, 4.0, &seed)
           && agrees(exact_pow_m2, libm_pow_m2, 1.0, 30.0, &seed);
}

/* Vector arithmetic (1) or the C library for everything (0): set by choice, or by libm_check once if choice is -1. */
static int vector_math(int choice)
{
    static int certain = 0;
    if (choice >= 0)
        libm_is_trusted = choice;
    else if (!certain)
        libm_is_trusted = libm_check();
    certain = 1;
    return libm_is_trusted;
}

#endif
