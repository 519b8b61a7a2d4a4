/* Calls of the C library's pow, exp, log, cos and sin. All others go through these.
 *
 * CPython computes x**y, math.exp(x) and math.log(x) by the C library's pow, exp and log, which are not correctly
 * rounded: x*x, 1/x and sqrt(x) sometimes differ from pow(x, 2), pow(x, -1) and pow(x, 0.5) in the last bit. So every
 * power, exponential and logarithm that must have the original's bits is one of these calls, and every file that
 * includes this one is compiled with -fno-builtin-pow -fno-builtin-exp -fno-builtin-log: otherwise a compiler folds
 * them.
 *
 * cos and sin are those of random.gauss. A compiler would merge cos(x) and sin(x) into one call of sincos, whose last
 * bit may differ. (sqrt needs no such care: it is correctly rounded in every C library and processor.) */
#ifndef MG_BASE_LIBM_H
#define MG_BASE_LIBM_H

#include <math.h>

#include "base/require.h"

static inline double mg_pow(double x, double y) { return pow(x, y); } /* CPython: x ** y */
static inline double mg_exp(double x) { return exp(x); }              /* CPython: math.exp(x) */
static inline double mg_log(double x) { return log(x); }              /* CPython: math.log(x) */
static inline double mg_cos(double x) { return cos(x); }              /* CPython: math.cos(x), in random.gauss */
static inline double mg_sin(double x) { return sin(x); }              /* CPython: math.sin(x), in random.gauss */

#endif
