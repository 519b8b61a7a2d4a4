/* Adam where everything is known to be in range: its kernel against the script's arithmetic, and when steps by matrix use it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fused/by_matrix.h"
#include "fused/in_range.h"
#include "tests/check.h"
#include "tests/graph.h"
#include "tests/shapes.h"
#include "tests/tests.h"

/* ---- the kernel ---- */

/* A power of two between 2**low and 2**high, times a number from 1 to 2. */
static double magnitude(mg_mt19937 *stream, int low, int high)
{
    const int exponent = low + (int)mg_mt19937_below(stream, (uint64_t)(high - low));
    return ldexp(1.0 + (double)mg_mt19937_below(stream, 1 << 30) * 0x1p-30, exponent);
}

static double signed_magnitude(mg_mt19937 *stream, int low, int high)
{
    return mg_mt19937_below(stream, 2) ? magnitude(stream, low, high) : -magnitude(stream, low, high);
}

/* n parameters as a training run has them, but one in eight from anywhere in range. */
static void fill_in_range(mg_mt19937 *stream, int64_t n, double *x[4])
{
    for (int64_t i = 0; i < n; i++) {
        const int anywhere = mg_mt19937_below(stream, 8) == 0;
        x[0][i] = anywhere ? signed_magnitude(stream, -511, 500) : signed_magnitude(stream, -8, 0);
        x[1][i] = mg_mt19937_below(stream, 3) == 0 ? 0.0
                  : anywhere ? signed_magnitude(stream, -1074, 49) : signed_magnitude(stream, -20, -2);
        x[2][i] = anywhere ? signed_magnitude(stream, -1074, 400) : signed_magnitude(stream, -20, -4);
        x[3][i] = anywhere ? magnitude(stream, -198, 97) : magnitude(stream, -30, -10);
    }
}

enum { MOST_PARAMS = 1000 };

/* An update of n parameters by the kernel and by the script; what the kernel returns. */
static int update(const mg_kernels *kernels, const mg_adam_config *adam, int64_t step, int64_t n, double *x[4])
{
    double *const expected[4] = {doubles(n), doubles(n), doubles(n), doubles(n)};
    for (int a = 0; a < 4; a++) memcpy(expected[a], x[a], (size_t)n * sizeof(double));
    mg_adam_coefs coefs;
    check(mg_adam_prepare(adam, step, &coefs) == MG_OK && coefs.vectorizable, "coefficients");
    coefs.fetch_ahead = (int)(n & 1);
    const int has_zero = kernels->adam_update_in_range(&coefs, n, x[0], x[1], x[2], x[3]);
    graph_adam_step(adam, step, n, expected[0], expected[1], expected[2], expected[3]);
    check_array("parameters", n, x[0], expected[0]);
    check_array("gradients", n, x[1], expected[1]);
    check_array("first moments", n, x[2], expected[2]);
    check_array("second moments", n, x[3], expected[3]);
    for (int a = 0; a < 4; a++) free_doubles(expected[a]);
    return has_zero;
}

/* In the first steps, when m, and when v is no longer divided, and when m may have become subnormal. */
static void test_updates(const mg_kernels *kernels)
{
    static const int64_t steps[] = {0, 300, 3450, 5000}, sizes[] = {1, 7, 8, 64, 127, 256, MOST_PARAMS};
    const mg_adam_config adam = ADAM(1e-8, 10000);
    mg_mt19937 stream = seeded(21);
    double *x[4];
    for (int a = 0; a < 4; a++) x[a] = doubles(MOST_PARAMS);
    for (size_t t = 0; t < sizeof steps / sizeof *steps; t++)
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
            for (int i = 0; i < 20; i++) {
                begin_case("%s, %d parameters in range, step %d", mg_kernels_name(kernels), (int)sizes[k], (int)steps[t]);
                fill_in_range(&stream, sizes[k], x);
                update(kernels, &adam, steps[t], sizes[k], x);
            }
    for (int a = 0; a < 4; a++) free_doubles(x[a]);
}

