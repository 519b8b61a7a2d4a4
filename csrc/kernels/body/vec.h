/* A vector of MG_LANES doubles, in the vector extensions of GCC and Clang: one source for every width.
 *
 * Arithmetic on it is IEEE-754 in each lane, and every operation is rounded (-ffp-contract=off). */
#ifndef MG_BODY_VEC_H
#define MG_BODY_VEC_H

#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

/* An instruction set's file must be compiled with at least its flags. The width, never a flag, selects the intrinsics: two
 * lanes remain two lanes where the baseline has AVX. */
#if MG_LANES == 8 && !(defined(__AVX512F__) && defined(__AVX512VL__) && defined(__AVX512DQ__) && defined(__FMA__))
#error "isa/avx512.c is to be compiled with -mavx512f -mavx512vl -mavx512dq -mfma"
#elif MG_LANES == 4 && !(defined(__AVX2__) && defined(__FMA__))
#error "isa/avx2.c is to be compiled with -mavx2 -mfma"
#endif

#define LANES MG_LANES
#define ALWAYS static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* What the compiler cannot know but may rely on. */
#define ASSUME(condition)                          \
    do {                                           \
        if (!(condition)) __builtin_unreachable(); \
    } while (0)

typedef double vec __attribute__((vector_size(MG_LANES * 8), may_alias));
typedef int64_t ivec __attribute__((vector_size(MG_LANES * 8), may_alias));
typedef uint64_t uvec __attribute__((vector_size(MG_LANES * 8), may_alias));
typedef double vec_unaligned __attribute__((vector_size(MG_LANES * 8), may_alias, aligned(8)));

/* Modulo 2**64, which signed arithmetic in C is not. */
ALWAYS ivec ivec_add(ivec a, ivec b) { return (ivec)((uvec)a + (uvec)b); }
ALWAYS ivec ivec_shift_left(ivec a, int bits) { return (ivec)((uvec)a << bits); }

ALWAYS vec vec_load(const double *p) { return *(const vec *)p; }
ALWAYS void vec_store(double *p, vec v) { *(vec *)p = v; }
ALWAYS vec vec_load_unaligned(const double *p) { return *(const vec_unaligned *)p; }
ALWAYS void vec_store_unaligned(double *p, vec v) { *(vec_unaligned *)p = v; }

/* Fetch p[at] into the cache, for reading or writing. It may be outside of the array, where C forbids a pointer, so the
 * address is computed as an integer. */
ALWAYS const void *address_of(const double *p, int64_t at)
{
    return (const void *)((uintptr_t)p + (uintptr_t)at * sizeof *p);
}
ALWAYS void prefetch(const double *p, int64_t at) { __builtin_prefetch(address_of(p, at)); }
ALWAYS void prefetch_write(const double *p, int64_t at) { __builtin_prefetch(address_of(p, at), 1); }

/* An address, computed here. On Zen 5 a loop of products takes a third longer if it computes the address of their factors shortly
 * before it loads them, although the processor need not wait for it; so the loop computes the next one beforehand. */
ALWAYS const double *in_register(const double *p)
{
    __asm__("" : "+r"(p));
    return p;
}

/* The first `count` lanes, the others 0. */
ALWAYS vec vec_load_part(const double *p, int64_t count)
{
    vec v = {0};
    memcpy(&v, p, (size_t)count * sizeof(double));
    return v;
}
ALWAYS void vec_store_part(double *p, vec v, int64_t count) { memcpy(p, &v, (size_t)count * sizeof(double)); }

#if MG_LANES == 8
#define VEC_LIST(f) {f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)}
#define VEC_INDEX(f) f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)
#elif MG_LANES == 4
#define VEC_LIST(f) {f(0), f(1), f(2), f(3)}
#define VEC_INDEX(f) f(0), f(1), f(2), f(3)
#elif MG_LANES == 2
#define VEC_LIST(f) {f(0), f(1)}
#define VEC_INDEX(f) f(0), f(1)
#endif

ALWAYS vec vec_set(double x)
{
#define VEC_ITEM(l) x
    return (vec)VEC_LIST(VEC_ITEM);
#undef VEC_ITEM
}

#if MG_LANES == 8
/* The lower half of a vector: an instruction on it takes one turn where one on a vector takes two. */
typedef double half_vec __attribute__((vector_size(MG_LANES * 4), may_alias));
ALWAYS half_vec half_load(const double *p) { return *(const half_vec *)p; }
ALWAYS half_vec half_set(double x) { return (half_vec){x, x, x, x}; }
/* With 0 in the upper half. */
ALWAYS vec vec_of_half(half_vec low) { return (vec)_mm512_zextpd256_pd512((__m256d)low); }
/* Lane (l + count) % 8 of x in each lane l. */
#define VEC_ROTATE(x, count) ((vec)_mm512_alignr_epi64((__m512i)(x), (__m512i)(x), count))
#endif

/* a where the bits of mask are set, else b. */
ALWAYS vec bits_select(ivec mask, vec a, vec b) { return (vec)(((ivec)a & mask) | ((ivec)b & ~mask)); }

