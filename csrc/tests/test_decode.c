/* Sampling: one that fails leaves the stream as it was, and what is remembered changes nothing. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/check.h"
#include "tests/shapes.h"
#include "tests/tests.h"

static void check_stream(const mg_mt19937 *stream, const mg_mt19937 *expected)
{
    check(stream->pos == expected->pos && !memcmp(stream->key, expected->key, sizeof stream->key),
          "the stream has moved");
}

/* Asks at every opportunity. */
static int ask_always(void *context)
{
    eager_poll *p = context;
    p->poll.asked = 0.0;
    p->poll.work = 1 << 21;
    return ++p->questions == p->stop_at;
}

/* Many texts by one engine, interrupted wherever that is possible, against engines that have nothing to remember. */
static void check_texts(const mg_kernels *kernels, const mg_config *c, const double *params)
{
    enum { TEXTS = 12 };
    const int32_t bos = (int32_t)c->vocab_size - 1;
    int32_t out[TEXTS * 9], expected[9];
    int64_t counts[TEXTS], count;
    mg_engine *engine = mg_engine_new(c, kernels);
    mg_status status = MG_INTERRUPTED;
    int64_t at = 0;
    const mg_mt19937 start = seeded(5);
    mg_mt19937 stream = start;
    while (status == MG_INTERRUPTED) {
        eager_poll stop;
        start_poll(&stop, ++at);
        stop.poll.ask = ask_always;
        stop.poll.work = 1 << 21;
        status = mg_generate(engine, params, &stream, 1.0, &bos, 1, c->block_size, TEXTS, &stop.poll, out, counts);
        if (status) check_stream(&stream, &start);
    }
    check(status == MG_OK && at > TEXTS, "status %d after %d interrupts", status, (int)at - 1);
    mg_engine_free(engine);
    mg_mt19937 twin = start;
    for (int i = 0; i < TEXTS; i++) {
        engine = mg_engine_new(c, kernels);
        status = mg_generate(engine, params, &twin, 1.0, &bos, 1, c->block_size, 1, NULL, expected, &count);
        check(status == MG_OK && count == counts[i], "text %d: %d tokens, not %d", i, (int)counts[i], (int)count);
        check(!memcmp(out + i * c->block_size, expected, (size_t)count * sizeof *out), "text %d", i);
        mg_engine_free(engine);
    }
    check_stream(&stream, &twin);
}

void test_decode_errors(const mg_kernels *kernels)
{
    const mg_config c = {5, 8, 2, 2, 9};
    const int32_t prompt[] = {4, 1, 2};
    mg_mt19937 stream = seeded(3);
    state s = new_state(&c);
    mg_mt19937_fill_gauss(&stream, s.params, s.num_params, 0.0, 0.5);
    const mg_mt19937 before = stream;
    int32_t out[9];
    int64_t count = -1;
    mg_engine *engine = mg_engine_new(&c, kernels);
    if (!engine) abort();

    begin_case("%s, sampling", mg_kernels_name(kernels));
    mg_status status = mg_generate(engine, s.params, &stream, 1.0, prompt, 3, 0, 1, NULL, out, &count);
    check(status == MG_OK && count == 0, "no tokens wanted: status %d, %d tokens", status, (int)count);
    check_stream(&stream, &before);

    eager_poll stop;
    for (int64_t at = 1; at <= 2; at++) {
        start_poll(&stop, at);
        stop.poll.work = 1 << 21; /* the first question comes at once, a second one never */
        status = mg_generate(engine, s.params, &stream, 1.0, prompt, 3, 9, 1, &stop.poll, out, &count);
        check(status == (at == 1 ? MG_INTERRUPTED : MG_OK), "interrupted: status %d", status);
        if (at == 1) check_stream(&stream, &before);
    }
    stream = before;

    begin_case("%s, sampling, many texts", mg_kernels_name(kernels));
    check_texts(kernels, &c, s.params);

    begin_case("%s, sampling from nan", mg_kernels_name(kernels));
    s.params[mg_layout_of(&c).lm_head] = NAN;
    status = mg_generate(engine, s.params, &stream, 1.0, prompt, 3, 9, 1, NULL, out, &count);
    check(status == MG_CHOICE_TOTAL_NOT_FINITE && count == 0, "status %d, %d tokens", status, (int)count);
    check_stream(&stream, &before);
    mg_engine_free(engine);
    free_state(&s);
}
