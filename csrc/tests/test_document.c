/* A gradient that fails leaves what was there: the domain of log, and interruptions in either pass. */
#include <stdlib.h>
#include <string.h>

#include "tests/check.h"
#include "tests/shapes.h"
#include "tests/tests.h"

static void test_log_domain(const mg_kernels *kernels)
{
    const mg_config c = {3, 4, 2, 1, 4};
    const int32_t tokens[] = {0, 2, 2};
    const mg_layout at = mg_layout_of(&c);
    mg_mt19937 stream = seeded(1);
    state ours = new_state(&c);
    mg_mt19937_fill_gauss(&stream, ours.params, ours.num_params, 0.0, 0.5);
    mg_mt19937_fill_gauss(&stream, ours.grad, ours.num_params, 0.0, 0.5);
    ours.grad[0] = -0.0;
    /* Logits of tokens 0 and 1 so large, one of them positive, that token 2, the second target, has no probability. */
    for (int64_t i = 0; i < c.n_embd; i++) {
        ours.params[at.lm_head + i] *= 1e5;
        ours.params[at.lm_head + c.n_embd + i] = -ours.params[at.lm_head + i];
    }
    state before = copy_of_state(&ours);
    mg_engine *engine = mg_engine_new(&c, kernels);
    if (!engine) abort();
    begin_case("%s, a probability of 0", mg_kernels_name(kernels));
    double loss, losses[2];
    mg_status status = mg_document_gradient(engine, ours.params, ours.grad, tokens, 2, NULL, &loss);
    check(status == MG_LOG_DOMAIN, "gradient: status %d", status);
    status = mg_document_loss(engine, ours.params, tokens, 2, NULL, &loss);
    check(status == MG_LOG_DOMAIN, "loss: status %d", status);
    status = mg_position_losses(engine, ours.params, tokens, 2, NULL, losses);
    check(status == MG_LOG_DOMAIN, "position losses: status %d", status);
    check_state(&ours, &before);
    mg_engine_free(engine);
    free_state(&ours);
    free_state(&before);
}

/* A document so long that the backward pass asks as well. */
static void test_interrupted(const mg_kernels *kernels, double fill)
{
    const mg_config c = {7, 128, 4, 1, 360};
    mg_mt19937 stream = seeded(2);
    state ours = new_state(&c);
    mg_mt19937_fill_gauss(&stream, ours.params, ours.num_params, 0.0, 0.08);
    for (int64_t i = 0; i < ours.num_params; i++) ours.grad[i] = fill * (double)(i % 7);
    int32_t *tokens = allocate(c.block_size + 1, sizeof *tokens);
    for (int64_t t = 0; t <= c.block_size; t++) tokens[t] = (int32_t)mg_mt19937_below(&stream, 7);
    state before = copy_of_state(&ours);
    mg_engine *engine = mg_engine_new(&c, kernels);
    if (!engine) abort();
    begin_case("%s, interrupted, grad of %g", mg_kernels_name(kernels), fill);
    double loss, losses[DOCUMENTS];
    eager_poll poll;
    start_poll(&poll, -1);
    mg_status status = mg_document_loss(engine, ours.params, tokens, c.block_size, &poll.poll, &loss);
    const int64_t forward = poll.questions;
    check(status == MG_OK && forward > 5, "%d questions in the forward pass", (int)forward);
    start_poll(&poll, -1);
    state finished = copy_of_state(&before);
    status = mg_document_gradient(engine, finished.params, finished.grad, tokens, c.block_size, &poll.poll, &loss);
    const int64_t all = poll.questions;
    check(status == MG_OK && all > forward + 5, "%d questions in both passes", (int)all);
    /* Training takes the gradients in another order, after the whole backward pass, and asks less often. */
    const mg_adam_config adam = ADAM(1e-8, DOCUMENTS);
    const int64_t starts[] = {0, c.block_size + 1};
    int64_t done = -1;
    state trained = copy_of_state(&before);
    start_poll(&poll, -1);
    status = mg_train(engine, &adam, 0, trained.params, trained.grad, trained.m, trained.v, tokens, starts, 1, &poll.poll,
                      losses, &done);
    const int64_t in_training = poll.questions;
    check(status == MG_OK && in_training > forward + 5, "%d questions in training", (int)in_training);
    free_state(&trained);
    const int64_t stops[] = {1, forward, forward + 1, (forward + all) / 2, all};
    for (size_t i = 0; i < sizeof stops / sizeof stops[0]; i++) {
        start_poll(&poll, stops[i]);
        status = mg_document_gradient(engine, ours.params, ours.grad, tokens, c.block_size, &poll.poll, &loss);
        check(status == MG_INTERRUPTED, "gradient, question %d of %d: status %d", (int)stops[i], (int)all, status);
        check_state(&ours, &before);

        const int64_t stop = stops[i] < in_training ? stops[i] : in_training;
        done = -1;
        start_poll(&poll, stop);
        status = mg_train(engine, &adam, 0, ours.params, ours.grad, ours.m, ours.v, tokens, starts, 1, &poll.poll,
                          losses, &done);
        check(status == MG_INTERRUPTED && done == 0, "training, question %d: status %d", (int)stop, status);
        check_state(&ours, &before);
    }
    status = mg_document_gradient(engine, ours.params, ours.grad, tokens, c.block_size, NULL, &loss);
    check(status == MG_OK, "afterwards: status %d", status);
    check_state(&ours, &finished);
    mg_engine_free(engine);
    free_state(&ours);
    free_state(&before);
    free_state(&finished);
    free(tokens);
}

/* Models that cannot be addressed. */
static void test_no_memory(const mg_kernels *kernels)
{
    begin_case("%s, no memory", mg_kernels_name(kernels));
    check(!mg_engine_new(&(mg_config){INT64_MAX / 8, 4, 1, 1, 4}, kernels), "an engine for 2**60 tokens");
    check(!mg_engine_new(&(mg_config){3, (int64_t)INT32_MAX / 4 + 1, 1, 1, 4}, kernels), "an index beyond int32");
    mg_engine_free(NULL);
}

void test_document_errors(const mg_kernels *kernels)
{
    test_log_domain(kernels);
    test_interrupted(kernels, 0.0);
    test_interrupted(kernels, -1.0); /* holds a -0.0 */
    test_no_memory(kernels);
}
