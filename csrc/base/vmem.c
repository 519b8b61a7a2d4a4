#include "base/vmem.h"

#include <stdint.h>

/* Committing is a system call: commit at least this much, or an eighth of what is committed already. */
#define COMMIT_STEP ((size_t)1 << 17)
/* A larger step is used as a whole, as the parameters of a model of n_embd 64 are. It gets huge pages where the system gives them to
 * those who ask: a large model has more pages of 4 KiB than a processor remembers, and each is looked up in memory. So ranges
 * that can hold such a page begin where one may. */
#define LARGE_STEP ((size_t)1 << 18)
#define HUGE_PAGE ((size_t)1 << 21)

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

static void *map_addresses(size_t size) { return VirtualAlloc(NULL, size, MEM_RESERVE, PAGE_NOACCESS); }

static int back_addresses(char *start, size_t size)
{
    return VirtualAlloc(start, size, MEM_COMMIT, PAGE_READWRITE) != NULL;
}

static void prefer_huge_pages(char *start, size_t size) { (void)start, (void)size; }

static void unmap_addresses(char *start, size_t size)
{
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

/* PROT_NONE: the reservation does not count as memory even where the kernel refuses to overcommit. */
static void *map_addresses(size_t size)
{
    const size_t spare = size < HUGE_PAGE ? 0 : HUGE_PAGE;
    char *start = mmap(NULL, size + spare, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return NULL;
    if (spare) {
        const size_t before = -(uintptr_t)start % HUGE_PAGE;
        if (before) munmap(start, before);
        start += before;
        munmap(start + size, spare - before);
    }
    return start;
}

static int back_addresses(char *start, size_t size) { return mprotect(start, size, PROT_READ | PROT_WRITE) == 0; }

static void prefer_huge_pages(char *start, size_t size)
{
#ifdef MADV_HUGEPAGE
    (void)madvise(start, size, MADV_HUGEPAGE); /* a wish */
#else
    (void)start, (void)size;
#endif
}

static void unmap_addresses(char *start, size_t size) { munmap(start, size); }
#endif

mg_status mg_vmem_reserve(mg_vmem *memory, size_t size)
{
    const size_t step = size > LARGE_STEP ? HUGE_PAGE : COMMIT_STEP;
    size = size <= SIZE_MAX - 2 * HUGE_PAGE ? (size + step - 1) / step * step : 0;
    memory->start = size ? map_addresses(size) : NULL;
    memory->reserved = memory->start ? size : 0;
    memory->committed = 0;
    return memory->start ? MG_OK : MG_NO_MEMORY;
}

mg_status mg_vmem_commit(mg_vmem *memory, size_t size)
{
    size_t wanted;
    if (size <= memory->committed) return MG_OK;
    if (size > memory->reserved) return MG_NO_MEMORY;
    wanted = memory->committed + memory->committed / 8;
    if (wanted < size) wanted = size;
    const int is_large = wanted - memory->committed > LARGE_STEP;
    const size_t step = is_large ? HUGE_PAGE : COMMIT_STEP;
    wanted = (wanted + step - 1) / step * step;
    if (wanted > memory->reserved) wanted = memory->reserved;
    if (!back_addresses(memory->start + memory->committed, wanted - memory->committed)) return MG_NO_MEMORY;
    if (is_large) {
        const size_t first = memory->committed / HUGE_PAGE * HUGE_PAGE;
        prefer_huge_pages(memory->start + first, wanted - first);
    }
    memory->committed = wanted;
    return MG_OK;
}

void mg_vmem_release(mg_vmem *memory)
{
    if (memory->start) unmap_addresses(memory->start, memory->reserved);
    memory->start = NULL;
    memory->reserved = memory->committed = 0;
}
