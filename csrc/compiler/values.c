/* The numbers that the forward pass computes: sums of products taken together, equal expressions computed once.
 *
 * Equal expressions have equal bits, so they share a place. Which nodes are folded into a sum does not affect the
 * gradients, whose terms are found on the graph as it was traced. */
#include "compiler/passes.h"

/* What is known of the sum that ends at a node. */
typedef struct {
    int32_t kind; /* 0: none, or V_ADD, V_DOT, V_SUM */
    int32_t start; /* the node that it starts from, -1: 0.0 */
    int32_t at, n; /* terms, in sums: of a product its node */
} sum_end;

static int is_plus_zero(const mg_graph *g, int32_t i)
{
    static const double zero = 0.0;
    return g->op[i] == MG_CONST && !memcmp(g->numbers + g->a[i], &zero, sizeof zero);
}

/* Chains of additions, ((start + t1) + t2) + ..., whose intermediate sums have no other user. folded: the nodes without a
 * place of their own. */
static void find_sums(mg_pass *pass, const mg_compact *c, uint8_t *folded, sum_end *ends, mg_ints *sums)
{
    const mg_graph *g = &c->g;
    mg_ints terms = {0}, at = {0};
    for (int32_t i = g->n - 1; i >= 0; i--) {
        if (g->op[i] != MG_ADD || folded[i]) continue;
        int32_t x = i, start;
        terms.n = at.n = 0;
        for (;;) {
            mg_ints_push(pass, &terms, g->b[x]);
            mg_ints_push(pass, &at, x);
            start = g->a[x];
            if (g->op[start] != MG_ADD || c->uses[start] != 1) break;
            folded[start] = 1;
            x = start;
        }
        const int32_t n = terms.n;
        for (int32_t k = 0; k < n / 2; k++) {
            int32_t t = terms.items[k];
            terms.items[k] = terms.items[n - 1 - k];
            terms.items[n - 1 - k] = t;
            t = at.items[k];
            at.items[k] = at.items[n - 1 - k];
            at.items[n - 1 - k] = t;
        }
        if (is_plus_zero(g, start))
            start = -1;
        else if (is_plus_zero(g, terms.items[0])) {
            terms.items[0] = start;
            start = -1;
        }
#define IS_PRODUCT(t) (g->op[t] == MG_MUL && c->uses[t] == 1)
        int32_t previous = start;
        for (int32_t k = 0, j; k < n; k = j) {
            const int product = IS_PRODUCT(terms.items[k]);
            for (j = k; j < n && IS_PRODUCT(terms.items[j]) == product; j++)
                ;
            const int32_t last = at.items[j - 1];
            if (previous < 0 || j - k >= (product ? 2 : 3)) {
                ends[last] = (sum_end){product ? V_DOT : V_SUM, previous, sums->n, j - k};
                for (int32_t q = k; q < j; q++) {
                    mg_ints_push(pass, sums, terms.items[q]);
                    if (product) folded[terms.items[q]] = 1;
                }
                folded[last] = 0;
            } else
                for (int32_t q = k; q < j; q++) {
                    ends[at.items[q]] = (sum_end){V_ADD, q == k ? previous : at.items[q - 1], sums->n, 1};
                    mg_ints_push(pass, sums, terms.items[q]);
                    folded[at.items[q]] = 0;
                }
            previous = last;
        }
#undef IS_PRODUCT
    }
}

static uint64_t value_hash(const mg_values *v, const mg_value *x)
{
    uint64_t bits, h = mg_hash_step(x->kind, (uint64_t)(uint32_t)x->x << 32 | (uint32_t)x->y);
    memcpy(&bits, &x->constant, sizeof bits);
    h = mg_hash_step(h, bits);
    const int32_t n = x->kind == V_DOT ? 2 * x->n : x->n;
    for (int32_t k = 0; k < n; k++) h = mg_hash_step(h, (uint64_t)v->operands.items[x->at + k]);
    return h;
}

