/* The compiler's passes and the replay: a small graph with a lookup of inner nodes, compiled, against the graph itself,
 * sorted and walked as Value.backward does it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/libm.h"
#include "compiler/graph.h"
#include "compiler/program.h"
#include "kernels/kernels.h"
#include "tests/check.h"
#include "tests/tests.h"

enum { WIDTH = 5, CLASSES = 7, LEAVES = WIDTH + CLASSES * WIDTH, MOST_LEAVES = 512, MOST_NODES = 8192, GRAPHS = 20000 };

/* -log(softmax(w @ x)[k]), w and x leaves, k an int input; the lookup is among the exponentials, and each of them is also a
 * term of their sum. x is squared first, so that the elements' gradients have terms whose order depends on k. With another
 * lookup by an input of its own: of the same list, so that the order depends on both. */
static int32_t record(mg_graph *g, int lookups)
{
    const double numbers[] = {-1.0, 2.0};
    int32_t x[WIDTH], e[CLASSES], total = -1, found = -1, *end = &found;
    mg_graph_numbers(g, 2, numbers);
    for (int32_t j = 0; j < WIDTH; j++) x[j] = mg_graph_node(g, MG_POW, mg_graph_node(g, MG_LEAF, j, 0), 1);
    for (int32_t i = 0; i < CLASSES; i++) {
        int32_t sum = -1;
        for (int32_t j = 0; j < WIDTH; j++) {
            const int32_t leaf = mg_graph_node(g, MG_LEAF, WIDTH + i * WIDTH + j, 0);
            const int32_t product = mg_graph_node(g, MG_MUL, leaf, x[j]);
            sum = j ? mg_graph_node(g, MG_ADD, sum, product) : product;
        }
        e[i] = mg_graph_node(g, MG_EXP, sum, 0);
    }
    for (int32_t k = 0; k < lookups; k++) {
        const int32_t node = mg_graph_node(g, MG_GATHER, k, mg_graph_list(g, CLASSES, e));
        *end = k ? mg_graph_node(g, MG_MUL, *end, node) : node;
    }
    for (int32_t i = 0; i < CLASSES; i++) total = i ? mg_graph_node(g, MG_ADD, total, e[i]) : e[i];
    const int32_t inverse = mg_graph_node(g, MG_POW, total, 0);
    const int32_t log_found = mg_graph_node(g, MG_LOG, mg_graph_node(g, MG_MUL, found, inverse), 0);
    g->n_leaves = LEAVES;
    g->n_ints = lookups;
    return mg_graph_node(g, MG_MUL, log_found, mg_graph_node(g, MG_CONST, 0, 0));
}

/* Sums and products of earlier nodes, at random; a lookup among some of them, used like any other; and the sum of all. */
static int32_t record_random(mg_graph *g, mg_mt19937 *random)
{
    enum { NODES = 30 };
#define BELOW(n) ((int32_t)(mg_mt19937_random(random) * (n)))
    int32_t pool[NODES], found = -1, n = 0, root, at = 8 + BELOW(NODES - 8);
    for (; n < 4; n++) pool[n] = mg_graph_node(g, MG_LEAF, n, 0);
    for (; n < NODES; n++) {
        int32_t list[CLASSES];
        const int32_t near = n - 4 < 8 ? n - 4 : 8, a = n - 1 - BELOW(n < 6 ? n : 6), b = BELOW(n);
        if (n != at) {
            pool[n] = mg_graph_node(g, BELOW(2) ? MG_ADD : MG_MUL, pool[a], pool[b]);
            continue;
        }
        for (int32_t k = 0; k < CLASSES; k++) list[k] = pool[n - 1 - BELOW(near)];
        found = pool[n] = mg_graph_node(g, MG_GATHER, 0, mg_graph_list(g, CLASSES, list));
    }
    root = found;
    for (int32_t k = 4; k < NODES; k++) {
        if (pool[k] != found) root = mg_graph_node(g, MG_ADD, root, pool[k]);
        if (BELOW(3) == 0) root = mg_graph_node(g, MG_ADD, root, pool[k]);
    }
    g->n_leaves = LEAVES;
    g->n_ints = 1;
    return root;
}

