/* exp and powers of arrays against the C library's, number by number. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "base/libm.h"
#include "kernels/kernels.h"
#include "tests/check.h"
#include "tests/tests.h"

enum { DRAWS = 1 << 15 };

static double exp1(double x) { return mg_exp(x); }
static double log1(double x) { return mg_log(x); }
static double pow_2(double x) { return mg_pow(x, 2.0); }
static double pow_05(double x) { return mg_pow(x, 0.5); }
static double pow_m1(double x) { return mg_pow(x, -1.0); }
static double pow_m2(double x) { return mg_pow(x, -2.0); }
static double pow_m05(double x) { return mg_pow(x, -0.5); }
static double pow_m15(double x) { return mg_pow(x, -1.5); }

static const double special[] = {0.0,
                                 -0.0,
                                 1.0,
                                 -1.0,
                                 INFINITY,
                                 -INFINITY,
                                 NAN,
                                 5e-324,
                                 -5e-324,
                                 0x1p-1022,
                                 0x1p1023,
                                 709.782712893384,
                                 709.7827128933841,
                                 -745.1332191019411,
                                 -745.1332191019412,
                                 -708.4,
                                 0x1p-512,
                                 0x1p512,
                                 0x1p-511,
                                 1e-300,
                                 1e300};
enum { SPECIAL = sizeof special / sizeof special[0] };

/* Numbers of the magnitudes that the engine meets; in the first half some that are far from them, and all special ones, so that
 * whole chunks of the second are in the range of the proofs. */
static void draw(double *x, int positive)
{
    mg_mt19937 stream = seeded(7);
    for (int i = 0; i < DRAWS; i++) {
        const double u = mg_mt19937_random(&stream), scale = ldexp(1.0, (int)mg_mt19937_below(&stream, 20) - 10);
        x[i] = i < SPECIAL ? special[i] : (positive || i % 2 ? u : -u) * (i % 16 || i >= DRAWS / 2 ? scale : scale * scale * scale);
        if (positive) x[i] = fabs(x[i]);
    }
}

void test_exp_pow(const mg_kernels *kernels)
{
    const struct {
        const char *name;
        void (*array)(int64_t n, const double *x, double *out);
        double (*one)(double x);
        int positive;
    } functions[] = {
        {"exp_array", kernels->exp_array, exp1, 0},
        {"pow_2_array", kernels->pow_2_array, pow_2, 0},
        {"pow_05_array", kernels->pow_05_array, pow_05, 1},
        {"pow_m1_array", kernels->pow_m1_array, pow_m1, 1},
        {"pow_m2_array", kernels->pow_m2_array, pow_m2, 1},
        {"pow_m05_array", kernels->pow_m05_array, pow_m05, 1},
        {"pow_m15_array", kernels->pow_m15_array, pow_m15, 1},
    };
    begin_case("%s", mg_kernels_name(kernels));
    double *x = doubles(DRAWS), *got = doubles(DRAWS), *expected = doubles(DRAWS);
    for (size_t f = 0; f < sizeof functions / sizeof functions[0]; f++) {
        draw(x, functions[f].positive);
        for (int i = 0; i < DRAWS; i++) expected[i] = functions[f].one(x[i]);
        functions[f].array(DRAWS, x, got);
        check_array(functions[f].name, DRAWS, got, expected);
        functions[f].array(DRAWS, x, x);
        check_array(functions[f].name, DRAWS, x, expected); /* in place */
    }
    free_doubles(x);
    free_doubles(got);
    free_doubles(expected);
}

void print_libm(void)
{
    static const struct {
        const char *name;
        double (*one)(double x);
        int positive;
    } functions[] = {
        {"exp", exp1, 0}, {"log", log1, 1}, {"pow2", pow_2, 1}, {"pow.5", pow_05, 1}, {"pow-1", pow_m1, 1}};
    double *x = doubles(DRAWS);
    printf("libm");
    for (size_t f = 0; f < sizeof functions / sizeof functions[0]; f++) {
        uint64_t d = DIGEST;
        draw(x, functions[f].positive);
        for (int i = 0; i < DRAWS; i++) {
            const double y = functions[f].one(x[i]);
            if (y == y) d = digest(d, 1, &y);
        }
        printf(" %s=%08" PRIx32, functions[f].name, (uint32_t)(d ^ d >> 32));
    }
    printf("\n");
    free_doubles(x);
}
