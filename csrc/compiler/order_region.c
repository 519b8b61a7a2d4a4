/* How the order of nodes depends on one index: the search of order.c, simulated for each of its values. */
#include "compiler/order.h"

enum { MOST_VISITS = 100000000 }; /* of nodes, in all simulations together: a few seconds */

/* Whether a node at low <= position < high has a child that is looked up by another int input. */
static int has_other_site(const mg_search *s, int32_t low, int32_t high, int32_t ints)
{
    int32_t left = 0, right = s->site_uses.n / 2;
    while (left < right) {
        const int32_t middle = (left + right) / 2;
        if (s->site_uses.items[2 * middle] < low)
            left = middle + 1;
        else
            right = middle;
    }
    for (; left < s->site_uses.n / 2 && s->site_uses.items[2 * left] < high; left++)
        if (s->site_uses.items[2 * left + 1] != ints) return 1;
    return 0;
}

/* Whether a node at low <= position < high has a child that is looked up by any int input. */
static int has_site(const mg_search *s, int32_t low, int32_t high)
{
    return has_other_site(s, low, high, -1);
}

/* The nodes below c are visited as in the baseline if the same ones of them have finished. That is certain if all nodes
 * that have finished in only one of the two are on levels no lower than that of c. */
typedef struct {
    int32_t covered;    /* the baseline's positions below this one have been compared */
    int32_t difference; /* the lowest level of the nodes that are not in both */
} comparison;

static int same_below(mg_search *s, comparison *x, int32_t c, int32_t high)
{
    const int32_t from = s->began[c], to = s->o->position[c];
    if (to < 0 || to >= high || from < x->covered || s->level[c] > x->difference) return 0;
    int32_t lowest = x->difference, p = x->covered;
    for (; p < from && lowest >= s->level[c]; p++)
        if (s->level[s->o->order[p]] < lowest) lowest = s->level[s->o->order[p]];
    s->visits += (p - x->covered) / 8;
    if (lowest < s->level[c] || has_site(s, from, to + 1)) return 0;
    x->difference = lowest;
    x->covered = to + 1;
    return 1;
}

void mg_find_enclosing(mg_pass *pass, mg_search *s)
{
    const mg_graph *g = s->g;
    const int32_t *position = s->o->position, *order = s->o->order, never = INT32_MAX;
    int32_t *last = NEW_ZEROS(pass, int32_t, g->n); /* by node: the position of its user that finishes last */
    int32_t *last_below = NEW_ZEROS(pass, int32_t, g->n);
    s->encloses = NEW_ZEROS(pass, uint8_t, g->n);
    s->outside_of = NEW_ZEROS(pass, int32_t, g->n);
    for (int32_t i = 0; i < g->n; i++) {
        if (g->op[i] == MG_GATHER)
            for (int32_t k = 1; k <= g->lists[g->b[i]]; k++) last[g->lists[g->b[i] + k]] = never;
        if (!mg_op_is_inner(g->op[i])) continue;
        const int32_t here = position[i] < 0 ? never : position[i];
        for (int32_t k = 0, x; (x = mg_child(g, i, k)) >= 0; k++) {
            if (s->inner_site[x]) last_below[i] = never;
            if (last[x] < here) last[x] = here;
        }
    }
    for (int32_t p = 0; p < s->o->n; p++) {
        const int32_t i = order[p], up = s->parent[i];
        s->encloses[i] = last_below[i] <= p;
        if (up < 0) continue;
        if (last_below[up] < last[i]) last_below[up] = last[i];
        if (last_below[up] < last_below[i]) last_below[up] = last_below[i];
    }
}

/* The nodes that have finished in a simulation. */
typedef struct {
    int32_t stamp, barrier;          /* marked; discovered before the site */
    int32_t first_found, first_size; /* discovered in this range */
} finished;