/* A node below another one, which does not enclose it: THIRD: another uses it, too; LOOKED_UP: the lookup may lead to it; BY_LOOKUP:
 * it is below by a second lookup only, and not for index 0. Where the index is not 0 the first lookup leads to what has finished
 * before, or to that node, and `late` finishes only at the end: in the middle there is one node less than in the baseline. Who
 * counts the shared node twice finds as many. */
enum { THIRD, LOOKED_UP, BY_LOOKUP, SHARED_KINDS };
static int32_t record_shared(mg_graph *g, int kind)
{
    const int32_t a = mg_graph_node(g, MG_LEAF, 0, 0), b = mg_graph_node(g, MG_LEAF, 1, 0);
    const int32_t early = mg_graph_node(g, MG_MUL, b, b), late = mg_graph_node(g, MG_MUL, a, b);
    const int32_t shared = mg_graph_node(g, MG_MUL, a, a), k1 = kind == LOOKED_UP ? shared : early;
    const int32_t list[CLASSES] = {late, k1, early, early, early, early, early};
    const int32_t found = mg_graph_node(g, MG_GATHER, 0, mg_graph_list(g, CLASSES, list));
    const int32_t other_list[CLASSES] = {early, shared, early, early, early, early, early};
    const int32_t below = kind == BY_LOOKUP ? mg_graph_node(g, MG_GATHER, 0, mg_graph_list(g, CLASSES, other_list)) : shared;
    const int32_t first = mg_graph_node(g, MG_MUL, below, a);
    const int32_t second = mg_graph_node(g, MG_ADD, kind == LOOKED_UP ? a : shared, b);
    const int32_t both = mg_graph_node(g, MG_ADD, first, second);
    const int32_t middle = mg_graph_node(g, MG_ADD, mg_graph_node(g, MG_MUL, a, found), both);
    const int32_t last = mg_graph_node(g, MG_MUL, late, b);
    g->n_leaves = LEAVES;
    g->n_ints = 1;
    return mg_graph_node(g, MG_ADD, mg_graph_node(g, MG_ADD, early, middle), last);
}

/* Two matrices, the first times more vectors than fit into the lanes, the second times the last few of them; and the sum of the
 * results' squares. Rows and terms fill no whole number of vectors. */
enum { ROWS = 9, TERMS = 11, VECTORS = 11, OF_SECOND = 3 };
static int32_t record_rows(mg_graph *g)
{
    const double number = 0.0;
    const int32_t zero = mg_graph_node(g, MG_CONST, mg_graph_numbers(g, 1, &number), 0); /* that sums begin with */
    int32_t x[VECTORS][TERMS], w[2][ROWS][TERMS], total = zero;
    g->n_leaves = 0;
    for (int32_t i = 0; i < VECTORS * TERMS; i++) (&x[0][0])[i] = mg_graph_node(g, MG_LEAF, g->n_leaves++, 0);
    for (int32_t i = 0; i < 2 * ROWS * TERMS; i++) (&w[0][0][0])[i] = mg_graph_node(g, MG_LEAF, g->n_leaves++, 0);
    for (int32_t v = 0; v < VECTORS + OF_SECOND; v++) {
        const int32_t matrix = v >= VECTORS, *xs = x[matrix ? v - OF_SECOND : v];
        for (int32_t r = 0; r < ROWS; r++) {
            int32_t sum = zero;
            for (int32_t j = 0; j < TERMS; j++)
                sum = mg_graph_node(g, MG_ADD, sum, mg_graph_node(g, MG_MUL, w[matrix][r][j], xs[j]));
            total = mg_graph_node(g, MG_ADD, total, mg_graph_node(g, MG_MUL, sum, sum));
        }
    }
    return total;
}

