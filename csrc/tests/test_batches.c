/* Batches on several threads against one: the same bits, and the same errors; and the pool by itself. */
#include <stdlib.h>
#include <string.h>

#include "base/pool.h"
#include "tests/check.h"
#include "tests/shapes.h"
#include "tests/tests.h"

enum { BATCHES = 3, MOST = 7 }; /* batches, and documents in one */

typedef struct {
    int64_t starts[BATCHES * MOST + 1];
    int32_t *tokens;
} texts;

static texts random_texts(const mg_config *c, mg_mt19937 *stream, int64_t documents)
{
    texts t = {.tokens = allocate(documents * (c->block_size + 1), sizeof *t.tokens)};
    for (int64_t d = 0; d < documents; d++) {
        const int64_t n = d ? 1 + (int64_t)mg_mt19937_below(stream, (uint64_t)c->block_size) : c->block_size;
        t.starts[d + 1] = t.starts[d] + n + 1;
        for (int64_t i = t.starts[d]; i < t.starts[d + 1]; i++)
            t.tokens[i] = (int32_t)mg_mt19937_below(stream, (uint64_t)c->vocab_size);
    }
    return t;
}

/* Train on all batches; expected_done of them end well. */
static void train(const mg_kernels *kernels, const mg_config *c, const mg_adam_config *adam, int threads, state *s,
                  const texts *t, int64_t batch_size, mg_poll *poll, mg_status expected, int64_t expected_done,
                  double *losses)
{
    double document_losses[MOST];
    int64_t done = -1;
    mg_engine *engine = mg_engine_new(c, kernels);
    if (!engine || mg_engine_set_threads(engine, threads, 0.0)) abort();
    const mg_status status = mg_train_batches(engine, adam, 0, batch_size, s->params, s->grad, s->m, s->v, t->tokens,
                                              t->starts, BATCHES, poll, document_losses, losses, &done);
    check(status == expected && done == expected_done, "%d threads: status %d after %d batches", threads, status, (int)done);
    mg_engine_free(engine);
}

static void compare(const mg_kernels *kernels, const mg_config *c, const mg_adam_config *adam, const state *begin,
                    const texts *t, int64_t batch_size, mg_status expected, int64_t expected_done)
{
    static const int threads[] = {2, 3, 5};
    double expected_losses[BATCHES], losses[BATCHES];
    state alone = copy_of_state(begin);
    train(kernels, c, adam, 1, &alone, t, batch_size, NULL, expected, expected_done, expected_losses);
    for (size_t i = 0; i < sizeof threads / sizeof threads[0]; i++) {
        state ours = copy_of_state(begin);
        train(kernels, c, adam, threads[i], &ours, t, batch_size, NULL, expected, expected_done, losses);
        check_array("losses", expected_done, losses, expected_losses);
        check_state(&ours, &alone);
        free_state(&ours);
    }
    free_state(&alone);
}

static void test_evaluation(const mg_kernels *kernels, const mg_config *c, const state *s, const texts *t, int64_t documents)
{
    mg_engine *engine = mg_engine_new(c, kernels);
    if (!engine || mg_engine_set_threads(engine, 3, 0.0)) abort();
    double *losses = doubles(t->starts[documents]), *expected = doubles(t->starts[documents]);
    check(!mg_position_losses_of(engine, s->params, t->tokens, t->starts, documents, NULL, losses), "evaluation");
    for (int64_t d = 0; d < documents; d++) {
        const int64_t n = t->starts[d + 1] - t->starts[d] - 1;
        check(!mg_position_losses(engine, s->params, t->tokens + t->starts[d], n, NULL, expected + t->starts[d] - d),
              "evaluation of a document");
    }
    check_array("losses at positions", t->starts[documents] - documents, losses, expected);
    free_doubles(losses);
    free_doubles(expected);
    mg_engine_free(engine);
}

void test_batches(const mg_kernels *kernels)
{
    const mg_adam_config adam = ADAM(1e-8, BATCHES), no_steps = ADAM(1e-8, 0);
    for (int i = 0; i < SHAPES; i++) {
        const mg_config *c = shapes + i;
        mg_mt19937 stream = seeded((uint32_t)(100 + i));
        state s = new_state(c);
        const int64_t batch_size = 1 + i * 3 % MOST;
        texts t = random_texts(c, &stream, BATCHES * batch_size);
        mg_mt19937_fill_gauss(&stream, s.params, s.num_params, 0.0, i % 3 ? 0.5 : 0.08);
        begin_case("%s, shape %d, batches of %d", mg_kernels_name(kernels), i, (int)batch_size);
        compare(kernels, c, &adam, &s, &t, batch_size, MG_OK, BATCHES);
        test_evaluation(kernels, c, &s, &t, BATCHES * batch_size);

        begin_case("%s, shape %d, a gradient that was there", mg_kernels_name(kernels), i);
        mg_mt19937_fill_gauss(&stream, s.grad, s.num_params, 0.0, 0.5);
        s.grad[0] = -0.0;
        compare(kernels, c, &adam, &s, &t, batch_size, MG_OK, BATCHES);

        begin_case("%s, shape %d, gradients of -0.0", mg_kernels_name(kernels), i);
        state zeros = copy_of_state(&s);
        set_minus_zeros(c, &zeros);
        compare(kernels, c, &adam, &zeros, &t, batch_size, MG_OK, BATCHES);
        free_state(&zeros);

        begin_case("%s, shape %d, errors", mg_kernels_name(kernels), i);
        compare(kernels, c, &no_steps, &s, &t, batch_size, MG_ZERO_DIVISION, 0);
        s.grad[s.num_params - 1] = 1e200;
        compare(kernels, c, &adam, &s, &t, batch_size, MG_POW_RANGE, 0);
        s.grad[s.num_params - 1] = 0.0;
        s.v[s.num_params / 2] = -1.0;
        compare(kernels, c, &adam, &s, &t, batch_size, MG_POW_COMPLEX, 0);
        s.v[s.num_params / 2] = 0.0;
        double losses[BATCHES];
        state before = copy_of_state(&s);
        for (int64_t question = 1; question < 4; question++) {
            eager_poll stop;
            start_poll(&stop, question);
            stop.poll.work = 1 << 21;
            mg_engine *engine = mg_engine_new(c, kernels);
            double document_losses[MOST];
            int64_t done = -1;
            if (!engine || mg_engine_set_threads(engine, 2, 0.0)) abort();
            const mg_status status = mg_train_batches(engine, &adam, 0, batch_size, s.params, s.grad, s.m, s.v, t.tokens,
                                                      t.starts, 1, &stop.poll, document_losses, losses, &done);
            check(done == (status == MG_OK) && (status == MG_OK || status == MG_INTERRUPTED), "status %d", status);
            if (status) check_state(&s, &before);
            if (!status) {
                free_state(&s);
                s = copy_of_state(&before);
            }
            mg_engine_free(engine);
        }
        free_state(&before);
        free_state(&s);
        free(t.tokens);
    }
}

