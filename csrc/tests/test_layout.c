#include "tests/check.h"
#include "tests/shapes.h"
#include "tests/tests.h"

/* The shapes once more, as the script has them. */
void test_layout(void)
{
    for (int s = 0; s < SHAPES; s++) {
        const mg_config *c = &shapes[s];
        const mg_layout at = mg_layout_of(c);
        const int64_t square = c->n_embd * c->n_embd;
        begin_case("layout, shape %d", s);
        check(at.wte == 0 && at.wpe == c->vocab_size * c->n_embd, "wte");
        check(at.lm_head == at.wpe + c->block_size * c->n_embd, "wpe");
        check(at.layers == at.lm_head + c->vocab_size * c->n_embd, "lm_head");
        check(at.attn_wq == 0 && at.attn_wk == square && at.attn_wv == 2 * square, "attn_wq, attn_wk");
        check(at.attn_wo == 3 * square && at.mlp_fc1 == 4 * square && at.mlp_fc2 == 8 * square, "attn_wv to mlp_fc1");
        check(at.layer_size == 12 * square, "a layer");
        check(mg_count_params(c) == at.layers + 12 * square * c->n_layer, "num_params");
    }
    begin_case("layout");
    check(mg_count_params(&(mg_config){INT64_MAX, 1, 1, 1, 1}) == -1, "more parameters than can be addressed");
    check(mg_count_params(&(mg_config){1, INT64_MAX, 1, 1, 1}) == -1, "wider than can be addressed");
    check(mg_count_params(&(mg_config){1, 1, 1, INT64_MAX, 1}) == -1, "more layers than can be addressed");
}