static int value_equal(const mg_values *v, const mg_value *x, const mg_value *y)
{
    const int32_t n = x->kind == V_DOT ? 2 * x->n : x->n;
    return x->kind == y->kind && x->x == y->x && x->y == y->y && x->n == y->n && !memcmp(&x->constant, &y->constant, 8)
           && (!n || !memcmp(v->operands.items + x->at, v->operands.items + y->at, (size_t)n * sizeof(int32_t)));
}

static void rehash(mg_pass *pass, mg_values *v)
{
    mg_table *t = &v->table;
    const uint32_t size = t->slots ? 2 * (t->mask + 1) : 4096;
    t->slots = NEW_ZEROS(pass, int32_t, size);
    t->mask = size - 1;
    for (int32_t i = 0; i < v->n; i++) {
        uint64_t h = value_hash(v, v->items + i);
        while (t->slots[h & t->mask]) h++;
        t->slots[h & t->mask] = i + 1;
    }
}

/* The value equal to x, added if there is none. Its operand list is the end of v->operands, and is dropped if there is. */
static int32_t value_of(mg_pass *pass, mg_values *v, mg_value x)
{
    if (!v->table.slots || 2 * (uint32_t)v->n > v->table.mask) rehash(pass, v);
    uint64_t h = value_hash(v, &x);
    for (;; h++) {
        const int32_t other = v->table.slots[h & v->table.mask] - 1;
        if (other < 0) break;
        if (value_equal(v, v->items + other, &x)) {
            if (x.n) v->operands.n = x.at;
            return other;
        }
    }
    if (v->n == v->capacity) {
        v->capacity = 2 * v->capacity + 1024;
        mg_value *larger = NEW(pass, mg_value, v->capacity);
        if (v->n) memcpy(larger, v->items, (size_t)v->n * sizeof *larger);
        v->items = larger;
    }
    v->table.slots[h & v->table.mask] = v->n + 1;
    v->items[v->n] = x;
    return v->n++;
}

static inline int32_t deeper(const mg_values *v, int32_t depth, int32_t x)
{
    return x >= 0 && v->items[x].depth > depth ? v->items[x].depth : depth;
}

static mg_value unary(const mg_values *v, int kind, int32_t x, double constant, int32_t key)
{
    return (mg_value){.kind = (uint8_t)kind, .x = x, .y = -1, .depth = v->items[x].depth + 1, .key = key, .constant = constant};
}

static void push_value_of(mg_pass *pass, mg_values *v, int32_t node) { mg_ints_push(pass, &v->operands, v->of[node]); }

static mg_value sum_value(mg_pass *pass, const mg_graph *g, mg_values *v, const sum_end *s, const int32_t *terms, int32_t key)
{
    mg_value x = {.kind = (uint8_t)s->kind, .x = s->start < 0 ? -1 : v->of[s->start], .y = -1, .key = key};
    if (s->kind == V_ADD) {
        x.y = v->of[terms[0]];
        x.depth = deeper(v, deeper(v, 0, x.x), x.y) + 1;
        return x;
    }
    x.at = v->operands.n;
    x.n = s->n;
    for (int32_t k = 0; k < s->n; k++) push_value_of(pass, v, s->kind == V_DOT ? g->a[terms[k]] : terms[k]);
    if (s->kind == V_DOT)
        for (int32_t k = 0; k < s->n; k++) push_value_of(pass, v, g->b[terms[k]]);
    x.depth = deeper(v, 0, x.x);
    for (int32_t k = x.at; k < v->operands.n; k++) x.depth = deeper(v, x.depth, v->operands.items[k]);
    x.depth++;
    return x;
}

static mg_value list_value(mg_pass *pass, const mg_graph *g, mg_values *v, int kind, int32_t i)
{
    const int32_t *list = g->lists + g->b[i];
    mg_value x = {.kind = (uint8_t)kind, .x = kind == V_GATHER ? g->a[i] : -1, .y = -1, .key = g->key[i]};
    x.at = v->operands.n;
    x.n = list[0];
    for (int32_t k = 1; k <= list[0]; k++) {
        push_value_of(pass, v, list[k]);
        x.depth = deeper(v, x.depth, v->of[list[k]]);
    }
    x.depth++;
    return x;
}

