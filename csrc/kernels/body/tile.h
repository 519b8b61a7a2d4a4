/* The size of a register tile of the matrix products, by width of the vectors. */
#ifndef MG_BODY_TILE_H
#define MG_BODY_TILE_H

#include "kernels/body/vec.h"

/* Accumulators that fit the registers, beside the operands. */
#if MG_LANES == 8
#define TILE_SUMS 16
#elif MG_LANES == 4
#define TILE_SUMS 12
#else
#define TILE_SUMS 8
#endif
/* Panels that share a tile's weights. Without AVX a broadcast of a weight takes one more instruction. */
#if MG_LANES == 4
#define TILE_PANELS 2
#else
#define TILE_PANELS 4
#endif
/* Whether it pays to compute addresses ahead, and a loop for each panel of positions where one for all would do: with wide vectors
 * a tile takes so few instructions that those for addresses count. */
#define TILE_WIDE (MG_LANES == 8)
/* AVX2 on Zen 3 starts some five instructions in a cycle, so a tile of two panels has six rows: 32 instructions for 12 products,
 * where four rows take 22 for 8. */
#define TILE_ROWS(panels) (MG_LANES == 4 && (panels) == 2 ? 6 : (panels)*4 <= TILE_SUMS ? 4 : 2)
/* The last rows, fewer than TILE_ROWS(panels), as TILE(rows). Where a tile has no more than two, three are never left. */
#define TILE_LAST_ROWS(panels, left, TILE)                   \
    switch (left) {                                          \
    case 3: TILE(TILE_ROWS(panels) > 3 ? 3 : 1); break;      \
    case 2: TILE(2); break;                                  \
    case 1: TILE(1); break;                                  \
    }
/* For the same reason loops with narrow vectors are of two turns: before the loop over what is summed. */
#if MG_LANES == 8
#define TWO_TURNS
#elif defined(__clang__)
#define TWO_TURNS _Pragma("unroll 2")
#else
#define TWO_TURNS _Pragma("GCC unroll 2")
#endif

ALWAYS int64_t panels_of(int64_t n) { return (n + LANES - 1) / LANES; }

/* Whether the processor's units for floating point are half as wide as a vector, so that an instruction takes two turns of
 * them: AVX-512 on Zen 4. (-1: not yet chosen.) There a broadcast by itself takes a turn, too, but not as the operand of a
 * multiplication. So tiles are of one vector of positions or columns, whose factors are used once, even if that loads each
 * factor more often. */
static int units_are_half = MG_LANES == 8 ? -1 : 0;

static int half_units(int choice)
{
    if (MG_LANES == 8 && choice >= 0) units_are_half = choice;
    return units_are_half;
}

/* sum[k] += product[k], `count` sums, 1 to 4. All products are computed before the sums: of both by turns Zen 4 starts three of each
 * in four cycles, in this order four; with AVX2 Zen 3 starts a tenth more. */
ALWAYS void add_products(int count, vec sum[4], vec product[4])
{
#if MG_LANES == 8
    if (count == 4) __asm__("" : "+v"(product[0]), "+v"(product[1]), "+v"(product[2]), "+v"(product[3]));
    if (count == 3) __asm__("" : "+v"(product[0]), "+v"(product[1]), "+v"(product[2]));
    if (count == 2) __asm__("" : "+v"(product[0]), "+v"(product[1]));
#elif MG_LANES == 4
    if (count == 4) __asm__("" : "+x"(product[0]), "+x"(product[1]), "+x"(product[2]), "+x"(product[3]));
#endif
    UNROLL for (int k = 0; k < count; k++) sum[k] += product[k];
}

/* sum[k] += factor_k * x for k from 0 to 3; factor_k is an expression of k. */
#define ADD_FOUR_PRODUCTS(sum, factor_k, x)                                       \
    do {                                                                          \
        vec product[4];                                                           \
        UNROLL for (int k = 0; k < 4; k++) product[k] = vec_set(factor_k) * (x);  \
        add_products(4, sum, product);                                            \
    } while (0)

/* sum[k] += factor[k * stride] * x, four sums. */
ALWAYS void add_four_products(vec sum[4], const double *factor, int64_t stride, vec x)
{
    ADD_FOUR_PRODUCTS(sum, factor[k * stride], x);
}

#endif