/* ---- the pool ---- */

enum { ITEMS = 100 };

typedef struct {
    int64_t seen[ITEMS];
    int64_t fails_at;
} job;

static mg_status count_item(void *context, int worker, int64_t item, mg_poll *poll)
{
    (void)worker;
    job *j = context;
    __atomic_fetch_add(&j->seen[item], 1, __ATOMIC_RELAXED);
    if (item == j->fails_at) return MG_LOG_DOMAIN;
    return poll ? mg_poll_clock(poll) : MG_OK;
}

/* Items of two kinds: the others wait for all of the first, and see what these have written. */
typedef struct {
    mg_pool *pool;
    int64_t written[ITEMS], fails_at;
    int done[ITEMS];
    int too_early; /* Atomic. */
} two_kinds;

static mg_status do_either(void *context, int worker, int64_t item, mg_poll *poll)
{
    (void)worker;
    two_kinds *j = context;
    if (item < ITEMS) {
        if (item == j->fails_at) return MG_LOG_DOMAIN;
        j->written[item] = 1;
        mg_pool_set_done(j->pool, &j->done[item]);
        return MG_OK;
    }
    for (int64_t i = ITEMS - 1; i >= 0; i--) {
        const mg_status status = mg_pool_wait(j->pool, &j->done[i], poll);
        if (status) return status;
        if (!j->written[i]) __atomic_store_n(&j->too_early, 1, __ATOMIC_SEQ_CST);
    }
    return MG_OK;
}

static void test_two_kinds(int threads)
{
    mg_pool *pool = mg_pool_new(threads);
    if (!pool) abort();
    for (int round = 0; round < 200; round++) {
        two_kinds j = {.pool = pool, .fails_at = round % 10 ? -1 : round / 2};
        const int64_t count = round % 7, starts[] = {0, count / 2, count, count, count, count};
        const mg_pool_items first = {.count = ITEMS, .dealt = round % 3 == 0};
        const mg_pool_items second = {.count = count, .starts = threads > 1 && round % 2 ? starts : NULL};
        const mg_status status = mg_pool_run_two(pool, do_either, &j, &first, &second, NULL);
        check(status == (j.fails_at < 0 ? MG_OK : MG_LOG_DOMAIN), "%d threads, two kinds: status %d", threads, status);
        check(!j.too_early, "%d threads: an item that is done is not there", threads);
    }
    mg_pool_free(pool);
}

void test_pool(void)
{
    begin_case("pool");
    for (int threads = 1; threads < 6; threads++) test_two_kinds(threads);
    for (int threads = 1; threads < 6; threads++) {
        mg_pool *pool = mg_pool_new(threads);
        if (!pool) abort();
        for (int round = 0; round < 200; round++) {
            job j = {.fails_at = round % 10 ? -1 : round / 2};
            const int64_t count = round % 7 ? ITEMS : 1 + round / 7;
            const mg_status status = mg_pool_run(pool, count_item, &j, count, NULL);
            const int fails = j.fails_at >= 0 && j.fails_at < count;
            check(status == (fails ? MG_LOG_DOMAIN : MG_OK), "%d threads: status %d", threads, status);
            for (int64_t i = 0; i < count; i++)
                check(fails ? j.seen[i] <= 1 : j.seen[i] == 1, "%d threads: item %d was done %d times", threads, (int)i,
                      (int)j.seen[i]);
        }
        eager_poll stop;
        start_poll(&stop, 1);
        job j = {.fails_at = -1};
        const mg_status status = mg_pool_run(pool, count_item, &j, ITEMS, &stop.poll);
        /* The caller alone asks, and the others may have done all items before it has begun. */
        check(status == (stop.questions ? MG_INTERRUPTED : MG_OK), "%d threads: interrupt: status %d", threads, status);
        mg_pool_free(pool);
    }
    for (int i = 0; i < 1000; i++) {
        mg_pool *pool = mg_pool_new(3);
        job j = {.fails_at = -1};
        if (!pool || mg_pool_run(pool, count_item, &j, ITEMS, NULL)) abort();
        mg_pool_free(pool);
    }
}
