/* Turn sums over lists of addresses into instructions: find regular steps, and compute neighbours side by side. */
#include "compiler/passes.h"

#include <stdlib.h>

int64_t mg_frame_take(mg_emitter *e, int64_t n)
{
    const int64_t at = (e->frame + 7) & ~(int64_t)7;
    e->frame = at + n;
    return at;
}

/* ---- lists of offsets, equal ones shared ---- */

int32_t mg_share_list(mg_emitter *e, const int32_t *items, int32_t n)
{
    mg_table *t = &e->list_table;
    if (!t->slots || 2 * t->used > t->mask) {
        int32_t *old = t->slots;
        const uint32_t old_size = old ? t->mask + 1 : 0, size = old ? 2 * old_size : 512;
        t->slots = NEW_ZEROS(e->pass, int32_t, size);
        t->mask = size - 1;
        for (uint32_t k = 0; k < old_size; k++)
            if (old[k]) {
                const int32_t at = e->list_starts.items[2 * (old[k] - 1)], len = e->list_starts.items[2 * (old[k] - 1) + 1];
                uint64_t h = 1;
                for (int32_t i = 0; i < len; i++) h = mg_hash_step(h, (uint64_t)e->lists.items[at + i]);
                while (t->slots[h & t->mask]) h++;
                t->slots[h & t->mask] = old[k];
            }
    }
    uint64_t h = 1;
    for (int32_t i = 0; i < n; i++) h = mg_hash_step(h, (uint64_t)items[i]);
    for (; t->slots[h & t->mask]; h++) {
        const int32_t k = t->slots[h & t->mask] - 1, at = e->list_starts.items[2 * k];
        if (e->list_starts.items[2 * k + 1] == n && !memcmp(e->lists.items + at, items, (size_t)n * sizeof *items)) return at;
    }
    const int32_t at = e->lists.n;
    mg_ints_reserve(e->pass, &e->lists, n);
    memcpy(e->lists.items + at, items, (size_t)n * sizeof *items);
    e->lists.n += n;
    mg_ints_push(e->pass, &e->list_starts, at);
    mg_ints_push(e->pass, &e->list_starts, n);
    t->slots[h & t->mask] = e->list_starts.n / 2;
    t->used++;
    return at;
}

/* ---- batches: instructions that may run in any order, collected until they are flushed ---- */

void mg_add(mg_emitter *e, mg_batch *batch, int32_t seq, mg_instruction i, mg_tile tile)
{
    if (batch->n == batch->capacity) {
        batch->capacity = 2 * batch->capacity + 64;
        mg_pending *larger = NEW(e->pass, mg_pending, batch->capacity);
        if (batch->n) memcpy(larger, batch->items, (size_t)batch->n * sizeof *larger);
        batch->items = larger;
    }
    i.nt = i.first = 0;
    batch->items[batch->n++] = (mg_pending){seq, 0, i, tile};
}

static int compare_pending(const void *p, const void *q)
{
    const mg_pending *x = p, *y = q;
    if (x->seq != y->seq) return x->seq < y->seq ? -1 : 1;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->tile.n < y->tile.n ? -1 : x->tile.n > y->tile.n; /* within an instruction: equal lengths together */
}

