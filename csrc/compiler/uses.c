/* The terms of each gradient, and their order.
 *
 * The uncompiled pass visits nodes from the last finished to the first; each adds local gradient * its own gradient to its
 * children's gradients, from left to right. So a gradient is 0.0 + term + term + ..., one term for each use of the node,
 * by falling position of the user and, within one user, by slot. Nothing else of the order affects the bits. A sum that
 * begins at +0.0 is never -0.0, so a node whose only use passes the user's gradient on unchanged can share its storage. */
#include "compiler/pull.h"

#include <stdlib.h>

/* Calls visit for each child of a user that needs a gradient, slots ascending. */
#define FOR_EACH_USE(p, user, VISIT)                                                               \
    {                                                                                              \
        const int op_ = g->op[user];                                                               \
        if (op_ == MG_ADD || op_ == MG_MUL) {                                                      \
            VISIT(g->a[user], op_ == MG_ADD ? -1 : number_of(p, g->b[user]), 0)                    \
            VISIT(g->b[user], op_ == MG_ADD ? -1 : number_of(p, g->a[user]), 1)                    \
        } else if (op_ == MG_CUSTOM) {                                                             \
            const int32_t *list_ = g->lists + g->b[user];                                          \
            for (int32_t k_ = 0; 2 * k_ < list_[0]; k_++)                                          \
                VISIT(list_[1 + 2 * k_], number_of(p, list_[2 + 2 * k_]), (uint16_t)k_)            \
        } else {                                                                                   \
            VISIT(g->a[user], (int32_t)(p)->layout->slot[(p)->v->local[user]], 0)                  \
        }                                                                                          \
    }

static inline int32_t number_of(const mg_pull *p, int32_t node) { return p->number[node]; }

static void find_uses(mg_pull *p)
{
    const mg_graph *g = &p->c->g;
    const uint8_t *needs = p->c->needs_grad;
    int32_t *fill;
    int64_t total = 0;
    int32_t *last_turn = NEW_ZEROS(p->pass, int32_t, g->n), turn_number = 0;
    p->start = NEW_ZEROS(p->pass, int32_t, g->n + 1);
    p->number = NEW(p->pass, int32_t, g->n);
    for (int32_t i = 0; i < g->n; i++) p->number[i] = p->v->of[i] < 0 ? -2 : (int32_t)p->layout->slot[p->v->of[i]];
#define COUNT_ONE(child)                                                                  \
    if (needs[child]) p->start[child]++, total++;
/* Each candidate of a lookup once, even if the list repeats it. */
#define FOR_EACH_CANDIDATE(c_, ACTION)                                                    \
    {                                                                                     \
        turn_number++;                                                                    \
        for (int32_t j_ = 1; j_ <= g->lists[g->b[c_]]; j_++) {                            \
            const int32_t x_ = g->lists[g->b[c_] + j_];                                   \
            if (last_turn[x_] == turn_number) continue;                                   \
            last_turn[x_] = turn_number;                                                  \
            ACTION                                                                        \
        }                                                                                 \
    }
#define COUNT(child, factor, slot)                                                        \
    {                                                                                     \
        const int32_t c_ = child;                                                         \
        if (g->op[c_] != MG_GATHER) {                                                     \
            COUNT_ONE(c_)                                                                 \
        } else if (needs[c_])                                                             \
            FOR_EACH_CANDIDATE(c_, COUNT_ONE(x_))                                         \
    }
    for (int32_t q = p->o->n - 1; q >= 0; q--) FOR_EACH_USE(p, p->o->order[q], COUNT)
    if (total > INT32_MAX / 2) mg_pass_unsupported(p->pass, "too large");
    int32_t at = 0;
    for (int32_t i = 0; i <= g->n; i++) {
        const int32_t n = i < g->n ? p->start[i] : 0;
        p->start[i] = at;
        at += n;
    }
    p->uses = NEW(p->pass, mg_use, at + 1);
    fill = NEW(p->pass, int32_t, g->n + 1);
    memcpy(fill, p->start, (size_t)(g->n + 1) * sizeof *fill);
#define PUT_ONE(child, user_, factor_, slot_, site_)                                              \
    if (needs[child])                                                                             \
        p->uses[fill[child]++] = (mg_use){user_, factor_, site_, slot_,                              \
                                       site_ >= 0 ? MG_CONDITIONAL : factor_ >= 0 ? MG_PRODUCT : MG_PLAIN};
#define PUT(child, factor, slot)                                                                  \
    {                                                                                             \
        const int32_t c_ = child, f_ = needs[c_] ? factor : -1;                                   \
        if (f_ == -2) mg_pass_unsupported(p->pass, "a factor that is not computed");              \
        if (g->op[c_] != MG_GATHER) {                                                             \
            PUT_ONE(c_, user, f_, slot, -1)                                                       \
        } else if (needs[c_])                                                                     \
            FOR_EACH_CANDIDATE(c_, {                                                              \
                if (g->op[x_] == MG_GATHER && needs[x_])                                          \
                    mg_pass_unsupported(p->pass, "a lookup in what was looked up");               \
                PUT_ONE(x_, user, f_, slot, c_)                                                   \
            })                                                                                    \
    }
    for (int32_t q = p->o->n - 1; q >= 0; q--) {
        const int32_t user = p->o->order[q];
        FOR_EACH_USE(p, user, PUT)
    }
}