static inline int has_finished(const mg_search *s, const finished *f, int32_t i)
{
    return s->mark[i] == f->stamp || (uint32_t)s->discovered[i] < (uint32_t)f->barrier
           || (uint32_t)(s->discovered[i] - f->first_found) < (uint32_t)f->first_size;
}

/* Append to s->outside the lowest level below c, a count, and that many nodes: those that are used below c and finish before
 * all that c encloses. 0 if one of them has not finished. */
static int find_outside(mg_pass *pass, mg_search *s, const finished *f, int32_t c)
{
    const int32_t from = s->began[c], to = s->o->position[c], start = s->outside.n;
    int32_t lowest = s->level[c];
    mg_ints_push(pass, &s->outside, 0);
    mg_ints_push(pass, &s->outside, 0);
    for (int32_t p = from; p <= to; p++) {
        const int32_t i = s->o->order[p];
        for (int32_t k = 0, raw; (raw = mg_child(s->g, i, k)) >= 0; k++) {
            const int32_t used = mg_looked_up(s->g, raw, -1, 0);
            if (!mg_op_is_inner(s->g->op[used]) || s->o->position[used] >= from) continue;
            if (!has_finished(s, f, used)) {
                s->outside.n = start;
                return 0;
            }
            mg_ints_push(pass, &s->outside, used);
        }
        if (s->level[i] < lowest) lowest = s->level[i];
    }
    s->outside.items[start] = lowest;
    s->outside.items[start + 1] = s->outside.n - start - 2;
    s->outside_of[c] = start + 1;
    return 1;
}

/* Whether what c encloses is visited as in the baseline: everything else used there has finished. */
static int enclosed_as_before(mg_pass *pass, mg_search *s, comparison *x, const finished *f, int32_t c, int32_t high)
{
    if (!s->encloses[c] || s->o->position[c] < 0 || s->o->position[c] >= high) return 0;
    if (!s->outside_of[c]) {
        if (!find_outside(pass, s, f, c)) return 0;
    } else {
        const int32_t *list = s->outside.items + s->outside_of[c] - 1;
        for (int32_t k = 0; k < list[1]; k++)
            if (!has_finished(s, f, list[2 + k])) return 0;
    }
    const int32_t lowest = s->outside.items[s->outside_of[c] - 1];
    if (lowest < x->difference) x->difference = lowest;
    return 1;
}

/* The way from a site up to its ancestor into s->path, each node with the child to continue with; how many nodes they are,
 * or more than `most`. */
static int32_t find_path(mg_search *s, int32_t site, int32_t ancestor, int32_t most)
{
    const mg_graph *g = s->g;
    int32_t depth = 0;
    for (int32_t i = s->site_parent[site], below = -1; depth <= most; below = i, i = s->parent[i]) {
        int32_t k = 0, x;
        while ((x = mg_child(g, i, k)) >= 0 && (below < 0 ? x != site : mg_looked_up(g, x, -1, 0) != below)) k++;
        s->path[depth++] = (mg_search_frame){i, below < 0 ? k : k + 1};
        if (i == ancestor) break;
    }
    return depth;
}

