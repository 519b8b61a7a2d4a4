/* Where the compiler takes memory: after stdlib.h. In the tests each of these can be made to fail. */
#ifndef MG_COMPILER_MEMORY_H
#define MG_COMPILER_MEMORY_H

#ifdef MG_FAIL_ALLOCATIONS
int mg_allocation_fails(void); /* tests/check.c */
#define malloc(size) (mg_allocation_fails() ? NULL : malloc(size))
#define calloc(n, size) (mg_allocation_fails() ? NULL : calloc(n, size))
#define realloc(p, size) (mg_allocation_fails() ? NULL : realloc(p, size))
#define aligned_alloc(alignment, size) (mg_allocation_fails() ? NULL : aligned_alloc(alignment, size))
#endif

#endif