/* A truth value per lane: a mask register where the processor has them, else all ones or all zeros in the lane. */
#if MG_LANES == 8
typedef __mmask8 lane_mask;
ALWAYS lane_mask vec_greater(vec a, vec b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_GT_OQ); }
ALWAYS lane_mask vec_at_least(vec a, vec b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_GE_OQ); }
ALWAYS lane_mask vec_equals(vec a, vec b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_EQ_OQ); }
ALWAYS lane_mask vec_differs(vec a, vec b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_NEQ_UQ); }
ALWAYS int lanes_any(lane_mask mask) { return mask != 0; }
ALWAYS vec vec_where(lane_mask mask, vec a) { return (vec)_mm512_maskz_mov_pd(mask, (__m512d)a); }
ALWAYS vec vec_select(lane_mask mask, vec a, vec b) { return (vec)_mm512_mask_mov_pd((__m512d)b, mask, (__m512d)a); }
ALWAYS vec vec_add_where(lane_mask mask, vec sum, vec a)
{
    return (vec)_mm512_mask_add_pd((__m512d)sum, mask, (__m512d)sum, (__m512d)a);
}
ALWAYS lane_mask lanes_from(int64_t first) { return first > 0 ? (lane_mask)(0xff << first) : 0xff; }
ALWAYS lane_mask lanes_to(int64_t last) { return last < 7 ? (lane_mask)((2 << last) - 1) : 0xff; }
#else
typedef ivec lane_mask;
#if MG_LANES == 2 && defined(__SSE2__)
/* Without intrinsics GCC moves truth values of 64 bits through general registers, one by one. */
ALWAYS lane_mask vec_greater(vec a, vec b) { return (lane_mask)_mm_cmpgt_pd((__m128d)a, (__m128d)b); }
ALWAYS lane_mask vec_at_least(vec a, vec b) { return (lane_mask)_mm_cmpge_pd((__m128d)a, (__m128d)b); }
ALWAYS lane_mask vec_equals(vec a, vec b) { return (lane_mask)_mm_cmpeq_pd((__m128d)a, (__m128d)b); }
ALWAYS lane_mask vec_differs(vec a, vec b) { return (lane_mask)_mm_cmpneq_pd((__m128d)a, (__m128d)b); }
#else
ALWAYS lane_mask vec_greater(vec a, vec b) { return a > b; }
ALWAYS lane_mask vec_at_least(vec a, vec b) { return a >= b; }
ALWAYS lane_mask vec_equals(vec a, vec b) { return a == b; }
ALWAYS lane_mask vec_differs(vec a, vec b) { return a != b; }
#endif
ALWAYS int lanes_any(lane_mask mask)
{
#if MG_LANES == 4
    return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#elif MG_LANES == 2 && defined(__SSE2__)
    return _mm_movemask_pd((__m128d)mask) != 0;
#else
    int64_t any = 0;
    UNROLL for (int l = 0; l < MG_LANES; l++) any |= mask[l];
    return any != 0;
#endif
}
/* a where the mask is set, else +0.0; a where it is set, else b. */
ALWAYS vec vec_where(lane_mask mask, vec a) { return (vec)((ivec)a & mask); }
ALWAYS vec vec_select(lane_mask mask, vec a, vec b) { return bits_select(mask, a, b); }

/* sum + a where the mask is set, sum elsewhere. (sum + 0.0 is sum, unless that is -0.0, which no sum is that began at
 * 0.0.) */
ALWAYS vec vec_add_where(lane_mask mask, vec sum, vec a) { return sum + vec_where(mask, a); }

/* Lanes at or after `first`, lanes up to `last`: as doubles, which SSE2 can compare. */
#define VEC_ITEM(l) l
static const double lane_index[MG_LANES] __attribute__((aligned(64))) = VEC_LIST(VEC_ITEM);
#undef VEC_ITEM
ALWAYS lane_mask lanes_from(int64_t first) { return vec_at_least(vec_load(lane_index), vec_set((double)first)); }
ALWAYS lane_mask lanes_to(int64_t last) { return vec_at_least(vec_set((double)last), vec_load(lane_index)); }
#endif

/* vec_add_where if `only`, a constant, is set; otherwise a plain sum. */
ALWAYS vec vec_add_if(int only, lane_mask mask, vec sum, vec a)
{
    if (only) return vec_add_where(mask, sum, a);
    return sum + a;
}

/* Python's max(m, x): m unless x is greater, so a nan in x is ignored and a nan in m is kept. x86 has an instruction for
 * exactly this. */
ALWAYS vec vec_max(vec m, vec x)
{
#if MG_LANES == 8
    return (vec)_mm512_max_pd((__m512d)x, (__m512d)m);
#elif MG_LANES == 4
    return (vec)_mm256_max_pd((__m256d)x, (__m256d)m);
#elif MG_LANES == 2 && defined(__SSE2__)
    return (vec)_mm_max_pd((__m128d)x, (__m128d)m);
#else
    return vec_select(vec_greater(x, m), x, m);
#endif
}

