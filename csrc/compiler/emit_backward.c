/* The backward instructions: gradients of one level with sums of the same form side by side, those of the leaves last. */
#include "compiler/pull.h"

#include <stdlib.h>

/* Gradients computed together: of one level, with the same kinds of terms and the same permutations. */
typedef struct {
    int32_t level, node, key, rank; /* node: one of them; key: the least */
} group;

typedef struct {
    int32_t group, key, node;
} member;

static int compare_kinds(const mg_pull *p, int32_t x, int32_t y)
{
    const int32_t n = p->start[x + 1] - p->start[x];
    if (n != p->start[y + 1] - p->start[y]) return 1;
    for (int32_t k = 0; k < n; k++)
        if (p->uses[p->start[x] + k].kind != p->uses[p->start[y] + k].kind) return 1;
    int32_t a = p->permuted[x], b = p->permuted[y];
    if (!a || !b) return a != b;
    for (a--, b--;; a++, b++) {
        const mg_permutation *q = p->permutations + a, *r = p->permutations + b;
        const int more_q = a < p->n_permutations && q->node == x, more_r = b < p->n_permutations && r->node == y;
        if (!more_q || !more_r) return more_q != more_r;
        if (q->ints != r->ints || q->from != r->from || q->to != r->to || q->n_values != r->n_values
            || (q->columns != r->columns
                && memcmp(q->columns, r->columns, (size_t)q->n_values * (q->to - q->from) * sizeof(int32_t))))
            return 1;
    }
}

static uint64_t hash_kinds(const mg_pull *p, int32_t x)
{
    uint64_t h = (uint64_t)p->level[x];
    for (int32_t u = p->start[x]; u < p->start[x + 1]; u++) h = mg_hash_step(h, p->uses[u].kind);
    for (int32_t k = p->permuted[x] - 1; k >= 0 && k < p->n_permutations && p->permutations[k].node == x; k++)
        h = mg_hash_step(h, (uint64_t)p->permutations[k].ints << 32 | (uint32_t)p->permutations[k].from);
    return h;
}

static int compare_groups(const void *x, const void *y)
{
    const group *const *a = x, *const *b = y;
    if ((*a)->level != (*b)->level) return (*a)->level < (*b)->level ? -1 : 1;
    return (*a)->key < (*b)->key ? -1 : (*a)->key > (*b)->key;
}

static int compare_members(const void *x, const void *y)
{
    const member *a = x, *b = y;
    if (a->group != b->group) return a->group < b->group ? -1 : 1;
    if (a->key != b->key) return a->key < b->key ? -1 : 1;
    return a->node < b->node ? -1 : a->node > b->node;
}

/* Every node with a gradient of its own, by group. */
static member *find_groups(mg_pull *p, int32_t *n_members)
{
    const mg_graph *g = &p->c->g;
    int32_t n = 0, n_groups = 0, capacity = 256;
    uint32_t mask = 1023;
    member *members = NEW(p->pass, member, g->n + 1);
    group *groups = NEW(p->pass, group, capacity);
    int32_t *slots = NEW_ZEROS(p->pass, int32_t, mask + 1);
    for (int32_t i = 0; i < g->n; i++) {
        if (p->start[i + 1] == p->start[i] || p->alias[i] != i) continue;
        const int32_t key = g->op[i] == MG_LEAF ? g->a[i] : g->key[i];
        uint64_t h = hash_kinds(p, i);
        int32_t found;
        for (;; h++) {
            found = slots[h & mask] - 1;
            if (found < 0 || (groups[found].level == p->level[i] && !compare_kinds(p, groups[found].node, i))) break;
        }
        if (found < 0) {
            if (n_groups == capacity || 2 * (uint32_t)n_groups > mask) {
                capacity *= 2;
                mask = 2 * mask + 1;
                group *larger = NEW(p->pass, group, capacity);
                memcpy(larger, groups, (size_t)n_groups * sizeof *larger);
                groups = larger;
                slots = NEW_ZEROS(p->pass, int32_t, mask + 1);
                for (int32_t k = 0; k < n_groups; k++) {
                    uint64_t again = hash_kinds(p, groups[k].node);
                    while (slots[again & mask]) again++;
                    slots[again & mask] = k + 1;
                }
                for (h = hash_kinds(p, i); slots[h & mask]; h++)
                    ;
            }
            found = n_groups;
            slots[h & mask] = found + 1;
            groups[n_groups++] = (group){p->level[i], i, key, 0};
        }
        if (key < groups[found].key) groups[found].key = key;
        members[n++] = (member){found, key, i};
    }
    group **sorted = NEW(p->pass, group *, n_groups + 1);
    for (int32_t k = 0; k < n_groups; k++) sorted[k] = groups + k;
    qsort(sorted, (size_t)n_groups, sizeof *sorted, compare_groups);
    for (int32_t k = 0; k < n_groups; k++) sorted[k]->rank = k;
    /* By group, which keeps their order; then within each group, where most are in order already. */
    int32_t *end = NEW_ZEROS(p->pass, int32_t, n_groups + 1);
    member *by_group = NEW(p->pass, member, n + 1);
    for (int32_t k = 0; k < n; k++) end[members[k].group = groups[members[k].group].rank]++;
    for (int32_t k = 0, at = 0; k < n_groups; k++) {
        at += end[k];
        end[k] = at - end[k];
    }
    for (int32_t k = 0; k < n; k++) by_group[end[members[k].group]++] = members[k];
    for (int32_t k = 0; k < n_groups; k++) {
        const int32_t from = k ? end[k - 1] : 0;
        for (int32_t j = from + 1; j < end[k]; j++)
            if (compare_members(by_group + j - 1, by_group + j) > 0) {
                qsort(by_group + from, (size_t)(end[k] - from), sizeof *by_group, compare_members);
                break;
            }
    }
    *n_members = n;
    return by_group;
}

