/* The generator of Python's random.Random, bit for bit. */
#ifndef MG_RNG_MT19937_H
#define MG_RNG_MT19937_H

#include <stdint.h>

typedef struct {
    uint32_t key[624];
    int pos;       /* 1 to 624, as in random.getstate() */
    int has_gauss; /* whether gauss_next holds the spare value that gauss() keeps */
    double gauss_next;
} mg_mt19937;

/* random.seed(a). digits: |a| in base 2**32, lowest first, no leading zeros; a = 0 has the one digit 0. */
void mg_mt19937_seed(mg_mt19937 *stream, const uint32_t *digits, int64_t num_digits);

/* random.random(). */
double mg_mt19937_random(mg_mt19937 *stream);

/* random._randbelow(n), n >= 1; and of n, n - 1, ... in turn, count <= n of them, as shuffle draws. */
uint64_t mg_mt19937_below(mg_mt19937 *stream, uint64_t n);
void mg_mt19937_fill_below(mg_mt19937 *stream, uint64_t n, int64_t count, uint64_t *out);

/* random.gauss(mu, sigma), and n of them in turn. */
double mg_mt19937_gauss(mg_mt19937 *stream, double mu, double sigma);
void mg_mt19937_fill_gauss(mg_mt19937 *stream, double *out, int64_t n, double mu, double sigma);

/* random.choices(range(n), cum_weights=cum_weights)[0]; n >= 1. Or MG_CHOICE_TOTAL_*, and then nothing is drawn. */
int64_t mg_mt19937_choice(mg_mt19937 *stream, const double *cum_weights, int64_t n);

/* The same by a number that random.random() has returned. */
int64_t mg_mt19937_choice_by(double random, const double *cum_weights, int64_t n);

#endif
