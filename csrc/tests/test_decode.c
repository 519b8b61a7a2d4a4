/* Sampling: one that fails leaves the stream as it was, and what is remembered changes nothing. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fused/engine.h"
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

/* ---- threads ---- */

enum { MANY = 300 };

/* Texts by this many threads; the caller frees the engine. */
typedef struct {
    mg_engine *engine;
    mg_mt19937 stream;
    mg_status status;
    int32_t out[MANY * 9];
    int64_t counts[MANY];
} drawn_texts;

static drawn_texts *draw_texts(const mg_kernels *kernels, const mg_config *c, const double *params, uint32_t seed, int threads,
                               double factor, int64_t texts, int64_t max_tokens, mg_poll *poll)
{
    const int32_t prompt[] = {(int32_t)c->vocab_size - 1, 1};
    drawn_texts *d = allocate(1, sizeof *d);
    d->engine = mg_engine_new(c, kernels);
    d->stream = seeded(seed);
    if (!d->engine || mg_engine_set_threads(d->engine, threads, 0.0)) abort();
    d->status = mg_generate(d->engine, params, &d->stream, factor, prompt, 2, max_tokens, texts, poll, d->out, d->counts);
    return d;
}

static void free_texts(drawn_texts *d)
{
    mg_engine_free(d->engine);
    free(d);
}

/* Whatever the number of threads, what is drawn is what one thread draws, and so is an error. */
static void compare_texts(const mg_kernels *kernels, const mg_config *c, const double *params, uint32_t seed, int threads,
                          double factor, int64_t texts, int64_t max_tokens, mg_status expected)
{
    drawn_texts *one = draw_texts(kernels, c, params, seed, 1, factor, texts, max_tokens, NULL);
    drawn_texts *several = draw_texts(kernels, c, params, seed, threads, factor, texts, max_tokens, NULL);
    check(one->status == expected && several->status == expected, "seed %d: status %d and, %d threads, %d, not %d", (int)seed,
          one->status, threads, several->status, expected);
    check(several->engine->num_decoders == threads, "%d threads: %d have drawn", threads, (int)several->engine->num_decoders);
    check_stream(&several->stream, &one->stream);
    for (int64_t i = 0; i < texts && !expected; i++) {
        const int64_t at = i * c->block_size, count = one->counts[i];
        check(several->counts[i] == count && !memcmp(several->out + at, one->out + at, (size_t)count * sizeof *one->out),
              "seed %d, %d threads: text %d", (int)seed, threads, (int)i);
    }
    free_texts(several);
    free_texts(one);
}

/* Interrupted wherever that is possible, until nothing is left to interrupt. */
static void check_interrupts(const mg_kernels *kernels, const mg_config *c, const double *params)
{
    const mg_mt19937 start = seeded(11);
    for (int64_t at = 1, interrupted = 1; interrupted; at += 1 + at / 8) {
        eager_poll stop;
        start_poll(&stop, at);
        stop.poll.ask = ask_always;
        stop.poll.work = 1 << 21;
        drawn_texts *d = draw_texts(kernels, c, params, 11, 2, 1.0, MANY, 9, &stop.poll);
        interrupted = d->status == MG_INTERRUPTED;
        check(interrupted || d->status == MG_OK, "question %d: status %d", (int)at, d->status);
        if (interrupted) check_stream(&d->stream, &start);
        free_texts(d);
    }
}

static int has_token(const int32_t *tokens, int64_t count, int32_t token)
{
    for (int64_t k = 0; k < count; k++)
        if (tokens[k] == token) return 1;
    return 0;
}

/* A rare token after which everything is nan: the texts before the first that has it are drawn, whatever threads find further on
 * or on their way there. */
static void check_errors(const mg_kernels *kernels, const mg_config *c, double *params)
{
    const int32_t rare = 3;
    const double factor = 2.0;
    double *wte = params + mg_layout_of(c).wte + rare * c->n_embd, kept = *wte;
    int cases = 0;
    for (uint32_t seed = 0; seed < 400; seed++) {
        drawn_texts *all = draw_texts(kernels, c, params, seed, 1, factor, MANY, 9, NULL);
        int64_t sound = 0;
        while (sound < MANY && !has_token(all->out + sound * c->block_size, all->counts[sound], rare)) sound++;
        free_texts(all);
        if (sound < 50 || sound == MANY) continue; /* too few to be shared, or no error */
        cases++;
        *wte = NAN;
        compare_texts(kernels, c, params, seed, 2, factor, sound + 1, 9, MG_CHOICE_TOTAL_NOT_FINITE);
        compare_texts(kernels, c, params, seed, 2, factor, sound, 9, MG_OK);
        *wte = kept;
    }
    check(cases > 60, "errors: %d cases", cases);
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

    begin_case("%s, sampling by threads", mg_kernels_name(kernels));
    for (int threads = 2; threads <= 5; threads++) {
        compare_texts(kernels, &c, s.params, 11, threads, 1.0, MANY, 9, MG_OK);
        compare_texts(kernels, &c, s.params, 11, threads, 1.0, MANY, 4, MG_OK);
        compare_texts(kernels, &c, s.params, 11, threads, 1.0, MANY, 1, MG_OK);
    }
    check_interrupts(kernels, &c, s.params);
    check_errors(kernels, &c, s.params);

    begin_case("%s, sampling from nan", mg_kernels_name(kernels));
    s.params[mg_layout_of(&c).lm_head] = NAN;
    status = mg_generate(engine, s.params, &stream, 1.0, prompt, 3, 9, 1, NULL, out, &count);
    check(status == MG_CHOICE_TOTAL_NOT_FINITE && count == 0, "status %d, %d tokens", status, (int)count);
    check_stream(&stream, &before);
    mg_engine_free(engine);
    free_state(&s);
}
