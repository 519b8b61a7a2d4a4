/* Gradients, training and sampling against the graph, and what training leaves behind when it fails. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fused/engine.h"
#include "tests/check.h"
#include "tests/graph.h"
#include "tests/shapes.h"
#include "tests/tests.h"

/* Train both on all documents: the same losses and the same state afterwards. losses: ours. */
static void test_steps(mg_engine *engine, const mg_config *c, const mg_adam_config *adam, state *ours, state *expected,
                       const int32_t *tokens, const int64_t *starts, double *losses)
{
    double expected_losses[DOCUMENTS];
    int64_t done;
    const mg_status status = mg_train(engine, adam, 0, ours->params, ours->grad, ours->m, ours->v, tokens, starts,
                                      DOCUMENTS, NULL, losses, &done);
    graph_train(c, adam, expected, tokens, starts, DOCUMENTS, expected_losses);
    check(status == MG_OK && done == DOCUMENTS, "training: status %d after %d documents", status, (int)done);
    check_array("losses", DOCUMENTS, losses, expected_losses);
    check_state(ours, expected);
}

uint64_t test_train(const mg_kernels *kernels, uint64_t d)
{
    const mg_adam_config adam = ADAM(1e-8, DOCUMENTS);
    for (int i = 0; i < SHAPES; i++) {
        const mg_config *c = shapes + i;
        begin_case("%s, shape %d", mg_kernels_name(kernels), i);
        mg_mt19937 stream = seeded((uint32_t)i);
        state ours = new_state(c);
        int64_t starts[DOCUMENTS + 1];
        double losses[DOCUMENTS], expected_losses[1];
        mg_mt19937_fill_gauss(&stream, ours.params, ours.num_params, 0.0, i % 3 ? 0.5 : 0.08);
        int32_t *tokens = random_documents(c, c->vocab_size, &stream, starts);
        mg_engine *engine = mg_engine_new(c, kernels);
        if (!engine) abort();

        /* A gradient, added to what is there. */
        mg_mt19937_fill_gauss(&stream, ours.grad, ours.num_params, 0.0, 1.0);
        state expected = copy_of_state(&ours);
        mg_status status = mg_document_gradient(engine, ours.params, ours.grad, tokens, c->block_size, NULL, losses);
        expected_losses[0] = graph_document_gradient(c, expected.params, expected.grad, tokens, c->block_size);
        check(status == MG_OK, "gradient: status %d", status);
        check_array("loss", 1, losses, expected_losses);
        check_array("gradient", ours.num_params, ours.grad, expected.grad);

        /* The losses at each position, whose sum in the script's order is that of the loss. */
        double *at_positions = doubles(c->block_size), sum = 0.0;
        status = mg_position_losses(engine, ours.params, tokens, c->block_size, NULL, at_positions);
        check(status == MG_OK, "position losses: status %d", status);
        for (int64_t p = 0; p < c->block_size; p++) sum += at_positions[p];
        sum *= 1.0 / (double)c->block_size;
        check_array("mean of the position losses", 1, &sum, expected_losses);
        free_doubles(at_positions);

        /* Training. */
        memset(ours.grad, 0, (size_t)ours.num_params * sizeof *ours.grad);
        memset(expected.grad, 0, (size_t)ours.num_params * sizeof *ours.grad);
        test_steps(engine, c, &adam, &ours, &expected, tokens, starts, losses);
        d = digest(digest(d, DOCUMENTS, losses), ours.num_params, ours.params);

        /* Training with what the script does not have: rates of its own, clipping, weight decay. */
        double rates[DOCUMENTS];
        for (int step = 0; step < DOCUMENTS; step++) rates[step] = 0.001 * (double)(step + 1);
        mg_adam_config other = ADAM(1e-8, DOCUMENTS);
        other.rates = rates;
        other.clip = 1.0;
        other.weight_decay = 0.5;
        begin_case("%s, shape %d, rates, clipping and weight decay", mg_kernels_name(kernels), i);
        test_steps(engine, c, &other, &ours, &expected, tokens, starts, losses);
        begin_case("%s, shape %d", mg_kernels_name(kernels), i);

        /* Sampling: the only oracle is the other instruction sets, by the digest. */
        int32_t *out = allocate(c->block_size, sizeof *out);
        double *probs = doubles(c->vocab_size);
        for (int sample = 0; sample < 8; sample++) {
            int64_t count = 0;
            status = mg_generate(engine, ours.params, &stream, 1.0 / 0.5, tokens, 1, c->block_size, 1, NULL, out,
                                 &count);
            check(status == MG_OK, "sampling: status %d", status);
            d = digest_tokens(d, count, out);
            status = mg_next_probabilities(engine, ours.params, 2.0, tokens, 1, NULL, probs);
            check(status == MG_OK, "probabilities: status %d", status);
            d = digest(d, c->vocab_size, probs);
        }
        mg_engine_free(engine);
        free_state(&ours);
        free_state(&expected);
        free_doubles(probs);
        free(tokens);
        free(out);
    }
    return d;
}

