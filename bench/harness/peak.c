/* Additions and multiplications of doubles a second, each rounded on its own, at most: many independent ones of both kinds,
 * in registers, in vectors as wide as the processor has. Prints the number. machine.py compiles and runs it. */
#include <stdio.h>
#include <time.h>

#if defined(__AVX512F__)
#define LANES 8
#elif defined(__AVX__)
#define LANES 4
#else
#define LANES 2
#endif
typedef double vec __attribute__((vector_size(LANES * 8)));

/* Sixteen registers hold 7 products, 7 sums and two operands; with a latency of 4 and two pipes 8 must be under way. */
enum { CHAINS = 7, TURNS = 20000, TRIES = 300 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(void)
{
    volatile double one = 1.0, zero = 0.0; /* unknown to the compiler */
    vec product[CHAINS], sum[CHAINS], factor, term;
    for (int l = 0; l < LANES; l++) factor[l] = one, term[l] = zero;
    for (int c = 0; c < CHAINS; c++) product[c] = sum[c] = factor;
    double best = 0.0, all = 0.0;
    for (int i = 0; i < TRIES; i++) {
        const double start = now();
        for (int t = 0; t < TURNS; t++) {
            _Pragma("GCC unroll 7") for (int c = 0; c < CHAINS; c++) {
                product[c] = product[c] * factor;
                sum[c] = sum[c] + term;
            }
        }
        for (int c = 0; c < CHAINS; c++) all += product[c][0] + sum[c][LANES - 1]; /* so that they are computed */
        const double rate = 2.0 * CHAINS * TURNS * LANES / (now() - start);
        if (rate > best) best = rate;
    }
    printf("%.0f\n", all > 0.0 ? best : 0.0);
    return 0;
}
