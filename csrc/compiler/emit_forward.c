/* The place of each number in the frame, and the instructions that compute them, level by level.
 *
 * Values of one level, operation and length are neighbours, in the order in which the program made them. Their operands
 * usually advance by constant steps, so a whole group becomes one instruction. */
#include "compiler/passes.h"

#include <stdlib.h>

#include "compiler/memory.h"

#include "microgpt.h"

typedef struct {
    int32_t value, depth, kind, n, starts, key;
    uint64_t constant;
} entry;

static int compare_groups(const entry *x, const entry *y)
{
#define BY(field) \
    if (x->field != y->field) return x->field < y->field ? -1 : 1;
    BY(depth)
    BY(kind)
    BY(n)
    BY(starts)
    BY(constant)
    return 0;
}

static int compare_entries(const void *p, const void *q)
{
    const entry *x = p, *y = q;
    const int group = compare_groups(x, y);
    if (group) return group;
    BY(key)
    BY(value)
    return 0;
#undef BY
}

typedef struct {
    mg_emitter *e;
    const mg_values *v;
    int32_t *slot;               /* by value */
    int32_t E, *out, *a, *b;     /* of the current group */
    const entry *group;
    mg_batch before, batch, local; /* instructions before the group; the group; local gradients */
} emission;

static const mg_value *value_at(const emission *m, int32_t k) { return m->v->items + m->group[k].value; }

static void emit_sum_group(emission *m, int dot)
{
    const mg_value *first = value_at(m, 0);
    const int32_t n = first->n;
    int32_t *a = NEW(m->e->pass, int32_t, (size_t)m->E * n), *b = dot ? NEW(m->e->pass, int32_t, (size_t)m->E * n) : NULL;
    for (int32_t k = 0; k < m->E; k++) {
        const int32_t *operands = m->v->operands.items + value_at(m, k)->at;
        for (int32_t q = 0; q < n; q++) {
            a[(size_t)k * n + q] = m->slot[operands[q]];
            if (dot) b[(size_t)k * n + q] = m->slot[operands[n + q]];
        }
    }
    if (first->x >= 0) mg_emit_elements(m->e, &m->before, MG_I_COPY, m->E, m->a, NULL, m->out, 0.0);
    mg_flush(m->e, &m->before);
    mg_emit_sums(m->e, &m->batch, &m->before, m->E, n, a, b, m->out, first->x >= 0, NULL);
    mg_flush(m->e, &m->before); /* packs */
}

static void emit_extremes(emission *m, int kind)
{
    for (int32_t k = 0; k < m->E; k++) {
        const mg_value *x = value_at(m, k);
        int32_t *offsets = NEW(m->e->pass, int32_t, x->n), regular = 1;
        const int32_t *operands = m->v->operands.items + x->at;
        for (int32_t q = 0; q < x->n; q++) offsets[q] = m->slot[operands[q]] - m->slot[operands[0]];
        for (int32_t q = 2; q < x->n; q++) regular &= offsets[q] == q * offsets[1];
        mg_add(m->e, &m->batch, 0,
               (mg_instruction){.kind = kind, .R = 1, .sa = regular && x->n > 1 ? offsets[1] : 0, .ints = -1},
               (mg_tile){m->slot[operands[0]], 0, m->out[k], x->n, regular ? -1 : mg_share_list(m->e, offsets, x->n), -1});
    }
}