void mg_flush(mg_emitter *e, mg_batch *batch)
{
    /* key: the index of the first item with the same instruction; items are sorted by it. */
    const int32_t n = batch->n;
    if (!n) return;
    uint32_t mask = 63;
    while (mask < 2 * (uint32_t)n) mask = 2 * mask + 1;
    int32_t *slots = NEW_ZEROS(e->pass, int32_t, mask + 1);
    for (int32_t k = 0; k < n; k++) {
        const mg_pending *p = batch->items + k;
        uint64_t bits, h = (uint64_t)p->seq;
        memcpy(&bits, &p->i.constant, sizeof bits);
        h = mg_hash_step(mg_hash_step(h, (uint64_t)p->i.kind << 32 | (uint32_t)p->i.R), bits);
        h = mg_hash_step(mg_hash_step(h, (uint64_t)p->i.sa << 32 ^ (uint32_t)p->i.sb), (uint64_t)p->i.da << 32 ^ (uint32_t)p->i.db);
        h = mg_hash_step(h, (uint64_t)p->i.table << 32 ^ (uint32_t)p->i.ints);
        for (;; h++) {
            int32_t *slot = slots + (h & mask);
            if (!*slot) {
                *slot = k + 1;
                batch->items[k].key = k;
                break;
            }
            const mg_pending *q = batch->items + *slot - 1;
            if (q->seq == p->seq && !memcmp(&q->i, &p->i, sizeof p->i)) {
                batch->items[k].key = *slot - 1;
                break;
            }
        }
    }
    /* The sort is stable, so that neighbours stay neighbours. */
    mg_pending *sorted = batch->items;
    int in_order = 1;
    for (int32_t k = 1; k < n; k++) in_order &= compare_pending(sorted + k - 1, sorted + k) <= 0;
    if (!in_order) { /* merge sort */
        mg_pending *from = sorted, *to = NEW(e->pass, mg_pending, n);
        for (int32_t width = 1; width < n; width *= 2) {
            for (int32_t low = 0; low < n; low += 2 * width) {
                const int32_t middle = low + width < n ? low + width : n, high = low + 2 * width < n ? low + 2 * width : n;
                int32_t i = low, j = middle, k = low;
                while (i < middle || j < high)
                    to[k++] = j == high || (i < middle && compare_pending(from + i, from + j) <= 0) ? from[i++] : from[j++];
            }
            mg_pending *swap = from;
            from = to;
            to = swap;
        }
        sorted = from;
    }
    for (int32_t k = 0; k < n; k++) {
        if (e->n_tiles == e->tiles_capacity) {
            e->tiles_capacity = 2 * e->tiles_capacity + 512;
            mg_tile *larger = NEW(e->pass, mg_tile, e->tiles_capacity);
            if (e->n_tiles) memcpy(larger, e->tiles, (size_t)e->n_tiles * sizeof *larger);
            e->tiles = larger;
        }
        if (k == 0 || sorted[k].key != sorted[k - 1].key || sorted[k].seq != sorted[k - 1].seq) {
            if (e->n == e->capacity) {
                e->capacity = 2 * e->capacity + 128;
                mg_instruction *larger = NEW(e->pass, mg_instruction, e->capacity);
                if (e->n) memcpy(larger, e->instructions, (size_t)e->n * sizeof *larger);
                e->instructions = larger;
            }
            e->instructions[e->n] = sorted[k].i;
            e->instructions[e->n++].first = e->n_tiles;
        }
        e->instructions[e->n - 1].nt++;
        e->tiles[e->n_tiles++] = sorted[k].tile;
    }
    batch->n = 0;
}

/* ---- runs ---- */

int32_t mg_find_runs(int32_t E, const int32_t *a, const int32_t *b, const int32_t *out, const uint8_t *same_as_next,
                     mg_run *runs)
{
    int32_t n = 0, s = 0;
#define DA(i) (a[(i) + 1] - a[i])
#define DB(i) (b ? b[(i) + 1] - b[i] : 0)
#define OK(i) (out[(i) + 1] - out[i] == 1 && (!same_as_next || same_as_next[i]))
#define LIKE_LAST(i) (OK(i) && OK((i) - 1) && DA(i) == DA((i) - 1) && DB(i) == DB((i) - 1))
    for (int32_t start = 0, end; start < E - 1; start = end) { /* steps start to end - 1 are equal */
        for (end = start + 1; end < E - 1 && LIKE_LAST(end); end++)
            ;
        int32_t i = start > s ? start : s;
        if (i >= end) continue;
        while (s < i) runs[n++] = (mg_run){s++, 1, 0, 0};
        if (!OK(i)) {
            runs[n++] = (mg_run){s++, 1, 0, 0};
            continue;
        }
        if (end - i == 1 && end < E - 1 && OK(end)) { /* leave the element to a longer run */
            int32_t next = end + 1;
            while (next < E - 1 && LIKE_LAST(next)) next++;
            if (next - end >= 2) {
                runs[n++] = (mg_run){s++, 1, 0, 0};
                continue;
            }
        }
        runs[n++] = (mg_run){i, end - i + 1, DA(i), DB(i)};
        s = end + 1;
    }
    while (s < E) runs[n++] = (mg_run){s++, 1, 0, 0};
    return n;
#undef DA
#undef DB
#undef OK
#undef LIKE_LAST
}

