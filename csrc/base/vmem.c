#include "base/vmem.h"

#include "microgpt.h"

/* Committing is a system call: take this much at once, or an eighth of what is there already if that is more. */
#define COMMIT_STEP ((size_t)1 << 18)

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

static void *map_addresses(size_t size) { return VirtualAlloc(NULL, size, MEM_RESERVE, PAGE_NOACCESS); }

static int back_addresses(char *start, size_t size) {
    return VirtualAlloc(start, size, MEM_COMMIT, PAGE_READWRITE) != NULL;
}

static void unmap_addresses(char *start, size_t size) {
    (void)size;
    VirtualFree(start, 0, MEM_RELEASE);
}
#else
#include <sys/mman.h>

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif
#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

/* PROT_NONE, so that the reservation counts for nothing even where the kernel refuses to overcommit. */
static void *map_addresses(size_t size) {
    void *start = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return start == MAP_FAILED ? NULL : start;
}

static int back_addresses(char *start, size_t size) { return mprotect(start, size, PROT_READ | PROT_WRITE) == 0; }

static void unmap_addresses(char *start, size_t size) { munmap(start, size); }
#endif

int mg_vmem_reserve(mg_vmem *range, size_t size) {
    size = (size + COMMIT_STEP - 1) / COMMIT_STEP * COMMIT_STEP;
    range->start = map_addresses(size);
    range->reserved = range->start ? size : 0;
    range->committed = 0;
    return range->start ? MG_OK : MG_NO_MEMORY;
}

int mg_vmem_commit(mg_vmem *range, size_t size) {
    size_t wanted;
    if (size <= range->committed) return MG_OK;
    if (size > range->reserved) return MG_NO_MEMORY;
    wanted = range->committed + range->committed / 8;
    if (wanted < size) wanted = size;
    wanted = (wanted + COMMIT_STEP - 1) / COMMIT_STEP * COMMIT_STEP;
    if (wanted > range->reserved) wanted = range->reserved;
    if (!back_addresses(range->start + range->committed, wanted - range->committed)) return MG_NO_MEMORY;
    range->committed = wanted;
    return MG_OK;
}

void mg_vmem_release(mg_vmem *range) {
    if (range->start) unmap_addresses(range->start, range->reserved);
    range->start = NULL;
    range->reserved = range->committed = 0;
}