static void emit_lookups(emission *m)
{
    const int32_t n = value_at(m, 0)->n, E = m->E;
    int32_t *candidates = NEW(m->e->pass, int32_t, (size_t)E * n), *first = NEW(m->e->pass, int32_t, E);
    uint8_t *regular = NEW(m->e->pass, uint8_t, E), *same = NEW(m->e->pass, uint8_t, E);
    mg_run *runs = NEW(m->e->pass, mg_run, E);
    for (int32_t k = 0; k < E; k++) {
        int32_t *c = candidates + (size_t)k * n;
        for (int32_t q = 0; q < n; q++) c[q] = m->slot[m->v->operands.items[value_at(m, k)->at + q]];
        first[k] = c[0];
        regular[k] = 1;
        for (int32_t q = 2; q < n; q++) regular[k] &= c[q] - c[q - 1] == c[1] - c[0];
        if (k > 0)
            same[k - 1] = regular[k] && regular[k - 1] && value_at(m, k)->x == value_at(m, k - 1)->x
                          && (n < 2 || c[1] - c[0] == c[1 - n] - c[-n]);
    }
    const int32_t n_runs = mg_find_runs(E, first, NULL, m->out, same, runs);
    for (int32_t r = 0; r < n_runs; r++) {
        const int32_t k = runs[r].start, *c = candidates + (size_t)k * n, ints = value_at(m, k)->x;
        if (regular[k])
            mg_add(m->e, &m->batch, 0,
                   (mg_instruction){.kind = MG_I_GATHER, .R = runs[r].length, .sa = n > 1 ? c[1] - c[0] : 0,
                                    .da = runs[r].length > 1 ? runs[r].da : 1, .ints = -1},
                   (mg_tile){c[0], 0, m->out[k], ints, -1, -1});
        else
            mg_add(m->e, &m->batch, 0, (mg_instruction){.kind = MG_I_GATHER_LIST, .R = 1, .ints = -1},
                   (mg_tile){0, 0, m->out[k], ints, mg_share_list(m->e, c, n), -1});
    }
}

static void emit_group(emission *m, int64_t tables)
{
    static const int kinds[] = {[V_ADD] = MG_I_ADD, [V_MUL] = MG_I_MUL, [V_DIV] = MG_I_DIV, [V_POW2] = MG_I_POW_NUMBERS,
                                [V_EXP] = MG_I_EXP, [V_POW] = MG_I_POW, [V_LOG] = MG_I_LOG, [V_RELU] = MG_I_RELU,
                                [V_NEG] = MG_I_NEG, [V_CALL] = MG_I_CALL, [V_GRAD_POW] = MG_I_GRAD_POW,
                                [V_GRAD_LOG] = MG_I_GRAD_LOG, [V_GRAD_RELU] = MG_I_GRAD_RELU};
    const mg_value *first = value_at(m, 0);
    switch (first->kind) {
    case V_FLOAT: return;
    case V_INT:
        for (int32_t k = 0; k < m->E; k++)
            mg_add(m->e, &m->batch, 0, (mg_instruction){.kind = MG_I_INT, .R = 1, .ints = -1},
                   (mg_tile){0, 0, m->out[k], value_at(m, k)->x, -1, -1});
        return;
    case V_TABLE:
        for (int32_t k = 0; k < m->E; k++)
            mg_add(m->e, &m->batch, 0, (mg_instruction){.kind = MG_I_GATHER, .R = 1, .sa = 1, .da = 1, .ints = -1},
                   (mg_tile){(int32_t)(tables + value_at(m, k)->y), 0, m->out[k], value_at(m, k)->x, -1, -1});
        return;
    case V_DOT: emit_sum_group(m, 1); return;
    case V_SUM: emit_sum_group(m, 0); return;
    case V_MAX: emit_extremes(m, MG_I_MAX); return;
    case V_MIN: emit_extremes(m, MG_I_MIN); return;
    case V_GATHER: emit_lookups(m); return;
    default:
        mg_emit_elements(m->e, first->kind >= V_GRAD_POW && first->kind <= V_GRAD_RELU ? &m->local : &m->batch,
                         kinds[first->kind], m->E, m->a, first->y >= 0 ? m->b : NULL, m->out, first->constant);
    }
}

/* The initial contents of the frame: the graph's numbers (constants, tables), and 1.0. */
static void lay_out_constants(mg_emitter *e, const mg_graph *g, mg_frame_layout *layout, mg_program *program)
{
    program->n_constants = g->n_numbers + 1;
    program->constants = mg_frame_take(e, program->n_constants);
    layout->one = program->constants + g->n_numbers;
    program->constant_data = malloc((size_t)program->n_constants * sizeof(double));
    if (!program->constant_data) {
        e->pass->status = MG_NO_MEMORY;
        longjmp(e->pass->stop, 1);
    }
    if (g->n_numbers) memcpy(program->constant_data, g->numbers, (size_t)g->n_numbers * sizeof(double));
    program->constant_data[g->n_numbers] = 1.0;
}