/* ---- the graph itself ---- */

typedef struct {
    const mg_graph *g;
    int32_t k, order[MOST_NODES], n;
    double number[MOST_NODES], grad[MOST_NODES];
    uint8_t seen[MOST_NODES];
} walk;

static int32_t looked_up(const walk *w, int32_t i)
{
    return w->g->op[i] == MG_GATHER ? w->g->lists[w->g->b[i] + 1 + w->k] : i;
}

static void visit(walk *w, int32_t i)
{
    if (w->seen[i]) return;
    w->seen[i] = 1;
    const int operands = mg_op_operands(w->g->op[i]);
    if (operands > 0) visit(w, looked_up(w, w->g->a[i]));
    if (operands > 1) visit(w, looked_up(w, w->g->b[i]));
    w->order[w->n++] = i;
}

static void backward(walk *w, const double *leaves, double *grads, int32_t root)
{
    const mg_graph *g = w->g;
    int odd = 0;
    visit(w, root);
    for (int32_t p = 0; p < w->n; p++) {
        const int32_t i = w->order[p], op = g->op[i];
        const double x = mg_op_operands(op) > 0 ? w->number[looked_up(w, g->a[i])] : 0.0;
        const double y = mg_op_operands(op) > 1 ? w->number[looked_up(w, g->b[i])] : 0.0;
        w->number[i] = op == MG_LEAF ? leaves[g->a[i]] : op == MG_CONST ? g->numbers[g->a[i]] : op == MG_ADD ? x + y
                       : op == MG_MUL ? x * y : op == MG_EXP ? mg_exp(x) : op == MG_LOG ? mg_log(x)
                       : mg_python_pow(x, g->numbers[g->b[i]], &odd);
    }
    w->grad[root] = 1.0;
    for (int32_t p = w->n - 1; p >= 0; p--) {
        const int32_t i = w->order[p], op = g->op[i], operands = mg_op_operands(op);
        const int32_t a = operands > 0 ? looked_up(w, g->a[i]) : 0, b = operands > 1 ? looked_up(w, g->b[i]) : 0;
        if (op == MG_LEAF) grads[g->a[i]] = 0.0 + w->grad[i];
        if (!operands) continue;
        const double x = w->number[a], exponent = op == MG_POW ? g->numbers[g->b[i]] : 0.0;
        const double local = op == MG_ADD ? 1.0 : op == MG_MUL ? w->number[b] : op == MG_EXP ? w->number[i]
                             : op == MG_LOG ? 1.0 / x : exponent * mg_python_pow(x, exponent - 1.0, &odd);
        w->grad[a] += local * w->grad[i];
        if (operands > 1) w->grad[b] += (op == MG_ADD ? 1.0 : x) * w->grad[i];
    }
}

/* ---- */

static void run(const mg_kernels *kernels, const mg_program *p, int32_t k, int32_t n_leaves, const double *leaves, double *loss,
                double *grads)
{
    double *frame = doubles(p->frame_size);
    int32_t ints[2] = {k, 0};
    memcpy(frame + p->constants, p->constant_data, (size_t)p->n_constants * sizeof *frame);
    memcpy(frame + p->leaf_data, leaves, (size_t)n_leaves * sizeof *frame);
    check(!kernels->replay(p, 0, frame, frame, ints), "an error in the forward pass");
    *loss = frame[p->out[0]];
    frame[p->root_grad] = 1.0;
    kernels->replay(p, 1, frame, frame, ints);
    memcpy(grads, frame + p->leaf_grad, (size_t)n_leaves * sizeof *grads);
    free_doubles(frame);
}