/* ---- terms through a lookup: the gradient goes to the one candidate that the index selects ---- */

typedef struct {
    int32_t user, slot, member;
} hit;

typedef struct {
    int32_t ints, to, step, from, factor; /* to: the gradient of candidate 0; from: the user's */
} scattered;

static int compare_hits(const void *x, const void *y)
{
    const hit *a = x, *b = y;
    if (a->user != b->user) return a->user < b->user ? -1 : 1;
    return a->slot < b->slot ? -1 : a->slot > b->slot;
}

static int compare_scattered(const void *x, const void *y)
{
    const scattered *a = x, *b = y;
    if (a->ints != b->ints) return a->ints < b->ints ? -1 : 1;
    if (a->to != b->to) return a->to < b->to ? -1 : 1;
    return a->from < b->from ? -1 : a->from > b->from;
}

static void emit_scatters(mg_pull *p, scattered *s, int32_t n, int accumulate)
{
    qsort(s, (size_t)n, sizeof *s, compare_scattered);
    for (int32_t i = 0, j; i < n; i = j) {
        int32_t from_step = 0, factor_step = 0;
        j = i + 1;
        if (j < n && s[j].to == s[i].to + 1) {
            from_step = s[j].from - s[i].from;
            factor_step = s[i].factor < 0 ? 0 : s[j].factor - s[i].factor;
        }
        while (j < n && s[j].ints == s[i].ints && s[j].step == s[i].step && s[j].to == s[j - 1].to + 1
               && s[j].from - s[j - 1].from == from_step && (s[j].factor < 0) == (s[i].factor < 0)
               && (s[i].factor < 0 || s[j].factor - s[j - 1].factor == factor_step))
            j++;
        mg_add(p->e, &p->batch, 0,
               (mg_instruction){.kind = s[i].factor < 0 ? MG_I_SCATTER : MG_I_SCATTER_MUL, .R = j - i, .sa = s[i].step, .da = 1,
                                .sb = from_step, .db = factor_step, .accumulate = accumulate, .ints = -1},
               (mg_tile){s[i].to, s[i].factor < 0 ? 0 : s[i].factor, s[i].from, s[i].ints, -1, -1});
    }
}

static void emit_conditional(mg_pull *p, const member *members, int32_t E, int32_t column, int accumulate, int32_t *stamp_of,
                             int32_t *stamp)
{
    const mg_graph *g = &p->c->g;
    hit *hits = NEW(p->pass, hit, E);
    scattered *regular = NEW(p->pass, scattered, E);
    int32_t n_regular = 0;
    for (int32_t k = 0; k < E; k++) {
        const mg_use *u = p->uses + p->start[members[k].node] + column;
        hits[k] = (hit){u->user, u->slot, k};
    }
    qsort(hits, (size_t)E, sizeof *hits, compare_hits);
    for (int32_t i = 0, j; i < E; i = j) {
        const mg_use *u = p->uses + p->start[members[hits[i].member].node] + column;
        const int32_t *list = g->lists + g->b[u->site], n = list[0];
        int32_t *to = NEW(p->pass, int32_t, n), is_regular = 1;
        ++*stamp;
        for (j = i; j < E && hits[j].user == hits[i].user && hits[j].slot == hits[i].slot; j++)
            stamp_of[members[hits[j].member].node] = *stamp;
        for (int32_t k = 0; k < n; k++) to[k] = stamp_of[list[1 + k]] == *stamp ? (int32_t)p->grad[list[1 + k]] : -1;
        for (int32_t k = 0; k < n; k++) is_regular &= to[k] >= 0 && (k < 2 || to[k] - to[k - 1] == to[1] - to[0]);
        const int32_t from = (int32_t)p->grad[p->alias[u->user]];
        if (is_regular)
            regular[n_regular++] = (scattered){g->a[u->site], to[0], n > 1 ? to[1] - to[0] : 0, from, u->factor};
        else /* the other candidates are handled with their own group */
            mg_add(p->e, &p->batch, 0, (mg_instruction){.kind = MG_I_SCATTER_LIST, .R = 1, .accumulate = accumulate, .ints = -1},
                   (mg_tile){0, u->factor, from, g->a[u->site], mg_share_list(p->e, to, n), -1});
    }
    emit_scatters(p, regular, n_regular, accumulate);
}

