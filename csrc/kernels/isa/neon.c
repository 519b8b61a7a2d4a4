/* 64-bit ARM. */
#define MG_NAME neon
#define MG_LANES 2
#include "kernels/body/table.h"
