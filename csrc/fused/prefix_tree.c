#include "fused/prefix_tree.h"

#include <string.h>

#include "base/checked.h"

enum { MOST_BYTES = 1 << 24, LINE = 64, HEADER = LINE };

static int64_t lines(int64_t count, int64_t size)
{
    const int64_t bytes = mg_mul(count, size);
    return bytes > INT64_MAX - LINE ? INT64_MAX : (bytes + LINE - 1) / LINE * LINE;
}

/* The children of a node, [vocab_size]: MG_PREFIX_ROOT, which is never a child, for none. */
static int32_t *children(const mg_prefix_tree *tree, int64_t node)
{
    return (int32_t *)(mg_prefix_cache(tree, node) + tree->cache_size);
}

void mg_prefix_tree_lay_out(mg_prefix_tree *tree, mg_arena *arena, int64_t vocab_size, int64_t weights, int64_t cache)
{
    const int64_t d = sizeof(double), of_weights = lines(weights, d), of_cache = lines(cache, d);
    const int64_t of_children = lines(vocab_size, sizeof(int32_t));
    const int64_t size = mg_mul_add(1, mg_mul_add(1, of_weights, of_cache), mg_mul_add(1, of_children, HEADER));
    tree->vocab_size = vocab_size;
    tree->weights_size = of_weights / d;
    tree->cache_size = of_cache / d;
    tree->node_size = size;
    tree->capacity = MOST_BYTES / size;
    tree->nodes = mg_arena_take(arena, tree->capacity, size);
}

static void make_node(mg_prefix_tree *tree, int64_t node)
{
    *mg_prefix_at(tree, node) = (mg_prefix){0.0, 0, 0};
    memset(children(tree, node), 0, (size_t)tree->vocab_size * sizeof(int32_t));
}

void mg_prefix_tree_clear(mg_prefix_tree *tree)
{
    tree->count = 0;
    if (tree->capacity > 0) make_node(tree, tree->count++);
}

int64_t mg_prefix_child(mg_prefix_tree *tree, int64_t prefix, int32_t token)
{
    if (prefix < 0 || prefix >= tree->count) return MG_NO_PREFIX;
    int32_t *child = &children(tree, prefix)[token];
    if (*child == MG_PREFIX_ROOT) {
        if (tree->count == tree->capacity) return MG_NO_PREFIX;
        make_node(tree, tree->count);
        *child = (int32_t)tree->count++;
    }
    return *child;
}
