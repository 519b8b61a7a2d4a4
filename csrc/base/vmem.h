/* Virtual memory that grows in place: reserve a range of addresses once, commit memory to it as needed.
 *
 * The tape keeps its arrays in such ranges: growing copies nothing, so a NumPy view of the parameters stays valid, and
 * a pointer to a node stays valid while other nodes are made. What is committed at once and is large gets huge pages, if the system
 * has them. */
#ifndef MG_BASE_VMEM_H
#define MG_BASE_VMEM_H

#include <stddef.h>

#include "base/status.h"

typedef struct {
    char *start;
    size_t reserved;  /* bytes of address space */
    size_t committed; /* bytes from start that may be read and written; fresh ones are zero */
} mg_vmem;

/* Reserve size bytes of address space, which cost no memory. MG_OK or MG_NO_MEMORY. */
mg_status mg_vmem_reserve(mg_vmem *memory, size_t size);

/* Make the first size bytes usable. MG_NO_MEMORY: size is beyond the reservation, or there is no memory left. */
mg_status mg_vmem_commit(mg_vmem *memory, size_t size);

/* Return all memory and addresses. A range that was never reserved, all zero, is fine. */
void mg_vmem_release(mg_vmem *memory);

#endif
