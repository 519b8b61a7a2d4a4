/* Every kernel, once. kernels_NAME.c sets MG_LANES and MG_NAME, includes this, and is compiled with NAME's flags.
 *
 * Nothing here knows an instruction set: the width is all that differs, and the bits do not differ at all. */
#include <math.h>
#include <stdint.h>

#include "kernels/kernels.h"
#include "base/libm.h"
#include "kernels/body/vec.h"
#include "kernels/body/exact.h"

#include "kernels/body/exp_pow.h"
#include "kernels/body/linear_forward.h"
#include "kernels/body/linear_backward.h"
#include "kernels/body/rows.h"
#include "kernels/body/rmsnorm.h"
#include "kernels/body/attention.h"
#include "kernels/body/loss.h"
#include "kernels/body/decode.h"
#include "kernels/body/adam.h"

#define MG_TABLE_NAME2(name) mg_kernels_##name
#define MG_TABLE_NAME(name) MG_TABLE_NAME2(name)
#define MG_STRING2(name) #name
#define MG_STRING(name) MG_STRING2(name)

const mg_kernels MG_TABLE_NAME(MG_NAME) = {
    .name = MG_STRING(MG_NAME),
    .lanes = MG_LANES,
    .linear_forward = linear_forward,
    .linear_forward_active = linear_forward_active,
    .relu_forward = relu_forward,
    .sum_of_magnitudes = sum_of_magnitudes,
    .or_of_bits = or_of_bits,
    .linear_backward_input = linear_backward_input,
    .linear_backward_input_active = linear_backward_input_active,
    .relu_backward = relu_backward,
    .linear_backward_input_first = linear_backward_input_first,
    .linear_backward_target = linear_backward_target,
    .linear_backward_weight = linear_backward_weight,
    .linear_backward_weight_active = linear_backward_weight_active,
    .linear_backward_weight_sparse = linear_backward_weight_sparse,
    .embed_forward = embed_forward,
    .embed_backward = embed_backward,
    .panels_to_rows = panels_to_rows,
    .rmsnorm_forward = rmsnorm_forward,
    .rmsnorm_backward = rmsnorm_backward,
    .attention_forward = attention_forward,
    .attention_backward = attention_backward,
    .loss_forward = loss_forward,
    .loss_backward = loss_backward,
    .transpose_weights = transpose_weights,
    .linear_decode = linear_decode,
    .softmax_decode = softmax_decode,
    .attention_decode = attention_decode,
    .exp_array = exp_array,
    .pow_2_array = pow_2_array,
    .pow_05_array = pow_05_array,
    .pow_m05_array = pow_m05_array,
    .pow_m1_array = pow_m1_array,
    .pow_m15_array = pow_m15_array,
    .pow_m2_array = pow_m2_array,
    .vector_math = vector_math,
    .adam_update = adam_update,
    .adam_update_libm = adam_update_libm,
};
