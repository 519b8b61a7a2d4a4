/* Models and documents for tests, and the script's loop over them. */
#ifndef MG_TESTS_SHAPES_H
#define MG_TESTS_SHAPES_H

#include "microgpt.h"

static const mg_config shapes[] = {
    /* vocab_size, n_embd, n_head, n_layer, block_size */
    {2, 1, 1, 1, 1},   {3, 2, 1, 1, 4},   {5, 3, 3, 2, 9},    {7, 4, 2, 0, 5},    {9, 5, 1, 1, 17},
    {6, 6, 3, 3, 8},   {17, 7, 7, 1, 3},  {8, 8, 2, 2, 16},   {27, 16, 4, 1, 16}, {4, 9, 3, 1, 10},
    {11, 12, 4, 2, 7}, {33, 17, 1, 1, 6}, {64, 24, 3, 1, 12}, {10, 32, 4, 1, 5}, {6, 54, 2, 1, 17},
};
enum { SHAPES = sizeof shapes / sizeof shapes[0], DOCUMENTS = 18 }; /* enough steps for mg_train's optimistic way */

/* Everything that training changes. */
typedef struct {
    int64_t num_params;
    double *params, *grad, *m, *v;
} state;

state new_state(const mg_config *config);
state copy_of_state(const state *s);
void free_state(state *s);
/* Make weights -0.0, so that every other hidden number is 0 for any document, and gradients and first moments -0.0: if zeros are
 * skipped, these stay so, and the weights become +0.0. */
void set_minus_zeros(const mg_config *config, state *s);

/* DOCUMENTS documents of random tokens below `vocab_size`, the first of which fills the block; to be freed. */
int32_t *random_documents(const mg_config *config, int64_t vocab_size, mg_mt19937 *stream, int64_t *starts);

/* The script's loop over `documents`. */
void graph_train(const mg_config *config, const mg_adam_config *adam, state *s, const int32_t *tokens, const int64_t *starts,
                 int64_t documents, double *losses);

void check_state(const state *s, const state *expected);

/* A poll that stops at its stop_at-th question, and asks as often as there is work to ask after. */
typedef struct {
    mg_poll poll;
    int64_t questions, stop_at;
} eager_poll;

void start_poll(eager_poll *p, int64_t stop_at);

/* The script's settings of Adam, but for these two: an initialiser. */
#define ADAM(eps_, num_steps_) \
    {.learning_rate = 0.01, .beta1 = 0.85, .beta2 = 0.99, .eps = eps_, .num_steps = num_steps_}

#endif
