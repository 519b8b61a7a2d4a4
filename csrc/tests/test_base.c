#include "base/arena.h"
#include "base/checked.h"
#include "base/vmem.h"
#include "tests/check.h"
#include "tests/tests.h"

#include <stdlib.h>

static void test_checked(void)
{
    begin_case("checked");
    check(mg_mul_add(3, 4, 5) == 17, "3 * 4 + 5");
    check(mg_mul(INT64_MAX, 2) == INT64_MAX, "a product that overflows");
    check(mg_mul_add(INT64_MAX, 1, 1) == INT64_MAX, "a sum that overflows");
}

static void test_arena(void)
{
    begin_case("arena");
    mg_arena arena = {NULL, 0};
    check(!mg_arena_take(&arena, 3, 8), "an address while measuring");
    check(!mg_arena_take(&arena, 65, 1) && arena.used == 64 + 128, "pieces are not multiples of 64 bytes");
    void *block = mg_arena_allocate(&arena);
    char *first = mg_arena_take(&arena, 3, 8), *second = mg_arena_take(&arena, 65, 1);
    check(block && (uintptr_t)first % 64 == 0 && second == first + 64, "pieces are not aligned to 64 bytes");
    free(block);
    arena = (mg_arena){NULL, 0};
    mg_arena_take(&arena, INT64_MAX / 2, 8);
    mg_arena_take(&arena, 1, 8);
    check(arena.used == INT64_MAX, "a size that overflows is not kept");
    check(!mg_arena_allocate(&arena), "memory that cannot be addressed");
}

static void test_vmem(void)
{
    begin_case("vmem");
    mg_vmem memory = {NULL, 0, 0};
    mg_vmem_release(&memory); /* of nothing */
    check(mg_vmem_reserve(&memory, 1 << 20) == MG_OK, "no addresses");
    check(mg_vmem_commit(&memory, 1) == MG_OK && memory.committed >= 1, "no memory");
    memory.start[0] = 1;
    char *start = memory.start;
    check(mg_vmem_commit(&memory, 1 << 20) == MG_OK, "no more memory");
    check(memory.start == start && start[0] == 1 && start[(1 << 20) - 1] == 0, "memory has moved or is not zero");
    check(mg_vmem_commit(&memory, memory.reserved + 1) == MG_NO_MEMORY, "more than is reserved");
    mg_vmem_release(&memory);
    check(!memory.start && !memory.reserved && !memory.committed, "a released range is not empty");
    /* What is committed at once, and large, may have huge pages. */
    const size_t huge = 1 << 21, large = 3 << 18;
    check(mg_vmem_reserve(&memory, 2 * huge) == MG_OK && mg_vmem_commit(&memory, 1) == MG_OK, "no addresses");
    check(memory.committed < huge, "a small range is large");
    check(mg_vmem_commit(&memory, large) == MG_OK && memory.committed == huge, "a page is cut off");
#ifndef _WIN32
    check((uintptr_t)memory.start % huge == 0, "a range that may have huge pages does not begin with one");
#endif
    memory.start[0] = memory.start[huge - 1] = 1;
    mg_vmem_release(&memory);
    check(mg_vmem_reserve(&memory, SIZE_MAX) == MG_NO_MEMORY, "all addresses there are");
}

static int questions;
static int count_question(void *context)
{
    questions++;
    return *(int *)context;
}

static void test_poll(void)
{
    begin_case("poll");
    int answer = 0;
    mg_poll poll = {count_question, &answer, 0, 0.0};
    check(mg_poll_work(NULL, INT64_MAX) == MG_OK, "no poll");
    check(mg_poll_work(&poll, 1) == MG_OK && !questions, "asked after one multiplication");
    check(mg_poll_work(&poll, 1 << 21) == MG_OK && questions == 1 && poll.work == 0, "not asked in time");
    poll.asked = 0.0;
    answer = 1;
    check(mg_poll_work(&poll, 1 << 21) == MG_INTERRUPTED, "not stopped");
    poll.asked = 1e300; /* a clock that was set back */
    check(mg_poll_work(&poll, 1 << 21) == MG_INTERRUPTED, "not asked after the clock was set back");
}

void test_base(void)
{
    test_checked();
    test_arena();
    test_vmem();
    test_poll();
}
