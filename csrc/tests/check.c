#include "tests/check.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_PRINTED = 20 };

static int failures;
static char name_of_case[128];

static uint64_t bits(double x)
{
    uint64_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}

/* All nans count as equal: which one an operation on two nans returns depends on the processor. */
static int same(double x, double y) { return bits(x) == bits(y) || (x != x && y != y); }

void check_array(const char *label, int64_t n, const double *x, const double *expected)
{
    for (int64_t i = 0; i < n; i++) {
        if (same(x[i], expected[i])) continue;
        if (failures++ < MOST_PRINTED)
            printf("%s, %s [%" PRId64 "]: %a, not %a\n", name_of_case, label, i, x[i], expected[i]);
        return;
    }
}

void check(int holds, const char *format, ...)
{
    if (holds) return;
    if (failures++ >= MOST_PRINTED) return;
    va_list arguments;
    va_start(arguments, format);
    printf("%s, ", name_of_case);
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
}

void begin_case(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name_of_case, sizeof name_of_case, format, arguments);
    va_end(arguments);
}

int count_failures(void) { return failures; }

uint64_t digest(uint64_t d, int64_t n, const double *x)
{
    for (int64_t i = 0; i < n; i++) d = (d ^ bits(x[i])) * UINT64_C(0x100000001b3);
    return d;
}

uint64_t digest_tokens(uint64_t d, int64_t n, const int32_t *x)
{
    for (int64_t i = 0; i < n; i++) d = (d ^ (uint64_t)x[i]) * UINT64_C(0x100000001b3);
    return d;
}

static int64_t allocations_left = -1;
static int has_failed = 0;

int mg_allocation_fails(void); /* compiler/memory.h */
int mg_allocation_fails(void)
{
    if (allocations_left < 0 || allocations_left--) return 0;
    has_failed = 1;
    return 1;
}

int fail_allocation(int64_t which)
{
    const int failed = has_failed;
    allocations_left = which;
    has_failed = 0;
    return failed;
}

void *allocate(int64_t count, size_t size)
{
    void *p = calloc((size_t)count + 64, size);
    if (!p) abort();
    return p;
}

/* The block's address is kept just before the array. */
double *doubles(int64_t count)
{
    char *block = allocate(count + 16, sizeof(double));
    double *x = (double *)(((uintptr_t)block + sizeof block + 63) / 64 * 64);
    memcpy((char *)x - sizeof block, &block, sizeof block);
    return x;
}

void free_doubles(double *x)
{
    char *block;
    memcpy(&block, (char *)x - sizeof block, sizeof block);
    free(block);
}

mg_mt19937 seeded(uint32_t a)
{
    mg_mt19937 stream;
    mg_mt19937_seed(&stream, &a, 1);
    return stream;
}
