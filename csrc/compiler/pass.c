/* What a pass works with: memory from chunks, growing arrays, and the way out. */
#include "compiler/pass.h"

#include <stdlib.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "compiler/memory.h"
#include "microgpt.h"

struct mg_chunk {
    mg_chunk *next;
    size_t size;
    char data[] __attribute__((aligned(16)));
};

enum { HUGE_PAGE = 1 << 21, CHUNK = 1 << 22, MOST_KEPT = 3 << 24 };

/* The passes jump about in arrays of megabytes: with pages of 4 KiB most of a pass's time is spent on finding them. */
static mg_chunk *allocate_chunk(size_t size, int sparse)
{
    if (sparse) return malloc(size);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const size_t rounded = (size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    mg_chunk *chunk = rounded < size ? NULL : aligned_alloc(HUGE_PAGE, rounded);
    if (chunk) (void)madvise(chunk, rounded, MADV_HUGEPAGE); /* a wish */
#else
    mg_chunk *chunk = malloc(size);
#endif
    return chunk;
}

_Noreturn void mg_pass_out_of_memory(mg_pass *p)
{
    p->status = MG_NO_MEMORY;
    longjmp(p->stop, 1);
}

static mg_chunk *new_chunk(mg_pass *p, size_t size, int sparse)
{
    mg_chunk *chunk = p->spare;
    if (size <= CHUNK - sizeof *chunk && chunk) {
        p->spare = chunk->next;
    } else {
        const size_t room = size > CHUNK - sizeof *chunk ? size : CHUNK - sizeof *chunk;
        chunk = allocate_chunk(sizeof *chunk + room, sparse);
        if (!chunk) mg_pass_out_of_memory(p);
        chunk->size = room;
    }
    chunk->next = p->chunks;
    p->chunks = chunk;
    return chunk;
}

static void *take(mg_pass *p, size_t size, int sparse)
{
    size = (size + 15) & ~(size_t)15;
    if (size > (size_t)(p->end - p->next)) {
        mg_chunk *chunk = new_chunk(p, size, sparse && size > CHUNK);
        if (size > CHUNK / 2) return chunk->data; /* the current chunk stays in use */
        p->next = chunk->data;
        p->end = chunk->data + chunk->size;
    }
    p->next += size;
    return p->next - size;
}

void *mg_pass_memory(mg_pass *p, size_t size) { return take(p, size, 0); }

void *mg_pass_sparse(mg_pass *p, size_t size) { return take(p, size, 1); }

void *mg_pass_zeros(mg_pass *p, size_t size) { return memset(mg_pass_memory(p, size), 0, size); }

void mg_pass_release(mg_pass *p, mg_chunk **kept)
{
    size_t total = 0;
    for (mg_chunk *list = p->spare, *next; list || p->chunks; list = next) {
        if (!list) {
            list = p->chunks;
            p->chunks = NULL;
        }
        next = list->next;
        total += list->size;
        if (list->size == CHUNK - sizeof *list && total <= MOST_KEPT) {
            list->next = *kept;
            *kept = list;
        } else
            free(list);
    }
}

void mg_free_chunks(mg_chunk *chunks)
{
    while (chunks) {
        mg_chunk *next = chunks->next;
        free(chunks);
        chunks = next;
    }
}

_Noreturn void mg_pass_unsupported(mg_pass *p, const char *why)
{
    p->status = MG_OK;
    p->why = why;
    longjmp(p->stop, 1);
}

void mg_ints_reserve(mg_pass *p, mg_ints *v, int32_t more)
{
    const int64_t capacity = 2 * (int64_t)v->n + more + 64;
    if (capacity > INT32_MAX) mg_pass_out_of_memory(p);
    if (v->capacity - v->n >= more) return;
    int32_t *larger = NEW(p, int32_t, capacity);
    if (v->n) memcpy(larger, v->items, (size_t)v->n * sizeof *larger);
    v->items = larger;
    v->capacity = (int32_t)capacity;
}
