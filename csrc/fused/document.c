/* The losses and the gradient of one document (reference.py, document_loss). */
#include <stdlib.h>

#include "base/libm.h"
#include "fused/backward.h"
#include "fused/forward.h"
#include "fused/rollback.h"

mg_status mg_document_loss(mg_engine *e, const double *params, const int32_t *tokens, int64_t n, mg_poll *poll,
                           double *loss)
{
    const mg_status status = mg_workspace_begin(&e->ws, &e->config, e->kernels->lanes, tokens, n);
    return status ? status : mg_forward(e, params, poll, loss);
}

mg_status mg_position_losses(mg_engine *e, const double *params, const int32_t *tokens, int64_t n, mg_poll *poll,
                             double *losses)
{
    double loss;
    const mg_status status = mg_document_loss(e, params, tokens, n, poll, &loss);
    if (status) return status;
    for (int64_t p = 0; p < n; p++) losses[p] = mg_log(e->ws.act.prob[p]) * -1.0;
    return MG_OK;
}

mg_status mg_document_gradient(mg_engine *e, const double *params, double *grad, const int32_t *tokens, int64_t n,
                               mg_poll *poll, double *loss)
{
    mg_status status = mg_document_loss(e, params, tokens, n, poll, loss);
    if (status) return status;
    mg_backward_args backward = {.params = params, .grad = grad};
    backward.grad_has_minus_zero = e->kernels->or_of_bits(e->at.num_params, grad) && mg_has_minus_zero(e, grad);
    if (!mg_is_long(e, n)) return mg_backward(e, &backward); /* without a poll it cannot fail */
    double *saved_grad;
    status = mg_save_grad(e, grad, &saved_grad);
    if (status) return status;
    backward.poll = poll;
    status = mg_backward(e, &backward);
    if (status) mg_restore_grad(e, grad, saved_grad);
    free(saved_grad);
    return status;
}
