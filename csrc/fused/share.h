/* Sharing one document among threads: the panels of a stage, or the heads of attention. A stage writes only what belongs to
 * its panels or heads, and reads what earlier stages wrote. */
#ifndef MG_FUSED_SHARE_H
#define MG_FUSED_SHARE_H

#include "fused/engine.h"

/* Panels of the document, or heads, from first to end - 1. */
typedef struct {
    int64_t first, end;
} mg_panels;

/* e: the engine, with the scratch of the thread that calls. */
typedef mg_status (*mg_stage)(mg_engine *e, const void *args, mg_panels some, mg_poll *poll);

mg_status mg_share_panels_among_team(mg_engine *e, mg_stage stage, const void *args, mg_poll *poll);
mg_status mg_share_heads_among_team(mg_engine *e, mg_stage stage, const void *args, mg_poll *poll);

/* stage for all panels of the document: at once, or, if e->team is set, some by each of its threads. */
static inline mg_status mg_share_panels(mg_engine *e, mg_stage stage, const void *args, mg_poll *poll)
{
    return e->team ? mg_share_panels_among_team(e, stage, args, poll) : stage(e, args, (mg_panels){0, e->ws.doc.panels}, poll);
}

/* The same for all heads. */
static inline mg_status mg_share_heads(mg_engine *e, mg_stage stage, const void *args, mg_poll *poll)
{
    return e->team ? mg_share_heads_among_team(e, stage, args, poll) : stage(e, args, (mg_panels){0, e->config.n_head}, poll);
}

#endif