/* Every other hidden number is 0 for any document, so that its column of mlp_fc2 may be skipped; until at document `at`
 * an enormous moment makes the column infinite: then 0 times it is nan. */
static void test_weights_become_infinite(const mg_kernels *kernels, const mg_config *c, int64_t at)
{
    const mg_adam_config adam = ADAM(1e-8, DOCUMENTS);
    const mg_layout layout = mg_layout_of(c);
    mg_mt19937 stream = seeded(12);
    state ours = new_state(c);
    int64_t starts[DOCUMENTS + 1], done;
    double losses[DOCUMENTS];
    mg_mt19937_fill_gauss(&stream, ours.params, ours.num_params, 0.0, 0.5);
    double *fc1 = ours.params + layout.layers + layout.mlp_fc1;
    for (int64_t row = 0; row < 4 * c->n_embd; row += 2)
        memset(fc1 + row * c->n_embd, 0, (size_t)c->n_embd * sizeof *fc1);
    int32_t *tokens = random_documents(c, c->vocab_size, &stream, starts);
    state expected = copy_of_state(&ours);
    mg_engine *engine = mg_engine_new(c, kernels);
    if (!engine) abort();
    begin_case("%s, infinite weights after document %d, %d parameters", mg_kernels_name(kernels), (int)at,
               (int)ours.num_params);
    if (at) {
        const mg_status status = mg_train(engine, &adam, 0, ours.params, ours.grad, ours.m, ours.v, tokens, starts, at,
                                          NULL, losses, &done);
        check(status == MG_OK && mg_engine_sparse_layers(engine) == c->n_layer, "training: status %d", status);
        graph_train(c, &adam, &expected, tokens, starts, at, losses);
    }
    /* Of row 0, and of column 0, whose hidden number is 0. */
    ours.m[layout.layers + layout.mlp_fc2] = expected.m[layout.layers + layout.mlp_fc2] = 1e305;
    test_steps(engine, c, &adam, &ours, &expected, tokens, starts, losses);
    mg_engine_free(engine);
    free_state(&ours);
    free_state(&expected);
    free(tokens);
}

/* A model of zeros, all of whose gradients are 0, so that mlp_fc2 may be skipped; but one of its weights has moments by
 * which it becomes infinite in the 13th of these steps; only the first leaves it below 1e150. */
