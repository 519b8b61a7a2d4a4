/* The position of each node in the order of the uncompiled backward pass, and how int inputs change it.
 *
 * The order is depth first: children from left to right, each node after everything below it. A lookup of inner nodes
 * makes it depend on an index. Let s be the site where the search first meets such a lookup: nothing before s depends on
 * the index. From s on, the search is simulated for each value of the index until an ancestor of s finishes. If the same
 * nodes have finished by then for all values, the search continues from the same state, and only the order among those
 * nodes depends on the index: they are a region. No region may contain a lookup by another index. */
#include "compiler/passes.h"

typedef struct {
    const mg_graph *g;
    const mg_compact *c;
    mg_order *o;
    int32_t *discovered, *parent;
    int32_t *began; /* how many nodes had finished when this one was discovered */
    int32_t *level; /* by node: above all nodes below it */
    uint8_t *encloses; /* by node: see find_enclosing */
    mg_ints outside; /* lists of find_outside, */
    int32_t *outside_of; /* by node: where its list begins + 1, 0: none yet */
    int32_t *prefix; /* by value, of the region simulated last: how many nodes finish first, in the order of the baseline */
    int32_t prefix_capacity;
    int32_t *site_parent, *site_time, *site_discovered;
    int32_t *site_visit; /* by lookup: how many lookups were met before this one */
    uint8_t *inner_site; /* by node: it is a lookup with inner nodes among its candidates */
    mg_ints site_uses;   /* pairs (position, int input) of nodes with such a lookup among their children, ascending */
    int32_t *mark, stamp;
    struct search_frame *path, *stack;
    int32_t *rows; /* for the next region */
    size_t rows_capacity;
    int64_t visits;
} search;

typedef struct search_frame {
    int32_t node, next;
} frame;

enum { MOST_VISITS = 100000000 }; /* of nodes, in all simulations together: a few seconds */

static inline int32_t child(const mg_graph *g, int32_t i, int32_t k) /* -1: no more */
{
    const int op = g->op[i];
    if (op == MG_ADD || op == MG_MUL) return k == 0 ? g->a[i] : k == 1 ? g->b[i] : -1;
    if (op == MG_CUSTOM) return 2 * k < g->lists[g->b[i]] ? g->lists[g->b[i] + 1 + 2 * k] : -1;
    return k == 0 ? g->a[i] : -1;
}

/* The node that a lookup leads to where the int input `ints` has this value, and all others are 0. */
static inline int32_t looked_up(const mg_graph *g, int32_t c, int32_t ints, int32_t value)
{
    while (g->op[c] == MG_GATHER) {
        const int32_t *list = g->lists + g->b[c];
        c = list[1 + (g->a[c] == ints ? value : 0)];
    }
    return c;
}

static void baseline(mg_pass *pass, search *s, int32_t root)
{
    const mg_graph *g = s->g;
    int32_t *position = s->o->position, d = 0, m = 0, discovered = 0, sites_met = 0;
    frame *stack = NEW(pass, frame, g->n + 1);
    for (int32_t i = 0; i < g->n; i++) position[i] = s->discovered[i] = s->site_parent[i] = -1;
    stack[d++] = (frame){root, 0};
    position[root] = -2;
    s->parent[root] = -1;
    s->discovered[root] = discovered++;
    s->began[root] = 0;
    while (d) {
        frame *f = stack + d - 1;
        const int32_t i = f->node, raw = child(g, i, f->next++);
        if (raw < 0) {
            position[i] = m;
            s->o->order[m++] = i;
            d--;
            continue;
        }
        if (g->op[raw] == MG_GATHER && s->site_parent[raw] < 0) {
            s->site_parent[raw] = i;
            s->site_time[raw] = m;
            s->site_discovered[raw] = discovered;
            s->site_visit[raw] = sites_met++;
        }
        const int32_t c = looked_up(g, raw, -1, 0);
        if (!mg_op_is_inner(g->op[c]) || position[c] != -1) continue;
        position[c] = -2;
        s->discovered[c] = discovered++;
        s->parent[c] = i;
        s->began[c] = m;
        stack[d++] = (frame){c, 0};
    }
    s->o->n = m;
}

/* Whether a node at low <= position < high has a child that is looked up by another int input. */
static int has_other_site(const search *s, int32_t low, int32_t high, int32_t ints)
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
static int has_site(const search *s, int32_t low, int32_t high)
{
    return has_other_site(s, low, high, -1);
}

enum { SAME_NODES, OTHER_NODES, OTHER_LOOKUP };

/* The nodes below c are visited as in the baseline if the same ones of them have finished. That is certain if all nodes
 * that have finished in only one of the two are on levels no lower than that of c. */
typedef struct {
    int32_t covered;    /* the baseline's positions below this one have been compared */
    int32_t difference; /* the lowest level of the nodes that are not in both */
} comparison;

static int same_below(search *s, comparison *x, int32_t c, int32_t high)
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

/* Find the nodes that enclose what the baseline visits below them: for all indices, every user of those nodes is the node
 * itself or below it, and none is a lookup of inner nodes. So none of them is visited before the node. */
