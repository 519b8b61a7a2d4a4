/* The terms of every gradient, between the two halves of the backward pass's compilation. Private. */
#ifndef MG_PULL_H
#define MG_PULL_H

#include "compiler/passes.h"

/* How a term is made: the user's gradient, a product with it, or either of them if a lookup hits this node. */
enum { MG_PLAIN = 0, MG_PRODUCT = 1, MG_CONDITIONAL = 2 };

typedef struct {
    int32_t user;   /* the node that sends it */
    int32_t factor; /* where the local gradient is in the frame, -1: it is 1 */
    int32_t site;   /* the lookup that it goes through, or -1 */
    uint16_t slot;
    uint8_t kind;
} mg_use;

typedef struct {
    int32_t node, ints, n_values, from, to; /* uses [from, to) of the node, counted from its first */
    int32_t *columns;                       /* [n_values][to - from] */
} mg_permutation;

typedef struct {
    mg_pass *pass;
    mg_emitter *e;
    const mg_compact *c;
    const mg_values *v;
    const mg_frame_layout *layout;
    mg_order *o;
    int32_t *number; /* by node: where its number is in the frame, -2: nowhere */
    int32_t *start; /* by node: its first use; start[n]: the number of uses */
    mg_use *uses;
    mg_permutation *permutations;
    int32_t n_permutations, permutations_capacity;
    int32_t *permuted; /* by node: its first permutation + 1, or 0; those of one node follow one another after sorting */
    int32_t *alias;    /* by node: whose gradient it shares */
    int32_t *level;
    int64_t *grad; /* by node: where its gradient is */
    mg_batch batch, before;
} mg_pull;


void mg_collect_uses(mg_pull *pull); /* start, uses; then permutations, alias and level */

#endif
