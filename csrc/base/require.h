/* Requirements on the compiler, its flags and the target, without which results would not have the script's bits.
 *
 * Every C file includes this through the other headers of base/. setup.py compiles this file alone with the flags of
 * the build, before anything else, and reports the text of the first error. */
#ifndef MG_BASE_REQUIRE_H
#define MG_BASE_REQUIRE_H

/* Vector extensions, __builtin_mul_overflow, _mm512 intrinsics. These are the oldest versions that are tested. */
#if defined(__clang__)
#if __clang_major__ < 14
#error "this Clang is too old: microgpt needs Clang 14 or later, or GCC 11 or later"
#endif
#elif defined(__GNUC__)
#if __GNUC__ < 11
#error "this GCC is too old: microgpt needs GCC 11 or later, or Clang 14 or later"
#endif
#else
#error \
    "microgpt needs GCC 11 or later, or Clang 14 or later (on Windows clang-cl): its kernels use their vector extensions"
#endif

/* Sizes of the tape and of a model are computed in size_t and int64_t as if these were of one width. */
#if __SIZEOF_POINTER__ != 8 || __SIZEOF_SIZE_T__ != 8
#error "microgpt needs a 64-bit target"
#endif

/* Each operation on doubles rounds to a double. (1 and 16 are about float and _Float16.) */
#if __DBL_MANT_DIG__ != 53 || __DBL_MAX_EXP__ != 1024
#error "microgpt needs doubles of IEEE 754"
#endif
#if __FLT_EVAL_METHOD__ != 0 && __FLT_EVAL_METHOD__ != 1 && __FLT_EVAL_METHOD__ != 16
#error "microgpt needs arithmetic that rounds to double: no -mfpmath=387, no other FLT_EVAL_METHOD than 0"
#endif
_Static_assert(sizeof(1.0) == sizeof(double),
               "microgpt needs constants that are doubles: no -fsingle-precision-constant");

/* setup.py's flags come last and undo these. A compiler for which they still hold is refused. */
#if defined(__FAST_MATH__) || __FINITE_MATH_ONLY__ || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) \
    || defined(__NO_SIGNED_ZEROS__)
#error "microgpt cannot be compiled with -ffast-math or a part of it: results must have the script's bits"
#endif

/* Either byte order is supported if it is the same for integers and doubles. */
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__ && __BYTE_ORDER__ != __ORDER_BIG_ENDIAN__
#error "microgpt needs a processor that is little-endian or big-endian"
#endif
#if defined(__FLOAT_WORD_ORDER__) && __FLOAT_WORD_ORDER__ != __BYTE_ORDER__
#error "microgpt needs doubles with the byte order of integers"
#endif

#endif
