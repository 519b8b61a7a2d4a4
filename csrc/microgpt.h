/* The C interface of microgpt: types and prototypes, for the Cython layer and the tests. Plain C11, no Python.h.
 *
 * The vocabulary is the original script's: vocab_size, n_embd, n_head, head_dim, n_layer, block_size, wte, wpe,
 * lm_head, attn_wq, attn_wk, attn_wv, attn_wo, mlp_fc1, mlp_fc2. Gradients are d + name. The script's m and v are
 * Adam's moments. Statuses: base/status.h. Random numbers: rng/mt19937.h. Shapes and parameters: model/layout.h. */
#ifndef MICROGPT_H
#define MICROGPT_H

#include <stddef.h>
#include <stdint.h>

#include "base/poll.h"
#include "base/require.h"
#include "base/status.h"
#include "model/layout.h"
#include "rng/mt19937.h"

/* ---- the kernel table (kernels/) ---- */

typedef struct mg_kernels mg_kernels; /* kernels/kernels.h */

/* The table called name, or, if name is NULL, the best that this processor and its operating system support. NULL on
 * error: *status is MG_UNKNOWN_ISA, or MG_UNSUPPORTED_ISA for a known name that was not compiled or does not run here.
 */
const mg_kernels *mg_select_kernels(const char *name, mg_status *status);

/* The index-th instruction set that was compiled (NULL past the end), and whether it runs here. */
const char *mg_compiled_isa(int index);
int mg_supports_isa(int index);

const char *mg_kernels_name(const mg_kernels *kernels);
int mg_kernels_lanes(const mg_kernels *kernels);

/* Whether exp and ** are computed in vectors. If not, each is a call of the C library, which the proofs do not cover.
 */
int mg_kernels_vector_math(const mg_kernels *kernels);

/* Whether Adam takes roots by the processor's instruction (1) or from its estimate (0). */
int mg_kernels_square_root(const mg_kernels *kernels);

/* Whether the matrix products are arranged for units half as wide as a vector (1) or for whole ones (0). */
int mg_kernels_half_units(const mg_kernels *kernels);

/* The compiler of this library, such as "gcc 12.2.0". */
const char *mg_compiler(void);

/* Name and address of the index-th kernel of a table, for tests; NULL past the end. */
const char *mg_kernel(const mg_kernels *kernels, int index, const void **address);

/* ---- Adam (fused/adam.c) ---- */

typedef struct {
    double learning_rate, beta1, beta2, eps;
    int64_t num_steps;
    /* rates[i] is the learning rate of update first_rate + i. NULL: it falls linearly to 0 over num_steps. */
    const double *rates;
    int64_t first_rate;
    double weight_decay, clip; /* 0.0: none */
} mg_adam_config;

/* The numbers of one update that are the same for every parameter, each rounded as the script rounds it. */
typedef struct {
    double beta1, one_minus_beta1; /* 1 - beta1 */
    double beta2, one_minus_beta2;
    double m_scale, v_scale; /* 1 - beta1 ** t, 1 - beta2 ** t, t = step + 1 */
    double lr_t;             /* learning_rate * (1 - step / num_steps), or what rates has */
    double eps;
    double weight_decay, clip;
    int vectorizable;        /* all of these are in the range that the vector kernels' proofs need */
    int may_have_subnormals; /* after this many steps an m without a gradient may have decayed to a subnormal number */
    int fetch_ahead;         /* parameters and moments come from memory: fetch them before they are needed */
} mg_adam_coefs;

/* The coefficients of update number `step`, counted from 0. MG_OK, or what the script would raise before it changes a
 * parameter: MG_ZERO_DIVISION (num_steps is 0, no rates), MG_POW_RANGE (beta ** t overflows). */
mg_status mg_adam_prepare(const mg_adam_config *config, int64_t step, mg_adam_coefs *coefs);

/* Scale the gradient of a whole model to this norm if it is larger; 0.0: leave it. Comes before the weight decay. */
void mg_clip_gradient(const mg_config *config, double clip, double *grad);

/* AdamW's weight decay, which comes before an update of the same parameters: data -= lr_t * weight_decay * data. */
void mg_adam_decay(const mg_adam_coefs *coefs, int64_t n, double *data);

