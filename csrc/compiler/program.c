/* Freeing compiled programs, and damaging them for tests. */
#include "compiler/program.h"

#include <stdlib.h>
#include <string.h>

void mg_program_free(mg_program *p)
{
    free(p->instructions);
    free(p->tiles);
    free(p->lists);
    free(p->constant_data);
    free(p->out);
    free(p->float_slots);
    memset(p, 0, sizeof *p);
}

void mg_program_damage(mg_program *p, int which)
{
    /* Exchange the operands of the first terms of a sum in one backward tile: an order that is not the script's. */
    for (int32_t k = 0, seen = 0; k < p->n_backward; k++) {
        mg_instruction *i = p->instructions + p->n_forward + k;
        if (i->kind < MG_I_DOT_BROADCAST || i->kind > MG_I_SUM_SINGLE || i->ints >= 0) continue;
        mg_tile *t = p->tiles + i->first;
        if (t->n < 3 || seen++ != which) continue;
        if (t->ka < 0 && t->kb < 0) { /* from the last term to the first */
            for (int32_t q = 0; q < i->nt; q++) {
                t[q].a += (t[q].n - 1) * i->sa;
                t[q].b += (t[q].n - 1) * i->sb;
            }
            i->sa = -i->sa;
            i->sb = -i->sb;
        } else {
            for (int side = 0; side < 2; side++) {
                const int32_t at = side ? t->kb : t->ka;
                if (at < 0) continue;
                const int32_t first = p->lists[at];
                p->lists[at] = p->lists[at + 2];
                p->lists[at + 2] = first;
            }
        }
        return;
    }
}
