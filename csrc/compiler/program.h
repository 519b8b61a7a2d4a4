/* A compiled computation: straight-line instructions over one frame of doubles, forward and backward.
 *
 * The forward instructions compute every number; the backward ones compute each gradient as one sum, with its terms in the
 * order of the uncompiled backward pass. Both are the same for every call, except for what the int inputs select. */
#ifndef MG_PROGRAM_H
#define MG_PROGRAM_H

#include <stdint.h>

/* An instruction is done for nt tiles of R elements each. Addresses are offsets in the frame, steps are in doubles:
 * element r of a tile has its operands at a + r * da and b + r * db and its result at o + r, and term k of a sum is found
 * sa (sb) * k further, or lists[ka + k] (lists[kb + k]) further where ka (kb) >= 0. accumulate: 0: the sum starts at 0.0;
 * 1: at what is there; MG_INTO_LEAVES: the same, and o (of a scatter: a) is a place among the leaves' gradients. */
enum { MG_INTO_LEAVES = 2 };
enum mg_instruction_kind {
    MG_I_DOT_BROADCAST = 1, /* sums of products, da == 1 and db == 0: vectors times one number */
    MG_I_DOT_LANES,         /* da == 1 and db == 1 */
    MG_I_DOT_STRIDED,
    MG_I_DOT_SINGLE, /* R == 1 */
    MG_I_SUM_LANES, /* da == 1, or da == 0 */
    MG_I_SUM_STRIDED,
    MG_I_SUM_SINGLE,
    MG_I_ADD,
    MG_I_MUL,
    MG_I_DIV,
    MG_I_POW_NUMBERS,
    MG_I_EXP, /* from here to MG_I_CALL: of one operand; constant: the exponent, or the function */
    MG_I_POW,
    MG_I_LOG,
    MG_I_RELU,
    MG_I_NEG,
    MG_I_GRAD_POW, /* constant * x ** (constant - 1) */
    MG_I_GRAD_LOG,
    MG_I_GRAD_RELU,
    MG_I_CALL,
    MG_I_COPY,
    MG_I_ZERO,         /* n doubles from o on */
    MG_I_GATHER,       /* o + r = a + ints[n] * sa + r * da */
    MG_I_GATHER_LIST,  /* o = lists[ka + ints[n]] */
    MG_I_INT,          /* o = ints[n] as a double */
    MG_I_SCATTER,      /* a + ints[n] * sa + r * da += o + r * step */
    MG_I_SCATTER_MUL,  /* the same, times b + r * db */
    MG_I_SCATTER_LIST, /* lists[ka + ints[n]] (unless negative) += o, times b unless negative */
    MG_I_DOT_ROWS,     /* sums of products, db == 0, for several b: the tiles' results from 0.0 on */
    MG_I_PACK,         /* o[k * R' + r] = a + r * da + k * sa for k < n; R' is R rounded up to 8 */
    MG_I_MAX,          /* R == 1 */
    MG_I_MIN
};

typedef struct {
    int32_t kind, nt, R, sa, sb, da, db, accumulate;
    int32_t ints;  /* >= 0: which int input chooses among the lists for all tiles, */
    int32_t table; /* which begin here: for each of its values n offsets for a, then n for b */
    int32_t n, first; /* first: its first tile */
    double constant;
} mg_instruction;

typedef struct {
    int32_t a, b, o, n, ka, kb;
} mg_tile;

typedef struct mg_program {
    int32_t n_forward, n_backward; /* the backward ones follow the forward ones */
    mg_instruction *instructions;
    mg_tile *tiles;
    int32_t *lists;
    int32_t n_tiles, n_lists;
    int64_t frame_size; /* in doubles */
    int64_t leaf_data, leaf_grad; /* offsets of the leaves' numbers and gradients, [n_leaves] */
    int64_t constants, n_constants; /* the initial contents of the frame */
    double *constant_data;
    int64_t scratch, scratch_size;
    int64_t root_grad;
    int64_t *out;         /* by root: where its number is */
    int64_t *float_slots; /* by float input: where it goes, or -1 */
    int32_t n_out, n_leaves, n_ints, n_floats;
    int64_t n_nodes, n_uses, n_values, n_grads; /* what was compiled */
    const char *dynamic; /* why there are no backward instructions, or NULL */
} mg_program;

/* Compile the graph for the given roots. with_grad: the backward pass from roots[0], too. bounds: by int input, how many
 * values it can have. memory: scratch memory that is kept from one compilation to the next, NULL at first; one thread at a
 * time. An MG_ status. */
typedef struct mg_chunk mg_chunk;
int mg_compile(const void *graph, int32_t n_roots, const int32_t *roots, int with_grad, const int32_t *bounds,
               mg_chunk **memory, mg_program *program);
void mg_free_chunks(mg_chunk *chunks);
void mg_program_free(mg_program *program);

/* Change the order of one sum of the backward pass, which verification must detect. For tests. */
void mg_program_damage(mg_program *program, int which);

#endif