static void test_weight_grows_without_a_gradient(const mg_kernels *kernels, const mg_config *c)
{
    double rates[DOCUMENTS] = {1e-15}, losses[DOCUMENTS];
    for (int step = 1; step < DOCUMENTS; step++) rates[step] = 1.0;
    const mg_adam_config adam = {.beta1 = 0.85, .beta2 = 0x1p-88, .eps = 1e-30, .num_steps = DOCUMENTS, .rates = rates};
    const mg_layout layout = mg_layout_of(c);
    const int64_t weight = layout.layers + layout.mlp_fc2;
    mg_mt19937 stream = seeded(13);
    state ours = new_state(c);
    int64_t starts[DOCUMENTS + 1], done;
    int32_t *tokens = random_documents(c, c->vocab_size, &stream, starts);
    mg_engine *engine = mg_engine_new(c, kernels);
    if (!engine) abort();
    begin_case("%s, a weight that grows, %d parameters", mg_kernels_name(kernels), (int)ours.num_params);
    const mg_status status = mg_train(engine, &adam, 0, ours.params, ours.grad, ours.m, ours.v, tokens, starts, 1, NULL,
                                      losses, &done);
    check(status == MG_OK && mg_engine_sparse_layers(engine) == c->n_layer, "training: status %d", status);
    ours.m[weight] = 1e304;
    ours.v[weight] = 1e308;
    state expected = copy_of_state(&ours);
    test_steps(engine, c, &adam, &ours, &expected, tokens, starts, losses);
    check(isfinite(losses[0]) && isnan(losses[DOCUMENTS - 1]), "losses from %g to %g", losses[0],
          losses[DOCUMENTS - 1]);
    mg_engine_free(engine);
    free_state(&ours);
    free_state(&expected);
    free(tokens);
}

/* A poll that is asked whenever there is work to ask after, and compares what the engine says of mlp_fc2 with the
 * state. */
typedef struct {
    mg_poll poll;
    const mg_engine *engine;
    const state *s;
    int64_t bounds;
} bounds_poll;

static int compare_bounds(void *context)
{
    enum { ALL_WORK = 1 << 21 };
    const double ROUNDED = 1.0001; /* the sums' orders differ */
    bounds_poll *p = context;
    const mg_engine *e = p->engine;
    const int64_t size = 4 * e->config.n_embd * e->config.n_embd;
    for (int64_t l = 0; l < e->config.n_layer && !isnan(e->fc2_moments[l]); l++) {
        const int64_t first = e->at.layers + l * e->at.layer_size + e->at.mlp_fc2;
        double params = 0.0, moments = 0.0;
        for (int64_t i = first; i < first + size; i++) {
            params += fabs(p->s->params[i]);
            moments += fabs(p->s->m[i]);
        }
        check(params <= ROUNDED * e->fc2_magnitude[l], "parameters of %g, at most %g", params, e->fc2_magnitude[l]);
        check(moments <= ROUNDED * e->fc2_moments[l], "moments of %g, at most %g", moments, e->fc2_moments[l]);
        p->bounds++;
    }
    p->poll.asked = 0.0; /* as if 20 ms had passed */
    p->poll.work = ALL_WORK;
    return 0;
}

/* mlp_fc2 begins at 0, and one document again and again makes it grow. eps is so large that a step has nearly the size
 * that is assumed of it. */
static void test_bounds(const mg_kernels *kernels, const mg_config *c)
{
    const mg_adam_config adam = ADAM(1.0, DOCUMENTS);
    const mg_layout layout = mg_layout_of(c);
    mg_mt19937 stream = seeded(14);
    state ours = new_state(c);
    int64_t starts[DOCUMENTS + 1], done;
    double losses[DOCUMENTS];
    mg_mt19937_fill_gauss(&stream, ours.params, ours.num_params, 0.0, 0.5);
    for (int64_t l = 0; l < c->n_layer; l++)
        memset(ours.params + layout.layers + l * layout.layer_size + layout.mlp_fc2, 0,
               (size_t)(4 * c->n_embd * c->n_embd) * sizeof *ours.params);
    int32_t *tokens = allocate(DOCUMENTS * (c->block_size + 1), sizeof *tokens);
    for (int64_t i = 0; i <= DOCUMENTS; i++) starts[i] = i * (c->block_size + 1);
    for (int64_t t = 0; t < starts[DOCUMENTS]; t++)
        tokens[t] = t < starts[1] ? (int32_t)mg_mt19937_below(&stream, (uint64_t)c->vocab_size) : tokens[t - starts[1]];
    mg_engine *engine = mg_engine_new(c, kernels);
    if (!engine) abort();
    begin_case("%s, bounds of mlp_fc2, %d parameters", mg_kernels_name(kernels), (int)ours.num_params);
    bounds_poll p = {{compare_bounds, &p, INT64_MAX / 2, 0.0}, engine, &ours, 0};
    const mg_status status = mg_train(engine, &adam, 0, ours.params, ours.grad, ours.m, ours.v, tokens, starts,
                                      DOCUMENTS, &p.poll, losses, &done);
    check(status == MG_OK && p.bounds >= (DOCUMENTS - 1) * c->n_layer, "training: status %d, %d bounds", status,
          (int)p.bounds);
    mg_engine_free(engine);
    free_state(&ours);
    free(tokens);
}

