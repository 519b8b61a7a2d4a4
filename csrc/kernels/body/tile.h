/* The size of a register tile of the matrix products, by width of the vectors. */
#ifndef MG_BODY_TILE_H
#define MG_BODY_TILE_H

#include "kernels/body/vec.h"

/* Accumulators that fit the registers, beside the operands. */
#if MG_LANES == 8
#define TILE_SUMS 16
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
#define TILE_ROWS(panels) ((panels)*4 <= TILE_SUMS ? 4 : 2)

#endif
