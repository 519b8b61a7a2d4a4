/* A traced computation: the operations of one call of a user's function, in the order in which they were made.
 *
 * Nodes are numbers from 0 on. Until a pass renumbers them, operands come before the nodes that use them. */
#ifndef MG_GRAPH_H
#define MG_GRAPH_H

#include <stdint.h>

enum mg_op {
    /* No operands. a: index of the leaf, constant, float input, int input; of a table, the int input (b: its numbers). */
    MG_LEAF,
    MG_CONST,
    MG_FLOAT,
    MG_INT,
    MG_TABLE,
    /* Values with children, through which gradients flow. a, b: operands. */
    MG_ADD,
    MG_MUL,
    MG_POW, /* b: constant */
    MG_LOG,
    MG_EXP,
    MG_RELU,
    MG_CUSTOM, /* a: its data, a number; b: list: child, local gradient, child, local gradient, ... */
    /* One of a list's nodes: the int input a decides which. b: list. */
    MG_GATHER,
    /* Plain numbers, which have no gradient. */
    MG_NUM_ADD,
    MG_NUM_MUL,
    MG_NUM_DIV,
    MG_NUM_POW, /* both operands are nodes */
    MG_NUM_NEG,
    MG_NUM_VALUE, /* the number of a Value */
    MG_NUM_CALL, /* b: enum mg_function */
    MG_NUM_MAX,  /* b: list */
    MG_NUM_MIN,
    MG_OPS
};

/* Functions of the C library that CPython's math module calls. math.sqrt and abs are exact. */
enum mg_function {
    MG_F_EXP, MG_F_LOG, MG_F_SQRT, MG_F_SIN, MG_F_COS, MG_F_TAN, MG_F_TANH, MG_F_SINH, MG_F_COSH, MG_F_ASIN, MG_F_ACOS,
    MG_F_ATAN, MG_F_ERF, MG_F_ERFC, MG_F_EXPM1, MG_F_LOG1P, MG_F_FABS, MG_FUNCTIONS
};

/* lists: a list at offset o has lists[o] items, lists[o + 1], ... . numbers: constants, and the tables of MG_TABLE, whose
 * b is the offset in numbers of the count, followed by the items. */
typedef struct {
    int32_t n, capacity;
    uint8_t *op;
    int32_t *a, *b;
    int32_t *key; /* the index of a node in the trace; NULL in the trace itself */
    int32_t *lists;
    int32_t n_lists, lists_capacity;
    double *numbers;
    int32_t n_numbers, numbers_capacity;
    int32_t n_leaves, n_ints, n_floats;
} mg_graph;

static inline int mg_op_operands(int op) /* how many of a and b are nodes */
{
    switch (op) {
    case MG_ADD: case MG_MUL: case MG_NUM_ADD: case MG_NUM_MUL: case MG_NUM_DIV: case MG_NUM_POW: return 2;
    case MG_POW: case MG_LOG: case MG_EXP: case MG_RELU: case MG_CUSTOM: case MG_NUM_NEG: case MG_NUM_VALUE:
    case MG_NUM_CALL: return 1;
    default: return 0;
    }
}
static inline int mg_op_has_list(int op) /* whether b is a list of nodes */
{
    return op == MG_CUSTOM || op == MG_GATHER || op == MG_NUM_MAX || op == MG_NUM_MIN;
}
static inline int mg_op_is_inner(int op) { return op >= MG_ADD && op <= MG_CUSTOM; }
static inline int mg_op_can_fail(int op) /* whether Python may raise an error here */
{
    return op == MG_POW || op == MG_LOG || op == MG_EXP || op == MG_NUM_DIV || op == MG_NUM_POW || op == MG_NUM_CALL;
}

/* Each returns the node, the offset of the list, the index of the first number; -1 without memory. */
int32_t mg_graph_node(mg_graph *graph, int op, int32_t a, int32_t b);
int32_t mg_graph_list(mg_graph *graph, int32_t n, const int32_t *items); /* items NULL: to be filled in */
int32_t mg_graph_numbers(mg_graph *graph, int32_t n, const double *items);
void mg_graph_free(mg_graph *graph); /* what it points to */

/* A number as computed by CPython's math functions and operators. *odd is set where Python might raise an error or return
 * something other than a float; then the caller leaves the computation to Python. */
double mg_call_function(int function, double x, int *odd);
double mg_python_pow(double x, double y, int *odd);

#endif