void mg_find_values(mg_pass *pass, const mg_compact *c, int with_grad, mg_values *v)
{
    const mg_graph *g = &c->g;
    uint8_t *folded = NEW_ZEROS(pass, uint8_t, g->n);
    sum_end *ends = NEW_ZEROS(pass, sum_end, g->n);
    mg_ints sums = {0};
    find_sums(pass, c, folded, ends, &sums);
    v->of = NEW(pass, int32_t, g->n);
    v->local = NEW(pass, int32_t, g->n);
    for (int32_t i = 0; i < g->n; i++) {
        const int op = g->op[i];
        const int32_t key = g->key[i], a = g->a[i], b = g->b[i];
        mg_value x = {.x = a, .y = -1, .key = key};
        v->of[i] = v->local[i] = -1;
        if (folded[i]) continue;
        switch (op) {
        case MG_LEAF: x.kind = V_LEAF; break;
        case MG_CONST: x.kind = V_CONST; x.x = -1; x.at = a; x.constant = g->numbers[a]; break;
        case MG_FLOAT: x.kind = V_FLOAT; break;
        case MG_INT: x.kind = V_INT; break;
        case MG_TABLE: x.kind = V_TABLE; x.y = b; x.depth = 1; break;
        case MG_CUSTOM: case MG_NUM_VALUE: v->of[i] = v->of[a]; continue;
        case MG_ADD:
            if (ends[i].kind) {
                x = sum_value(pass, g, v, ends + i, sums.items + ends[i].at, key);
                break;
            } /* fall through */
        case MG_NUM_ADD: case MG_MUL: case MG_NUM_MUL: case MG_NUM_DIV: case MG_NUM_POW:
            x.kind = op == MG_ADD || op == MG_NUM_ADD ? V_ADD : op == MG_NUM_DIV ? V_DIV : op == MG_NUM_POW ? V_POW2 : V_MUL;
            x.x = v->of[a];
            x.y = v->of[b];
            x.depth = deeper(v, deeper(v, 0, x.x), x.y) + 1;
            if (op == MG_NUM_POW && g->op[b] == MG_CONST) x = unary(v, V_POW, v->of[a], g->numbers[g->a[b]], key);
            break;
        case MG_POW: x = unary(v, V_POW, v->of[a], g->numbers[b], key); break;
        case MG_LOG: x = unary(v, V_LOG, v->of[a], 0.0, key); break;
        case MG_EXP: x = unary(v, V_EXP, v->of[a], 0.0, key); break;
        case MG_RELU: x = unary(v, V_RELU, v->of[a], 0.0, key); break;
        case MG_NUM_NEG: x = unary(v, V_NEG, v->of[a], 0.0, key); break;
        case MG_NUM_CALL:
            x = b == MG_F_EXP ? unary(v, V_EXP, v->of[a], 0.0, key)
                : b == MG_F_LOG ? unary(v, V_LOG, v->of[a], 0.0, key) : unary(v, V_CALL, v->of[a], b, key);
            break;
        case MG_NUM_MAX: x = list_value(pass, g, v, V_MAX, i); break;
        case MG_NUM_MIN: x = list_value(pass, g, v, V_MIN, i); break;
        default: x = list_value(pass, g, v, V_GATHER, i); break;
        }
        v->of[i] = value_of(pass, v, x);
        /* Local gradients are numbers like others. The script computes them in the forward pass, where they can fail. */
        if (op == MG_EXP) v->local[i] = v->of[i];
        if (op == MG_POW && with_grad) v->local[i] = value_of(pass, v, unary(v, V_GRAD_POW, v->of[a], g->numbers[b], key));
        if (op == MG_LOG && with_grad && c->needs_grad[i]) v->local[i] = value_of(pass, v, unary(v, V_GRAD_LOG, v->of[a], 0.0, key));
        if (op == MG_RELU && with_grad && c->needs_grad[i]) v->local[i] = value_of(pass, v, unary(v, V_GRAD_RELU, v->of[a], 0.0, key));
    }
}