void mg_emit_elements(mg_emitter *e, mg_batch *batch, int kind, int32_t E, const int32_t *a, const int32_t *b,
                      const int32_t *out, double constant)
{
    mg_run *runs = NEW(e->pass, mg_run, E);
    const int32_t n = mg_find_runs(E, a, b, out, NULL, runs);
    for (int32_t k = 0; k < n; k++) {
        const mg_run r = runs[k];
        mg_add(e, batch, 0,
               (mg_instruction){.kind = kind, .R = r.length, .da = r.length > 1 ? r.da : 1, .db = r.length > 1 ? r.db : 0,
                                .ints = -1, .constant = constant},
               (mg_tile){a[r.start], b ? b[r.start] : 0, out[r.start], 0, -1, -1});
    }
}

/* ---- sums ---- */

/* The terms of one side of an element: at base, base + step, ..., or irregular. */
typedef struct {
    int32_t step;
    uint8_t regular;
} pattern;

static pattern find_pattern(const int32_t *x, int32_t n)
{
    pattern p = {n > 1 ? x[1] - x[0] : 0, 1};
    for (int32_t k = 2; k < n && p.regular; k++) p.regular = x[k] - x[k - 1] == p.step;
    return p;
}

static int same_pattern(pattern p, pattern q, const int32_t *x, const int32_t *y, int32_t n)
{
    if (p.regular != q.regular) return 0;
    if (p.regular) return p.step == q.step;
    for (int32_t k = 1; k < n; k++)
        if (x[k] - x[0] != y[k] - y[0]) return 0;
    return 1;
}

static int32_t share_offsets(mg_emitter *e, const int32_t *x, int32_t n)
{
    int32_t small[256], *offsets = n <= 256 ? small : NEW(e->pass, int32_t, n);
    for (int32_t k = 0; k < n; k++) offsets[k] = x[k] - x[0];
    return mg_share_list(e, offsets, n);
}

/* One side of a run of elements. */
typedef struct {
    const int32_t *x; /* of its first element */
    int32_t base, move, step;
    int regular;
} side;

static int32_t find_pack(mg_emitter *e, mg_batch *before, const side *a, int32_t R, int32_t n)
{
    for (int32_t k = 0; k < e->packs.n; k += 6) {
        const int32_t *p = e->packs.items + k;
        if (p[0] == a->base && p[1] == a->move && p[2] == a->step && p[3] == R && p[4] == n) return p[5];
    }
    const int64_t at = mg_frame_take(e, (int64_t)(R + 7) / 8 * 8 * n);
    if (at > INT32_MAX - 4096) mg_pass_unsupported(e->pass, "too large");
    mg_add(e, before, 0,
           (mg_instruction){.kind = MG_I_PACK, .R = R, .sa = a->step, .da = a->move, .ints = -1},
           (mg_tile){a->base, 0, (int32_t)at, n, -1, -1});
    const int32_t entry[6] = {a->base, a->move, a->step, R, n, (int32_t)at};
    for (int k = 0; k < 6; k++) mg_ints_push(e->pass, &e->packs, entry[k]);
    return (int32_t)at;
}

