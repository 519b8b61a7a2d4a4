/* The first pass: drop dead nodes, merge equal lookups, and move lookups towards the leaves.
 *
 * If all candidates of probs[target] are the same operation and have no other user, it becomes that operation on looked-up
 * operands. The script's graph has exactly one such node per call as well, so this renames nodes and changes no order. */
#include "compiler/passes.h"

static int32_t resolve(int32_t *to, int32_t x)
{
    while (to[x] != x) x = to[x];
    return x;
}

typedef struct {
    mg_pass *pass;
    mg_graph g; /* grows: lookups and operations made here come last */
    int32_t *uses, *to;
    mg_ints work;
    mg_table seen; /* lookups by index and candidates */
} sinker;

static int32_t push(sinker *s, int op, int32_t a, int32_t b, int32_t key)
{
    mg_graph *g = &s->g;
    if (g->n == g->capacity) {
        const int32_t capacity = g->capacity + g->capacity / 2 + 64;
#define GROW(field, type)                                                     \
    {                                                                         \
        type *larger = NEW(s->pass, type, capacity);                          \
        memcpy(larger, field, (size_t)g->n * sizeof(type));                   \
        field = larger;                                                       \
    }
        GROW(g->op, uint8_t)
        GROW(g->a, int32_t)
        GROW(g->b, int32_t)
        GROW(g->key, int32_t)
        GROW(s->uses, int32_t)
        GROW(s->to, int32_t)
#undef GROW
        g->capacity = capacity;
    }
    g->op[g->n] = (uint8_t)op;
    g->a[g->n] = a;
    g->b[g->n] = b;
    g->key[g->n] = key;
    s->uses[g->n] = 0;
    s->to[g->n] = g->n;
    return g->n++;
}

static int32_t push_list(sinker *s, int32_t n, const int32_t *items)
{
    mg_graph *g = &s->g;
    const int32_t at = g->n_lists;
    if (n + 1 > g->lists_capacity - at) {
        const int64_t capacity = (int64_t)g->lists_capacity + g->lists_capacity / 2 + n + 64;
        if (capacity > INT32_MAX) mg_pass_unsupported(s->pass, "too many lookups");
        int32_t *larger = NEW(s->pass, int32_t, capacity);
        memcpy(larger, g->lists, (size_t)at * sizeof *larger);
        g->lists = larger;
        g->lists_capacity = (int32_t)capacity;
    }
    g->lists[at] = n;
    memmove(g->lists + at + 1, items, (size_t)n * sizeof *items);
    g->n_lists += n + 1;
    return at;
}

static uint64_t lookup_hash(const mg_graph *g, int32_t ints, const int32_t *list)
{
    uint64_t h = mg_hash_step((uint64_t)ints, (uint64_t)list[0]);
    (void)g;
    for (int32_t i = 1; i <= list[0]; i++) h = mg_hash_step(h, (uint64_t)list[i]);
    return h;
}

static void table_grow(mg_pass *pass, mg_table *t, sinker *s)
{
    const uint32_t size = t->slots ? 2 * (t->mask + 1) : 1024;
    int32_t *old = t->slots;
    const uint32_t old_size = t->slots ? t->mask + 1 : 0;
    t->slots = NEW_ZEROS(pass, int32_t, size);
    t->mask = size - 1;
    for (uint32_t k = 0; k < old_size; k++)
        if (old[k]) {
            const int32_t i = old[k] - 1;
            uint64_t h = lookup_hash(&s->g, s->g.a[i], s->g.lists + s->g.b[i]);
            while (t->slots[h & t->mask]) h++;
            t->slots[h & t->mask] = old[k];
        }
}

/* An earlier lookup with these candidates, or -1; then node is recorded for later ones. */
static int32_t find_lookup(sinker *s, int32_t ints, const int32_t *list, int32_t node)
{
    mg_table *t = &s->seen;
    if (!t->slots || 2 * t->used > t->mask) table_grow(s->pass, t, s);
    uint64_t h = lookup_hash(&s->g, ints, list);
    for (;; h++) {
        const int32_t other = t->slots[h & t->mask] - 1;
        if (other < 0) break;
        const int32_t *its = s->g.lists + s->g.b[other];
        if (s->g.a[other] == ints && its[0] == list[0]
            && !memcmp(its + 1, list + 1, (size_t)list[0] * sizeof *list))
            return other;
    }
    if (node >= 0) {
        t->slots[h & t->mask] = node + 1;
        t->used++;
    }
    return -1;
}

/* A node that looks up one of items (a list); an existing one if there is one. */
static int32_t look(sinker *s, int32_t ints, int32_t *list, int32_t key)
{
    int same = 1;
    for (int32_t i = 2; i <= list[0]; i++) same &= list[i] == list[1];
    if (same) {
        s->uses[list[1]]++;
        return list[1];
    }
    int32_t found = find_lookup(s, ints, list, -1);
    if (found < 0) {
        found = push(s, MG_GATHER, ints, push_list(s, list[0], list + 1), key);
        find_lookup(s, ints, s->g.lists + s->g.b[found], found);
        mg_ints_push(s->pass, &s->work, found);
        for (int32_t i = 1; i <= list[0]; i++) s->uses[list[i]]++;
    }
    s->uses[found]++;
    return found;
}

