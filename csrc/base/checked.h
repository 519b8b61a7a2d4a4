/* Products and sums of counts, which are never negative. They saturate at INT64_MAX, so that one check at the end of a
 * computation finds every overflow in it. */
#ifndef MG_BASE_CHECKED_H
#define MG_BASE_CHECKED_H

#include <stdint.h>

#include "base/require.h"

static inline int64_t mg_mul_add(int64_t a, int64_t b, int64_t c) /* a * b + c */
{
    int64_t r;
    if (__builtin_mul_overflow(a, b, &r) || __builtin_add_overflow(r, c, &r)) return INT64_MAX;
    return r;
}

static inline int64_t mg_mul(int64_t a, int64_t b) { return mg_mul_add(a, b, 0); }

#endif