/* ---- a group ---- */

static void emit_zeros(mg_pull *p, const int32_t *out, int32_t E)
{
    for (int32_t i = 0, j; i < E; i = j) {
        for (j = i + 1; j < E && out[j] == out[j - 1] + 1; j++)
            ;
        mg_add(p->e, &p->batch, -1, (mg_instruction){.kind = MG_I_ZERO, .R = 1, .ints = -1},
               (mg_tile){0, 0, out[i], j - i, -1, -1});
    }
}

static void emit_terms(mg_pull *p, const member *members, int32_t E, int32_t from, int32_t to, const int32_t *out,
                       int accumulate, const mg_permutation *permutation)
{
    const int32_t n = to - from;
    const int product = p->uses[p->start[members[0].node] + from].kind == MG_PRODUCT;
    int32_t *grads = NEW(p->pass, int32_t, (size_t)E * n), *factors = product ? NEW(p->pass, int32_t, (size_t)E * n) : NULL;
    const mg_permuted permuted = {permutation ? permutation->columns : NULL, permutation ? permutation->ints : -1,
                                  permutation ? permutation->n_values : 0};
    for (int32_t k = 0; k < E; k++)
        for (int32_t q = 0; q < n; q++) {
            const mg_use *u = p->uses + p->start[members[k].node] + from + q;
            grads[(size_t)k * n + q] = (int32_t)p->grad[p->alias[u->user]];
            if (product) factors[(size_t)k * n + q] = u->factor;
        }
    mg_emit_sums(p->e, &p->batch, &p->before, E, n, product ? factors : grads, product ? grads : NULL, out, accumulate,
                 permutation ? &permuted : NULL);
    mg_flush(p->e, &p->before);
}

static void emit_group(mg_pull *p, const member *members, int32_t E, int32_t *stamp_of, int32_t *stamp)
{
    const int32_t first = members[0].node, n = p->start[first + 1] - p->start[first];
    const mg_use *uses = p->uses + p->start[first];
    int32_t *out = NEW(p->pass, int32_t, E);
    int accumulate = p->c->g.op[first] == MG_LEAF ? MG_INTO_LEAVES : 0;
    int32_t permutation = p->permuted[first] - 1;
    for (int32_t k = 0; k < E; k++) out[k] = (int32_t)p->grad[members[k].node];
    for (int32_t from = 0, to; from < n; from = to) {
        const mg_permutation *q = permutation >= 0 && permutation < p->n_permutations
                                          && p->permutations[permutation].node == first
                                      ? p->permutations + permutation : NULL;
        to = from + 1;
        if (q && q->from == from) {
            to = q->to;
            permutation++;
        } else {
            while (to < n && uses[to].kind == uses[from].kind && uses[from].kind != MG_CONDITIONAL && !(q && q->from == to)) to++;
            q = NULL;
        }
        if (uses[from].kind == MG_CONDITIONAL) {
            if (!accumulate) emit_zeros(p, out, E);
            emit_conditional(p, members, E, from, accumulate ? accumulate : 1, stamp_of, stamp);
        } else
            emit_terms(p, members, E, from, to, out, accumulate, q);
        mg_flush(p->e, &p->batch);
        if (!accumulate) accumulate = 1;
    }
}

void mg_emit_backward(mg_emitter *e, const mg_compact *c, const mg_values *v, const mg_frame_layout *layout, mg_order *order,
                      mg_program *program)
{
    const mg_graph *g = &c->g;
    mg_pull p = {.pass = e->pass, .e = e, .c = c, .v = v, .layout = layout, .o = order};
    int32_t n = 0, stamp = 0, *stamp_of = NEW_ZEROS(e->pass, int32_t, g->n);
    mg_collect_uses(&p);
    member *members = find_groups(&p, &n);
    p.grad = NEW(e->pass, int64_t, g->n);
    program->leaf_grad = mg_frame_take(e, g->n_leaves);
    p.grad[c->roots[0]] = program->root_grad = mg_frame_take(e, 1);
    for (int32_t k = 0; k < n; k++) {
        const int32_t i = members[k].node;
        if (g->op[i] == MG_LEAF)
            p.grad[i] = program->leaf_grad + g->a[i];
        else
            p.grad[i] = k == 0 || members[k].group != members[k - 1].group ? mg_frame_take(e, 1) : e->frame++;
    }
    if (e->frame > INT32_MAX / 2) mg_pass_unsupported(e->pass, "too large");
    program->n_uses = p.start[g->n];
    program->n_grads = e->frame - program->root_grad;
    for (int32_t i = 0, j; i < n; i = j) {
        for (j = i + 1; j < n && members[j].group == members[i].group; j++)
            ;
        emit_group(&p, members + i, j - i, stamp_of, &stamp);
    }
}
