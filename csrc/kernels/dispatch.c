/* The choice of a kernel table: what this build has and this processor supports. Compiled without any instruction set's
 * flags. */
#include <string.h>

#include "kernels/kernels.h"
#include "microgpt.h"

#if defined(__x86_64__)
#include <cpuid.h>

/* Register XCR0: the registers that the operating system saves when it switches threads. */
static uint64_t saved_state(void)
{
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

enum {
    LEAF1_ECX_FMA = 1 << 12,
    LEAF1_ECX_OSXSAVE = 1 << 27,
    LEAF7_EBX_AVX2 = 1 << 5,
    LEAF7_EBX_AVX512F = 1 << 16,
    LEAF7_EBX_AVX512DQ = 1 << 17,
    XCR0_XMM_YMM = 1 << 1 | 1 << 2,
    XCR0_OPMASK_ZMM = 1 << 5 | 1 << 6 | 1 << 7,
};
#define LEAF7_EBX_AVX512VL (1u << 31)

/* In a virtual machine cpuid takes microseconds: __get_cpuid, which asks for the highest leaf each time, is not used. Every
 * x86-64 has leaf 1. */
static int has_avx2_or_avx512(int want_avx512)
{
    uint32_t highest, eax, ebx, ecx, edx;
    __cpuid(1, eax, ebx, ecx, edx);
    if (!(ecx & LEAF1_ECX_OSXSAVE) || !(ecx & LEAF1_ECX_FMA)) return 0;
    __cpuid(0, highest, ebx, ecx, edx);
    if (highest < 7) return 0;
    __cpuid_count(7, 0, eax, ebx, ecx, edx);
    const uint64_t saved = saved_state();
    if (!(ebx & LEAF7_EBX_AVX2) || (saved & XCR0_XMM_YMM) != XCR0_XMM_YMM) return 0;
    if (!want_avx512) return 1;
    return (ebx & LEAF7_EBX_AVX512F) && (ebx & LEAF7_EBX_AVX512DQ) && (ebx & LEAF7_EBX_AVX512VL)
           && (saved & XCR0_OPMASK_ZMM) == XCR0_OPMASK_ZMM;
}
/* The family of an AMD processor; 0 for another. */
static int amd_family(void)
{
    uint32_t eax, ebx, ecx, edx;
    __cpuid(0, eax, ebx, ecx, edx);
    if (ebx != signature_AMD_ebx || ecx != signature_AMD_ecx || edx != signature_AMD_edx) return 0;
    __cpuid(1, eax, ebx, ecx, edx);
    return (int)((eax >> 8 & 15) + (eax >> 20 & 255));
}

/* AMD's processors with AVX-512, Zen 4 (family 25) and later. On Intel's, correcting the estimate takes less time. Measured:
 * docs/develop/kernels.md. */
static int has_fast_square_root(void) { return amd_family() >= 25; }

/* Zen 4 (family 25, as Zen 3, which has no AVX-512), whose units are 256 bits wide. */
static int has_half_units(void) { return amd_family() == 25; }

static int has_avx2(void) { return has_avx2_or_avx512(0); }
static int has_avx512(void) { return has_avx2_or_avx512(1); }
#else
static int has_fast_square_root(void) { return 0; }
static int has_half_units(void) { return 0; }
#endif

static int always(void) { return 1; }

/* All names, compiled or not. */
static const char *const known[] = {"scalar", "avx2", "avx512", "neon"};

#define ISA(name, supported) extern const mg_kernels mg_kernels_##name;
#include "kernels/isa_list.h"
#undef ISA

static const struct {
    const mg_kernels *kernels;
    int (*supported)(void);
} compiled[] = {
#define ISA(name, supported) {&mg_kernels_##name, supported},
#include "kernels/isa_list.h"
#undef ISA
};
enum { COMPILED = sizeof compiled / sizeof compiled[0], KNOWN = sizeof known / sizeof known[0] };

const char *mg_compiled_isa(int index) { return 0 <= index && index < COMPILED ? compiled[index].kernels->name : NULL; }

int mg_supports_isa(int index) { return 0 <= index && index < COMPILED && compiled[index].supported(); }

const char *mg_kernels_name(const mg_kernels *kernels) { return kernels->name; }

int mg_kernels_lanes(const mg_kernels *kernels) { return kernels->lanes; }

const char *mg_compiler(void)
{
#ifdef __clang__
    return "clang " __clang_version__;
#else
    return "gcc " __VERSION__;
#endif
}

int mg_kernels_vector_math(const mg_kernels *kernels) { return kernels->vector_math(-1); }

int mg_kernels_square_root(const mg_kernels *kernels) { return kernels->adam_square_root(-1); }

int mg_kernels_half_units(const mg_kernels *kernels) { return kernels->half_units(-1); }

const char *mg_kernel(const mg_kernels *kernels, int index, const void **address)
{
#define KERNEL(result, name, parameters) {#name, offsetof(mg_kernels, name)},
    static const struct {
        const char *name;
        size_t offset;
    } table[] = {
#include "kernels/kernel_list.h"
    };
#undef KERNEL
    if (index < 0 || (size_t)index >= sizeof table / sizeof table[0]) return NULL;
    memcpy(address, (const char *)kernels + table[index].offset, sizeof *address);
    return table[index].name;
}

const mg_kernels *mg_select_kernels(const char *name, mg_status *status)
{
    *status = MG_OK;
    for (int i = COMPILED - 1; i >= 0; i--) {
        if (name && strcmp(name, compiled[i].kernels->name)) continue;
        if (compiled[i].supported()) {
            compiled[i].kernels->vector_math(-1); /* try the C library before the first use */
            if (compiled[i].kernels->adam_square_root(-1) < 0)
                compiled[i].kernels->adam_square_root(has_fast_square_root());
            if (compiled[i].kernels->half_units(-1) < 0) compiled[i].kernels->half_units(has_half_units());
            return compiled[i].kernels;
        }
        if (name) break;
    }
    *status = MG_UNKNOWN_ISA;
    for (int i = 0; name && i < KNOWN; i++)
        if (!strcmp(name, known[i])) *status = MG_UNSUPPORTED_ISA;
    return NULL;
}