static void find_enclosing(mg_pass *pass, search *s)
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
        for (int32_t k = 0, x; (x = child(g, i, k)) >= 0; k++) {
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

static inline int has_finished(const search *s, const finished *f, int32_t i)
{
    return s->mark[i] == f->stamp || (uint32_t)s->discovered[i] < (uint32_t)f->barrier
           || (uint32_t)(s->discovered[i] - f->first_found) < (uint32_t)f->first_size;
}

/* Append to s->outside the lowest level below c, a count, and so many nodes that are used below c (which encloses its
 * nodes) and finish before all of them. 0 if one of them has not finished. */
static int find_outside(mg_pass *pass, search *s, const finished *f, int32_t c)
{
    const int32_t from = s->began[c], to = s->o->position[c], start = s->outside.n;
    int32_t lowest = s->level[c];
    mg_ints_push(pass, &s->outside, 0);
    mg_ints_push(pass, &s->outside, 0);
    for (int32_t p = from; p <= to; p++) {
        const int32_t i = s->o->order[p];
        for (int32_t k = 0, raw; (raw = child(s->g, i, k)) >= 0; k++) {
            const int32_t used = looked_up(s->g, raw, -1, 0);
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
static int enclosed_as_before(mg_pass *pass, search *s, comparison *x, const finished *f, int32_t c, int32_t high)
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

/* The search from the site's first visit until `ancestor` finishes, for each value of the index: moved, without the
 * columns below the value's prefix. */
static int simulate(mg_pass *pass, search *s, int32_t ancestor, int32_t site, int32_t n_values, int32_t low, int32_t high,
                    int32_t **moved)
{
    const mg_graph *g = s->g;
    const int32_t *position = s->o->position, *order = s->o->order, ints = g->a[site], barrier = s->site_discovered[site];
    const int32_t size = high - low;
    int32_t *restrict mark = s->mark;
    frame *path = s->path, *stack = s->stack;
    int32_t depth = 0;
    for (int32_t i = s->site_parent[site], below = -1;; below = i, i = s->parent[i]) { /* from the site up */
        if (depth > size) return OTHER_NODES;
        int32_t k = 0; /* the child to continue with */
        while (child(g, i, k) >= 0 && (below < 0 ? child(g, i, k) != site : looked_up(g, child(g, i, k), -1, 0) != below)) k++;
        path[depth++] = (frame){i, below < 0 ? k : k + 1};
        if (i == ancestor) break;
    }
    const size_t wanted = (size_t)n_values * (size_t)size;
    if (wanted > s->rows_capacity) {
        s->rows_capacity = 2 * wanted;
        s->rows = mg_pass_sparse(pass, s->rows_capacity * sizeof *s->rows);
    }
    if (n_values > s->prefix_capacity) {
        s->prefix_capacity = n_values;
        s->prefix = NEW(pass, int32_t, n_values);
    }
    for (int32_t value = 0; value < n_values; value++) {
        int32_t m = 0, d = depth, *row = s->rows + (size_t)value * (size_t)size;
        comparison compared = {low, INT32_MAX};
        const int32_t stamp = ++s->stamp;
        finished done = {stamp, barrier, 0, 0};
        s->prefix[value] = 0;
        if (value == 0) { /* the baseline itself: check only that it has no other lookup */
            if (has_other_site(s, low, high, ints)) return OTHER_LOOKUP;
            s->prefix[value] = size;
            continue;
        }
        for (int32_t i = 0; i < depth; i++) stack[i] = path[depth - 1 - i];
        while (d) {
            frame *f = stack + d - 1;
            const int32_t i = f->node, raw = child(g, i, f->next++);
            if (raw < 0) {
                if (m == size || position[i] < low || position[i] >= high) return OTHER_NODES;
                if (s->level[i] < compared.difference) compared.difference = s->level[i];
                row[position[i] - low] = m++;
                d--;
                continue;
            }
            int32_t c = raw;
            if (g->op[raw] == MG_GATHER) {
                if (s->inner_site[raw] && g->a[raw] != ints) return OTHER_LOOKUP;
                c = looked_up(g, raw, ints, value);
            }
            if (!mg_op_is_inner(g->op[c]) || has_finished(s, &done, c)) continue; /* or has started */
            if (m > 0 && enclosed_as_before(pass, s, &compared, &done, c, high)) {
                const int32_t from = s->began[c] - low, n = position[c] - low + 1 - from;
                if (m + n > size) return OTHER_NODES;
                mark[c] = stamp;
                for (int32_t j = 0; j < n; j++) row[from + j] = m + j;
                m += n;
                s->visits += 1 + n / 4;
                continue;
            }
            if (same_below(s, &compared, c, high)) {
                const int32_t from = s->began[c] - low, to = position[c] - low;
                if (m + to - from >= size) return OTHER_NODES;
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
            if (d > size) return OTHER_NODES;
            mark[c] = stamp;
            stack[d++] = (frame){c, 0};
            if (++s->visits > MOST_VISITS) mg_pass_unsupported(pass, "finding how the order depends on an index takes too long");
        }
        if (m != size) return OTHER_NODES;
    }
    *moved = s->rows;
    s->rows = NULL;
    s->rows_capacity = 0;
    return SAME_NODES;
}

/* How many nodes finish first, in the same order for all values; fills in the other columns of moved. */
static int32_t count_fixed(const search *s, int32_t *moved, int32_t n_values, int32_t size)
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

/* By first visit, not by time of finishing: a lookup may be met below another before any node has finished, and for another
 * value of the index not be met at all. So the upper lookup must begin the region. */
static int site_before(const search *s, int32_t x, int32_t y) { return s->site_visit[x] < s->site_visit[y]; }

void mg_find_order(mg_pass *pass, const mg_compact *c, const int32_t *bounds, mg_order *out)
{
    const mg_graph *g = &c->g;
    search s = {.g = g, .c = c, .o = out};
    mg_ints sites = {0};
    out->position = NEW(pass, int32_t, g->n);
    out->order = NEW(pass, int32_t, g->n);
    s.discovered = NEW(pass, int32_t, g->n);
    s.parent = NEW(pass, int32_t, g->n);
    s.began = NEW(pass, int32_t, g->n);
    s.site_parent = NEW(pass, int32_t, g->n);
    s.site_time = NEW(pass, int32_t, g->n);
    s.site_discovered = NEW(pass, int32_t, g->n);
    s.site_visit = NEW(pass, int32_t, g->n);
    s.inner_site = NEW_ZEROS(pass, uint8_t, g->n);
    s.mark = NEW_ZEROS(pass, int32_t, g->n);
    s.level = NEW_ZEROS(pass, int32_t, g->n);
    for (int32_t i = 0; i < g->n; i++) {
        int32_t level = 0;
        if (mg_op_is_inner(g->op[i])) /* children first in this numbering */
            for (int32_t k = 0, x; (x = child(g, i, k)) >= 0; k++)
                if (s.level[x] > level) level = s.level[x];
        if (g->op[i] == MG_GATHER)
            for (int32_t k = 1; k <= g->lists[g->b[i]]; k++)
                if (s.level[g->lists[g->b[i] + k]] > level) level = s.level[g->lists[g->b[i] + k]];
        s.level[i] = level + 1;
    }
    s.path = NEW(pass, frame, g->n + 2);
    s.stack = NEW(pass, frame, g->n + 2);
    baseline(pass, &s, c->roots[0]);
    for (int32_t i = 0; i < g->n; i++) {
        if (g->op[i] != MG_GATHER || s.site_parent[i] < 0) continue;
        const int32_t *list = g->lists + g->b[i];
        for (int32_t k = 1; k <= list[0]; k++) s.inner_site[i] |= mg_op_is_inner(g->op[list[k]]) || g->op[list[k]] == MG_GATHER;
        if (s.inner_site[i]) mg_ints_push(pass, &sites, i);
    }
    if (!sites.n) return;
    for (int32_t p = 0; p < out->n; p++)
        for (int32_t k = 0, raw; (raw = child(g, out->order[p], k)) >= 0; k++)
            if (s.inner_site[raw]) {
                mg_ints_push(pass, &s.site_uses, p);
                mg_ints_push(pass, &s.site_uses, g->a[raw]);
            }
    for (int32_t i = 1; i < sites.n; i++) /* by first visit; there are few */
        for (int32_t j = i; j > 0 && site_before(&s, sites.items[j], sites.items[j - 1]); j--) {
            const int32_t x = sites.items[j];
            sites.items[j] = sites.items[j - 1];
            sites.items[j - 1] = x;
        }
    find_enclosing(pass, &s);
    out->regions = NEW(pass, mg_region, sites.n);
    for (int32_t i = 0; i < sites.n; i++) {
        const int32_t site = sites.items[i], ints = g->a[site], low = s.site_time[site];
        int32_t ancestor = s.site_parent[site], high, *moved = NULL, kept = 0, settled = 0;
        const int32_t len = g->lists[g->b[site]], n_values = bounds[ints] < len ? bounds[ints] : len;
        for (int32_t r = 0; r < out->n_regions; r++) /* part of the region of another lookup by the same index */
            settled |= out->regions[r].ints == ints && out->regions[r].low <= low && low < out->regions[r].high;
        if (settled) continue;
        for (;;) {
            high = out->position[ancestor] + 1;
            const int result = simulate(pass, &s, ancestor, site, n_values, low, high, &moved);
            if (result == SAME_NODES) break;
            if (result == OTHER_LOOKUP) mg_pass_unsupported(pass, "the order of two lookups' results depends on both indices");
            ancestor = s.parent[ancestor];
            if (ancestor < 0) mg_pass_unsupported(pass, "which results the gradient passes through depends on an index");
        }
        for (int32_t r = 0; r < out->n_regions; r++) /* regions within this one are part of it */
            if (!(low <= out->regions[r].low && out->regions[r].high <= high)) out->regions[kept++] = out->regions[r];
        out->n_regions = kept;
        const int32_t fixed = count_fixed(&s, moved, n_values, high - low);
        out->regions[out->n_regions++] = (mg_region){site, ints, low, high, n_values, fixed, moved};
    }
}
