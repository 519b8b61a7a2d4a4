/* Which kernels this build has and this processor runs. Compiled without any instruction set's flags. */
#include <string.h>

#include "microgpt.h"
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>

/* Register XCR0: what the operating system saves when it switches threads. The processor's word alone is not enough. */
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

static int has_avx2_or_avx512(int want_avx512)
{
    uint32_t eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return 0;
    if (!(ecx & LEAF1_ECX_OSXSAVE) || !(ecx & LEAF1_ECX_FMA)) return 0;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return 0;
    const uint64_t saved = saved_state();
    if (!(ebx & LEAF7_EBX_AVX2) || (saved & XCR0_XMM_YMM) != XCR0_XMM_YMM) return 0;
    if (!want_avx512) return 1;
    return (ebx & LEAF7_EBX_AVX512F) && (ebx & LEAF7_EBX_AVX512DQ) && (ebx & LEAF7_EBX_AVX512VL)
           && (saved & XCR0_OPMASK_ZMM) == XCR0_OPMASK_ZMM;
}
static int has_avx2(void) { return has_avx2_or_avx512(0); }
static int has_avx512(void) { return has_avx2_or_avx512(1); }
#endif

static int always(void) { return 1; }

static const char *const known[] = {"scalar", "avx2", "avx512", "neon"};

#ifdef MG_HAVE_SCALAR
extern const mg_kernels mg_kernels_scalar;
#endif
#ifdef MG_HAVE_AVX2
extern const mg_kernels mg_kernels_avx2;
#endif
#ifdef MG_HAVE_AVX512
extern const mg_kernels mg_kernels_avx512;
#endif
#ifdef MG_HAVE_NEON
extern const mg_kernels mg_kernels_neon;
#endif

/* What was compiled, the best last. */
static const struct {
    const mg_kernels *kernels;
    int (*supported)(void);
} compiled[] = {
#ifdef MG_HAVE_SCALAR
    {&mg_kernels_scalar, always},
#endif
#ifdef MG_HAVE_NEON
    {&mg_kernels_neon, always},
#endif
#ifdef MG_HAVE_AVX2
    {&mg_kernels_avx2, has_avx2},
#endif
#ifdef MG_HAVE_AVX512
    {&mg_kernels_avx512, has_avx512},
#endif
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

const char *mg_kernel(const mg_kernels *kernels, int index, const void **address)
{
#define KERNEL(name) {#name, offsetof(mg_kernels, name)}
    static const struct {
        const char *name;
        size_t offset;
    } table[] = {
        KERNEL(linear_forward), KERNEL(linear_forward_active), KERNEL(relu_forward), KERNEL(sum_of_magnitudes),
        KERNEL(or_of_bits),
        KERNEL(linear_backward_input), KERNEL(linear_backward_input_active), KERNEL(relu_backward),
        KERNEL(linear_backward_input_first), KERNEL(linear_backward_target), KERNEL(linear_backward_weight),
        KERNEL(linear_backward_weight_active), KERNEL(linear_backward_weight_sparse), KERNEL(embed_forward),
        KERNEL(embed_backward), KERNEL(panels_to_rows), KERNEL(rmsnorm_forward), KERNEL(rmsnorm_backward),
        KERNEL(attention_forward), KERNEL(attention_backward), KERNEL(loss_forward), KERNEL(loss_backward),
        KERNEL(transpose_weights), KERNEL(linear_decode), KERNEL(softmax_decode), KERNEL(attention_decode),
        KERNEL(exp_array), KERNEL(pow_2_array), KERNEL(pow_05_array), KERNEL(pow_m05_array), KERNEL(pow_m1_array),
        KERNEL(pow_m15_array), KERNEL(pow_m2_array), KERNEL(vector_math), KERNEL(adam_update), KERNEL(adam_update_libm),
    };
#undef KERNEL
    if (index < 0 || (size_t)index >= sizeof table / sizeof table[0]) return NULL;
    memcpy(address, (const char *)kernels + table[index].offset, sizeof *address);
    return table[index].name;
}

const mg_kernels *mg_select_kernels(const char *name, int *status)
{
    *status = MG_OK;
    for (int i = COMPILED - 1; i >= 0; i--) {
        if (name && strcmp(name, compiled[i].kernels->name)) continue;
        if (compiled[i].supported()) {
            compiled[i].kernels->vector_math(-1); /* try the C library before the first use */
            return compiled[i].kernels;
        }
        if (name) break;
    }
    *status = MG_UNKNOWN_ISA;
    for (int i = 0; name && i < KNOWN; i++)
        if (!strcmp(name, known[i])) *status = MG_UNSUPPORTED_ISA;
    return NULL;
}