/* A model in which only documents with token 0 have gradients whose squares overflow: its embedding has an axis of its
 * own, and what the MLP does with that axis is a tiny weight times a huge one. Attention's products are 0. */
static void set_trap(const mg_config *c, state *s, mg_mt19937 *stream)
{
    const mg_layout at = mg_layout_of(c);
    const int64_t n_embd = c->n_embd, axis = n_embd - 1;
    mg_mt19937_fill_gauss(stream, s->params, at.layers, 0.0, 0.5);
    for (int64_t row = 0; row < at.layers / n_embd; row++) s->params[row * n_embd + axis] = 0.0;
    s->params[at.wte + axis] = 1.0; /* token 0 */
    double *layer = s->params + at.layers;
    memset(layer, 0, (size_t)(c->n_layer * at.layer_size) * sizeof *layer);
    layer[at.mlp_fc1 + axis] = 1e-160;
    layer[at.mlp_fc2] = 1e160;
}

/* Training meets an overflow in Adam at document `bad`: what it leaves must be what the script had before it. */
static void test_rollback(const mg_kernels *kernels, const mg_config *c, int64_t bad)
{
    const mg_adam_config adam = ADAM(1e-8, DOCUMENTS);
    mg_mt19937 stream = seeded(11);
    state ours = new_state(c);
    set_trap(c, &ours, &stream);
    int64_t starts[DOCUMENTS + 1], done = -1;
    double losses[DOCUMENTS], expected_losses[DOCUMENTS];
    int32_t *tokens = random_documents(c, c->vocab_size - 1, &stream, starts);
    for (int64_t t = 0; t < starts[DOCUMENTS]; t++) tokens[t]++; /* none of them is 0 */
    tokens[starts[bad]] = 0;
    state expected = copy_of_state(&ours);
    mg_engine *engine = mg_engine_new(c, kernels);
    if (!engine) abort();
    begin_case("%s, overflow at document %d, %d parameters", mg_kernels_name(kernels), (int)bad, (int)ours.num_params);
    mg_status status = mg_train(engine, &adam, 0, ours.params, ours.grad, ours.m, ours.v, tokens, starts, DOCUMENTS,
                                NULL, losses, &done);
    graph_train(c, &adam, &expected, tokens, starts, bad, expected_losses);
    check(status == MG_POW_RANGE && done == bad, "status %d after %d documents", status, (int)done);
    check_array("losses", bad, losses, expected_losses);
    check_state(&ours, &expected);

    /* The engine is usable: training continues without that token. */
    tokens[starts[bad]] = 1;
    status = mg_train(engine, &adam, bad, ours.params, ours.grad, ours.m, ours.v, tokens, starts + bad, DOCUMENTS - bad,
                      NULL, losses + bad, &done);
    for (int64_t i = bad; i < DOCUMENTS; i++) {
        expected_losses[i] = graph_document_gradient(c, expected.params, expected.grad, tokens + starts[i],
                                                     starts[i + 1] - starts[i] - 1);
        graph_adam_step(&adam, i, ours.num_params, expected.params, expected.grad, expected.m, expected.v);
    }
    check(status == MG_OK && done == DOCUMENTS - bad, "afterwards: status %d", status);
    check_array("losses afterwards", DOCUMENTS, losses, expected_losses);
    check_state(&ours, &expected);
    mg_engine_free(engine);
    free_state(&ours);
    free_state(&expected);
    free(tokens);
}

