/* One block of memory, handed out in pieces, each aligned to 64 bytes.
 *
 * A plan is written once and run twice: over an arena without memory (base is NULL), which only adds up the sizes, and
 * over the block of that size. Sizes saturate, so that one check at the end finds what cannot be addressed. */
#ifndef MG_BASE_ARENA_H
#define MG_BASE_ARENA_H

#include <stdint.h>

typedef struct {
    char *base;   /* NULL: measure only */
    int64_t used; /* bytes; INT64_MAX for more than can be addressed */
} mg_arena;

/* The next count * size bytes; NULL while measuring. */
void *mg_arena_take(mg_arena *arena, int64_t count, int64_t size);

/* Allocate what was measured and start over at its beginning. Returns the block, for free(), or NULL: no memory. */
void *mg_arena_allocate(mg_arena *arena);

/* The plan of a structure: takes what it points to. */
typedef void mg_lay_out(const void *context, void *structure, mg_arena *arena);

/* A structure of this many bytes and all that its plan takes, in one block, for free(). NULL: no memory. The rest of the structure is
 * undefined. */
void *mg_arena_new(int64_t size, mg_lay_out *lay_out, const void *context);

#endif