static void emit_plain(mg_emitter *e, mg_batch *batch, int32_t seq, const side *a, const int32_t *elements, int32_t stride,
                       const int32_t *out, int32_t R, int32_t n, int accumulate)
{
    const int lanes = a->move == 0 || a->move == 1;
    if (R >= 2 && (lanes || a->regular)) {
        mg_add(e, batch, seq,
               (mg_instruction){.kind = lanes ? MG_I_SUM_LANES : MG_I_SUM_STRIDED, .R = R, .sa = a->regular ? a->step : 0,
                                .da = a->move, .accumulate = accumulate, .ints = -1},
               (mg_tile){a->base, 0, out[0], n, a->regular ? -1 : share_offsets(e, a->x, n), -1});
        return;
    }
    for (int32_t r = 0; r < R; r++) {
        const int32_t *x = elements + (int64_t)r * stride;
        mg_add(e, batch, seq, (mg_instruction){.kind = MG_I_SUM_SINGLE, .R = 1, .accumulate = accumulate, .ints = -1},
               (mg_tile){x[0], 0, out[r], n, share_offsets(e, x, n), -1});
    }
}

/* shared: another run has the same a, or b. */
static void emit_products(mg_emitter *e, mg_batch *batch, mg_batch *before, int32_t seq, side a, side b,
                          int32_t out, int32_t R, int32_t n, int accumulate, int shared)
{
    if ((a.move == 0 && b.move != 0) || (b.move == 1 && a.move != 0 && a.move != 1)) {
        const side swap = a;
        a = b;
        b = swap;
    }
    if (b.move == 0 && a.move != 0 && a.move != 1 && a.regular && b.regular && R >= 8 && n >= 2 && R * n >= 64) {
        if (shared && !accumulate) {
            mg_add(e, batch, seq,
                   (mg_instruction){.kind = MG_I_DOT_ROWS, .R = R, .sa = a.step, .sb = b.step, .da = a.move, .ints = -1},
                   (mg_tile){a.base, b.base, out, n, -1, -1});
            return;
        }
        a.base = find_pack(e, before, &a, R, n);
        a.move = 1;
        a.step = (R + 7) / 8 * 8;
    }
    const int regular = a.regular && b.regular;
    const int kind = R == 1 ? MG_I_DOT_SINGLE
                     : a.move == 1 && b.move == 0 ? MG_I_DOT_BROADCAST
                     : a.move == 1 && b.move == 1 ? MG_I_DOT_LANES : MG_I_DOT_STRIDED;
    mg_instruction i = {.kind = kind, .R = R, .accumulate = accumulate, .ints = -1};
    mg_tile tile = {a.base, b.base, out, n, -1, -1};
    if (R > 1) {
        i.da = a.move;
        i.db = b.move;
    }
    if (regular) {
        i.sa = a.step;
        i.sb = b.step;
    } else {
        tile.ka = share_offsets(e, a.x, n);
        tile.kb = share_offsets(e, b.x, n);
    }
    mg_add(e, batch, seq, i, tile);
}

static void emit_permuted(mg_emitter *e, mg_batch *batch, side a, side b, int32_t out, int32_t R, int32_t n, int accumulate,
                          const mg_permuted *p)
{
    if (a.move == 0 && b.move == 1) {
        const side swap = a;
        a = b;
        b = swap;
    }
    if (R == 1) {
        a.move = 1;
        b.move = 0;
    }
    if (a.move != 1 || (b.move != 0 && b.move != 1)) mg_pass_unsupported(e->pass, "a sum whose order depends on an index is irregular");
    int32_t *offsets = NEW(e->pass, int32_t, 2 * (size_t)n * p->n_values), m = 0;
    for (int32_t value = 0; value < p->n_values; value++) {
        const int32_t *columns = p->table + (size_t)value * n;
        for (int32_t k = 0; k < n; k++) offsets[m++] = a.x[columns[k]] - a.x[0];
        for (int32_t k = 0; k < n; k++) offsets[m++] = b.x[columns[k]] - b.x[0];
    }
    mg_add(e, batch, 0,
           (mg_instruction){.kind = b.move ? MG_I_DOT_LANES : MG_I_DOT_BROADCAST, .R = R, .da = 1, .db = b.move,
                            .accumulate = accumulate, .ints = p->ints, .table = mg_share_list(e, offsets, m), .n = n},
           (mg_tile){a.base, b.base, out, n, -1, -1});
}

