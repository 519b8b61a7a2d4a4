/* The instruction sets of this build, best last: ISA(name, supported), supported being a function of dispatch.c. The
 * includer defines ISA; there is no include guard. setup.py defines MG_HAVE_NAME for those that it compiles. */
#ifdef MG_HAVE_SCALAR
ISA(scalar, always)
#endif
#ifdef MG_HAVE_NEON
ISA(neon, always)
#endif
#ifdef MG_HAVE_AVX2
ISA(avx2, has_avx2)
#endif
#ifdef MG_HAVE_AVX512
ISA(avx512, has_avx512)
#endif
