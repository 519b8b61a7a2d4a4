/* The search for the order of the uncompiled backward pass, between its baseline and its regions. Private. */
#ifndef MG_ORDER_H
#define MG_ORDER_H

#include "compiler/passes.h"

typedef struct {
    int32_t node, next; /* next: the child to look at next */
} mg_search_frame;

typedef struct {
    const mg_graph *g;
    mg_order *o;
    /* By node, of the baseline. */
    int32_t *discovered, *parent;
    int32_t *began;      /* how many nodes had finished when this one was discovered */
    int32_t *level;      /* above all nodes below it */
    uint8_t *encloses;   /* see mg_find_enclosing */
    uint8_t *inner_site; /* it is a lookup with inner nodes among its candidates */
    /* By lookup: at its first visit the node that leads to it, how many nodes had finished and been discovered, and how
     * many lookups had been met. */
    int32_t *site_parent, *site_time, *site_discovered, *site_visit;
    mg_ints site_uses; /* pairs (position, int input) of nodes with an inner site among their children, ascending */
    /* Of the simulations. */
    mg_ints outside;        /* lists of find_outside, */
    int32_t *outside_of;    /* by node: where its list begins + 1, 0: none yet */
    int32_t *mark, stamp;   /* mark[i] == stamp: i has been reached */
    mg_search_frame *path, *stack;
    int32_t *prefix;        /* by value, of the region simulated last: how many nodes finish first, as in the baseline */
    int32_t prefix_capacity;
    int32_t *rows;          /* for the next region */
    size_t rows_capacity;
    int64_t visits;
} mg_search;

/* The child number k of an inner node; -1: it has no more. */
static inline int32_t mg_child(const mg_graph *g, int32_t i, int32_t k)
{
    const int op = g->op[i];
    if (op == MG_ADD || op == MG_MUL) return k == 0 ? g->a[i] : k == 1 ? g->b[i] : -1;
    if (op == MG_CUSTOM) return 2 * k < g->lists[g->b[i]] ? g->lists[g->b[i] + 1 + 2 * k] : -1;
    return k == 0 ? g->a[i] : -1;
}

/* The node that a lookup leads to where the int input `ints` has this value, and all others are 0. */
static inline int32_t mg_looked_up(const mg_graph *g, int32_t c, int32_t ints, int32_t value)
{
    while (g->op[c] == MG_GATHER) {
        const int32_t *list = g->lists + g->b[c];
        c = list[1 + (g->a[c] == ints ? value : 0)];
    }
    return c;
}

/* ---- order_region.c ---- */

/* Find the nodes that enclose what the baseline visits below them: for all indices, every user of those nodes is the node
 * itself or below it, and none is a lookup of inner nodes. So none of them is visited before the node. */
void mg_find_enclosing(mg_pass *pass, mg_search *s);

/* Simulate the search from the first visit of a site until `ancestor` finishes, for each value of the site's index. If the
 * nodes at low <= position < high of the baseline finish for all of them, *moved is where: mg_region's, but without the
 * columns below the prefix of each value. */
enum { MG_SAME_NODES, MG_OTHER_NODES, MG_OTHER_LOOKUP };
int mg_simulate(mg_pass *pass, mg_search *s, int32_t ancestor, int32_t site, int32_t n_values, int32_t low, int32_t high,
                int32_t **moved);

/* How many nodes finish first, in the same order for all values; fills in the other columns of moved. */
int32_t mg_count_fixed(const mg_search *s, int32_t *moved, int32_t n_values, int32_t size);

#endif
