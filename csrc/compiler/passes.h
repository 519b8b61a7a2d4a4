/* What each pass of the compiler hands to the next: the graph, numbers, instructions. Private. */
#ifndef MG_PASSES_H
#define MG_PASSES_H

#include <stdint.h>

#include "compiler/graph.h"
#include "compiler/pass.h"
#include "compiler/program.h"

/* ---- lookups.c: the graph without dead nodes, its lookups merged and moved towards the leaves ---- */
typedef struct {
    mg_graph g; /* operands before users; arrays of the pass */
    int32_t n_roots, *roots;
    int32_t *uses;       /* by node: how many operands and roots name it */
    uint8_t *needs_grad; /* by node: whether a leaf is below it */
} mg_compact;
void mg_compact_graph(mg_pass *pass, const mg_graph *trace, int32_t n_roots, const int32_t *roots, mg_compact *out);

/* ---- order.c, order_region.c: the uncompiled backward pass's order ---- */

/* From the first visit of an inner lookup until its ancestor has finished, the order depends on an int input. Nodes that
 * finish at low <= position < high in the baseline (where it is 0) finish at low + moved[value][position - low]. */
typedef struct {
    int32_t site, ints, low, high, n_values;
    int32_t fixed;  /* how many finish first, at the same positions for all values */
    int32_t *moved; /* [n_values][high - low], without the first `fixed` of each value */
} mg_region;
typedef struct {
    int32_t *position; /* by node: when it finishes in the baseline, -1 if it is not reached */
    int32_t *order;    /* by position: the node */
    int32_t n;
    mg_region *regions;
    int32_t n_regions;
} mg_order;
void mg_find_order(mg_pass *pass, const mg_compact *c, const int32_t *bounds, mg_order *out);

/* ---- values.c: the numbers to compute, equal expressions once ---- */
enum mg_value_kind {
    V_LEAF, V_CONST, V_FLOAT, V_INT, V_TABLE, V_ADD, V_MUL, V_DIV, V_POW2, V_EXP, V_POW, V_LOG, V_RELU, V_NEG, V_CALL,
    V_GRAD_POW, V_GRAD_LOG, V_GRAD_RELU, V_DOT, V_SUM, V_MAX, V_MIN, V_GATHER
};
typedef struct {
    uint8_t kind;
    int32_t x, y;   /* operands, or index; of a dot and a sum, x: where it starts, -1 for 0.0; of a lookup, x: the int */
    int32_t at, n;  /* operand list in `operands`: n, of a dot n of a and then n of b; of a constant, at: its number */
    int32_t depth, key;
    double constant;
} mg_value;
typedef struct {
    mg_value *items;
    int32_t n, capacity;
    mg_ints operands;
    mg_table table;
    int32_t *of;    /* by node: its value, -1 if it is folded into another's sum */
    int32_t *local; /* by node: the value of its local gradient, -1 */
} mg_values;
void mg_find_values(mg_pass *pass, const mg_compact *c, int with_grad, mg_values *out);

/* ---- emit.c: instructions ---- */
typedef struct {
    int32_t seq, key; /* instructions with equal seq and fields are one */
    mg_instruction i;
    mg_tile tile;
} mg_pending;
typedef struct {
    mg_pending *items;
    int32_t n, capacity;
} mg_batch;
typedef struct {
    mg_pass *pass;
    mg_instruction *instructions;
    int32_t n, capacity;
    mg_tile *tiles;
    int32_t n_tiles, tiles_capacity;
    mg_ints lists;
    mg_ints list_starts; /* pairs (offset, length) of the lists that are shared */
    mg_table list_table;
    int64_t frame;       /* doubles laid out so far */
    mg_ints packs; /* of six: a, da, sa, R, n, where */
} mg_emitter;

int64_t mg_frame_take(mg_emitter *e, int64_t n); /* aligned to 8 */
int32_t mg_share_list(mg_emitter *e, const int32_t *items, int32_t n);
void mg_add(mg_emitter *e, mg_batch *batch, int32_t seq, mg_instruction i, mg_tile tile);
void mg_flush(mg_emitter *e, mg_batch *batch);

/* Sums over n columns for E elements. a, b: [E][n] offsets, b NULL for plain terms; out: [E]. table: NULL, or for each
 * value of the int input `ints` the columns in the order of its sum, [n_values][n]. `before` must be flushed first. */
typedef struct {
    const int32_t *table;
    int32_t ints, n_values;
} mg_permuted;
void mg_emit_sums(mg_emitter *e, mg_batch *batch, mg_batch *before, int32_t E, int32_t n,
                  const int32_t *a, const int32_t *b, const int32_t *out, int accumulate, const mg_permuted *permuted);
/* Elementwise: a, b (or NULL): [E]. */
void mg_emit_elements(mg_emitter *e, mg_batch *batch, int kind, int32_t E, const int32_t *a, const int32_t *b,
                      const int32_t *out, double constant);
/* Elements [start, start + length) whose operands move by da and db and whose results by 1. */
typedef struct {
    int32_t start, length, da, db;
} mg_run;
int32_t mg_find_runs(int32_t E, const int32_t *a, const int32_t *b, const int32_t *out, const uint8_t *same_as_next,
                     mg_run *runs);

/* ---- emit_forward.c, emit_backward.c: layout and instructions ---- */
typedef struct {
    int64_t *slot; /* by value: its offset in the frame */
    int64_t one;   /* of the constant 1.0 */
} mg_frame_layout;
void mg_emit_forward(mg_emitter *e, const mg_compact *c, mg_values *v, mg_frame_layout *layout, mg_program *program);
void mg_emit_backward(mg_emitter *e, const mg_compact *c, const mg_values *v, const mg_frame_layout *layout, mg_order *order,
                      mg_program *program);

#endif