/* A parameter that is as large as its step, whether or not the step's last bit is certain, at each place. */
static void test_zeros(const mg_kernels *kernels)
{
    enum { PARAMS = 24 };
    const mg_adam_config adam = ADAM(1e-8, 1000);
    mg_mt19937 stream = seeded(22);
    double *x[4];
    for (int a = 0; a < 4; a++) x[a] = doubles(PARAMS);
    for (int i = 0; i < 100 * PARAMS; i++) {
        const int64_t step = i % 2 ? 0 : 500, at = i % PARAMS;
        begin_case("%s, parameter %d becomes 0", mg_kernels_name(kernels), (int)at);
        for (int k = 0; k < PARAMS; k++) {
            x[0][k] = signed_magnitude(&stream, -8, 0);
            x[1][k] = signed_magnitude(&stream, -20, -2);
            x[2][k] = signed_magnitude(&stream, -20, -4);
            x[3][k] = magnitude(&stream, -30, -10);
        }
        double one[4] = {0.0, x[1][at], x[2][at], x[3][at]};
        graph_adam_step(&adam, step, 1, one, one + 1, one + 2, one + 3);
        x[0][at] = -one[0];
        check(update(kernels, &adam, step, PARAMS, x) && x[0][at] == 0.0, "not noticed: %g", x[0][at]);
        for (int k = 0; k < PARAMS; k++) x[0][k] += 0.25;
        if (kernels->lanes < 8) check(!update(kernels, &adam, step, PARAMS, x), "a 0 where there is none");
    }
    for (int a = 0; a < 4; a++) free_doubles(x[a]);
}

/* ---- when it is used ---- */

/* The kernel, between a look at what it is given and a look at what it makes of it. */
static const mg_kernels *watched;
static int64_t uses;

static int all_between(int64_t n, const double *x, double least, double greatest)
{
    for (int64_t i = 0; i < n; i++)
        if (!(least <= fabs(x[i]) && fabs(x[i]) <= greatest)) return 0;
    return 1;
}

static int watch(const mg_adam_coefs *c, int64_t n, double *data, double *grad, double *m, double *v)
{
    uses++;
    check(all_between(n, data, 0x1p-511, 0x1p+500) && all_between(n, grad, 0.0, MG_GRADIENT_IN_RANGE) && all_between(n, m, 0.0, 0x1p+400)
              && all_between(n, v, 0x1p-199, 0x1p+98),
          "not in range before an update");
    const int has_zero = watched->adam_update_in_range(c, n, data, grad, m, v);
    check(all_between(n, v, 0x1p-199, 0x1p+98), "v is not in range after an update");
    check(has_zero || all_between(n, data, 0x1p-1000, 0x1p+1000), "a 0 is not noticed");
    return has_zero;
}

/* A state that is in range but for one number, of mlp_fc2 of the first layer: a weight whose hidden number is always 0, so that it
 * has no influence and no gradient. */
typedef struct {
    const char *label;
    int array; /* 0: none, 1 to 3: params, m, v */
    double value;
    double scale; /* of mlp_fc2, and of the gradient of mlp_fc1, which is so much smaller */
    int share;    /* of the matrices' updates that are known to be in range, at least, percent; 0: none may be */
} special;

static const special specials[] = {
    {"nothing", 0, 0.0, 1.0, 95},
    {"a parameter of 0", 1, 0.0, 1.0, 55},
    {"a tiny parameter", 1, 0x1p-600, 1.0, 55},
    {"a huge parameter", 1, 0x1p+510, 1.0, 55},
    {"a huge m", 2, 0x1p+410, 1.0, 55},
    {"a v of 0", 3, 0.0, 1.0, 55},
    {"a tiny v", 3, 0x1p-210, 1.0, 55},
    {"a huge v", 3, 0x1p+110, 1.0, 55},
    {"large gradients", 0, 0.0, 0x1p+45, 0},
};

