/* Attention by heads: what it leaves where a panel has lanes without a position. (Its results are compared in test_train.c.) */
#include <stdlib.h>

#include "fused/engine.h"
#include "fused/weights.h"
#include "tests/check.h"
#include "tests/shapes.h"
#include "tests/tests.h"

static void check_empty_lanes(const mg_engine *e, const char *label, int64_t rows, const double *x)
{
    const int64_t lanes = e->kernels->lanes;
    for (int64_t p = e->ws.doc.n; p < e->ws.doc.panels * lanes; p++)
        for (int64_t j = 0; j < rows; j++) {
            const double found = x[(p / lanes * rows + j) * lanes + p % lanes];
            check(found == 0.0, "%s, row %d of position %d: %g", label, (int)j, (int)p, found);
        }
}

/* Zeros, which no other stage turns into subnormal numbers, nor into ever larger ones; not what a longer document left there. */
void test_attention(const mg_kernels *kernels)
{
    const mg_config c = {5, 16, 4, 1, 8};
    const int32_t tokens[] = {4, 0, 1, 2, 3, 2, 1, 0, 4};
    mg_mt19937 stream = seeded(3);
    state s = new_state(&c);
    mg_mt19937_fill_gauss(&stream, s.params, s.num_params, 0.0, 0.5);
    mg_engine *engine = mg_engine_new(&c, kernels);
    if (!engine) abort();
    double loss;
    for (int64_t n = 8; n >= 1; n -= n > 5 ? 3 : 1) {
        begin_case("%s, %d positions", mg_kernels_name(kernels), (int)n);
        check(!mg_document_gradient(engine, s.params, s.grad, tokens, n, NULL, &loss), "no gradient");
        if (!mg_attention_by_heads(engine)) continue;
        check_empty_lanes(engine, "outputs of the heads", c.n_embd, engine->ws.act.layers[0].xa);
        check_empty_lanes(engine, "gradients of queries, keys and values", 3 * c.n_embd,
                          engine->ws.kept ? mg_kept_of(engine, 0, MG_QKV)->dy : engine->ws.grad.dqkv);
    }
    mg_engine_free(engine);
    free_state(&s);
}