/* How many of the indices give other gradients than the graph itself. */
static int compare(const mg_kernels *kernels, const mg_graph *g, const mg_program *p, int32_t root, const double *leaves)
{
    int different = 0;
    static walk memory, *const w = &memory;
    for (int32_t k = 0; k < CLASSES; k++) {
        double grads[MOST_LEAVES], expected[MOST_LEAVES] = {0.0}, loss;
        w->g = g;
        w->k = k;
        w->n = 0;
        memset(w->seen, 0, (size_t)g->n * sizeof *w->seen);
        memset(w->grad, 0, (size_t)g->n * sizeof *w->grad);
        backward(w, leaves, expected, root);
        run(kernels, p, k, g->n_leaves, leaves, &loss, grads);
        different += memcmp(&loss, w->number + root, sizeof loss) || memcmp(grads, expected, (size_t)g->n_leaves * sizeof *grads);
    }
    return different;
}

/* Each allocation fails in turn: the status says so, nothing is left behind, and the next compilation has the right bits. lookups:
 * of inner nodes, as in record; with two of them the order is not known before. */
static void test_no_memory(const mg_kernels *kernels, int lookups, const double *leaves)
{
    const int32_t bounds[] = {CLASSES, CLASSES};
    const mg_program nothing = {0};
    int failed = 0;
    for (int warm = 0; warm < 2; warm++) { /* without and with memory of an earlier compilation */
        mg_graph g = {0};
        mg_program p;
        mg_chunk *memory = NULL;
        const int32_t root = record(&g, lookups);
        for (int64_t which = 0;; which++) {
            begin_case("compile, %d lookups, warm %d, allocation %d fails", lookups, warm, (int)which);
            if (warm && !memory && mg_compile(&g, 1, &root, 1, bounds, &memory, &p) == MG_OK) mg_program_free(&p);
            fail_allocation(which);
            const int status = mg_compile(&g, 1, &root, 1, bounds, &memory, &p);
            if (!fail_allocation(-1)) {
                check(status == MG_OK, "status %d", status);
                if (!p.dynamic) check(compare(kernels, &g, &p, root, leaves) == 0, "other gradients");
                mg_program_free(&p);
                break;
            }
            failed++;
            check(status == MG_NO_MEMORY, "status %d", status);
            check(!memcmp(&p, &nothing, sizeof p), "something is left of the program");
            if (!warm) {
                mg_free_chunks(memory);
                memory = NULL;
            }
        }
        mg_free_chunks(memory);
        mg_graph_free(&g);
    }
    check(failed > 20, "only %d allocations", failed);
}

/* Recording goes on where it was when memory is there again. */
static void test_no_memory_to_record(void)
{
    const int32_t items[] = {0, 0, 0};
    const double number = 0.5;
    int failed = 0;
    for (int64_t which = 0; which < 40; which++) {
        mg_graph g = {0};
        begin_case("record, allocation %d fails", (int)which);
        fail_allocation(which);
        for (int32_t i = 0; i < 5000; i++) {
            int32_t node, list, at;
            const int32_t n = g.n, n_lists = g.n_lists, n_numbers = g.n_numbers;
            if ((node = mg_graph_node(&g, MG_CONST, i, 0)) < 0) node = mg_graph_node(&g, MG_CONST, i, 0);
            if ((list = mg_graph_list(&g, 3, items)) < 0) list = mg_graph_list(&g, 3, items);
            if ((at = mg_graph_numbers(&g, 1, &number)) < 0) at = mg_graph_numbers(&g, 1, &number);
            if (node != n || list != n_lists || at != n_numbers || g.a[n] != i || g.numbers[at] != number) {
                check(0, "node %d, list %d, number %d", (int)node, (int)list, (int)at);
                break;
            }
        }
        failed += fail_allocation(-1);
        mg_graph_free(&g);
    }
    check(failed > 5, "only %d allocations", failed);
}

