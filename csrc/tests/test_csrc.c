/* The C library's own tests, for targets on which no Python of ours runs: another processor under an emulator, another
 * C library. The whole engine on every instruction set against the script's arithmetic node by node (graph.c), the
 * elementary functions against the C library's, all by bits. Prints what ran and digests of results; exit status 1 if
 * a bit differs. tools/targets.py builds and runs it. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/graph.h"
#include "kernels/kernels.h"
#include "base/libm.h"
#include "microgpt.h"

static int failures;

static uint64_t bits(double x)
{
    uint64_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}

/* One nan is as good as another: which one an operation of two returns is the processor's business. */
static int same(double x, double y) { return bits(x) == bits(y) || (x != x && y != y); }

static void check(const char *isa, const char *what, int64_t n, const double *got, const double *expected)
{
    for (int64_t i = 0; i < n; i++) {
        if (same(got[i], expected[i])) continue;
        if (failures++ < 20) printf("%s, %s [%" PRId64 "]: %a, not %a\n", isa, what, i, got[i], expected[i]);
        return;
    }
}

static uint64_t digest(uint64_t d, int64_t n, const double *x)
{
    for (int64_t i = 0; i < n; i++) d = (d ^ bits(x[i])) * UINT64_C(0x100000001b3);
    return d;
}

static void *allocate(int64_t count, size_t size)
{
    void *p = calloc((size_t)count + 64, size);
    if (!p) abort();
    return p;
}
static double *doubles(int64_t count) { return allocate(count, sizeof(double)); }

static void seed(mg_mt19937 *stream, uint32_t a) { mg_mt19937_seed(stream, &a, 1); }

/* ---- the table: there is nothing before its beginning or behind its end ---- */

static void test_table(void)
{
    static const int outside[] = {-1, -2, INT32_MIN, 4, INT32_MAX};
    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++) {
        if (!mg_compiled_isa(outside[i]) && !mg_supports_isa(outside[i])) continue;
        failures++;
        printf("an instruction set number %d\n", outside[i]);
    }
}

/* ---- the random stream: what Python's random.seed(42) is known to give ---- */

static void test_stream(void)
{
    mg_mt19937 stream;
    seed(&stream, 42);
    const double expected[] = {0.6394267984578837, 0.025010755222666936, 0.27502931836911926};
    for (int i = 0; i < 3; i++) {
        const double got = mg_mt19937_random(&stream);
        check("stream", "random()", 1, &got, expected + i);
    }
}

/* ---- documents ---- */

static const mg_config shapes[] = {
    /* vocab_size, n_embd, n_head, n_layer, block_size */
    {2, 1, 1, 1, 1},    {3, 2, 1, 1, 4},   {5, 3, 3, 2, 9},   {7, 4, 2, 0, 5},    {9, 5, 1, 1, 17}, {6, 6, 3, 3, 8},
    {17, 7, 7, 1, 3},   {8, 8, 2, 2, 16},  {27, 16, 4, 1, 16}, {4, 9, 3, 1, 10}, {11, 12, 4, 2, 7}, {33, 17, 1, 1, 6},
    {64, 24, 3, 1, 12}, {10, 32, 4, 1, 5},
};
enum { SHAPES = sizeof shapes / sizeof shapes[0], DOCUMENTS = 18 }; /* as many as mg_train takes steps at once for */

