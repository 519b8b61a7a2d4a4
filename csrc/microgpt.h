/* The C interface of microgpt: types, error codes, prototypes. Plain C11, no Python.h, no globals but the kernel table.
 *
 * The vocabulary is the original script's: vocab_size, n_embd, n_head, head_dim, n_layer, block_size, wte, wpe,
 * lm_head, attn_wq, attn_wk, attn_wv, attn_wo, mlp_fc1, mlp_fc2. Gradients are d + name. */
#ifndef MICROGPT_H
#define MICROGPT_H

#include "base/require.h"

#include <stddef.h>
#include <stdint.h>

/* What a call may return. The Cython layer turns each into the exception that the original would raise. */
enum {
    MG_OK = 0,
    MG_NO_MEMORY = 1,   /* MemoryError */
    MG_LOG_DOMAIN = 2,  /* math.log of 0 or less: ValueError */
    MG_EXP_RANGE = 3,   /* math.exp overflowed: OverflowError */
    MG_POW_RANGE = 4,   /* ** overflowed: OverflowError */
    MG_POW_ZERO = 5,    /* 0.0 ** negative: ZeroDivisionError */
    MG_INTERRUPTED = 6, /* the poll callback asked to stop */
    MG_UNKNOWN_ISA = 7,
    MG_UNSUPPORTED_ISA = 8,
    MG_ZERO_DIVISION = 9, /* x / 0.0: ZeroDivisionError */
    MG_POW_COMPLEX = 10,  /* negative ** 0.5, which Python makes complex */
    /* Negative, because mg_mt19937_choice answers them in place of an index. random.choices: ValueError. */
    MG_CHOICE_TOTAL_ZERO = -1,
    MG_CHOICE_TOTAL_NOT_FINITE = -2,
};

/* ---- random.Random's stream (mt19937.c) ---- */

typedef struct {
    uint32_t key[624];
    int pos;           /* 1 to 624, as in random.getstate() */
    int has_gauss;     /* whether gauss_next holds the spare value that gauss() keeps */
    double gauss_next;
} mg_mt19937;

/* random.seed(a). digits: |a| in base 2**32, the lowest first, without leading zeros; a = 0 has the one digit 0. */
void mg_mt19937_seed(mg_mt19937 *stream, const uint32_t *digits, int64_t num_digits);
double mg_mt19937_random(mg_mt19937 *stream);                /* random.random() */
uint64_t mg_mt19937_below(mg_mt19937 *stream, uint64_t n);   /* random._randbelow(n), as shuffle draws it; n >= 1 */
double mg_mt19937_gauss(mg_mt19937 *stream, double mu, double sigma);                   /* random.gauss(mu, sigma) */
void mg_mt19937_fill_gauss(mg_mt19937 *stream, double *out, int64_t n, double mu, double sigma); /* n of these, in turn */
/* random.choices(range(n), cum_weights=cum_weights)[0], or one of MG_CHOICE_*, nothing drawn then; n >= 1. */
int64_t mg_mt19937_choice(mg_mt19937 *stream, const double *cum_weights, int64_t n);

/* ---- the kernel table (dispatch.c, kernels/) ---- */

typedef struct mg_kernels mg_kernels; /* kernels/kernels.h */

/* The table called name, or, if name is NULL, the best that this processor and its operating system run. NULL on error:
 * *status is MG_UNKNOWN_ISA, or MG_UNSUPPORTED_ISA for a known name that was not compiled or does not run here. */
const mg_kernels *mg_select_kernels(const char *name, int *status);

/* The index-th instruction set that was compiled (NULL where there is none), and whether it runs here. */
const char *mg_compiled_isa(int index);
int mg_supports_isa(int index);

const char *mg_kernels_name(const mg_kernels *kernels);
int mg_kernels_lanes(const mg_kernels *kernels);
/* Whether exp and ** are computed in vectors, or else by calls of the C library (one that the proofs do not cover). */
int mg_kernels_vector_math(const mg_kernels *kernels);

/* What compiled this library: "gcc 12.2.0", say. */
const char *mg_compiler(void);

/* Name and address of the index-th kernel of a table, for tests; NULL past the end. */
const char *mg_kernel(const mg_kernels *kernels, int index, const void **address);

/* ---- Adam (adam.c) ---- */

typedef struct {
    double learning_rate, beta1, beta2, eps;
    int64_t num_steps;
} mg_adam_config;

/* What of one update is the same for every parameter, each rounded as the script rounds it. */
typedef struct {
    double beta1, one_minus_beta1; /* 1 - beta1 */
    double beta2, one_minus_beta2;
    double m_scale, v_scale;       /* 1 - beta1 ** t, 1 - beta2 ** t, t = step + 1 */
    double lr_t;                   /* learning_rate * (1 - step / num_steps) */
    double eps;
    int vectorizable;              /* all of these are in the range that the vector kernels' proofs ask for */
    int may_have_subnormals;                  /* so many steps that an m without a gradient may have decayed to a subnormal number */
} mg_adam_coefs;

