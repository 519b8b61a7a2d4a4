/* Comparison by bits, with a label for every array, and memory that aborts when there is none. */
#ifndef MG_TESTS_CHECK_H
#define MG_TESTS_CHECK_H

#include "microgpt.h"

/* Count and print a failure if x, [n], does not have the bits of `expected`. The label says what x is. */
void check_array(const char *label, int64_t n, const double *x, const double *expected);

/* The same for a condition: check(status == MG_OK, "..."). Arguments as of printf. */
void check(int holds, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Put before the labels from now on, such as "avx2, shape 3"; arguments as of printf. */
void begin_case(const char *format, ...) __attribute__((format(printf, 1, 2)));

int count_failures(void);

/* FNV-1a over the bits of x, continued from d; DIGEST at first. */
#define DIGEST UINT64_C(0xcbf29ce484222325)
uint64_t digest(uint64_t d, int64_t n, const double *x);
uint64_t digest_tokens(uint64_t d, int64_t n, const int32_t *x);

/* Zeroed memory of count items, and 64 more; doubles aligned to 64 bytes, to be freed by free_doubles. */
void *allocate(int64_t count, size_t size);
double *doubles(int64_t count);
void free_doubles(double *x);

/* Let the compiler's allocation number `which`, counted from 0, fail once; -1: none. Returns whether the one before did. */
int fail_allocation(int64_t which);

/* A generator of random numbers, as random.seed(a). */
mg_mt19937 seeded(uint32_t a);

#endif