/* Whether two runs multiply the same matrix. */
static int same_matrix(const mg_run *x, const mg_run *y, const int32_t *first_a, const int32_t *first_b)
{
    return x->length == y->length && x->da == y->da && x->db == y->db
           && ((x->da != 0 && first_a[x->start] == first_a[y->start])
               || (x->db != 0 && first_b && first_b[x->start] == first_b[y->start]));
}

static void emit_columns(mg_emitter *e, mg_batch *batch, mg_batch *before, int32_t seq, int32_t E,
                         int32_t n, int32_t stride, const int32_t *a, const int32_t *b, const int32_t *out, int accumulate,
                         const mg_permuted *permuted)
{
    pattern *pa = NEW(e->pass, pattern, E), *pb = b ? NEW(e->pass, pattern, E) : NULL;
    int32_t *first_a = NEW(e->pass, int32_t, E), *first_b = b ? NEW(e->pass, int32_t, E) : NULL;
    uint8_t *same = NEW(e->pass, uint8_t, E);
    mg_run *runs = NEW(e->pass, mg_run, E);
    for (int32_t i = 0; i < E; i++) {
        const int32_t *x = a + (int64_t)i * stride, *y = b ? b + (int64_t)i * stride : NULL;
        pa[i] = find_pattern(x, n);
        first_a[i] = x[0];
        if (b) {
            pb[i] = find_pattern(y, n);
            first_b[i] = y[0];
        }
        if (i > 0)
            same[i - 1] = same_pattern(pa[i - 1], pa[i], x - stride, x, n) && (!b || same_pattern(pb[i - 1], pb[i], y - stride, y, n));
    }
    const int32_t m = mg_find_runs(E, first_a, first_b, out, same, runs);
    for (int32_t k = 0; k < m; k++) {
        const mg_run r = runs[k];
        const int32_t *x = a + (int64_t)r.start * stride;
        const side left = {x, x[0], r.da, pa[r.start].step, pa[r.start].regular};
        if (!b) {
            emit_plain(e, batch, seq, &left, x, stride, out + r.start, r.length, n, accumulate);
            continue;
        }
        const int32_t *y = b + (int64_t)r.start * stride;
        const side right = {y, y[0], r.db, pb[r.start].step, pb[r.start].regular};
        if (permuted)
            emit_permuted(e, batch, left, right, out[r.start], r.length, n, accumulate, permuted);
        else
            emit_products(e, batch, before, seq, left, right, out[r.start], r.length, n, accumulate,
                          (k > 0 && same_matrix(runs + k - 1, runs + k, first_a, first_b))
                              || (k + 1 < m && same_matrix(runs + k, runs + k + 1, first_a, first_b)));
    }
}

void mg_emit_sums(mg_emitter *e, mg_batch *batch, mg_batch *before, int32_t E, int32_t n,
                  const int32_t *a, const int32_t *b, const int32_t *out, int accumulate, const mg_permuted *permuted)
{
    if (!permuted && n > 1 && n <= 3 && E > 1) { /* a short sum is faster a column at a time, over all elements */
        for (int32_t k = 0; k < n; k++)
            emit_columns(e, batch, before, k, E, 1, n, a + k, b ? b + k : NULL, out,
                         k && !accumulate ? 1 : accumulate, NULL);
        return;
    }
    emit_columns(e, batch, before, 0, E, n, n, a, b, out, accumulate, permuted);
}
