/* The interpreter of compiled programs (compiler/program.h says what each instruction does). */
#ifndef MG_BODY_REPLAY_H
#define MG_BODY_REPLAY_H

#include "kernels/body/replay_math.h"
#include "kernels/body/replay_sums.h"

ALWAYS double combine(int kind, double x, double y, int *odd)
{
    switch (kind) {
    case MG_I_ADD: return x + y;
    case MG_I_MUL: return x * y;
    case MG_I_DIV:
        if (y == 0.0) *odd = 1;
        return x / y;
    default: return mg_python_pow(x, y, odd);
    }
}

ALWAYS void two_operands(int kind, const mg_instruction *i, const mg_tile *t, double *frame, int *odd)
{
    const int64_t R = i->R, da = i->da, db = i->db;
    for (int32_t j = 0; j < i->nt; j++, t++) {
        const double *a = frame + t->a, *b = frame + t->b;
        double *restrict o = frame + t->o; /* results overlap no operands */
        if (da == 1 && db == 1)
            for (int64_t r = 0; r < R; r++) o[r] = combine(kind, a[r], b[r], odd);
        else if (da == 1 && db == 0) {
            const double y = *b;
            for (int64_t r = 0; r < R; r++) o[r] = combine(kind, a[r], y, odd);
        } else if (da == 0 && db == 1) {
            const double x = *a;
            for (int64_t r = 0; r < R; r++) o[r] = combine(kind, x, b[r], odd);
        } else
            for (int64_t r = 0; r < R; r++) o[r] = combine(kind, a[r * da], b[r * db], odd);
    }
}
static __attribute__((noinline)) void replay_add(const mg_instruction *i, const mg_tile *t, double *frame)
{
    two_operands(MG_I_ADD, i, t, frame, NULL);
}
static __attribute__((noinline)) void replay_mul(const mg_instruction *i, const mg_tile *t, double *frame)
{
    two_operands(MG_I_MUL, i, t, frame, NULL);
}

/* A matrix whose rows become columns, so that neighbours in a sum's lanes are neighbours in memory. */
static __attribute__((noinline)) void replay_pack(const mg_instruction *i, const mg_tile *t, double *frame)
{
    const int64_t R = i->R, width = (R + 7) / 8 * 8, da = i->da, sa = i->sa;
    for (int32_t j = 0; j < i->nt; j++, t++) {
        const double *a = frame + t->a;
        double *o = frame + t->o;
        if (sa != 1) {
            for (int64_t k = 0; k < t->n; k++)
                for (int64_t r = 0; r < R; r++) o[k * width + r] = a[r * da + k * sa];
            continue;
        }
        for (int64_t r = 0; r < R; r += LANES)
            for (int64_t k = 0; k < t->n; k += LANES) {
                vec rows[LANES];
                UNROLL for (int l = 0; l < LANES; l++)
                    rows[l] = r + l < R ? vec_load_unaligned(a + (r + l) * da + k) : vec_set(0.0);
                vec_transpose(rows);
                UNROLL for (int l = 0; l < LANES; l++)
                    if (k + l < t->n) vec_store_unaligned(o + (k + l) * width + r, rows[l]);
            }
    }
}

static void replay_lookup(const mg_instruction *i, const mg_tile *t, double *frame, double *results, const int32_t *lists,
                          const int32_t *ints)
{
    const int64_t R = i->R, da = i->da;
    for (int32_t j = 0; j < i->nt; j++, t++) {
        double *o = frame + t->o;
        const int64_t index = i->kind == MG_I_SCATTER || i->kind == MG_I_SCATTER_MUL || i->kind == MG_I_GATHER
                                  ? (int64_t)ints[t->n] * i->sa : 0;
        double *a = (i->kind == MG_I_GATHER ? frame : results) + t->a + index;
        switch (i->kind) {
        case MG_I_GATHER:
            for (int64_t r = 0; r < R; r++) o[r] = a[r * da];
            break;
        case MG_I_GATHER_LIST: *o = frame[lists[t->ka + ints[t->n]]]; break;
        case MG_I_INT: *o = (double)ints[t->n]; break;
        case MG_I_SCATTER:
            for (int64_t r = 0; r < R; r++) a[r * da] += o[r * i->sb];
            break;
        case MG_I_SCATTER_MUL:
            for (int64_t r = 0; r < R; r++) a[r * da] += frame[t->b + r * i->db] * o[r * i->sb];
            break;
        default: { /* MG_I_SCATTER_LIST */
            const int32_t to = lists[t->ka + ints[t->n]];
            if (to >= 0) results[to] += t->b >= 0 ? frame[t->b] * *o : *o;
        }
        }
    }
}

static int replay(const mg_program *p, int backward, double *frame, double *leaf_grads, const int32_t *ints)
{
    const mg_instruction *i = p->instructions + (backward ? p->n_forward : 0);
    const mg_instruction *end = i + (backward ? p->n_backward : p->n_forward);
    const int32_t *lists = p->lists;
    int odd = 0;
    for (; i < end; i++) {
        const mg_tile *t = p->tiles + i->first;
        double *results = i->accumulate == MG_INTO_LEAVES ? leaf_grads : frame;
        switch (i->kind) {
        case MG_I_DOT_BROADCAST: case MG_I_DOT_LANES: replay_dot(i, t, frame, results, lists, ints); break;
        case MG_I_DOT_ROWS: dot_rows(i, t, frame, results, frame + p->scratch); break;
        case MG_I_DOT_STRIDED: dot_strided(i, t, frame, results, lists); break;
        case MG_I_DOT_SINGLE: dot_single(i, t, frame, results, lists); break;
        case MG_I_SUM_LANES: sum_lanes(i, t, frame, results, lists); break;
        case MG_I_SUM_STRIDED: sum_strided(i, t, frame, results, lists); break;
        case MG_I_SUM_SINGLE: sum_single(i, t, frame, results, lists); break;
        case MG_I_ADD: replay_add(i, t, frame); break;
        case MG_I_MUL: replay_mul(i, t, frame); break;
        case MG_I_DIV: two_operands(MG_I_DIV, i, t, frame, &odd); break;
        case MG_I_POW_NUMBERS: two_operands(MG_I_POW_NUMBERS, i, t, frame, &odd); break;
        case MG_I_EXP: case MG_I_POW: case MG_I_LOG: case MG_I_RELU: case MG_I_NEG: case MG_I_GRAD_POW: case MG_I_GRAD_LOG:
        case MG_I_GRAD_RELU: case MG_I_CALL:
            replay_function(i, t, frame, frame + p->scratch, p->scratch_size, &odd);
            break;
        case MG_I_COPY:
            for (int32_t j = 0; j < i->nt; j++, t++)
                for (int64_t r = 0; r < i->R; r++) frame[t->o + r] = frame[t->a + r * i->da];
            break;
        case MG_I_ZERO:
            for (int32_t j = 0; j < i->nt; j++, t++) memset(frame + t->o, 0, (size_t)t->n * sizeof *frame);
            break;
        case MG_I_PACK: replay_pack(i, t, frame); break;
        case MG_I_MAX: max_single(i, t, frame, results, lists); break;
        case MG_I_MIN: min_single(i, t, frame, results, lists); break;
        default: replay_lookup(i, t, frame, results, lists, ints);
        }
    }
    return odd;
}

#endif