/* Lanes of a and b, by a macro from the lane of the result to the one that goes there; those of b come after those of a. */
#if defined(__clang__) || __GNUC__ >= 12
#define VEC_SHUFFLE(a, b, index) __builtin_shufflevector(a, b, VEC_INDEX(index))
#else
#define VEC_SHUFFLE(a, b, index) __builtin_shuffle(a, b, (ivec)VEC_LIST(index))
#endif

/* The largest of the lanes, none of them nan, in every lane. */
ALWAYS vec vec_max_across(vec x)
{
#define VEC_ACROSS4(l) ((l) ^ 4)
#define VEC_ACROSS2(l) ((l) ^ 2)
#define VEC_ACROSS1(l) ((l) ^ 1)
#if MG_LANES >= 8
    x = vec_max(x, VEC_SHUFFLE(x, x, VEC_ACROSS4));
#endif
#if MG_LANES >= 4
    x = vec_max(x, VEC_SHUFFLE(x, x, VEC_ACROSS2));
#endif
    return vec_max(x, VEC_SHUFFLE(x, x, VEC_ACROSS1));
}

ALWAYS vec vec_abs(vec x) { return (vec)((ivec)x & INT64_MAX); }

/* a | (b ^ c), of bit patterns. */
ALWAYS vec vec_or_xor(vec a, vec b, vec c)
{
#if MG_LANES == 8
    return (vec)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)c, 0xf6);
#else
    return (vec)((ivec)a | ((ivec)b ^ (ivec)c));
#endif
}

/* a & (b ^ c) */
ALWAYS ivec ivec_and_xor(ivec a, ivec b, ivec c)
{
#if MG_LANES == 8
    return (ivec)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)c, 0x60);
#else
    return a & (b ^ c);
#endif
}

/* row[i][j] <-> row[j][i], in registers: swap blocks of 1, then of 2, then of 4 across the diagonal. */
#define VEC_LOW1(l) ((l)&1 ? MG_LANES + (l)-1 : (l))
#define VEC_HIGH1(l) ((l)&1 ? MG_LANES + (l) : (l) + 1)
#define VEC_LOW2(l) ((l)&2 ? MG_LANES + (l)-2 : (l))
#define VEC_HIGH2(l) ((l)&2 ? MG_LANES + (l) : (l) + 2)
#define VEC_LOW4(l) ((l)&4 ? MG_LANES + (l)-4 : (l))
#define VEC_HIGH4(l) ((l)&4 ? MG_LANES + (l) : (l) + 4)
#define VEC_SWAP(size)                                                                        \
    UNROLL for (int i = 0; i < MG_LANES; i++) if (!(i & size)) {                              \
        vec a = row[i], b = row[i + size];                                                    \
        row[i] = VEC_SHUFFLE(a, b, VEC_LOW##size);                                            \
        row[i + size] = VEC_SHUFFLE(a, b, VEC_HIGH##size);                                    \
    }
ALWAYS void vec_transpose(vec row[MG_LANES])
{
    VEC_SWAP(1)
#if MG_LANES >= 4
    VEC_SWAP(2)
#endif
#if MG_LANES >= 8
    VEC_SWAP(4)
#endif
}

#if MG_LANES < 8
/* Lane l of *first is pairs[at[l]], that of *second the number after it. Pairs are aligned to 16 bytes. */
ALWAYS void vec_load_pairs(const double *pairs, const int64_t *at, vec *first, vec *second)
{
#if MG_LANES == 4
    const __m256d low0 = _mm256_castpd128_pd256(_mm_load_pd(pairs + at[0])), low1 = _mm256_castpd128_pd256(_mm_load_pd(pairs + at[1]));
    const vec a = (vec)_mm256_insertf128_pd(low0, _mm_load_pd(pairs + at[2]), 1);
    const vec b = (vec)_mm256_insertf128_pd(low1, _mm_load_pd(pairs + at[3]), 1);
#else
    const vec a = vec_load(pairs + at[0]), b = vec_load(pairs + at[1]);
#endif
    *first = VEC_SHUFFLE(a, b, VEC_LOW1);
    *second = VEC_SHUFFLE(a, b, VEC_HIGH1);
}
#endif

/* row[p][i] = x[i * MG_LANES + p], a panel's numbers by position. Loads of halves swap the blocks of 4. */
ALWAYS void vec_load_transposed(const double *x, vec row[MG_LANES])
{
#if MG_LANES == 8
    UNROLL for (int i = 0; i < 4; i++) {
        const double *low = x + i * MG_LANES, *high = low + 4 * MG_LANES;
        const __m512d first = _mm512_castpd256_pd512(_mm256_load_pd(low));
        const __m512d second = _mm512_castpd256_pd512(_mm256_load_pd(low + 4));
        row[i] = (vec)_mm512_insertf64x4(first, _mm256_load_pd(high), 1);
        row[i + 4] = (vec)_mm512_insertf64x4(second, _mm256_load_pd(high + 4), 1);
    }
    VEC_SWAP(1)
    VEC_SWAP(2)
#else
    UNROLL for (int i = 0; i < MG_LANES; i++) row[i] = vec_load(x + i * MG_LANES);
    vec_transpose(row);
#endif
}

#endif
