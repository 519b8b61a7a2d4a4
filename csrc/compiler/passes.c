/* The compiler: its memory, and the sequence of its passes. */
#include "compiler/passes.h"

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

static void out_of_memory(mg_pass *p)
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
        if (!chunk) out_of_memory(p);
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

/* The chunks of usual size are kept for the next compilation, up to a limit. */
static void release_chunks(mg_pass *p, mg_chunk **kept)
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
    if (capacity > INT32_MAX) out_of_memory(p);
    if (v->capacity - v->n >= more) return;
    int32_t *larger = NEW(p, int32_t, capacity);
    if (v->n) memcpy(larger, v->items, (size_t)v->n * sizeof *larger);
    v->items = larger;
    v->capacity = (int32_t)capacity;
}

/* ---- what outlives the passes ---- */

static void *keep(mg_pass *p, const void *items, size_t n, size_t size)
{
    void *copy = malloc(n * size + 1);
    if (!copy) out_of_memory(p);
    if (n) memcpy(copy, items, n * size);
    return copy;
}

static void finish(mg_emitter *e, mg_program *program)
{
    if (e->frame > INT32_MAX - 4096) out_of_memory(e->pass);
    for (int32_t k = 0; k < e->n; k++) {
        const mg_instruction *i = e->instructions + k;
        if (i->kind >= MG_I_EXP && i->kind <= MG_I_CALL && (int64_t)i->nt * i->R > program->scratch_size)
            program->scratch_size = (int64_t)i->nt * i->R;
        for (int32_t j = 0; i->kind == MG_I_DOT_ROWS && j < i->nt; j++) /* a vector of at most 8 lanes for each term */
            if (4 * (int64_t)e->tiles[i->first + j].n > program->scratch_size)
                program->scratch_size = 4 * (int64_t)e->tiles[i->first + j].n;
    }
    program->scratch_size = (program->scratch_size + 7) / 8 * 8;
    program->scratch = mg_frame_take(e, 2 * program->scratch_size);
    program->frame_size = e->frame + 16; /* vectors may read and write a little beyond */
    program->instructions = keep(e->pass, e->instructions, (size_t)e->n, sizeof *e->instructions);
    program->tiles = keep(e->pass, e->tiles, (size_t)e->n_tiles, sizeof *e->tiles);
    program->lists = keep(e->pass, e->lists.items, (size_t)e->lists.n, sizeof *e->lists.items);
    program->n_tiles = e->n_tiles;
    program->n_lists = e->lists.n;
}

int mg_compile(const void *graph, int32_t n_roots, const int32_t *roots, int with_grad, const int32_t *bounds,
               mg_chunk **memory, mg_program *program)
{
    const mg_graph *trace = graph;
    mg_pass *pass = calloc(1, sizeof *pass);
    mg_emitter *e = calloc(1, sizeof *e);
    mg_compact *c = calloc(1, sizeof *c);
    mg_values *v = calloc(1, sizeof *v);
    mg_frame_layout *layout = calloc(1, sizeof *layout);
    mg_order *order = calloc(1, sizeof *order);
    volatile int status = MG_NO_MEMORY, forward_done = 0;
    volatile int32_t n = 0, n_tiles = 0, n_lists = 0;
    volatile int64_t frame = 0;
    memset(program, 0, sizeof *program);
    if (!pass || !e || !c || !v || !layout || !order) goto out;
    pass->spare = *memory;
    *memory = NULL;
    if (!setjmp(pass->stop)) {
        e->pass = pass;
        mg_compact_graph(pass, trace, n_roots, roots, c);
        program->n_nodes = c->g.n;
        mg_find_values(pass, c, with_grad, v);
        mg_emit_forward(e, c, v, layout, program);
        program->n_forward = e->n;
        n = e->n;
        n_tiles = e->n_tiles;
        n_lists = e->lists.n;
        frame = e->frame;
        forward_done = 1;
        if (with_grad) {
            mg_find_order(pass, c, bounds, order);
            mg_emit_backward(e, c, v, layout, order, program);
            program->n_backward = e->n - program->n_forward;
        }
        finish(e, program);
        status = MG_OK;
    } else if (pass->status == MG_OK && forward_done) {
        /* The order is not known in advance: compile the forward pass alone. */
        program->dynamic = pass->why;
        pass->why = NULL;
        e->n = n;
        e->n_tiles = n_tiles;
        e->lists.n = n_lists;
        e->frame = frame;
        if (!setjmp(pass->stop)) {
            finish(e, program);
            status = MG_OK;
        } else
            status = MG_NO_MEMORY;
    } else
        status = MG_NO_MEMORY;
out:
    if (pass) release_chunks(pass, memory);
    free(pass);
    free(e);
    free(c);
    free(v);
    free(layout);
    free(order);
    if (status != MG_OK) mg_program_free(program);
    return status;
}
