/* What a call may return: the one list of statuses. The Cython layer turns each into the exception that the original
 * script would raise. */
#ifndef MG_BASE_STATUS_H
#define MG_BASE_STATUS_H

#include "base/require.h"

typedef enum mg_status {
    MG_OK = 0,
    MG_NO_MEMORY = 1,   /* MemoryError */
    MG_LOG_DOMAIN = 2,  /* math.log of 0 or less: ValueError */
    MG_EXP_RANGE = 3,   /* math.exp overflowed: OverflowError */
    MG_POW_RANGE = 4,   /* ** overflowed: OverflowError */
    MG_POW_ZERO = 5,    /* 0.0 ** negative: ZeroDivisionError */
    MG_INTERRUPTED = 6, /* the poll callback asked to stop */
    MG_UNKNOWN_ISA = 7,
    MG_UNSUPPORTED_ISA = 8,
    MG_ZERO_DIVISION = 9, /* x / 0.0: ZeroDivisionError */
    MG_POW_COMPLEX = 10,  /* negative ** 0.5, which Python makes complex */
    MG_NO_THREAD = 11,    /* the system starts no more threads: NoThreadError */
    MG_STOPPED = 12,      /* another process, or thread, has ended what this one had a part in */
    /* Negative, because mg_mt19937_choice returns them in place of an index. random.choices: ValueError. */
    MG_CHOICE_TOTAL_ZERO = -1,
    MG_CHOICE_TOTAL_NOT_FINITE = -2,
} mg_status;

#endif
