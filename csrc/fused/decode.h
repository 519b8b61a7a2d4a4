/* The decoder of one thread: what it has computed of the tokens in hand and of texts before, while the weights stay the same. */
#ifndef MG_FUSED_DECODE_H
#define MG_FUSED_DECODE_H

#include "fused/engine.h"
#include "fused/prefix_tree.h"

typedef struct mg_decoder {
    int64_t version; /* of the weights that the rest belongs to (transposed.h) */

    double *keys, *values;                       /* [n_layer], panels [n_embd][lanes] of positions, and rows [n_embd] */
    double *x, *xn, *qkv, *xa, *hidden, *logits; /* each rounded up to lanes */
    double *weights;                             /* [vocab_size], rounded up to lanes */
    double *scratch;                             /* of attention */
    int32_t *active;                             /* [4 * n_embd], rounded up to lanes */

    /* x and qkv of the first layer, [vocab_size][block_size][n_embd rounded up + 3 * n_embd rounded up], and whether an
     * entry is there. NULL where it would take too much memory. */
    double *first;
    char *first_known;

    /* The tokens whose keys and values the layers hold, and the number of those that the logits follow (0: none). */
    int32_t *cached; /* [block_size] */
    int64_t cached_length, logits_length;

    int32_t *text; /* [block_size], the tokens of the text in hand */
    int64_t *path; /* [block_size], the node of text[0..p] in the tree */
    mg_prefix_tree tree;
} mg_decoder;

/* So many of e->decoders are made, and belong to e->transposed as it is now. MG_OK or MG_NO_MEMORY. */
mg_status mg_reserve_decoders(mg_engine *e, int64_t count);

/* The running sums of the probabilities of what follows text[0..p], softmax(logits * factor): [vocab_size]; NULL on error, which
 * is in *status. */
const double *mg_cumulative_weights(const mg_engine *e, mg_decoder *s, double factor, int64_t p, mg_poll *poll, mg_status *status);

#endif