/* Update n parameters: data, m and v change, grad becomes 0. All four are [n] and do not overlap.
 * MG_OK, or the script's error at the first parameter where it happens: parameters before it are updated, parameters
 * after it are untouched, and its m and v are as far as the script gets with them.
 * libm: take every power from the C library (to compare with). */
mg_status mg_adam_update(const mg_kernels *kernels, const mg_adam_coefs *coefs, int64_t n, double *data, double *grad,
                         double *m, double *v, int libm);

/* Whether mg_adam_update may stop at some parameter, with those before it updated: with usual settings and gradients it
 * cannot. */
int mg_adam_may_stop(const mg_kernels *kernels, const mg_adam_coefs *coefs, int64_t n, const double *grad, const double *v);

/* ---- the engine (fused/) ---- */

/* Working memory for one model. It grows with the longest document seen. One call at a time. Parameters, gradients and
 * moments are [num_params] in the order of model/layout.h and belong to the caller. */
typedef struct mg_engine mg_engine;

mg_engine *mg_engine_new(const mg_config *config, const mg_kernels *kernels); /* NULL: out of memory */
void mg_engine_free(mg_engine *engine);

/* How many threads mg_train_batches, mg_position_losses_of and mg_generate may use, the calling one included; 1 at first. They start when
 * there is work for them, and again in a process that was forked. least_work: multiplications of a forward pass from which on
 * a step is shared, because shorter ones are faster on one thread; MG_LEAST_SHARED_WORK is as measured. MG_OK or
 * MG_NO_MEMORY. */
mg_status mg_engine_set_threads(mg_engine *engine, int threads, double least_work);
#define MG_LEAST_SHARED_WORK 400000.0

/* Whether a step on documents of this many positions altogether is shared. */
int mg_engine_shares(const mg_engine *engine, int64_t positions);

/* loss = document_loss(tokens, model); loss.backward(). tokens: [n + 1], each below vocab_size, n from 1 to block_size.
 * grad is added to; on any status but MG_OK it is unchanged.
 * MG_LOG_DOMAIN (a target's probability is 0), MG_INTERRUPTED, MG_NO_MEMORY. */
mg_status mg_document_gradient(mg_engine *engine, const double *params, double *grad, const int32_t *tokens, int64_t n,
                               mg_poll *poll, double *loss);

/* The loss alone, and the loss at each position, [n], whose mean it is. Statuses as above. */
mg_status mg_document_loss(mg_engine *engine, const double *params, const int32_t *tokens, int64_t n, mg_poll *poll,
                           double *loss);
mg_status mg_position_losses(mg_engine *engine, const double *params, const int32_t *tokens, int64_t n, mg_poll *poll,
                             double *losses);

/* The losses at each position of some documents, those of document d from losses[starts[d] - d] on. tokens and starts as for
 * mg_train. On any status but MG_OK, also MG_NO_THREAD, losses are unspecified. */
mg_status mg_position_losses_of(mg_engine *engine, const double *params, const int32_t *tokens, const int64_t *starts,
                                int64_t documents, mg_poll *poll, double *losses);

/* Layers of the last document in which zeros of relu were skipped. For tests. */
int64_t mg_engine_sparse_layers(const mg_engine *engine);

/* Loss, gradient and one step of Adam for each document. Document d is tokens[starts[d]] to tokens[starts[d + 1] - 1],
 * no longer than block_size + 1. step: Adam's steps before. losses: [documents]. *done: the documents finished. On any
 * status but MG_OK everything is as it was after these; that includes MG_POW_RANGE, an overflow in Adam. */
mg_status mg_train(mg_engine *engine, const mg_adam_config *config, int64_t step, double *params, double *grad,
                   double *m, double *v, const int32_t *tokens, const int64_t *starts, int64_t documents, mg_poll *poll,
                   double *losses, int64_t *done);

/* The same with one step of Adam for every batch_size documents: (1 / batch_size) * sum(losses), one backward pass, one
 * update. There are batches * batch_size documents. document_losses: [batch_size], scratch; losses: [batches]. The results do
 * not depend on the number of threads. One status more: MG_NO_THREAD. */
