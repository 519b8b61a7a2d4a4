#include "fused/in_range.h"

enum { P_STEPS = 8, V_STEPS = 64 }; /* P_STEPS * 54 + 40 < 511; V_STEPS + 100 < 199 */

mg_range mg_range_of(const mg_engine *e, const mg_matrix *matrix, const mg_adam_coefs *coefs)
{
    mg_known_range *const known = e->known_ranges + mg_turn_of(matrix);
    if (e->kernels->lanes == 8) return MG_RANGE_UNKNOWN; /* AVX-512's loop looks at the ranges of many results at once */
    if (!(coefs->beta2 >= 0.5)) return MG_RANGE_UNKNOWN;
    if (known->wait) {
        known->wait--;
        return MG_RANGE_UNKNOWN;
    }
    return !known->steps_of_v ? MG_LOOK_AT_ALL : !known->steps_of_p ? MG_LOOK_AT_P : MG_RANGE_KNOWN;
}

int mg_are_in_range(const mg_engine *e, mg_range range, const mg_state *s, int64_t at, int64_t n)
{
    const mg_kernels *const k = e->kernels;
    if (range == MG_RANGE_UNKNOWN) return 0;
    if (range == MG_RANGE_KNOWN) return 1;
    if (!k->are_between(n, s->params + at, 0x1p-40, 0x1p+400)) return 0;
    return range == MG_LOOK_AT_P
           || (k->are_between(n, s->m + at, 0.0, 0x1p+50) && k->are_between(n, s->v + at, 0x1p-100, 0x1p+90));
}

void mg_note_range(const mg_engine *e, const mg_matrix *matrix, mg_range range, int all_in_range, int has_zero)
{
    mg_known_range *const known = e->known_ranges + mg_turn_of(matrix);
    if (range == MG_RANGE_UNKNOWN) return;
    if (!all_in_range) {
        *known = (mg_known_range){.wait = MG_LOOK_AGAIN};
        return;
    }
    if (range == MG_LOOK_AT_ALL) known->steps_of_v = V_STEPS;
    if (range != MG_RANGE_KNOWN) known->steps_of_p = P_STEPS;
    known->steps_of_v--;
    known->steps_of_p--;
    if (has_zero) known->steps_of_p = 0;
}
