/* What a pass of the compiler works with: memory, growing arrays, hashes, and the way out. Private. */
#ifndef MG_PASS_H
#define MG_PASS_H

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "compiler/program.h"

/* All memory of a compilation comes from chunks that the caller keeps for the next one. A pass that cannot continue jumps
 * to stop. */
typedef struct {
    jmp_buf stop;
    int status;      /* MG_NO_MEMORY, or MG_OK where why says what is not supported */
    const char *why;
    mg_chunk *chunks, *spare; /* in use; free, from an earlier compilation */
    char *next, *end;
} mg_pass;

void *mg_pass_memory(mg_pass *pass, size_t size); /* not cleared, aligned to 16 */
void *mg_pass_sparse(mg_pass *pass, size_t size); /* the same, for an array of which little is written to */
void *mg_pass_zeros(mg_pass *pass, size_t size);
_Noreturn void mg_pass_out_of_memory(mg_pass *pass);
_Noreturn void mg_pass_unsupported(mg_pass *pass, const char *why);

/* Give the chunks back: those of usual size to *kept, for the next compilation, up to a limit. */
void mg_pass_release(mg_pass *pass, mg_chunk **kept);

#define NEW(pass, type, n) ((type *)mg_pass_memory(pass, (size_t)(n) * sizeof(type)))
#define NEW_ZEROS(pass, type, n) ((type *)mg_pass_zeros(pass, (size_t)(n) * sizeof(type)))

/* A growing array of ints. */
typedef struct {
    int32_t *items;
    int32_t n, capacity;
} mg_ints;

void mg_ints_reserve(mg_pass *pass, mg_ints *v, int32_t more);
static inline void mg_ints_push(mg_pass *pass, mg_ints *v, int32_t x)
{
    if (v->n == v->capacity) mg_ints_reserve(pass, v, 1);
    v->items[v->n++] = x;
}

/* Hash tables of ints below n that are compared by their owner: slots hold index + 1. */
typedef struct {
    int32_t *slots;
    uint32_t mask, used;
} mg_table;
static inline uint64_t mg_hash_step(uint64_t h, uint64_t x)
{
    h = (h ^ x) * 0x9e3779b97f4a7c15u;
    return h ^ (h >> 29);
}

#endif
