/* Recording a graph. */
#include "compiler/graph.h"

#include <stdlib.h>
#include <string.h>

#include "compiler/memory.h"

static int grow(void **items, int32_t capacity, size_t size)
{
    void *larger = realloc(*items, (size_t)capacity * size);
    if (!larger) return 0;
    *items = larger;
    return 1;
}

static int32_t larger_capacity(int32_t n, int32_t more)
{
    const int64_t wanted = (int64_t)n + more + n / 2 + 1024;
    if ((int64_t)n + more > INT32_MAX - 64) return -1;
    return wanted > INT32_MAX - 64 ? INT32_MAX - 64 : (int32_t)wanted;
}

int32_t mg_graph_node(mg_graph *g, int op, int32_t a, int32_t b)
{
    if (g->n == g->capacity) {
        const int32_t capacity = larger_capacity(g->n, 1);
        if (capacity < 0 || !grow((void **)&g->op, capacity, sizeof *g->op)
            || !grow((void **)&g->a, capacity, sizeof *g->a)
            || !grow((void **)&g->b, capacity, sizeof *g->b))
            return -1;
        g->capacity = capacity;
    }
    g->op[g->n] = (uint8_t)op;
    g->a[g->n] = a;
    g->b[g->n] = b;
    return g->n++;
}

int32_t mg_graph_list(mg_graph *g, int32_t n, const int32_t *items)
{
    const int32_t at = g->n_lists;
    if (n + 1 > g->lists_capacity - at) {
        const int32_t capacity = larger_capacity(at, n + 1);
        if (capacity < 0 || !grow((void **)&g->lists, capacity, sizeof *g->lists)) return -1;
        g->lists_capacity = capacity;
    }
    g->lists[at] = n;
    if (items && n) memcpy(g->lists + at + 1, items, (size_t)n * sizeof *items);
    g->n_lists += n + 1;
    return at;
}

int32_t mg_graph_numbers(mg_graph *g, int32_t n, const double *items)
{
    const int32_t at = g->n_numbers;
    if (n > g->numbers_capacity - at) {
        const int32_t capacity = larger_capacity(at, n);
        if (capacity < 0 || !grow((void **)&g->numbers, capacity, sizeof *g->numbers)) return -1;
        g->numbers_capacity = capacity;
    }
    memcpy(g->numbers + at, items, (size_t)n * sizeof *items);
    g->n_numbers += n;
    return at;
}

void mg_graph_free(mg_graph *g)
{
    free(g->op);
    free(g->a);
    free(g->b);
    free(g->key);
    free(g->lists);
    free(g->numbers);
    memset(g, 0, sizeof *g);
}
