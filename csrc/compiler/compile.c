/* The compiler: the sequence of its passes, and what outlives them. */
#include <stdlib.h>

#include "compiler/memory.h"
#include "compiler/passes.h"
#include "microgpt.h"

static void *keep(mg_pass *p, const void *items, size_t n, size_t size)
{
    void *copy = malloc(n * size + 1);
    if (!copy) mg_pass_out_of_memory(p);
    if (n) memcpy(copy, items, n * size);
    return copy;
}

static void finish(mg_emitter *e, mg_program *program)
{
    if (e->frame > INT32_MAX - 4096) mg_pass_out_of_memory(e->pass);
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
    if (pass) mg_pass_release(pass, memory);
    free(pass);
    free(e);
    free(c);
    free(v);
    free(layout);
    free(order);
    if (status != MG_OK) mg_program_free(program);
    return status;
}
