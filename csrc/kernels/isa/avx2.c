/* x86-64 with AVX2. */
#define MG_NAME avx2
#define MG_LANES 4
#include "kernels/body/table.h"