static uint64_t test_documents(const mg_kernels *kernels, uint64_t d)
{
    const char *isa = mg_kernels_name(kernels);
    for (int s = 0; s < SHAPES; s++) {
        const mg_config *c = shapes + s;
        const mg_adam_config adam = {0.01, 0.85, 0.99, 1e-8, DOCUMENTS};
        const int64_t num_params = mg_count_params(c);
        double *params = doubles(num_params), *grad = doubles(num_params), *m = doubles(num_params);
        double *v = doubles(num_params), *params2 = doubles(num_params), *grad2 = doubles(num_params);
        double *m2 = doubles(num_params), *v2 = doubles(num_params);
        int32_t *tokens = allocate(DOCUMENTS * (c->block_size + 1), sizeof *tokens);
        int64_t starts[DOCUMENTS + 1] = {0};
        double losses[DOCUMENTS], losses2[DOCUMENTS];
        mg_mt19937 stream;
        char what[64];
        snprintf(what, sizeof what, "shape %d", s);

        seed(&stream, (uint32_t)s);
        mg_mt19937_fill_gauss(&stream, params, num_params, 0.0, s % 3 ? 0.5 : 0.08);
        for (int i = 0; i < DOCUMENTS; i++) {
            /* The first document fills the block; the others are shorter. */
            const int64_t n = i ? 1 + (int64_t)mg_mt19937_below(&stream, (uint64_t)c->block_size) : c->block_size;
            starts[i + 1] = starts[i] + n + 1;
            for (int64_t t = starts[i]; t < starts[i + 1]; t++)
                tokens[t] = (int32_t)mg_mt19937_below(&stream, (uint64_t)c->vocab_size);
        }
        mg_engine *engine = mg_engine_new(c, kernels);
        if (!engine) abort();

        /* A gradient, added to what is there. */
        mg_mt19937_fill_gauss(&stream, grad, num_params, 0.0, 1.0);
        memcpy(grad2, grad, (size_t)num_params * sizeof *grad);
        int status = mg_document_gradient(engine, params, grad, tokens, c->block_size, NULL, losses);
        losses2[0] = graph_document_gradient(c, params, grad2, tokens, c->block_size);
        failures += status != MG_OK;
        check(isa, what, 1, losses, losses2);
        check(isa, what, num_params, grad, grad2);

        /* Training. */
        int64_t done;
        memset(grad, 0, (size_t)num_params * sizeof *grad);
        memset(grad2, 0, (size_t)num_params * sizeof *grad);
        memcpy(params2, params, (size_t)num_params * sizeof *params);
        status = mg_train(engine, &adam, 0, params, grad, m, v, tokens, starts, DOCUMENTS, NULL, losses, &done);
        for (int i = 0; i < DOCUMENTS; i++) {
            losses2[i] = graph_document_gradient(c, params2, grad2, tokens + starts[i], starts[i + 1] - starts[i] - 1);
            graph_adam_step(&adam, i, num_params, params2, grad2, m2, v2);
        }
        failures += status != MG_OK || done != DOCUMENTS;
        check(isa, what, DOCUMENTS, losses, losses2);
        check(isa, what, num_params, params, params2);
        check(isa, what, num_params, grad, grad2);
        check(isa, what, num_params, m, m2);
        check(isa, what, num_params, v, v2);
        d = digest(digest(d, DOCUMENTS, losses), num_params, params);

        /* Sampling: no oracle but the other instruction sets, through the digest. */
        int32_t *out = allocate(c->block_size, sizeof *out);
        double *probs = doubles(c->vocab_size);
        for (int i = 0; i < 8; i++) {
            int64_t count = 0;
            status = mg_generate(engine, params, &stream, 1.0 / 0.5, tokens, 1, c->block_size, NULL, out, &count);
            failures += status != MG_OK;
            for (int64_t t = 0; t < count; t++) d = (d ^ (uint64_t)out[t]) * UINT64_C(0x100000001b3);
            failures += mg_next_probabilities(engine, params, 2.0, tokens, 1, NULL, probs) != MG_OK;
            d = digest(d, c->vocab_size, probs);
        }
        mg_engine_free(engine);
        void *all[] = {params, grad, m, v, params2, grad2, m2, v2, tokens, out, probs};
        for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
    }
    return d;
}

/* ---- elementary functions ---- */

enum { DRAWS = 1 << 15 };

static double exp1(double x) { return mg_exp(x); }
static double log1(double x) { return mg_log(x); }
static double pow_2(double x) { return mg_pow(x, 2.0); }
static double pow_05(double x) { return mg_pow(x, 0.5); }
static double pow_m1(double x) { return mg_pow(x, -1.0); }
static double pow_m2(double x) { return mg_pow(x, -2.0); }
static double pow_m05(double x) { return mg_pow(x, -0.5); }
static double pow_m15(double x) { return mg_pow(x, -1.5); }

