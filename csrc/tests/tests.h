/* The tests, one file a subject. Those of an instruction set take its kernels; those that return a digest extend d by
 * results that must be the same on every instruction set. */
#ifndef MG_TESTS_TESTS_H
#define MG_TESTS_TESTS_H

#include "microgpt.h"

void test_base(void);     /* test_base.c: arena, virtual memory, poll */
void test_rng(void);      /* test_rng.c */
void test_layout(void);   /* test_layout.c */
void test_dispatch(void); /* test_dispatch.c */
void print_libm(void);    /* test_exp_pow.c: digests of the C library's functions */
void test_exp_pow(const mg_kernels *kernels);
void test_attention(const mg_kernels *kernels);       /* test_attention.c */
void test_document_errors(const mg_kernels *kernels); /* test_document.c */
void test_train_errors(const mg_kernels *kernels);    /* test_train.c: rollback */
void test_in_range(const mg_kernels *kernels);        /* test_in_range.c */
void test_batches(const mg_kernels *kernels);         /* test_batches.c */
void test_pool(void);
void test_crew(const mg_kernels *kernels); /* test_crew.c */
uint64_t test_train(const mg_kernels *kernels, uint64_t d);
void test_decode_errors(const mg_kernels *kernels); /* test_decode.c */
void test_compile(const mg_kernels *kernels);       /* test_compile.c */

#endif
