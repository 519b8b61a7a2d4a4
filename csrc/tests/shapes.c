#include "tests/shapes.h"

#include <string.h>

#include "tests/check.h"

state new_state(const mg_config *config)
{
    const int64_t n = mg_count_params(config);
    return (state){n, doubles(n), doubles(n), doubles(n), doubles(n)};
}

state copy_of_state(const state *s)
{
    const size_t bytes = (size_t)s->num_params * sizeof(double);
    state copy = {s->num_params, doubles(s->num_params), doubles(s->num_params), doubles(s->num_params),
                  doubles(s->num_params)};
    memcpy(copy.params, s->params, bytes);
    memcpy(copy.grad, s->grad, bytes);
    memcpy(copy.m, s->m, bytes);
    memcpy(copy.v, s->v, bytes);
    return copy;
}

void free_state(state *s)
{
    free_doubles(s->params);
    free_doubles(s->grad);
    free_doubles(s->m);
    free_doubles(s->v);
}

void check_state(const state *s, const state *expected)
{
    check_array("params", s->num_params, s->params, expected->params);
    check_array("grad", s->num_params, s->grad, expected->grad);
    check_array("m", s->num_params, s->m, expected->m);
    check_array("v", s->num_params, s->v, expected->v);
}

static int ask(void *context)
{
    eager_poll *p = context;
    p->poll.asked = 0.0; /* as if 20 ms had passed */
    return ++p->questions == p->stop_at;
}

void start_poll(eager_poll *p, int64_t stop_at) { *p = (eager_poll){{ask, p, 0, 0.0}, 0, stop_at}; }
