/* Processes that share memory, here threads with an engine each: the bits and the errors of one engine; all of them end. */
#include <stdlib.h>
#include <string.h>

#include "base/pool.h"
#include "tests/check.h"
#include "tests/shapes.h"
#include "tests/tests.h"

enum { STEPS = 3, MOST_DOCUMENTS = 7, MOST_PROCESSES = 4 };

typedef struct {
    const mg_adam_config *adam;
    const int32_t *tokens;
    const int64_t *starts;
    int64_t stops_at; /* the question at which the poll of process 0 stops; 0: never */
    mg_engine *engine[MOST_PROCESSES];
    mg_crew *crew[MOST_PROCESSES];
    state own[MOST_PROCESSES];
    double losses[MOST_PROCESSES][STEPS];
    int64_t done[MOST_PROCESSES];
    mg_status status[MOST_PROCESSES];
} job;

static mg_status train(void *context, int worker, int64_t item, mg_poll *poll)
{
    (void)worker;
    (void)poll;
    job *j = context;
    eager_poll stop;
    start_poll(&stop, j->stops_at && !item ? j->stops_at : -1);
    stop.poll.work = 1 << 21;
    j->status[item] = mg_crew_train(j->engine[item], j->crew[item], j->adam, 0, j->tokens, j->starts, STEPS, &stop.poll,
                                    j->losses[item], &j->done[item]);
    mg_crew_read(j->engine[item], j->crew[item], j->own[item].params, j->own[item].m, j->own[item].v);
    return MG_OK;
}

/* Train by this many processes of two threads each; compare each with `expected`, which one engine has after the same. */
static void compare(const mg_kernels *kernels, const mg_config *c, int processes, int64_t batch_size, job *j,
                    const state *begin, const state *expected, const double *losses, mg_status status, int64_t done)
{
    mg_pool *pool = mg_pool_new(processes);
    char *memory = allocate(mg_crew_bytes(c, batch_size) + 64, 1);
    void *aligned = memory + (64 - (uintptr_t)memory % 64);
    for (int i = 0; i < processes; i++) {
        j->own[i] = copy_of_state(begin);
        j->engine[i] = mg_engine_new(c, kernels);
        if (!pool || !j->engine[i] || mg_engine_set_threads(j->engine[i], 1 + i % 2, 0.0)) abort();
        j->crew[i] = mg_crew_join(j->engine[i], aligned, i, processes, batch_size, begin->params, begin->grad, begin->m,
                                  begin->v);
        if (!j->crew[i]) abort();
    }
    if (mg_pool_run(pool, train, j, processes, NULL)) abort();
    for (int i = 0; i < processes; i++) {
        const int is_well = j->stops_at ? j->status[i] == MG_OK || j->status[i] == (i ? MG_STOPPED : MG_INTERRUPTED)
                                        : j->status[i] == status || (status && i && j->status[i] == MG_STOPPED);
        check(is_well, "process %d of %d: status %d", i, processes, j->status[i]);
        check(j->stops_at ? j->done[i] == j->done[0] : j->done[i] == done, "process %d of %d: %d steps", i, processes,
              (int)j->done[i]);
        if (!j->stops_at || j->done[i] == STEPS) {
            check_array("losses", done, j->losses[i], losses);
            check_array("params", begin->num_params, j->own[i].params, expected->params);
            check_array("m", begin->num_params, j->own[i].m, expected->m);
            check_array("v", begin->num_params, j->own[i].v, expected->v);
        } else {
            check_array("params", begin->num_params, j->own[i].params, j->own[0].params);
        }
    }
    for (int i = 0; i < processes; i++) {
        mg_crew_leave(j->crew[i]);
        mg_engine_free(j->engine[i]);
        free_state(&j->own[i]);
    }
    mg_pool_free(pool);
    free(memory);
}