void mg_emit_forward(mg_emitter *e, const mg_compact *c, mg_values *v, mg_frame_layout *layout, mg_program *program)
{
    const mg_graph *g = &c->g;
    emission m = {.e = e, .v = v};
    entry *entries = NEW(e->pass, entry, v->n);
    mg_value *items = v->items;
    program->n_leaves = g->n_leaves;
    program->n_ints = g->n_ints;
    program->n_floats = g->n_floats;
    program->n_out = c->n_roots;
    program->n_values = v->n;
    program->out = malloc((size_t)(c->n_roots + 1) * sizeof(int64_t));
    program->float_slots = malloc((size_t)(g->n_floats + 1) * sizeof(int64_t));
    if (!program->out || !program->float_slots) {
        e->pass->status = MG_NO_MEMORY;
        longjmp(e->pass->stop, 1);
    }
    program->leaf_data = mg_frame_take(e, g->n_leaves);
    lay_out_constants(e, g, layout, program);

    layout->slot = NEW(e->pass, int64_t, v->n);
    int32_t n = 0;
    for (int32_t i = 0; i < v->n; i++) {
        const mg_value *x = items + i;
        const int has_list = x->kind >= V_DOT;
        if (x->kind == V_LEAF || x->kind == V_CONST) {
            layout->slot[i] = x->kind == V_LEAF ? program->leaf_data + x->x : program->constants + x->at;
            continue;
        }
        entries[n] = (entry){i, x->depth, x->kind, has_list ? x->n : 0,
                             (x->kind == V_DOT || x->kind == V_SUM) && x->x >= 0, x->key, 0};
        if (x->kind == V_POW || x->kind == V_GRAD_POW || x->kind == V_CALL) memcpy(&entries[n].constant, &x->constant, 8);
        n++;
    }
    qsort(entries, (size_t)n, sizeof *entries, compare_entries);
    for (int32_t i = 0; i < n; i++) {
        const int64_t at = i == 0 || compare_groups(entries + i - 1, entries + i) ? mg_frame_take(e, 1) : e->frame++;
        layout->slot[entries[i].value] = at;
    }
    if (e->frame > INT32_MAX / 2) mg_pass_unsupported(e->pass, "too large");
    m.slot = NEW(e->pass, int32_t, v->n);
    for (int32_t i = 0; i < v->n; i++) m.slot[i] = (int32_t)layout->slot[i];
    for (int32_t i = 0; i < g->n_floats; i++) program->float_slots[i] = -1;
    for (int32_t i = 0; i < v->n; i++)
        if (items[i].kind == V_FLOAT) program->float_slots[items[i].x] = layout->slot[i];
    for (int32_t r = 0; r < c->n_roots; r++) program->out[r] = layout->slot[v->of[c->roots[r]]];

    m.a = NEW(e->pass, int32_t, n + 1);
    m.b = NEW(e->pass, int32_t, n + 1);
    m.out = NEW(e->pass, int32_t, n + 1);
    for (int32_t i = 0, j; i < n; i = j) {
        for (j = i + 1; j < n && !compare_groups(entries + i, entries + j); j++)
            ;
        m.group = entries + i;
        m.E = j - i;
        for (int32_t k = 0; k < m.E; k++) {
            const mg_value *x = value_at(&m, k);
            m.out[k] = m.slot[m.group[k].value];
            m.a[k] = x->x >= 0 && x->x < v->n ? m.slot[x->x] : 0;
            m.b[k] = x->y >= 0 && x->y < v->n ? m.slot[x->y] : 0;
        }
        emit_group(&m, program->constants);
        mg_flush(e, &m.batch);
    }
    mg_flush(e, &m.local);
}
