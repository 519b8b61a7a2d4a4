/* The position of each node in the order of the uncompiled backward pass, and how int inputs change it.
 *
 * The order is depth first: children from left to right, each node after everything below it. A lookup of inner nodes
 * makes it depend on an index. Let s be the site where the search first meets such a lookup: nothing before s depends on
 * the index. From s on, the search is simulated for each value of the index until an ancestor of s finishes. If the same
 * nodes have finished by then for all values, the search continues from the same state, and only the order among those
 * nodes depends on the index: they are a region. No region may contain a lookup by another index. */
#include "compiler/order.h"

static void baseline(mg_pass *pass, mg_search *s, int32_t root)
{
    const mg_graph *g = s->g;
    int32_t *position = s->o->position, d = 0, m = 0, discovered = 0, sites_met = 0;
    mg_search_frame *stack = NEW(pass, mg_search_frame, g->n + 1);
    for (int32_t i = 0; i < g->n; i++) position[i] = s->discovered[i] = s->site_parent[i] = -1;
    stack[d++] = (mg_search_frame){root, 0};
    position[root] = -2;
    s->parent[root] = -1;
    s->discovered[root] = discovered++;
    s->began[root] = 0;
    while (d) {
        mg_search_frame *f = stack + d - 1;
        const int32_t i = f->node, raw = mg_child(g, i, f->next++);
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
        const int32_t c = mg_looked_up(g, raw, -1, 0);
        if (!mg_op_is_inner(g->op[c]) || position[c] != -1) continue;
        position[c] = -2;
        s->discovered[c] = discovered++;
        s->parent[c] = i;
        s->began[c] = m;
        stack[d++] = (mg_search_frame){c, 0};
    }
    s->o->n = m;
}

static void find_levels(const mg_graph *g, int32_t *level)
{
    for (int32_t i = 0; i < g->n; i++) {
        int32_t highest = 0;
        if (mg_op_is_inner(g->op[i])) /* children first in this numbering */
            for (int32_t k = 0, x; (x = mg_child(g, i, k)) >= 0; k++)
                if (level[x] > highest) highest = level[x];
        if (g->op[i] == MG_GATHER)
            for (int32_t k = 1; k <= g->lists[g->b[i]]; k++)
                if (level[g->lists[g->b[i] + k]] > highest) highest = level[g->lists[g->b[i] + k]];
        level[i] = highest + 1;
    }
}

/* By first visit, not by time of finishing: a lookup may be met below another before any node has finished, and for another
 * value of the index not be met at all. So the upper lookup must begin the region. */
static int site_before(const mg_search *s, int32_t x, int32_t y) { return s->site_visit[x] < s->site_visit[y]; }

/* The lookups with inner nodes among their candidates, in the order of site_before; and which nodes have them as children. */
static mg_ints find_sites(mg_pass *pass, mg_search *s)
{
    const mg_graph *g = s->g;
    mg_ints sites = {0};
    for (int32_t i = 0; i < g->n; i++) {
        if (g->op[i] != MG_GATHER || s->site_parent[i] < 0) continue;
        const int32_t *list = g->lists + g->b[i];
        for (int32_t k = 1; k <= list[0]; k++)
            s->inner_site[i] |= mg_op_is_inner(g->op[list[k]]) || g->op[list[k]] == MG_GATHER;
        if (s->inner_site[i]) mg_ints_push(pass, &sites, i);
    }
    if (!sites.n) return sites;
    for (int32_t p = 0; p < s->o->n; p++)
        for (int32_t k = 0, raw; (raw = mg_child(g, s->o->order[p], k)) >= 0; k++)
            if (s->inner_site[raw]) {
                mg_ints_push(pass, &s->site_uses, p);
                mg_ints_push(pass, &s->site_uses, g->a[raw]);
            }
    for (int32_t i = 1; i < sites.n; i++) /* there are few */
        for (int32_t j = i; j > 0 && site_before(s, sites.items[j], sites.items[j - 1]); j--) {
            const int32_t x = sites.items[j];
            sites.items[j] = sites.items[j - 1];
            sites.items[j - 1] = x;
        }
    return sites;
}

/* Add the region that begins at this site, unless it is part of the region of another lookup by the same index. */
static void add_region(mg_pass *pass, mg_search *s, int32_t site, const int32_t *bounds)
{
    const mg_graph *g = s->g;
    mg_order *o = s->o;
    const int32_t ints = g->a[site], low = s->site_time[site], len = g->lists[g->b[site]];
    const int32_t n_values = bounds[ints] < len ? bounds[ints] : len;
    int32_t ancestor = s->site_parent[site], high, *moved = NULL, kept = 0;
    for (int32_t r = 0; r < o->n_regions; r++)
        if (o->regions[r].ints == ints && o->regions[r].low <= low && low < o->regions[r].high) return;
    for (;;) {
        high = o->position[ancestor] + 1;
        const int result = mg_simulate(pass, s, ancestor, site, n_values, low, high, &moved);
        if (result == MG_SAME_NODES) break;
        if (result == MG_OTHER_LOOKUP) mg_pass_unsupported(pass, "the order of two lookups' results depends on both indices");
        ancestor = s->parent[ancestor];
        if (ancestor < 0) mg_pass_unsupported(pass, "which results the gradient passes through depends on an index");
    }
    for (int32_t r = 0; r < o->n_regions; r++) /* regions within this one are part of it */
        if (!(low <= o->regions[r].low && o->regions[r].high <= high)) o->regions[kept++] = o->regions[r];
    const int32_t fixed = mg_count_fixed(s, moved, n_values, high - low);
    o->regions[kept] = (mg_region){site, ints, low, high, n_values, fixed, moved};
    o->n_regions = kept + 1;
}

void mg_find_order(mg_pass *pass, const mg_compact *c, const int32_t *bounds, mg_order *out)
{
    const mg_graph *g = &c->g;
    mg_search s = {.g = g, .o = out};
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
    s.path = NEW(pass, mg_search_frame, g->n + 2);
    s.stack = NEW(pass, mg_search_frame, g->n + 2);
    find_levels(g, s.level);
    baseline(pass, &s, c->roots[0]);
    const mg_ints sites = find_sites(pass, &s);
    if (!sites.n) return;
    mg_find_enclosing(pass, &s);
    out->regions = NEW(pass, mg_region, sites.n);
    for (int32_t i = 0; i < sites.n; i++) add_region(pass, &s, sites.items[i], bounds);
}