/* A status of mg_train for two documents, and that nothing has changed: grad holds something of the caller's. */
static void test_nothing_changes(const mg_kernels *kernels, const char *what, const mg_adam_config *adam, state *ours,
                                 const mg_config *c, mg_poll *poll, mg_status expected_status)
{
    const int32_t tokens[] = {1, 2, 1, 2, 2, 1};
    const int64_t starts[] = {0, 3, 6};
    double losses[2];
    int64_t done = -1;
    state before = copy_of_state(ours);
    mg_engine *engine = mg_engine_new(c, kernels);
    if (!engine) abort();
    begin_case("%s, %s", mg_kernels_name(kernels), what);
    const mg_status status = mg_train(engine, adam, 0, ours->params, ours->grad, ours->m, ours->v, tokens, starts, 2,
                                      poll, losses, &done);
    check(status == expected_status && done == 0, "status %d after %d documents", status, (int)done);
    check_state(ours, &before);
    mg_engine_free(engine);
    free_state(&before);
}

void test_train_errors(const mg_kernels *kernels)
{
    const mg_config small = {5, 8, 2, 1, 9}, large = {5, 16, 2, 1, 9}; /* matrix by matrix from 2000 parameters on */
    for (int64_t bad = 0; bad < DOCUMENTS; bad += DOCUMENTS / 2 - 1) {
        test_rollback(kernels, &small, bad);
        test_rollback(kernels, &large, bad);
    }
    for (int64_t at = 0; at < DOCUMENTS; at += DOCUMENTS - 1) {
        test_weights_become_infinite(kernels, &small, at);
        test_weights_become_infinite(kernels, &large, at);
    }
    test_weight_grows_without_a_gradient(kernels, &small);
    test_weight_grows_without_a_gradient(kernels, &large);
    test_bounds(kernels, &small);
    test_bounds(kernels, &large);
    const mg_adam_config adam = ADAM(1e-8, DOCUMENTS), no_steps = ADAM(1e-8, 0);
    const mg_adam_config no_eps = ADAM(0.0, DOCUMENTS);
    mg_mt19937 stream = seeded(5);
    state s = new_state(&small);
    mg_mt19937_fill_gauss(&stream, s.params, s.num_params, 0.0, 0.5);
    mg_mt19937_fill_gauss(&stream, s.grad, s.num_params, 0.0, 0.5);
    s.grad[3] = -0.0;
    test_nothing_changes(kernels, "num_steps 0", &no_steps, &s, &small, NULL, MG_ZERO_DIVISION);
    eager_poll stop;
    start_poll(&stop, 1);
    stop.poll.work = 1 << 21;
    test_nothing_changes(kernels, "interrupted", &adam, &s, &small, &stop.poll, MG_INTERRUPTED);
    s.v[s.num_params - 1] = -1.0;
    test_nothing_changes(kernels, "a negative v", &adam, &s, &small, NULL, MG_POW_COMPLEX);
    s.v[s.num_params - 1] = 0.0;
    s.grad[s.num_params - 1] = 1e200;
    test_nothing_changes(kernels, "a gradient that overflows", &adam, &s, &small, NULL, MG_POW_RANGE);
    memset(s.grad, 0, (size_t)s.num_params * sizeof *s.grad);
    test_nothing_changes(kernels, "eps 0 and v 0", &no_eps, &s, &small, NULL, MG_ZERO_DIVISION);
    free_state(&s);
}