static const double special[] = {0.0, -0.0, 1.0, -1.0, INFINITY, -INFINITY, NAN, 5e-324, -5e-324, 0x1p-1022, 0x1p1023,
                                 709.782712893384, 709.7827128933841, -745.1332191019411, -745.1332191019412, -708.4,
                                 0x1p-512, 0x1p512, 0x1p-511, 1e-300, 1e300};
enum { SPECIAL = sizeof special / sizeof special[0] };

/* Numbers of every size that the engine meets, and of every size that there is. */
static void draw(double *x, int positive)
{
    mg_mt19937 stream;
    seed(&stream, 7);
    for (int i = 0; i < DRAWS; i++) {
        const double u = mg_mt19937_random(&stream), scale = ldexp(1.0, (int)mg_mt19937_below(&stream, 20) - 10);
        x[i] = i < SPECIAL ? special[i] : (positive || i % 2 ? u : -u) * (i % 16 ? scale : scale * scale * scale);
        if (positive) x[i] = fabs(x[i]);
    }
}

static void test_functions(const mg_kernels *kernels)
{
    const struct {
        const char *name;
        void (*array)(int64_t n, const double *x, double *out);
        double (*one)(double x);
        int positive;
    } functions[] = {
        {"exp_array", kernels->exp_array, exp1, 0},
        {"pow_m1_array", kernels->pow_m1_array, pow_m1, 1},
        {"pow_m2_array", kernels->pow_m2_array, pow_m2, 1},
        {"pow_m05_array", kernels->pow_m05_array, pow_m05, 1},
        {"pow_m15_array", kernels->pow_m15_array, pow_m15, 1},
    };
    double *block = doubles(3 * DRAWS + 24);
    double *x = (double *)(((uintptr_t)block + 63) / 64 * 64), *got = x + DRAWS, *expected = got + DRAWS;
    for (size_t f = 0; f < sizeof functions / sizeof functions[0]; f++) {
        draw(x, functions[f].positive);
        for (int i = 0; i < DRAWS; i++) expected[i] = functions[f].one(x[i]);
        functions[f].array(DRAWS, x, got);
        check(mg_kernels_name(kernels), functions[f].name, DRAWS, got, expected);
    }
    free(block);
}

static void print_libm(void)
{
    static const struct {
        const char *name;
        double (*one)(double x);
        int positive;
    } functions[] = {{"exp", exp1, 0}, {"log", log1, 1}, {"pow2", pow_2, 1}, {"pow.5", pow_05, 1}, {"pow-1", pow_m1, 1}};
    double *x = doubles(DRAWS);
    printf("libm");
    for (size_t f = 0; f < sizeof functions / sizeof functions[0]; f++) {
        uint64_t d = UINT64_C(0xcbf29ce484222325);
        draw(x, functions[f].positive);
        for (int i = 0; i < DRAWS; i++) {
            const double y = functions[f].one(x[i]);
            if (y == y) d = digest(d, 1, &y);
        }
        printf(" %s=%08" PRIx32, functions[f].name, (uint32_t)(d ^ d >> 32));
    }
    printf("\n");
    free(x);
}

int main(void)
{
    uint64_t first = 0;
    test_table();
    test_stream();
    print_libm();
    for (int i = 0; mg_compiled_isa(i); i++) {
        const char *isa = mg_compiled_isa(i);
        int status;
        const mg_kernels *kernels = mg_select_kernels(isa, &status);
        if (!kernels) {
            printf("isa %s: compiled, not supported here\n", isa);
            continue;
        }
        test_functions(kernels);
        const uint64_t d = test_documents(kernels, UINT64_C(0xcbf29ce484222325));
        printf("isa %s: lanes %d, results %016" PRIx64 "\n", isa, mg_kernels_lanes(kernels), d);
        if (i == 0) first = d;
        if (d != first) {
            printf("%s and %s differ\n", isa, mg_compiled_isa(0));
            failures++;
        }
    }
    printf(failures ? "FAILED: %d\n" : "ok\n", failures);
    return failures != 0;
}
