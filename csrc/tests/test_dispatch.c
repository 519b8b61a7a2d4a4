#include <limits.h>
#include <string.h>

#include "tests/check.h"
#include "tests/tests.h"

void test_dispatch(void)
{
    begin_case("dispatch");
    static const int outside[] = {-1, -2, INT_MIN, 4, INT_MAX};
    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++)
        check(!mg_compiled_isa(outside[i]) && !mg_supports_isa(outside[i]), "instruction set number %d", outside[i]);

    mg_status status;
    check(!mg_select_kernels("mmx", &status) && status == MG_UNKNOWN_ISA, "a name that is unknown");
    for (const char *const *name = (const char *const[]){"scalar", "avx2", "avx512", "neon", NULL}; *name; name++) {
        int runs = 0;
        for (int i = 0; mg_compiled_isa(i); i++) runs |= mg_supports_isa(i) && !strcmp(mg_compiled_isa(i), *name);
        const mg_kernels *kernels = mg_select_kernels(*name, &status);
        check(!kernels == !runs && status == (runs ? MG_OK : MG_UNSUPPORTED_ISA), "%s, which %s", *name,
              runs ? "runs here" : "does not run here");
        check(!kernels || !strcmp(mg_kernels_name(kernels), *name), "the table of %s has another name", *name);
    }
    const mg_kernels *best = mg_select_kernels(NULL, &status);
    check(best && status == MG_OK, "there is no table");
    int count = 0;
    const void *address;
    while (mg_kernel(best, count, &address)) {
        check(address != NULL, "%s has no address", mg_kernel(best, count, &address));
        count++;
    }
    check(count > 30, "only %d kernels", count);
    check(!mg_kernel(best, -1, &address) && !mg_kernel(best, INT_MAX, &address), "a kernel outside of the list");
}
