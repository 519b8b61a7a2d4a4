/* Memory that grows and never moves: a range of addresses is reserved once and backed by memory as it is needed.
 *
 * The tape keeps its arrays in such ranges, so that a NumPy view of the parameters stays valid for ever, growing copies
 * nothing, and a pointer to a node may be held across the making of another. */
#ifndef MG_RESERVE_H
#define MG_RESERVE_H

#include <stddef.h>

typedef struct {
    char *start;
    size_t reserved;  /* bytes of address space */
    size_t committed; /* bytes from start that may be read and written; fresh ones are zero */
} mg_vmem;

/* Reserve size bytes of address space, which cost no memory. MG_OK or MG_NO_MEMORY. */
int mg_vmem_reserve(mg_vmem *range, size_t size);

/* Make the first size bytes usable. MG_NO_MEMORY when size is beyond the reservation or memory has run out. */
int mg_vmem_commit(mg_vmem *range, size_t size);

/* Give everything back. */
void mg_vmem_release(mg_vmem *range);

#endif