static void test_one(const mg_kernels *kernels, const mg_config *c, const mg_adam_config *adam, const state *begin,
                     const int32_t *tokens, const int64_t *starts, int64_t batch_size)
{
    double losses[STEPS], document_losses[MOST_DOCUMENTS];
    int64_t done = -1;
    state alone = copy_of_state(begin);
    mg_engine *engine = mg_engine_new(c, kernels);
    if (!engine) abort();
    const mg_status status = mg_train_batches(engine, adam, 0, batch_size, alone.params, alone.grad, alone.m, alone.v,
                                              tokens, starts, STEPS, NULL, document_losses, losses, &done);
    mg_engine_free(engine);
    for (int processes = 1; processes <= MOST_PROCESSES; processes++) {
        job j = {.adam = adam, .tokens = tokens, .starts = starts};
        compare(kernels, c, processes, batch_size, &j, begin, &alone, losses, status, done);
        for (j.stops_at = 1; j.stops_at < 4 && !status; j.stops_at++)
            compare(kernels, c, processes, batch_size, &j, begin, &alone, losses, status, done);
    }
    free_state(&alone);
}

void test_crew(const mg_kernels *kernels)
{
    const mg_adam_config adam = ADAM(1e-8, STEPS), no_steps = ADAM(1e-8, 0);
    mg_adam_config limited = ADAM(1e-8, STEPS);
    limited.weight_decay = 0.1;
    limited.clip = 0.3;
    for (int i = 0; i < SHAPES; i++) {
        const mg_config *c = shapes + i;
        mg_mt19937 stream = seeded((uint32_t)(200 + i));
        state s = new_state(c);
        const int64_t batch_size = 1 + i * 3 % MOST_DOCUMENTS;
        int64_t starts[STEPS * MOST_DOCUMENTS + 1] = {0};
        int32_t *tokens = allocate(STEPS * batch_size * (c->block_size + 1), sizeof *tokens);
        for (int64_t d = 0; d < STEPS * batch_size; d++) {
            starts[d + 1] = starts[d] + 2 + (int64_t)mg_mt19937_below(&stream, (uint64_t)c->block_size);
            for (int64_t t = starts[d]; t < starts[d + 1]; t++)
                tokens[t] = (int32_t)mg_mt19937_below(&stream, (uint64_t)c->vocab_size);
        }
        mg_mt19937_fill_gauss(&stream, s.params, s.num_params, 0.0, i % 3 ? 0.5 : 0.08);
        begin_case("%s, shape %d, a crew on batches of %d", mg_kernels_name(kernels), i, (int)batch_size);
        test_one(kernels, c, &adam, &s, tokens, starts, batch_size);
        begin_case("%s, shape %d, a crew, decay and clipping", mg_kernels_name(kernels), i);
        test_one(kernels, c, &limited, &s, tokens, starts, batch_size);
        begin_case("%s, shape %d, a crew, a gradient that was there", mg_kernels_name(kernels), i);
        mg_mt19937_fill_gauss(&stream, s.grad, s.num_params, 0.0, 0.5);
        s.grad[0] = -0.0;
        test_one(kernels, c, &adam, &s, tokens, starts, batch_size);
        begin_case("%s, shape %d, a crew, gradients of -0.0", mg_kernels_name(kernels), i);
        state zeros = copy_of_state(&s);
        set_minus_zeros(c, &zeros);
        test_one(kernels, c, &adam, &zeros, tokens, starts, batch_size);
        free_state(&zeros);
        begin_case("%s, shape %d, a crew, errors", mg_kernels_name(kernels), i);
        test_one(kernels, c, &no_steps, &s, tokens, starts, batch_size);
        s.grad[s.num_params - 1] = 1e200;
        test_one(kernels, c, &adam, &s, tokens, starts, batch_size);
        s.grad[s.num_params - 1] = 0.0;
        s.v[s.num_params / 2] = -1.0;
        test_one(kernels, c, &adam, &s, tokens, starts, batch_size);
        free_state(&s);
        free(tokens);
    }
}
