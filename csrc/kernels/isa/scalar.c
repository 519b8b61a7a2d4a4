/* the baseline of every processor of the architecture, two doubles at a time where it has them (SSE2). */
#define MG_NAME scalar
#define MG_LANES 2
#include "kernels/body/table.h"
