/* White space and control characters in a text, 64 bytes at a time. */
#ifndef MG_BASE_MARKS_H
#define MG_BASE_MARKS_H

#include <stdint.h>
#include <string.h>

#include "base/require.h"

#define MG_MARKS_BLOCK 64

/* Return a word whose bit i is set if text[i] <= 32; *beyond is not 0 if a byte is not ASCII, and then the word is void. */
static inline uint64_t mg_marks(const unsigned char text[MG_MARKS_BLOCK], uint64_t *beyond)
{
    const uint64_t each = 0x0101010101010101u, high = 0x80 * each;
    uint64_t marks = 0, seen = 0;
    for (int i = 0; i < MG_MARKS_BLOCK; i += 8) {
        uint64_t eight;
        memcpy(&eight, text + i, 8);
        seen |= eight;
        /* Of an ASCII byte with its high bit set, 33 is subtracted without a borrow: the bit stays from 33 on. */
        uint64_t low = ~((eight | high) - 33 * each) & high;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        low = __builtin_bswap64(low);
#endif
        /* The product collects the high bits of all bytes in its highest byte, in their order. */
        marks |= ((low >> 7) * 0x0102040810204080u >> 56) << i;
    }
    *beyond = seen & high;
    return marks;
}

#endif
