/* The campaign behind docs/explain/exactness.md: draws numbers, compares every result with the C library's, bit for bit.
 *
 * Compiled once per instruction set, with -DMG_NAME= and -DMG_LANES= and that set's flags, by tools/prove_math.py.
 *
 *     prove_math DRAWS SEED [NAME ...]
 *
 * For each function DRAWS numbers over the range in which it is used, DRAWS over the whole range that it answers for,
 * and 8 * DRAWS of which only those are compared whose exact result is just outside of the window around a tie, up to
 * twice its width: nowhere else could the C library and we disagree. Then divisions by constants, and whole updates of
 * Adam against those that ask the C library for every power. Exit status 1 if anything differs. */
#include "kernels/body/table.h"

#include <stdio.h>
#include <stdlib.h>

static uint64_t state;
static uint64_t bits64(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state * 0x2545f4914f6cdd1du;
}
static double uniform(double low, double high) { return low + (high - low) * 0x1p-53 * (double)(bits64() >> 11); }

/* How numbers are drawn: evenly, or evenly in the logarithm (with all bits of the significand random). */
typedef struct {
    double low, high;
    int logarithmic;
} range;

static double draw(range r)
{
    if (!r.logarithmic) return uniform(r.low, r.high);
    const double x = exp2(uniform(log2(r.low), log2(r.high))) * (1.0 + 0x1p-40 * (double)(int32_t)bits64() * 0x1p-8);
    return fmin(fmax(x, r.low), r.high);
}

typedef struct {
    const char *name;
    vec (*exact)(vec, double, mask *);
    double (*libm)(double);
    double tie_window;
    range used, whole;
} function;

static const function functions[] = {
    {"exp(x)", exact_exp, libm_exp, EXP_TIE_WINDOW, {-20.0, 0.0, 0}, {-700.0, 700.0, 0}},
    {"x**2", exact_pow_2, libm_pow_2, SQUARE_TIE_WINDOW, {1e-8, 1.0, 1}, {0x1p-150, 0x1p+70, 1}},
    {"x**0.5", exact_pow_05, libm_pow_05, POW_TIE_WINDOW, {1e-16, 1.0, 1}, {0x1p-200, 0x1p+140, 1}},
    {"x**-0.5", exact_pow_m05, libm_pow_m05, POW_TIE_WINDOW, {1e-5, 100.0, 1}, {0x1p-100, 0x1p+100, 1}},
    {"x**-1", exact_pow_m1, libm_pow_m1, POW_TIE_WINDOW, {1.0, 100.0, 1}, {0x1p-100, 0x1p+100, 1}},
    {"x**-1.5", exact_pow_m15, libm_pow_m15, POW_TIE_WINDOW, {1e-5, 100.0, 1}, {0x1p-60, 0x1p+60, 1}},
    {"x**-2", exact_pow_m2, libm_pow_m2, POW_TIE_WINDOW, {1.0, 100.0, 1}, {0x1p-50, 0x1p+50, 1}},
};

static long failures;

static void mismatch(const char *name, double x, double ours, double expected)
{
    if (failures++ < 20) printf("  MISMATCH %s at %a: %a, the C library says %a\n", name, x, ours, expected);
}

/* How far from the tie an exact result is, as a share of the window, by bisection. */
static double distance(const function *f, double x)
{
    double low = 0.0, high = 1.0;
    for (int i = 0; i < 12; i++) {
        const double middle = 0.5 * (low + high);
        mask certain;
        f->exact(vec_set(x), middle, &certain);
        if (mask_bits(certain) & 1)
            low = middle;
        else
            high = middle;
    }
    return high;
}

typedef struct {
    long draws, compared, uncertain;
    double farthest; /* share of the window at which the C library was last seen on the other side of a tie */
} tally;

static void compare(const function *f, range r, long draws, int ring_only, tally *t)
{
    for (long i = 0; i < draws; i += LANES) {
        double x[LANES] __attribute__((aligned(64)));
        for (int l = 0; l < LANES; l++) x[l] = draw(r);
        mask inside, outside;
        const vec result = f->exact(vec_load(x), 1.0, &inside);
        unsigned lanes = ALL_LANES;
        if (ring_only) {
            f->exact(vec_load(x), 2.0, &outside);
            lanes = mask_bits(inside) & ~mask_bits(outside);
        } else {
            t->uncertain += __builtin_popcount(ALL_LANES & ~mask_bits(inside));
        }
        for (; lanes; lanes &= lanes - 1) {
            const int l = __builtin_ctz(lanes);
            const double expected = f->libm(x[l]);
            t->compared++;
            if (expected == result[l]) continue;
            if (mask_bits(inside) >> l & 1) {
                mismatch(f->name, x[l], result[l], expected);
            } else if (f->libm != libm_pow_05 || expected != sqrt(x[l])) { /* there, result is not always the nearest */
                const double d = distance(f, x[l]);
                if (d > t->farthest) t->farthest = d;
            }
        }
        t->draws += LANES;
    }
}

