/* The functions of compiled programs, one number at a time. */
#include <math.h>

#include "compiler/graph.h"
#include "base/libm.h"

double mg_call_function(int function, double x, int *odd)
{
    double r;
    switch (function) {
    case MG_F_EXP: r = mg_exp(x); break;
    case MG_F_LOG: r = mg_log(x); break;
    case MG_F_SQRT: r = sqrt(x); break;
    case MG_F_SIN: r = mg_sin(x); break;
    case MG_F_COS: r = mg_cos(x); break;
    case MG_F_TAN: r = tan(x); break;
    case MG_F_TANH: r = tanh(x); break;
    case MG_F_SINH: r = sinh(x); break;
    case MG_F_COSH: r = cosh(x); break;
    case MG_F_ASIN: r = asin(x); break;
    case MG_F_ACOS: r = acos(x); break;
    case MG_F_ATAN: r = atan(x); break;
    case MG_F_ERF: r = erf(x); break;
    case MG_F_ERFC: r = erfc(x); break;
    case MG_F_EXPM1: r = expm1(x); break;
    case MG_F_LOG1P: r = x == 0.0 ? x : log1p(x); break; /* as CPython, for C libraries that lose the sign */
    default: r = fabs(x); break;
    }
    if (!isfinite(r) || !isfinite(x)) *odd = 1;
    return r;
}

double mg_python_pow(double x, double y, int *odd)
{
    const double r = mg_pow(x, y);
    if (!(x > 0.0) || !isfinite(r) || !isfinite(x) || !isfinite(y))
        if (!isfinite(r) || !isfinite(x) || !isfinite(y) || (x == 0.0 && y < 0.0) || (x < 0.0 && y != floor(y))) *odd = 1;
    return r;
}
