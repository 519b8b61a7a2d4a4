#include "base/arena.h"

#include <stdlib.h>

#include "base/checked.h"

enum { ALIGN = 64 };

void *mg_arena_take(mg_arena *arena, int64_t count, int64_t size)
{
    char *piece = arena->base ? arena->base + arena->used : NULL;
    const int64_t bytes = mg_mul(count, size);
    if (bytes > INT64_MAX - ALIGN)
        arena->used = INT64_MAX;
    else
        arena->used = mg_mul_add(1, arena->used, (bytes + ALIGN - 1) / ALIGN * ALIGN);
    return piece;
}

void *mg_arena_allocate(mg_arena *arena)
{
    const int64_t size = arena->used;
    arena->base = NULL;
    arena->used = 0;
    if (size >= INT64_MAX - ALIGN || (uint64_t)size > SIZE_MAX - ALIGN) return NULL;
    void *block = malloc((size_t)size + ALIGN);
    if (block) arena->base = (char *)(((uintptr_t)block + ALIGN - 1) / ALIGN * ALIGN);
    return block;
}

void *mg_arena_new(int64_t size, mg_lay_out *lay_out, const void *context)
{
    mg_arena arena = {NULL, 0};
    void *measured = malloc((size_t)size), *block = NULL;
    if (measured) {
        mg_arena_take(&arena, 1, size);
        lay_out(context, measured, &arena);
        free(measured);
        block = mg_arena_allocate(&arena);
    }
    if (!block) return NULL;
    mg_arena_take(&arena, 1, size); /* from the first aligned byte on, so the block may begin with the structure */
    lay_out(context, block, &arena);
    return block;
}