static void prove_divisions(long draws)
{
    for (long i = 0; i < draws; i += 64 * LANES) {
        const double c = bits64() & 1 ? 1.0 - pow(uniform(0.5, 1.0), (double)(1 + bits64() % 4000))
                                      : uniform(0x1p-20, 1.0);
        if (c <= 0.0) continue;
        for (int j = 0; j < 64; j++) {
            double x[LANES] __attribute__((aligned(64)));
            for (int l = 0; l < LANES; l++)
                x[l] = draw((range){0x1p-890, 0x1p+890, 1}) * (bits64() & 1 ? 1.0 : -1.0);
            const vec q = divide_by_constant(vec_load(x), vec_set(c), vec_set(1.0 / c));
            for (int l = 0; l < LANES; l++)
                if (q[l] != x[l] / c) mismatch("x/c", x[l], q[l], x[l] / c);
        }
    }
}

enum { PARAMS = 4000 };

static void prove_adam(long draws)
{
    static double a[4][PARAMS], b[4][PARAMS], scale[PARAMS];
    mg_adam_coefs c = {.beta1 = 0.85, .beta2 = 0.99, .eps = 1e-8, .vectorizable = 1};
    c.one_minus_beta1 = 1.0 - c.beta1;
    c.one_minus_beta2 = 1.0 - c.beta2;
    for (long done = 0, step = 0; done < draws; done += PARAMS, step++) {
        if (step % 5000 == 0) {
            memset(a, 0, sizeof a);
            for (int i = 0; i < PARAMS; i++) {
                a[0][i] = uniform(-0.1, 0.1);
                scale[i] = draw((range){1e-7, 0.3, 1});
            }
            memcpy(b, a, sizeof b);
        }
        const double t = (double)(step % 5000 + 1);
        c.m_scale = 1.0 - mg_pow(c.beta1, t);
        c.v_scale = 1.0 - mg_pow(c.beta2, t);
        c.lr_t = 0.01 * (1.0 - (t - 1.0) / 5000.0);
        for (int i = 0; i < PARAMS; i++) a[1][i] = b[1][i] = bits64() % 50 ? uniform(-1.0, 1.0) * scale[i] : 0.0;
        adam_square_root((int)(step & 1)); /* by turns from the estimate and from the processor */
        if (step % 4 < 2 && are_between(PARAMS, a[0], 0x1p-500, 0x1p+400) && are_between(PARAMS, a[3], 0x1p-198, 0x1p+98))
            adam_update_in_range(&c, PARAMS, a[0], a[1], a[2], a[3]);
        else
            adam_update(&c, 0, PARAMS, a[0], a[1], a[2], a[3]);
        adam_update_libm(&c, PARAMS, b[0], b[1], b[2], b[3]);
        if (memcmp(a, b, sizeof a)) {
            for (int i = 0; i < PARAMS; i++)
                if (a[0][i] != b[0][i] || a[3][i] != b[3][i]) mismatch("Adam", (double)i, a[0][i], b[0][i]);
            memcpy(a, b, sizeof a);
        }
    }
}

static int wanted(int argc, char **argv, const char *name)
{
    for (int i = 3; i < argc; i++)
        if (!strcmp(argv[i], name)) return 1;
    return argc <= 3;
}

static const struct {
    const char *name;
    void (*prove)(long);
} others[] = {{"x/c", prove_divisions}, {"Adam", prove_adam}};

/* Whether it is the name of something to prove. */
static int known(const char *name)
{
    for (int i = 0; i < 2; i++)
        if (!strcmp(others[i].name, name)) return 1;
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++)
        if (!strcmp(functions[i].name, name)) return 1;
    return 0;
}

int main(int argc, char **argv)
{
    for (int i = 3; i < argc; i++)
        if (!known(argv[i])) {
            fprintf(stderr, "nothing here is called %s\n", argv[i]);
            return 2;
        }
    const long draws = argc > 1 ? atol(argv[1]) : 1000000;
    state = argc > 2 ? strtoull(argv[2], NULL, 10) * 2 + 1 : 1;
    for (int i = 0; i < 20; i++) bits64();
    printf("%s: the C library %s the windows\n", MG_STRING(MG_NAME), vector_math(-1) ? "keeps to" : "DOES NOT KEEP TO");
    vector_math(1);
    printf("  %-8s %12s %12s %10s %9s %22s\n", "", "draws", "compared", "mismatches", "asked, %",
           "seen across a tie, ulp");
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        const function *f = &functions[i];
        if (!wanted(argc, argv, f->name)) continue;
        const long before = failures;
        tally plain = {0}, ring = {0};
        compare(f, f->used, draws, 0, &plain);
        compare(f, f->whole, draws, 0, &plain);
        compare(f, f->used, 4 * draws, 1, &ring);
        compare(f, f->whole, 4 * draws, 1, &ring);
        printf("  %-8s %12ld %12ld %10ld %9.2f      %.4f of %.4f\n", f->name, plain.draws + ring.draws,
               plain.compared + ring.compared, failures - before, 100.0 * (double)plain.uncertain / (double)plain.draws,
               plain.farthest * f->tie_window, f->tie_window);
        fflush(stdout);
    }
    for (int i = 0; i < 2; i++) {
        if (!wanted(argc, argv, others[i].name)) continue;
        const long before = failures;
        others[i].prove(draws);
        printf("  %-8s %12ld %12ld %10ld\n", others[i].name, draws, draws, failures - before);
        fflush(stdout);
    }
    return failures != 0;
}
