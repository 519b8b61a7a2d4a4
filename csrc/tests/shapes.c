#include "tests/shapes.h"

#include <string.h>

#include "tests/check.h"
#include "tests/graph.h"

state new_state(const mg_config *config)
{
    const int64_t n = mg_count_params(config);
    return (state){n, doubles(n), doubles(n), doubles(n), doubles(n)};
}

state copy_of_state(const state *s)
{
    const size_t bytes = (size_t)s->num_params * sizeof(double);
    state copy = {s->num_params, doubles(s->num_params), doubles(s->num_params), doubles(s->num_params),
                  doubles(s->num_params)};
    memcpy(copy.params, s->params, bytes);
    memcpy(copy.grad, s->grad, bytes);
    memcpy(copy.m, s->m, bytes);
    memcpy(copy.v, s->v, bytes);
    return copy;
}

void free_state(state *s)
{
    free_doubles(s->params);
    free_doubles(s->grad);
    free_doubles(s->m);
    free_doubles(s->v);
}

void set_minus_zeros(const mg_config *config, state *s)
{
    const mg_layout at = mg_layout_of(config);
    for (int64_t i = 0; i < s->num_params; i++) s->grad[i] = s->m[i] = -0.0;
    for (int64_t l = 0; l < config->n_layer; l++)
        for (int64_t row = 0; row < 4 * config->n_embd; row += 2) {
            double *weights = s->params + at.layers + l * at.layer_size + at.mlp_fc1 + row * config->n_embd;
            for (int64_t i = 0; i < config->n_embd; i++) weights[i] = -0.0;
        }
}

void check_state(const state *s, const state *expected)
{
    check_array("params", s->num_params, s->params, expected->params);
    check_array("grad", s->num_params, s->grad, expected->grad);
    check_array("m", s->num_params, s->m, expected->m);
    check_array("v", s->num_params, s->v, expected->v);
}

static int ask(void *context)
{
    eager_poll *p = context;
    p->poll.asked = 0.0; /* as if 20 ms had passed */
    return ++p->questions == p->stop_at;
}

void start_poll(eager_poll *p, int64_t stop_at) { *p = (eager_poll){{ask, p, 0, 0.0}, 0, stop_at}; }

int32_t *random_documents(const mg_config *c, int64_t vocab_size, mg_mt19937 *stream, int64_t *starts)
{
    int32_t *tokens = allocate(DOCUMENTS * (c->block_size + 1), sizeof *tokens);
    starts[0] = 0;
    for (int i = 0; i < DOCUMENTS; i++) {
        const int64_t n = i ? 1 + (int64_t)mg_mt19937_below(stream, (uint64_t)c->block_size) : c->block_size;
        starts[i + 1] = starts[i] + n + 1;
        for (int64_t t = starts[i]; t < starts[i + 1]; t++)
            tokens[t] = (int32_t)mg_mt19937_below(stream, (uint64_t)vocab_size);
    }
    return tokens;
}

void graph_train(const mg_config *c, const mg_adam_config *adam, state *s, const int32_t *tokens,
                 const int64_t *starts, int64_t documents, double *losses)
{
    for (int64_t i = 0; i < documents; i++) {
        losses[i] = graph_document_gradient(c, s->params, s->grad, tokens + starts[i], starts[i + 1] - starts[i] - 1);
        if (adam->clip != 0.0) graph_clip(c, adam->clip, s->grad);
        graph_adam_step(adam, i, s->num_params, s->params, s->grad, s->m, s->v);
    }
}
