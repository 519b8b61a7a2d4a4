#include "fused/share.h"

typedef struct {
    mg_engine *e;
    mg_stage stage;
    const void *args;
    int64_t count, group; /* panels or heads, and how many make an item */
} shared;

static mg_status do_item(void *context, int worker, int64_t item, mg_poll *poll)
{
    const shared *s = context;
    const int64_t first = item * s->group, end = first + s->group < s->count ? first + s->group : s->count;
    mg_engine view = *s->e;
    if (worker) view.ws.scratch = s->e->thread_scratch[worker].scratch;
    return s->stage(&view, s->args, (mg_panels){first, end}, poll);
}

static mg_status share(mg_engine *e, mg_stage stage, const void *args, int64_t count, int64_t group, mg_poll *poll)
{
    if (group >= count) return stage(e, args, (mg_panels){0, count}, poll);
    shared s = {e, stage, args, count, group};
    return mg_pool_run(e->team, do_item, &s, (count + group - 1) / group, poll);
}

/* Twice as many groups as threads, because later positions have more keys; but of two panels, if there are enough, which the
 * products take together. */
mg_status mg_share_panels_among_team(mg_engine *e, mg_stage stage, const void *args, mg_poll *poll)
{
    const int64_t panels = e->ws.doc.panels, threads = mg_pool_threads(e->team), group = panels / (2 * threads);
    return share(e, stage, args, panels, group >= 2 ? group / 2 * 2 : panels >= 2 * threads ? 2 : 1, poll);
}

mg_status mg_share_heads_among_team(mg_engine *e, mg_stage stage, const void *args, mg_poll *poll)
{
    return share(e, stage, args, e->config.n_head, 1, poll);
}
