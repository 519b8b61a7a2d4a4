#ifndef MG_FUSED_FORWARD_H
#define MG_FUSED_FORWARD_H

#include "fused/engine.h"

/* Compute the loss of the document in e->ws.doc, and the activations. MG_OK, MG_LOG_DOMAIN or MG_INTERRUPTED. */
mg_status mg_forward(mg_engine *e, const double *params, mg_poll *poll, double *loss);

#endif