/* Whether the candidates are all the same operation and have no other user. count: zeros, by node. */
static int sinkable(sinker *s, const int32_t *list, int32_t *count)
{
    const mg_graph *g = &s->g;
    const int32_t first = list[1];
    const int op = g->op[first];
    int ok = mg_op_is_inner(op) && op != MG_CUSTOM;
    for (int32_t i = 1; ok && i <= list[0]; i++)
        ok = g->op[list[i]] == op && (op != MG_POW || !memcmp(g->numbers + g->b[list[i]], g->numbers + g->b[first], 8));
    if (!ok) return 0;
    for (int32_t i = 1; i <= list[0]; i++) count[list[i]]++;
    for (int32_t i = 1; i <= list[0]; i++) ok &= s->uses[list[i]] == count[list[i]];
    for (int32_t i = 1; i <= list[0]; i++) count[list[i]] = 0;
    return ok;
}

static void sink(sinker *s)
{
    mg_graph *g = &s->g;
    const int32_t n = g->n;
    int32_t *count = NEW_ZEROS(s->pass, int32_t, n);
    for (int32_t i = 0; i < n; i++) {
        if (g->op[i] != MG_GATHER || !s->uses[i]) continue;
        const int32_t *list = g->lists + g->b[i];
        const int32_t same = find_lookup(s, g->a[i], list, i);
        if (same >= 0) {
            s->to[i] = same;
            s->uses[same] += s->uses[i];
            for (int32_t k = 1; k <= list[0]; k++) s->uses[list[k]]--;
        } else
            mg_ints_push(s->pass, &s->work, i);
    }
    for (int32_t w = 0; w < s->work.n; w++) {
        const int32_t i = s->work.items[w], at = g->b[i], len = g->lists[at], ints = g->a[i], key = g->key[i];
        int in_first_part = 1;
        for (int32_t k = 1; k <= len; k++) in_first_part &= g->lists[at + k] < n;
        if (!in_first_part || !sinkable(s, g->lists + at, count)) continue;
        const int32_t first = g->lists[at + 1], op = g->op[first], two = mg_op_operands(op) == 2;
        int32_t *operand = NEW(s->pass, int32_t, 2 * (len + 1)), *other = operand + len + 1;
        operand[0] = other[0] = len;
        for (int32_t k = 1; k <= len; k++) {
            const int32_t x = g->lists[at + k];
            operand[k] = resolve(s->to, g->a[x]);
            other[k] = two ? resolve(s->to, g->b[x]) : 0;
            if (!count[x]) { /* now dead */
                count[x] = 1;
                s->uses[operand[k]]--;
                if (two) s->uses[other[k]]--;
            }
        }
        for (int32_t k = 1; k <= len; k++) count[g->lists[at + k]] = 0;
        const int32_t x = look(s, ints, operand, key);
        const int32_t y = two ? look(s, ints, other, key) : g->b[first];
        const int32_t made = push(s, op, x, y, key);
        s->uses[made] = s->uses[i];
        s->to[i] = made;
    }
}

/* ---- liveness, and the nodes in an order in which operands come first ---- */

static void count_uses(const mg_graph *g, int32_t n_roots, const int32_t *roots, int32_t *uses)
{
    for (int32_t r = 0; r < n_roots; r++) uses[roots[r]]++;
    for (int32_t i = g->n - 1; i >= 0; i--) {
        if (!uses[i]) continue;
        const int k = mg_op_operands(g->op[i]);
        if (k > 0) uses[g->a[i]]++;
        if (k > 1) uses[g->b[i]]++;
        if (mg_op_has_list(g->op[i])) {
            const int32_t *list = g->lists + g->b[i];
            for (int32_t j = 1; j <= list[0]; j++) uses[list[j]]++;
        }
    }
}

typedef struct {
    int32_t node, next;
} frame;

/* Children before parents from `root` on, appended to order. */
static int32_t visit(sinker *s, int32_t root, uint8_t *seen, frame *stack, int32_t *order, int32_t m)
{
    const mg_graph *g = &s->g;
    int32_t d = 0;
    root = resolve(s->to, root);
    if (seen[root]) return m;
    seen[root] = 1;
    stack[d++] = (frame){root, 0};
    while (d) {
        frame *f = stack + d - 1;
        const int32_t i = f->node, k = f->next++, op = g->op[i], operands = mg_op_operands(op);
        int32_t c = -1;
        if (k < operands)
            c = k ? g->b[i] : g->a[i];
        else if (mg_op_has_list(op) && k - operands < g->lists[g->b[i]])
            c = g->lists[g->b[i] + 1 + k - operands];
        if (c < 0) {
            order[m++] = i;
            d--;
            continue;
        }
        c = resolve(s->to, c);
        if (!seen[c]) {
            seen[c] = 1;
            stack[d++] = (frame){c, 0};
        }
    }
    return m;
}