/* Training in one call against the script's loop. */
static void test_run(const mg_kernels *kernels, const mg_config *c, const special *with)
{
    mg_adam_config adam = ADAM(1e-8, DOCUMENTS);
    const mg_layout at = mg_layout_of(c);
    mg_mt19937 stream = seeded(23);
    mg_kernels table = *kernels;
    state ours = new_state(c);
    int64_t starts[DOCUMENTS + 1], done;
    double losses[DOCUMENTS], expected_losses[DOCUMENTS];
    int32_t *tokens = random_documents(c, c->vocab_size, &stream, starts);
    for (int64_t i = 0; i < ours.num_params; i++) {
        ours.params[i] = signed_magnitude(&stream, -5, 0);
        ours.m[i] = signed_magnitude(&stream, -12, -8);
        ours.v[i] = magnitude(&stream, -20, -14);
    }
    double *const arrays[] = {NULL, ours.params, ours.m, ours.v};
    if (with->scale > 1.0) adam.learning_rate = 0x1p-49; /* or mlp_fc1 would become too large for mlp_fc2 */
    for (int64_t i = 0; i < 4 * c->n_embd * c->n_embd; i++) {
        ours.params[at.layers + at.mlp_fc1 + i] /= with->scale;
        ours.params[at.layers + at.mlp_fc2 + i] *= with->scale;
    }
    if (with->array) {
        for (int a = 1; a <= 2; a++) memset(arrays[a] + at.layers + at.mlp_fc1, 0, (size_t)c->n_embd * sizeof(double));
        arrays[with->array][at.layers + at.mlp_fc2] = with->value;
    }
    state expected = copy_of_state(&ours);
    watched = kernels;
    uses = 0;
    table.adam_update_in_range = watch;
    mg_engine *engine = mg_engine_new(c, &table);
    if (!engine) abort();
    begin_case("%s, %s, %d parameters", mg_kernels_name(kernels), with->label, (int)ours.num_params);
    const mg_status status = mg_train(engine, &adam, 0, ours.params, ours.grad, ours.m, ours.v, tokens, starts, DOCUMENTS, NULL,
                                      losses, &done);
    graph_train(c, &adam, &expected, tokens, starts, DOCUMENTS, expected_losses);
    check(status == MG_OK, "training: status %d", status);
    check_array("losses", DOCUMENTS, losses, expected_losses);
    check_state(&ours, &expected);
    const int64_t matrices = (4 * c->n_layer + 1) * DOCUMENTS; /* each one chunk or more */
    if (with->share && kernels->lanes < 8 && mg_is_by_matrix(engine))
        check(uses * 100 >= matrices * with->share, "%d of %d updates", (int)uses, (int)matrices);
    else
        check(!uses, "%d updates", (int)uses);
    mg_engine_free(engine);
    free_state(&ours);
    free_state(&expected);
    free(tokens);
}