/* ---- sums whose order depends on an int input ---- */

typedef struct {
    int32_t turn, index;
} turn;

static int compare_turns(const void *x, const void *y)
{
    const turn *a = x, *b = y;
    if (a->turn != b->turn) return a->turn > b->turn ? -1 : 1; /* the later a node finishes, the earlier it sends */
    return a->index < b->index ? -1 : a->index > b->index;
}

/* Insertion sort, starting from the order for the previous value, which is usually almost the same. */
static void sort_turns(turn *turns, int32_t n)
{
    int64_t left = 8 * (int64_t)n; /* after this many moves, qsort takes over */
    for (int32_t k = 1; k < n; k++) {
        const turn t = turns[k];
        int32_t j = k;
        for (; j > 0 && compare_turns(turns + j - 1, &t) > 0; j--) turns[j] = turns[j - 1];
        turns[j] = t;
        if ((left -= k - j) >= 0) continue;
        qsort(turns, (size_t)n, sizeof *turns, compare_turns);
        return;
    }
}

static int compare_users(const void *x, const void *y) /* by falling node, then by slot */
{
    const mg_use *a = x, *b = y;
    if (a->user != b->user) return a->user > b->user ? -1 : 1;
    return a->slot < b->slot ? -1 : a->slot > b->slot;
}

/* The columns of the last permutation, if it has the same users: those of the elements of a vector usually are. */
static int32_t *same_columns(const mg_pull *p, const mg_region *r, const mg_use *uses, int32_t n)
{
    if (p->n_permutations < 2) return NULL;
    const mg_permutation *last = p->permutations + p->n_permutations - 2;
    const mg_use *others = p->uses + p->start[last->node] + last->from;
    if (last->ints != r->ints || last->n_values != r->n_values || last->to - last->from != n) return NULL;
    for (int32_t k = 0; k < n; k++)
        if (uses[k].user != others[k].user || uses[k].slot != others[k].slot) return NULL;
    return last->columns;
}

static void permute(mg_pull *p, const mg_region *r, int32_t node, int32_t from, int32_t to)
{
    const int32_t n = to - from, size = r->high - r->low, *position = p->o->position;
    mg_use *uses = p->uses + p->start[node] + from;
    mg_permutation *q;
    if (p->n_permutations == p->permutations_capacity) {
        p->permutations_capacity = 2 * p->permutations_capacity + 64;
        mg_permutation *larger = NEW(p->pass, mg_permutation, p->permutations_capacity);
        if (p->n_permutations) memcpy(larger, p->permutations, (size_t)p->n_permutations * sizeof *larger);
        p->permutations = larger;
    }
    for (int32_t k = 0; k < n; k++)
        if (uses[k].kind == MG_CONDITIONAL) mg_pass_unsupported(p->pass, "when a lookup is used depends on an index");
    qsort(uses, (size_t)n, sizeof *uses, compare_users); /* the same order for all such sums, whatever the baseline */
    q = p->permutations + p->n_permutations++;
    *q = (mg_permutation){node, r->ints, r->n_values, from, to, same_columns(p, r, uses, n)};
    turn *turns = q->columns ? NULL : NEW(p->pass, turn, n);
    if (!q->columns) q->columns = NEW(p->pass, int32_t, (size_t)r->n_values * n);
    for (int32_t value = 0; turns && value < r->n_values; value++) {
        const int32_t *moved = r->moved + (size_t)value * size;
        if (value == 0)
            for (int32_t k = 0; k < n; k++) turns[k].index = k;
        for (int32_t k = 0; k < n; k++) turns[k].turn = moved[position[uses[turns[k].index].user] - r->low];
        sort_turns(turns, n);
        for (int32_t k = 0; k < n; k++) q->columns[(size_t)value * n + k] = turns[k].index;
    }
    for (int32_t k = 0; k < n; k++) { /* 1.0 * g is g, so all of them can be products */
        if (uses[k].factor < 0) uses[k].factor = (int32_t)p->layout->one;
        uses[k].kind = MG_PRODUCT;
    }
}