/* mg_simulate for one value, along a path of this depth; row: of moved. */
static int simulate_value(mg_pass *pass, mg_search *s, int32_t depth, int32_t site, int32_t value, int32_t low, int32_t high,
                          int32_t *row)
{
    const mg_graph *g = s->g;
    const int32_t *position = s->o->position, *order = s->o->order, ints = g->a[site], size = high - low;
    int32_t *restrict mark = s->mark;
    mg_search_frame *stack = s->stack;
    const int32_t stamp = ++s->stamp;
    comparison compared = {low, INT32_MAX};
    finished done = {stamp, s->site_discovered[site], 0, 0};
    int32_t m = 0, d = depth;
    s->prefix[value] = 0;
    for (int32_t i = 0; i < depth; i++) stack[i] = s->path[depth - 1 - i];
    while (d) {
        mg_search_frame *f = stack + d - 1;
        const int32_t i = f->node, raw = mg_child(g, i, f->next++);
        if (raw < 0) {
            if (m == size || position[i] < low || position[i] >= high) return MG_OTHER_NODES;
            if (s->level[i] < compared.difference) compared.difference = s->level[i];
            row[position[i] - low] = m++;
            d--;
            continue;
        }
        int32_t c = raw;
        if (g->op[raw] == MG_GATHER) {
            if (s->inner_site[raw] && g->a[raw] != ints) return MG_OTHER_LOOKUP;
            c = mg_looked_up(g, raw, ints, value);
        }
        if (!mg_op_is_inner(g->op[c]) || has_finished(s, &done, c)) continue; /* or has started */
        if (m > 0 && enclosed_as_before(pass, s, &compared, &done, c, high)) {
            const int32_t from = s->began[c] - low, n = position[c] - low + 1 - from;
            if (m + n > size) return MG_OTHER_NODES;
            mark[c] = stamp;
            for (int32_t j = 0; j < n; j++) row[from + j] = m + j;
            m += n;
            s->visits += 1 + n / 4;
            continue;
        }
        if (same_below(s, &compared, c, high)) {
            const int32_t from = s->began[c] - low, to = position[c] - low;
            if (m + to - from >= size) return MG_OTHER_NODES;
            if (m == 0 && from == 0) { /* usually the greater part: recorded as a range of discovery times */
                m = done.first_size = s->prefix[value] = to + 1;
                done.first_found = s->discovered[c];
            } else {
                for (int32_t j = from; j <= to; j++) {
                    mark[order[low + j]] = stamp;
                    row[j] = m + j - from;
                }
                m += to + 1 - from;
            }
            s->visits += 1 + (to - from) / 8;
            continue;
        }
        if (d > size) return MG_OTHER_NODES;
        mark[c] = stamp;
        stack[d++] = (mg_search_frame){c, 0};
        if (++s->visits > MOST_VISITS) mg_pass_unsupported(pass, "finding how the order depends on an index takes too long");
    }
    return m == size ? MG_SAME_NODES : MG_OTHER_NODES;
}

int mg_simulate(mg_pass *pass, mg_search *s, int32_t ancestor, int32_t site, int32_t n_values, int32_t low, int32_t high,
                int32_t **moved)
{
    const int32_t size = high - low, depth = find_path(s, site, ancestor, size);
    const size_t wanted = (size_t)n_values * (size_t)size;
    if (depth > size) return MG_OTHER_NODES;
    if (wanted > s->rows_capacity) {
        s->rows_capacity = 2 * wanted;
        s->rows = mg_pass_sparse(pass, s->rows_capacity * sizeof *s->rows);
    }
    if (n_values > s->prefix_capacity) {
        s->prefix_capacity = n_values;
        s->prefix = NEW(pass, int32_t, n_values);
    }
    if (has_other_site(s, low, high, s->g->a[site])) return MG_OTHER_LOOKUP;
    s->prefix[0] = size; /* the baseline itself */
    for (int32_t value = 1; value < n_values; value++) {
        const int status = simulate_value(pass, s, depth, site, value, low, high, s->rows + (size_t)value * (size_t)size);
        if (status != MG_SAME_NODES) return status;
    }
    *moved = s->rows;
    s->rows = NULL;
    s->rows_capacity = 0;
    return MG_SAME_NODES;
}

int32_t mg_count_fixed(const mg_search *s, int32_t *moved, int32_t n_values, int32_t size)
{
    int32_t fixed = size;
    for (int32_t value = 1; value < n_values; value++) {
        int32_t same = s->prefix[value];
        while (same < fixed && moved[(size_t)value * (size_t)size + (size_t)same] == same) same++;
        if (same < fixed) fixed = same;
    }
    for (int32_t value = 0; value < n_values; value++)
        for (int32_t j = fixed; j < s->prefix[value]; j++) moved[(size_t)value * (size_t)size + (size_t)j] = j;
    return fixed;
}