static void test_rows(const mg_kernels *kernels, mg_mt19937 *random, mg_chunk **memory)
{
    mg_graph g = {0};
    mg_program p;
    double leaves[MOST_LEAVES];
    int32_t rows = 0;
    const int32_t root = record_rows(&g);
    for (int i = 0; i < g.n_leaves; i++) leaves[i] = mg_mt19937_gauss(random, 0.0, 1.0);
    begin_case("compile, rows of a matrix times several vectors");
    check(mg_compile(&g, 1, &root, 1, NULL, memory, &p) == MG_OK && !p.dynamic, "not compiled");
    for (int32_t i = 0; i < p.n_forward; i++) rows += p.instructions[i].kind == MG_I_DOT_ROWS;
    check(rows > 0, "the matrices are read once for each vector");
    check(compare(kernels, &g, &p, root, leaves) == 0, "other gradients");
    mg_program_free(&p);
    mg_graph_free(&g);
}

void test_compile(const mg_kernels *kernels)
{
    mg_graph g = {0};
    mg_program p;
    mg_chunk *memory = NULL;
    const int32_t root = record(&g, 1), bounds[] = {CLASSES, CLASSES};
    int compiled = 0, found = 0;
    double leaves[LEAVES];
    mg_mt19937 random = seeded(14);
    for (int i = 0; i < LEAVES; i++) leaves[i] = mg_mt19937_gauss(&random, 0.0, 1.0);
    begin_case("compile, a lookup");
    check(mg_compile(&g, 1, &root, 1, bounds, &memory, &p) == MG_OK && !p.dynamic, "not compiled");
    check(compare(kernels, &g, &p, root, leaves) == 0, "other gradients");
    mg_program_free(&p);
    mg_graph_free(&g);

    begin_case("compile, two lookups of one list");
    const int32_t other_root = record(&g, 2);
    check(mg_compile(&g, 1, &other_root, 1, bounds, &memory, &p) == MG_OK, "not compiled");
    check(p.dynamic && !p.n_backward && p.n_forward, "the order depends on two indices, and nothing says so");
    mg_program_free(&p);
    mg_graph_free(&g);

    test_rows(kernels, &random, &memory);
    for (int kind = THIRD; kind < SHARED_KINDS; kind++) {
        begin_case("compile, a shared node, kind %d", kind);
        const int32_t shared_root = record_shared(&g, kind);
        check(mg_compile(&g, 1, &shared_root, 1, bounds, &memory, &p) == MG_OK && !p.dynamic, "not compiled");
        for (int i = 0; i < 200; i++) { /* a sum in another order often has the same bits */
            leaves[0] = mg_mt19937_gauss(&random, 0.0, 1.0);
            leaves[1] = mg_mt19937_gauss(&random, 0.0, 1.0);
            check(compare(kernels, &g, &p, shared_root, leaves) == 0, "other gradients");
        }
        mg_program_free(&p);
        mg_graph_free(&g);
    }

    for (int i = 0; i < GRAPHS; i++) {
        begin_case("compile, random graph %d", i);
        const int32_t random_root = record_random(&g, &random);
        check(mg_compile(&g, 1, &random_root, 1, bounds, &memory, &p) == MG_OK, "not compiled");
        if (!p.dynamic) {
            const int different = compare(kernels, &g, &p, random_root, leaves);
            check(different == 0, "other gradients for %d of %d indices", different, CLASSES);
            compiled++;
            mg_program_damage(&p, 0);
            found += compare(kernels, &g, &p, random_root, leaves) > 0;
        }
        mg_program_free(&p);
        mg_graph_free(&g);
    }
    test_no_memory(kernels, 1, leaves);
    test_no_memory(kernels, 2, leaves);
    test_no_memory_to_record();
    begin_case("compile");
    check(compiled > GRAPHS / 40, "only %d of %d random graphs have an order that is known", compiled, GRAPHS);
    check(found > 0, "no wrong order of %d has other gradients", compiled);
    mg_free_chunks(memory);
}