/* By position in a region: the first and the last turn that it has for any value. */
static void find_turns(const mg_region *r, int32_t *first, int32_t *last)
{
    const int32_t size = r->high - r->low;
    for (int32_t j = r->fixed; j < size; j++) first[j] = last[j] = r->moved[j];
    for (int32_t value = 1; value < r->n_values; value++) {
        const int32_t *moved = r->moved + (size_t)value * size;
        for (int32_t j = r->fixed; j < size; j++) {
            first[j] = moved[j] < first[j] ? moved[j] : first[j];
            last[j] = moved[j] > last[j] ? moved[j] : last[j];
        }
    }
}

static void find_permutations(mg_pull *p)
{
    const mg_graph *g = &p->c->g;
    const int32_t *position = p->o->position;
    uint8_t *done = NEW_ZEROS(p->pass, uint8_t, p->c->g.n);
    mg_ints touched = {0};
    for (int32_t k = 0; k < p->o->n_regions; k++) {
        const mg_region *r = p->o->regions + k;
        const int32_t size = r->high - r->low;
        int32_t *first_turn = NEW(p->pass, int32_t, size), *last_turn = NEW(p->pass, int32_t, size);
        find_turns(r, first_turn, last_turn);
        touched.n = 0;
        /* Each child of the region's nodes once. */
#define TOUCH_ONE(child)                                                     \
    if (p->c->needs_grad[child] && !done[child]) {                           \
        done[child] = 1;                                                     \
        mg_ints_push(p->pass, &touched, child);                              \
    }
#define TOUCH(child, factor, slot)                                           \
    {                                                                        \
        const int32_t c_ = child;                                            \
        if (g->op[c_] != MG_GATHER) {                                        \
            TOUCH_ONE(c_)                                                    \
        } else                                                               \
            for (int32_t j_ = 1; j_ <= g->lists[g->b[c_]]; j_++) TOUCH_ONE(g->lists[g->b[c_] + j_]) \
    }
        for (int32_t q = r->low + r->fixed; q < r->high; q++) FOR_EACH_USE(p, p->o->order[q], TOUCH)
        for (int32_t t = 0; t < touched.n; t++) {
            const int32_t node = touched.items[t], first = p->start[node], end = p->start[node + 1];
            int32_t from = -1, to = -1, moves = 0;
            done[node] = 0;
            for (int32_t u = first; u < end; u++) {
                const int32_t at = position[p->uses[u].user];
                if (at < r->low + r->fixed || at >= r->high) continue; /* those before do not move */
                if (from < 0) from = u;
                to = u + 1;
            }
            for (int32_t u = from; u + 1 < to && !moves; u++) {
                const int32_t x = p->uses[u].user, y = p->uses[u + 1].user;
                if (x == y) continue;
                if (position[x] < r->low + r->fixed || position[x] >= r->high || position[y] < r->low + r->fixed
                    || position[y] >= r->high)
                    mg_pass_unsupported(p->pass, "a sum whose order depends on two indices");
                if (first_turn[position[x] - r->low] > last_turn[position[y] - r->low]) continue; /* as mostly */
                for (int32_t value = 0; value < r->n_values && !moves; value++) {
                    const int32_t *moved = r->moved + (size_t)value * size - r->low;
                    moves = moved[position[x]] <= moved[position[y]];
                }
            }
            if (moves) permute(p, r, node, from - first, to - first);
        }
    }
    p->permuted = NEW_ZEROS(p->pass, int32_t, p->c->g.n);
    for (int32_t k = 1; k < p->n_permutations; k++) /* by node, then by place; regions come in rising order */
        for (int32_t j = k; j > 0; j--) {
            mg_permutation *x = p->permutations + j - 1, *y = x + 1;
            if (x->node < y->node || (x->node == y->node && x->from < y->from)) break;
            const mg_permutation swap = *x;
            *x = *y;
            *y = swap;
        }
    for (int32_t k = p->n_permutations - 1; k >= 0; k--) p->permuted[p->permutations[k].node] = k + 1;
}

/* ---- storage and levels ---- */

static void find_levels(mg_pull *p)
{
    const mg_graph *g = &p->c->g;
    p->alias = NEW(p->pass, int32_t, g->n);
    p->level = NEW_ZEROS(p->pass, int32_t, g->n);
    for (int32_t i = g->n - 1; i >= 0; i--) { /* users have higher numbers */
        const int32_t from = p->start[i], to = p->start[i + 1];
        p->alias[i] = i;
        if (to - from == 1 && p->uses[from].kind == MG_PLAIN && g->op[i] != MG_LEAF) {
            p->alias[i] = p->alias[p->uses[from].user];
            continue;
        }
        for (int32_t u = from; u < to; u++) {
            const int32_t level = p->level[p->alias[p->uses[u].user]] + 1;
            if (level > p->level[i]) p->level[i] = level;
        }
        if (g->op[i] == MG_LEAF) p->level[i] = INT32_MAX;
    }
}

void mg_collect_uses(mg_pull *p)
{
    find_uses(p);
    find_permutations(p);
    find_levels(p);
}
