/* The C library's own tests, for targets on which no Python of ours runs: another processor under an emulator, another
 * C library. The whole engine on every instruction set against the script's arithmetic node by node (graph.c), the
 * elementary functions against the C library's, all by bits, and what happens on errors. Prints what ran and digests of
 * results; exit status 1 if a check fails. tools/targets.py builds and runs it. */
#include <inttypes.h>
#include <stdio.h>

#include "kernels/kernels.h"
#include "tests/check.h"
#include "tests/tests.h"

int main(void)
{
    uint64_t first = 0;
    test_base();
    test_rng();
    test_layout();
    test_pool();
    test_dispatch();
    print_libm();
    for (int i = 0; mg_compiled_isa(i); i++) {
        const char *isa = mg_compiled_isa(i);
        mg_status status;
        const mg_kernels *kernels = mg_select_kernels(isa, &status);
        if (!kernels) {
            printf("isa %s: compiled, not supported here\n", isa);
            continue;
        }
        for (int half = 0; half <= 1; half++) {
            if (kernels->half_units(half) != half) continue; /* there is no choice */
            test_exp_pow(kernels);
            const uint64_t d = test_train(kernels, DIGEST);
            test_attention(kernels);
            test_document_errors(kernels);
            test_train_errors(kernels);
            test_in_range(kernels);
            test_batches(kernels);
            test_crew(kernels);
            test_decode_errors(kernels);
            test_compile(kernels);
            printf("isa %s%s: lanes %d, results %016" PRIx64 "\n", isa, half ? ", half units" : "",
                   mg_kernels_lanes(kernels), d);
            if (i == 0) first = d;
            begin_case("%s", isa);
            check(d == first, "results differ from those of %s", mg_compiled_isa(0));
        }
    }
    printf(count_failures() ? "FAILED: %d\n" : "ok\n", count_failures());
    return count_failures() != 0;
}
