/* x86-64 with AVX-512 F, VL and DQ. */
#define MG_NAME avx512
#define MG_LANES 8
#include "kernels/body/table.h"
