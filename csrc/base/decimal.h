/* Doubles in decimal, as Python's format(x, ".4f") writes them. */
#ifndef MG_BASE_DECIMAL_H
#define MG_BASE_DECIMAL_H

#include <stdint.h>
#include <string.h>

#include "base/require.h"

/* Most characters that mg_decimal4 writes: a sign, 15 digits, the point, 4 digits. */
#define MG_DECIMAL4 21

__extension__ typedef unsigned __int128 mg_uint128;

/* Write x with four digits after the point; return the number of characters. 0 for what is left to the caller: numbers
 * from 2**48 on, infinities and nan.
 *
 * Exact: ten thousand times |x| is significand * 10000 / 2**shift, which is rounded once, a tie to even. */
static inline int mg_decimal4(double x, char out[MG_DECIMAL4])
{
    uint64_t bits, scaled = 0;
    memcpy(&bits, &x, sizeof bits);
    int exponent = (int)(bits >> 52 & 0x7ff), length = 0;
    if (exponent >= 1023 + 48) return 0;
    int shift = 1075 - (exponent ? exponent : 1); /* 5 or more */
    if (shift < 68) { /* else it is less than one half: the product has 67 bits */
        mg_uint128 product = (mg_uint128)((bits & 0xfffffffffffff) | (uint64_t)(exponent != 0) << 52) * 10000;
        mg_uint128 half = (mg_uint128)1 << (shift - 1), rest = product & (2 * half - 1);
        scaled = (uint64_t)(product >> shift);
        scaled += rest > half || (rest == half && (scaled & 1));
    }
    if (bits >> 63) out[length++] = '-'; /* of -0.0, too */
    uint64_t whole = scaled / 10000, part = scaled % 10000, most = 10;
    int digits = 1;
    for (; whole >= most; most *= 10) digits++;
    for (int i = digits; i-- > 0; whole /= 10) out[length + i] = (char)('0' + whole % 10);
    length += digits;
    out[length] = '.';
    for (int i = 4; i > 0; i--, part /= 10) out[length + i] = (char)('0' + part % 10);
    return length + 5;
}

#endif