mg_status mg_train_batches(mg_engine *engine, const mg_adam_config *config, int64_t step, int64_t batch_size,
                           double *params, double *grad, double *m, double *v, const int32_t *tokens,
                           const int64_t *starts, int64_t batches, mg_poll *poll, double *document_losses, double *losses,
                           int64_t *done);

/* A step that several processes take together, each with some documents of the batch (fused/part.c).
 *
 * mg_part_losses: the losses of this part, and what its gradients are made of, which the engine keeps. grad: as it is before the
 * step. Statuses as for mg_document_gradient.
 * mg_part_gradients: the gradients of that part of this many documents, added to grad, for the slices of parameters from first to
 * end - 1. grad holds the sums of the documents after this part.
 * mg_part_slices: cut the parameters into slices, for this many processes, and count them. Slice i begins at
 * mg_part_slice_start(engine, i), for i = count at num_params.
 * mg_part_capacity: how many documents of this many positions a part may have, for the sake of memory. */
mg_status mg_part_losses(mg_engine *engine, const double *params, const double *grad, const int32_t *tokens,
                         const int64_t *starts, int64_t documents, int64_t batch_size, mg_poll *poll, double *losses);
mg_status mg_part_gradients(mg_engine *engine, int64_t documents, int64_t first, int64_t end, double *grad);
mg_status mg_part_slices(mg_engine *engine, int64_t processes, int64_t *count);
int64_t mg_part_slice_start(const mg_engine *engine, int64_t slice);
int64_t mg_part_capacity(const mg_engine *engine, int64_t positions);

/* The same by processes that share memory, each of which has an engine of the same model (fused/crew.c). All processes make the
 * same calls, with the same arguments.
 *
 * mg_crew_bytes: how much memory they share, aligned to 64 bytes; INT64_MAX if that is not a size.
 * mg_crew_join: one of this many processes, rank from 0 up. Rank 0 writes the state into the memory; the others train only after
 * that. NULL: out of memory.
 * mg_crew_train: as mg_train_batches. One status more: MG_STOPPED, another process has failed, or left. After any but MG_OK all
 * processes must leave. It works on the memory, and leaves the caller's arrays as they were: mg_crew_read copies to them.
 * mg_crew_stop: end the step that is under way, unless it can no longer fail.
 * mg_crew_leave: stop, and free what is not shared. NULL: nothing. */
typedef struct mg_crew mg_crew;
int64_t mg_crew_bytes(const mg_config *config, int64_t batch_size);
mg_crew *mg_crew_join(const mg_engine *engine, void *memory, int64_t rank, int64_t processes, int64_t batch_size,
                      const double *params, const double *grad, const double *m, const double *v);
mg_status mg_crew_train(mg_engine *engine, mg_crew *crew, const mg_adam_config *config, int64_t step, const int32_t *tokens,
                        const int64_t *starts, int64_t batches, mg_poll *poll, double *losses, int64_t *done);
void mg_crew_read(const mg_engine *engine, const mg_crew *crew, double *params, double *m, double *v);
void mg_crew_stop(mg_crew *crew);
void mg_crew_leave(mg_crew *crew);

/* Generate texts, one after the other: each the tokens after a prompt of n tokens (BOS first; n from 1 to block_size), drawn
 * by mg_mt19937_choice from softmax(logits * factor). A text stops at BOS, which is not kept, at the end of the block, or
 * after max_tokens. out: [texts][block_size]; counts: [texts], the tokens of each. On any status but MG_OK the stream is
 * unchanged: MG_NO_MEMORY, MG_INTERRUPTED, MG_CHOICE_TOTAL_ZERO, MG_CHOICE_TOTAL_NOT_FINITE.
 *
 * What was computed is used again by later calls, this one's and the next one's, while the parameters stay the same to the
 * bit: each call compares them with a copy. Threads share many texts, which are those that one thread draws. */
mg_status mg_generate(mg_engine *engine, const double *params, mg_mt19937 *stream, double factor, const int32_t *tokens,
                      int64_t n, int64_t max_tokens, int64_t texts, mg_poll *poll, int32_t *out, int64_t *counts);

/* probs [vocab_size]: softmax(logits * factor) of what follows the n tokens, n from 1 to block_size. */
mg_status mg_next_probabilities(mg_engine *engine, const double *params, double factor, const int32_t *tokens,
                                int64_t n, mg_poll *poll, double *probs);

#endif
