/* The only road to libm.
 *
 * CPython computes x**y, math.exp(x) and math.log(x) by calling the C library's pow, exp and log, and those are not
 * correctly rounded: x*x, 1/x and sqrt(x) differ from pow(x, 2), pow(x, -1) and pow(x, 0.5) in the last bit now and
 * then. So every power, exponential and logarithm that must have the original's bits goes through one of these, and
 * every file that includes this one is compiled with -fno-builtin-pow -fno-builtin-exp -fno-builtin-log, without which
 * a compiler would fold the calls away.
 *
 * The same holds for the cosine and the sine of random.gauss: of cos(x) and sin(x) side by side a compiler makes one
 * call of sincos, another function, whose last bit nobody promises to be the same. (math.sqrt needs no such care: a
 * square root is correctly rounded everywhere, by the C library and by the processor.) */
#ifndef MG_MATH_H
#define MG_MATH_H

#include <math.h>

static inline double mg_pow(double x, double y) { return pow(x, y); } /* CPython: x ** y */
static inline double mg_exp(double x) { return exp(x); }              /* CPython: math.exp(x) */
static inline double mg_log(double x) { return log(x); }              /* CPython: math.log(x) */
static inline double mg_cos(double x) { return cos(x); }              /* CPython: math.cos(x), in random.gauss */
static inline double mg_sin(double x) { return sin(x); }              /* CPython: math.sin(x), in random.gauss */

#endif