/* The coefficients of update number `step`, counted from 0. MG_OK, or what the script would raise before it has touched
 * a parameter: MG_ZERO_DIVISION (num_steps is 0), MG_POW_RANGE (beta ** t overflows). */
int mg_adam_prepare(const mg_adam_config *config, int64_t step, mg_adam_coefs *coefs);

/* Update n parameters: data, m and v change, grad becomes 0. All four [n], none overlapping another. MG_OK, or the
 * script's error at the first parameter where it happens: those before it are updated and those after it untouched, and
 * its own m and v are as far as the script gets with them. libm: ask the C library for every power (to compare with). */
int mg_adam_update(const mg_kernels *kernels, const mg_adam_coefs *coefs, int64_t n, double *data, double *grad,
                   double *m, double *v, int libm);

/* Both of the above. */
int mg_adam_step(const mg_kernels *kernels, const mg_adam_config *config, int64_t step, int64_t n, double *data,
                 double *grad, double *m, double *v);

/* ---- being asked to stop (engine.c) ---- */

/* Long work calls ask(context) every 20 ms or so; when it answers non-zero, the work ends with MG_INTERRUPTED. */
typedef struct {
    int (*ask)(void *context);
    void *context;
    int64_t work; /* multiplications since the clock was last looked at; 0 at first */
    double asked; /* seconds; 0 at first */
} mg_poll;

/* ---- the model (engine.c, forward.c, backward.c) ---- */

typedef struct {
    int64_t vocab_size, n_embd, n_head, n_layer, block_size;
} mg_config;

/* Parameters of the model in the script's order: wte [vocab_size][n_embd], wpe [block_size][n_embd],
 * lm_head [vocab_size][n_embd], and for each layer attn_wq, attn_wk, attn_wv, attn_wo [n_embd][n_embd],
 * mlp_fc1 [4 * n_embd][n_embd], mlp_fc2 [n_embd][4 * n_embd]. -1 if that many doubles cannot be addressed. */
int64_t mg_count_params(const mg_config *config);

/* Working memory for one model shape. It grows with the longest document seen. One call at a time. */
typedef struct mg_engine mg_engine;

mg_engine *mg_engine_new(const mg_config *config, const mg_kernels *kernels); /* NULL: out of memory */
void mg_engine_free(mg_engine *engine);

/* loss = document_loss(tokens, model); loss.backward(). tokens: [n + 1], each below vocab_size, n from 1 to block_size.
 * params, grad: [num_params]; grad is added to. On any status but MG_OK grad is as it was.
 * MG_LOG_DOMAIN: a target's probability is 0. MG_INTERRUPTED, MG_NO_MEMORY. */
int mg_document_gradient(mg_engine *engine, const double *params, double *grad, const int32_t *tokens, int64_t n,
                         mg_poll *poll, double *loss);

/* Layers of the last document in which zeros of relu were passed over. For tests. */
int64_t mg_engine_sparse_layers(const mg_engine *engine);

/* The loss alone, the same statuses. */
int mg_document_loss(mg_engine *engine, const double *params, const int32_t *tokens, int64_t n, mg_poll *poll,
                     double *loss);

/* The same, and then the loss at each position, [n], in place of their mean. */
int mg_position_losses(mg_engine *engine, const double *params, const int32_t *tokens, int64_t n, mg_poll *poll,
                       double *losses);

/* For each document: loss, gradient, one step of Adam. Document d is tokens[starts[d]] to
 * tokens[starts[d + 1] - 1], cut to the block. step: Adam's steps before. m, v: [num_params]. losses: [documents].
 * done: the documents finished. On any status but MG_OK everything is as it was after these; an overflow in Adam,
 * MG_POW_RANGE, is one of them. */
int mg_train(mg_engine *engine, const mg_adam_config *config, int64_t step, double *params, double *grad, double *m,
             double *v, const int32_t *tokens, const int64_t *starts, int64_t documents, mg_poll *poll, double *losses,
             int64_t *done);

/* ---- sampling (sample.c) ---- */

/* The model babbles: from the n tokens given (the first of them BOS; n from 1 to block_size) on, one mg_mt19937_choice
 * after another by softmax(logits * factor), until BOS is drawn (it is not kept), the block is full or max_tokens are
 * drawn. out: [block_size]; count: the tokens in it. On any status but MG_OK the stream is as it was: MG_NO_MEMORY,
 * MG_INTERRUPTED, MG_CHOICE_TOTAL_ZERO, MG_CHOICE_TOTAL_NOT_FINITE. */
int mg_generate(mg_engine *engine, const double *params, mg_mt19937 *stream, double factor, const int32_t *tokens,
              int64_t n, int64_t max_tokens, mg_poll *poll, int32_t *out, int64_t *count);

/* probs [vocab_size]: softmax(logits * factor) of what follows the n tokens, n from 1 to block_size. */
int mg_next_probabilities(mg_engine *engine, const double *params, double factor, const int32_t *tokens, int64_t n,
                          mg_poll *poll, double *probs);

#endif
