/* Every kernel, once. isa/NAME.c defines MG_NAME and MG_LANES, includes this file, and is compiled with NAME's flags.
 *
 * No body depends on an instruction set but through vec.h and exact.h: the width differs, the bits do not. */
#include <math.h>
#include <stdint.h>

#include "kernels/kernels.h"
#include "kernels/body/adam.h"
#include "kernels/body/attention.h"
#include "kernels/body/attention_heads.h"
#include "kernels/body/decode.h"
#include "kernels/body/exp_pow.h"
#include "kernels/body/linear_backward_input.h"
#include "kernels/body/linear_backward_weight.h"
#include "kernels/body/linear_forward.h"
#include "kernels/body/loss.h"
#include "kernels/body/relu.h"
#include "kernels/body/replay.h"
#include "kernels/body/rmsnorm.h"
#include "kernels/body/rows.h"

#define MG_TABLE_NAME2(name) mg_kernels_##name
#define MG_TABLE_NAME(name) MG_TABLE_NAME2(name)
#define MG_STRING2(name) #name
#define MG_STRING(name) MG_STRING2(name)

const mg_kernels MG_TABLE_NAME(MG_NAME) = {
    .name = MG_STRING(MG_NAME),
    .lanes = MG_LANES,
#define KERNEL(result, name, parameters) .name = name,
#include "kernels/kernel_list.h"
#undef KERNEL
};