/* How often a matrix is looked at. */
static void test_looks(const mg_kernels *kernels)
{
    const mg_config c = {27, 16, 4, 1, 8};
    const mg_adam_coefs coefs = {.beta2 = 0.99}, fast_decay = {.beta2 = 0.49};
    mg_engine *e = mg_engine_new(&c, kernels);
    if (!e) abort();
    const mg_matrix matrix = mg_matrix_of(e, 0, MG_FC2), other = mg_matrix_of(e, 0, MG_FC1);
    begin_case("%s, looks at ranges", mg_kernels_name(kernels));
    mg_forget_ranges(e, 3);
    for (int step = 0; step < 3; step++) check(mg_range_of(e, &matrix, &coefs) == MG_RANGE_UNKNOWN, "for a few steps");
    mg_forget_ranges(e, 1000);
    if (kernels->lanes == 8) {
        check(mg_range_of(e, &matrix, &coefs) == MG_RANGE_UNKNOWN, "with AVX-512");
        mg_engine_free(e);
        return;
    }
    check(mg_range_of(e, &matrix, &fast_decay) == MG_RANGE_UNKNOWN, "with a small beta2");
    for (int step = 0; step < 200; step++) {
        const mg_range range = mg_range_of(e, &matrix, &coefs);
        check(range == (step % 64 == 0 ? MG_LOOK_AT_ALL : step % 8 == 0 ? MG_LOOK_AT_P : MG_RANGE_KNOWN), "step %d: %d", step,
              range);
        mg_note_range(e, &matrix, range, 1, 0);
    }
    check(mg_range_of(e, &other, &coefs) == MG_LOOK_AT_ALL, "another matrix");
    check(mg_range_of(e, &matrix, &fast_decay) == MG_RANGE_UNKNOWN, "with a small beta2 now");
    mg_note_range(e, &matrix, MG_LOOK_AT_ALL, 1, 0);
    mg_note_range(e, &matrix, MG_RANGE_KNOWN, 1, 1);
    check(mg_range_of(e, &matrix, &coefs) == MG_LOOK_AT_P, "after a 0");
    mg_note_range(e, &matrix, MG_LOOK_AT_P, 0, 0);
    for (int step = 0; step < 16; step++) check(mg_range_of(e, &matrix, &coefs) == MG_RANGE_UNKNOWN, "after a look in vain");
    check(mg_range_of(e, &matrix, &coefs) == MG_LOOK_AT_ALL, "some time after a look in vain");
    mg_note_range(e, &matrix, MG_LOOK_AT_ALL, 1, 0);
    mg_forget_bounds(e);
    check(mg_range_of(e, &matrix, &coefs) == MG_RANGE_UNKNOWN, "forgotten");
    mg_engine_free(e);
}

/* Gradients that are not in range for one step, by which moments may leave their ranges: nothing is known after it. */
static void test_large_gradients_for_a_step(const mg_kernels *kernels)
{
    const mg_config c = {27, 16, 4, 1, 8};
    const mg_adam_config adam = ADAM(1e-8, 1000);
    const int32_t tokens[] = {1, 2, 3, 4};
    const mg_layout at = mg_layout_of(&c);
    mg_mt19937 stream = seeded(24);
    state s = new_state(&c);
    const mg_state ours = {s.params, s.m, s.v};
    mg_engine *e = mg_engine_new(&c, kernels), *document;
    if (!e) abort();
    begin_case("%s, a step of large gradients", mg_kernels_name(kernels));
    for (int64_t i = 0; i < s.num_params; i++) {
        s.params[i] = signed_magnitude(&stream, -5, 0);
        s.v[i] = magnitude(&stream, -20, -14);
    }
    mg_forget_ranges(e, 1000);
    for (int64_t step = 0; step < 3; step++) {
        const double scale = step == 2 ? 0x1p+45 : 1.0;
        double loss;
        mg_adam_coefs coefs;
        for (int64_t i = 0; i < 4 * c.n_embd * c.n_embd; i++) {
            s.params[at.layers + at.mlp_fc1 + i] /= scale;
            s.params[at.layers + at.mlp_fc2 + i] *= scale;
        }
        check(!mg_begin_by_matrix(e, &document) && !mg_document_loss(document, s.params, tokens, 3, NULL, &loss)
                  && !mg_prepare_update(e, &adam, step, &coefs)
                  && !mg_step_by_matrix(e, document, &coefs, 3, &ours, s.grad, NULL),
              "step %d", (int)step);
        const mg_matrix lm_head = mg_matrix_of(e, 0, MG_LM_HEAD);
        const mg_range expected = step < 2 && kernels->lanes < 8 ? MG_RANGE_KNOWN : MG_RANGE_UNKNOWN;
        check(mg_range_of(e, &lm_head, &coefs) == expected, "range after step %d", (int)step);
    }
    mg_engine_free(e);
    free_state(&s);
}

void test_in_range(const mg_kernels *kernels)
{
    const mg_config large = {27, 16, 4, 1, 8}, deep = {9, 12, 2, 2, 5};
    test_updates(kernels);
    test_zeros(kernels);
    test_looks(kernels);
    test_large_gradients_for_a_step(kernels);
    for (size_t i = 0; i < sizeof specials / sizeof *specials; i++) {
        test_run(kernels, &large, specials + i);
        test_run(kernels, &deep, specials + i);
    }
}
