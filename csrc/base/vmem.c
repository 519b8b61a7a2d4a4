#include "base/vmem.h"

/* Committing is a system call: commit at least this much, or an eighth of what is committed already. */
#define COMMIT_STEP ((size_t)1 << 18)

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

static void *map_addresses(size_t size) { return VirtualAlloc(NULL, size, MEM_RESERVE, PAGE_NOACCESS); }

static int back_addresses(char *start, size_t size)
{
    return VirtualAlloc(start, size, MEM_COMMIT, PAGE_READWRITE) != NULL;
}

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
    void *start = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return start == MAP_FAILED ? NULL : start;
}

static int back_addresses(char *start, size_t size) { return mprotect(start, size, PROT_READ | PROT_WRITE) == 0; }

static void unmap_addresses(char *start, size_t size) { munmap(start, size); }
#endif

mg_status mg_vmem_reserve(mg_vmem *memory, size_t size)
{
    size = (size + COMMIT_STEP - 1) / COMMIT_STEP * COMMIT_STEP;
    memory->start = map_addresses(size);
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
    wanted = (wanted + COMMIT_STEP - 1) / COMMIT_STEP * COMMIT_STEP;
    if (wanted > memory->reserved) wanted = memory->reserved;
    if (!back_addresses(memory->start + memory->committed, wanted - memory->committed)) return MG_NO_MEMORY;
    memory->committed = wanted;
    return MG_OK;
}

void mg_vmem_release(mg_vmem *memory)
{
    if (memory->start) unmap_addresses(memory->start, memory->reserved);
    memory->start = NULL;
    memory->reserved = memory->committed = 0;
}