void mg_compact_graph(mg_pass *pass, const mg_graph *trace, int32_t n_roots, const int32_t *roots, mg_compact *out)
{
    sinker s = {.pass = pass};
    const int32_t n = trace->n;
    s.g = *trace;
    s.g.capacity = n + 64;
    s.g.op = NEW(pass, uint8_t, s.g.capacity);
    s.g.a = NEW(pass, int32_t, s.g.capacity);
    s.g.b = NEW(pass, int32_t, s.g.capacity);
    s.g.key = NEW(pass, int32_t, s.g.capacity);
    s.g.lists = NEW(pass, int32_t, trace->n_lists + 1);
    s.g.lists_capacity = trace->n_lists;
    s.uses = NEW_ZEROS(pass, int32_t, s.g.capacity);
    s.to = NEW(pass, int32_t, s.g.capacity);
    memcpy(s.g.op, trace->op, (size_t)n);
    memcpy(s.g.a, trace->a, (size_t)n * 4);
    memcpy(s.g.b, trace->b, (size_t)n * 4);
    if (trace->n_lists) memcpy(s.g.lists, trace->lists, (size_t)trace->n_lists * 4);
    for (int32_t i = 0; i < n; i++) s.g.key[i] = s.to[i] = i;
    count_uses(&s.g, n_roots, roots, s.uses);
    for (int32_t r = 0; r < n_roots; r++) s.uses[roots[r]] += 1 << 24; /* roots are never rewritten */
    sink(&s);

    uint8_t *seen = NEW_ZEROS(pass, uint8_t, s.g.n);
    frame *stack = NEW(pass, frame, s.g.n + 1);
    int32_t *order = NEW(pass, int32_t, s.g.n), *renamed = NEW(pass, int32_t, s.g.n), m = 0;
    for (int32_t r = 0; r < n_roots; r++) m = visit(&s, roots[r], seen, stack, order, m);
    /* Unused values are computed, too, if the script could raise an error there. */
    for (int32_t i = 0; i < n; i++)
        if (!seen[i] && mg_op_can_fail(trace->op[i])) m = visit(&s, i, seen, stack, order, m);
    for (int32_t i = 0; i < m; i++) renamed[order[i]] = i;

    mg_graph *g = &out->g;
    *g = s.g;
    g->n = m;
    g->op = NEW(pass, uint8_t, m + 1);
    g->a = NEW(pass, int32_t, m + 1);
    g->b = NEW(pass, int32_t, m + 1);
    g->key = NEW(pass, int32_t, m + 1);
    mg_ints lists = {0};
    for (int32_t i = 0; i < m; i++) {
        const int32_t x = order[i], op = s.g.op[x], operands = mg_op_operands(op);
        g->op[i] = (uint8_t)op;
        g->key[i] = s.g.key[x];
        g->a[i] = operands > 0 ? renamed[resolve(s.to, s.g.a[x])] : s.g.a[x];
        g->b[i] = operands > 1 ? renamed[resolve(s.to, s.g.b[x])] : s.g.b[x];
        if (mg_op_has_list(op)) {
            const int32_t *list = s.g.lists + s.g.b[x];
            mg_ints_reserve(pass, &lists, list[0] + 1);
            g->b[i] = lists.n;
            lists.items[lists.n++] = list[0];
            for (int32_t k = 1; k <= list[0]; k++) lists.items[lists.n++] = renamed[resolve(s.to, list[k])];
        }
    }
    g->lists = lists.items;
    g->n_lists = lists.n;
    out->n_roots = n_roots;
    out->roots = NEW(pass, int32_t, n_roots);
    for (int32_t r = 0; r < n_roots; r++) out->roots[r] = renamed[resolve(s.to, roots[r])];
    out->uses = NEW_ZEROS(pass, int32_t, m);
    for (int32_t i = 0; i < m; i++) { /* by every node that is left, unused ones included */
        const int k = mg_op_operands(g->op[i]);
        if (k > 0) out->uses[g->a[i]]++;
        if (k > 1) out->uses[g->b[i]]++;
        if (mg_op_has_list(g->op[i]))
            for (int32_t j = 1; j <= g->lists[g->b[i]]; j++) out->uses[g->lists[g->b[i] + j]]++;
    }
    for (int32_t r = 0; r < n_roots; r++) out->uses[out->roots[r]]++;
    out->needs_grad = NEW_ZEROS(pass, uint8_t, m);
    for (int32_t i = 0; i < m; i++) {
        const int op = g->op[i];
        uint8_t needed = op == MG_LEAF;
        if (op == MG_ADD || op == MG_MUL) needed = out->needs_grad[g->a[i]] | out->needs_grad[g->b[i]];
        if (op >= MG_POW && op <= MG_RELU) needed = out->needs_grad[g->a[i]];
        if (op == MG_CUSTOM)
            for (int32_t j = 1; j <= g->lists[g->b[i]]; j += 2) needed |= out->needs_grad[g->lists[g->b[i] + j]];
        if (op == MG_GATHER)
            for (int32_t j = 1; j <= g->lists[g->b[i]]; j++) needed |= out->needs_grad[g->lists[g->b[i] + j]];
        out->needs_grad[i] = needed;
    }
}
