/* What is remembered of prefixes of tokens while the parameters stay as they are: a node for each, in bounded memory.
 *
 * A node is the child, by its last token, of the prefix without it; the root is the empty prefix. Texts share their
 * beginnings: of 1,000 sampled names, two thirds of the tokens follow a prefix that was there before. */
#ifndef MG_FUSED_PREFIX_TREE_H
#define MG_FUSED_PREFIX_TREE_H

#include <stdint.h>

#include "base/arena.h"

enum { MG_PREFIX_ROOT = 0 };
enum { MG_NO_PREFIX = -1 };

typedef struct {
    char *nodes; /* [capacity], node_size bytes each */
    int64_t node_size, capacity, count;
    int64_t vocab_size, weights_size, cache_size; /* doubles, the last two rounded up to a cache line */
} mg_prefix_tree;

typedef struct {
    double factor;       /* of the weights */
    int32_t has_weights; /* whether there are any */
    int32_t has_cache;
} mg_prefix;

/* Plan the memory of a tree: for each node `weights` doubles and `cache` doubles. Not cleared yet. */
void mg_prefix_tree_lay_out(mg_prefix_tree *tree, mg_arena *arena, int64_t vocab_size, int64_t weights, int64_t cache);

/* Forget everything: the root alone is left. */
void mg_prefix_tree_clear(mg_prefix_tree *tree);

/* The node of a prefix followed by a token, made if need be. MG_NO_PREFIX if there is no memory for it, or if the prefix
 * itself is MG_NO_PREFIX. */
int64_t mg_prefix_child(mg_prefix_tree *tree, int64_t prefix, int32_t token);

static inline mg_prefix *mg_prefix_at(const mg_prefix_tree *tree, int64_t node)
{
    return (mg_prefix *)(tree->nodes + node * tree->node_size);
}

/* The running sums of the next token's probabilities, [weights]. */
static inline double *mg_prefix_weights(const mg_prefix_tree *tree, int64_t node)
{
    return (double *)(tree->nodes + node * tree->node_size + 64);
}

/* The keys and values of the last token, [cache]. */
static inline double *mg_prefix_cache(const mg_prefix_tree *tree, int64_t node)
{
    return mg_prefix_weights(tree, node) + tree->weights_size;
}

#endif
