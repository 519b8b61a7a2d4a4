/* The parameters of a model, flat: names, shapes and offsets, written once.
 *
 * The order is that of the script's state_dict, whose matrices are [rows][columns]. */
#ifndef MG_MODEL_LAYOUT_H
#define MG_MODEL_LAYOUT_H

#include <stdint.h>

typedef struct {
    int64_t vocab_size, n_embd, n_head, n_layer, block_size;
} mg_config;

/* MATRIX(name, rows, columns), first the matrices that there are once, then those of each layer. attn_wq, attn_wk and
 * attn_wv are adjacent: the engine uses the three as one matrix [3 * n_embd][n_embd]. */
#define MG_MODEL_MATRICES(MATRIX)         \
    MATRIX(wte, c->vocab_size, c->n_embd) \
    MATRIX(wpe, c->block_size, c->n_embd) \
    MATRIX(lm_head, c->vocab_size, c->n_embd)
#define MG_LAYER_MATRICES(MATRIX)             \
    MATRIX(attn_wq, c->n_embd, c->n_embd)     \
    MATRIX(attn_wk, c->n_embd, c->n_embd)     \
    MATRIX(attn_wv, c->n_embd, c->n_embd)     \
    MATRIX(attn_wo, c->n_embd, c->n_embd)     \
    MATRIX(mlp_fc1, 4 * c->n_embd, c->n_embd) \
    MATRIX(mlp_fc2, c->n_embd, 4 * c->n_embd)

/* Offsets in doubles: of a matrix in the parameters, or of a layer's matrix in its layer. */
typedef struct {
#define MATRIX(name, rows, columns) int64_t name;
    MG_MODEL_MATRICES(MATRIX)
    MG_LAYER_MATRICES(MATRIX)
#undef MATRIX
    int64_t layers;     /* offset of the first layer */
    int64_t layer_size; /* of one layer */
    int64_t num_params;
} mg_layout;

/* Saturates at INT64_MAX where a number is too large. */
mg_layout mg_layout_of(const mg_config *config);

/* The number of parameters; -1 if that many doubles cannot be addressed. */
int64_t mg_count_params(const mg_config *config);

#endif
