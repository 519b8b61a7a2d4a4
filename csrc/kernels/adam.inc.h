/* Adam: one pass over the parameters, the script's arithmetic operation by operation (reference.py, Adam.step).
 *
 * The C library decides what g**2 and v_hat**0.5 are, and it is not correctly rounded. But it is nearly so: where the
 * exact square or root lies far enough from the middle between two doubles, it is the nearer of them, and arithmetic
 * finds it. Near the middle there are two candidates. Most often both lead to the same v and to the same parameter in
 * the end, and then either will do; the few parameters left over are done one at a time, asking the C library. */

/* ---- one at a time ---- */

/* One parameter, exactly as the script does it, but for m, which is the new one already. libm: ask the C library for the
 * square and the root in any case; else only where it matters. */
ALWAYS int adam_rest(const mg_adam_coefs *c, int libm, double *data, double *grad, const double *m, double *v)
{
    const double g = *grad, p = *data;
    double other;

    const double square = libm ? other = mg_pow(g, 2.0) : square_of(g, &other);
    if (isinf(square) && isfinite(g)) return MG_POW_RANGE;
    const double decayed_v = c->beta2 * *v;
    *v = decayed_v + c->one_minus_beta2 * square;
    if (decayed_v + c->one_minus_beta2 * other != *v) *v = decayed_v + c->one_minus_beta2 * mg_pow(g, 2.0);

    if (c->m_scale == 0.0 || c->v_scale == 0.0) return MG_ZERO_DIVISION;
    const double m_hat = *m / c->m_scale, v_hat = *v / c->v_scale;
    if (v_hat < 0.0 && isfinite(v_hat)) return MG_POW_COMPLEX;
    const double root = libm ? other = mg_pow(v_hat, 0.5) : root_of(v_hat, &other);
    if (root + c->eps == 0.0) return MG_ZERO_DIVISION;
    *data = p - c->lr_t * m_hat / (root + c->eps);
    if (other != root && p - c->lr_t * m_hat / (other + c->eps) != *data)
        *data = p - c->lr_t * m_hat / (mg_pow(v_hat, 0.5) + c->eps);
    *grad = 0.0;
    return MG_OK;
}

ALWAYS int adam_each(const mg_adam_coefs *c, int libm, int64_t n, double *data, double *grad, double *m, double *v)
{
    for (int64_t i = 0; i < n; i++) {
        m[i] = c->beta1 * m[i] + c->one_minus_beta1 * grad[i];
        const int status = adam_rest(c, libm, data + i, grad + i, m + i, v + i);
        if (status) return status;
    }
    return MG_OK;
}

static int adam_update_libm(const mg_adam_coefs *c, int64_t n, double *data, double *grad, double *m, double *v)
{
    return adam_each(c, 1, n, data, grad, m, v);
}

/* ---- a vector at a time ---- */

/* The coefficients, and the constants of the algorithm, in every lane. */
typedef struct {
    vec beta1, one_minus_beta1, beta2, one_minus_beta2, m_scale, m_inverse, v_scale, v_inverse, lr_t, eps;
    vec square_stretch, v_low, v_high, one, slack;
    vec p_exponent, p_in_range; /* bit patterns */
    root_constants root;
} adam_vectors;

ALWAYS adam_vectors adam_prepare(const mg_adam_coefs *c)
{
    return (adam_vectors){
        vec_keep(c->beta1), vec_keep(c->one_minus_beta1), vec_keep(c->beta2), vec_keep(c->one_minus_beta2),
        vec_keep(c->m_scale), vec_keep(1.0 / c->m_scale), vec_keep(c->v_scale), vec_keep(1.0 / c->v_scale),
        vec_keep(c->lr_t), vec_keep(c->eps),
        .square_stretch = vec_keep(1.0 + STRETCH(SQUARE_WINDOW)),
        .v_low = vec_keep(0x1p-200), .v_high = vec_keep(0x1p+100),
        .one = vec_keep(1.0), .slack = vec_keep(MG_FMA ? 0x3p-52 : 0x1p-49),
        .p_exponent = vec_keep(0x1p-895), .p_in_range = vec_keep(0x1p+513), /* 128 << 52, 0x600 << 52 */
        .root = root_prepare(POW_WINDOW),
    };
}

/* beta * x + 0.0, 0 <= beta <= 1, without the hundreds of cycles that a processor takes over a product with a subnormal
 * number. Such a number is its bits times 2**-1074, and so is its product. */
ALWAYS vec decay(vec x, vec beta)
{
#if MG_FMA
    const vec two52 = vec_set(0x1p+52);
    const ivec bits = (ivec)x & ivec_set(INT64_MAX);
    const vec product = vec_fma(beta, (vec)(bits | (ivec)two52) - two52, two52); /* the sum rounds to an integer */
    const ivec product_bits = (ivec)product & ivec_set((1LL << 52) - 1);
    const ivec subnormal = bits < ivec_set(1LL << 52);
    const vec normal = beta * (vec)((ivec)x & ~subnormal) + 0.0;
    const ivec decayed = product_bits | ((ivec)x & ivec_set(INT64_MIN) & (product_bits != 0));
    return (vec)((decayed & subnormal) | ((ivec)normal & ~subnormal));
#else
    return beta * x + 0.0;
#endif
}

/* A vector of parameters. m is right in all lanes, the rest in those that are sound and not doubtful. (Two masks, because
 * to combine them takes the ports that the arithmetic needs.) What was before is kept in old_*.
 * unit_m, unit_v: m_scale, v_scale are 1.0, as they become when beta ** t is below 2**-54. sleepers: look for parameters
 * that have had no gradient for thousands of steps. */
ALWAYS void adam_lanes(const adam_vectors *c, int unit_m, int unit_v, int sleepers, double *data, double *grad,
                       double *m, double *v, double *old_data, double *old_grad, double *old_v, uint8_t *sound,
                       uint8_t *doubtful)
{
    const vec p = vec_load_unaligned(data), g = vec_load_unaligned(grad);
    vec mm = vec_load_unaligned(m), vv = vec_load_unaligned(v);
    vec_store(old_data, p);
    vec_store(old_grad, g);
    vec_store(old_v, vv);

    /* With g = 0 and |m| < 2**-895 a step is below 2**-780 (eps is 2**-40 or more) and does not move a p of 2**-639 or
     * more. m, and in the end v, become subnormal, and are kept out of the arithmetic. */
    mask asleep = MASK_ALL;
    int any_asleep = 0;
    vec asleep_m = {0}, asleep_v = {0};
    if (sleepers) {
        asleep = ~mask_any_bit((ivec)g | ((ivec)mm & ivec_set(0x780LL << 52)), ivec_set(-1)) & MASK_ALL;
        if (mask_bits(asleep)) {
            asleep &= mask_any_bit(ivec_add((ivec)p, (ivec)c->p_exponent), (ivec)c->p_in_range)
                      & mask_between(vv, vec_set(0.0), c->v_high);
            any_asleep = mask_bits(asleep) != 0;
            asleep_m = decay(mm, c->beta1);
            asleep_v = decay(vv, c->beta2);
            mm = mask_select(asleep, vec_set(0.0), mm);
            vv = mask_select(asleep, vec_set(1.0), vv);
        }
    }
    vec new_m = c->beta1 * mm + c->one_minus_beta1 * g;

    /* v with the square rounded to nearest, and with the double that pow may return instead. Squares too small for an
     * exact error are too small to move a v that is in range. */
    const vec square = g * g;
    const vec other_square = nudge(product_error(g, g, square), c->square_stretch, square);
    const vec decayed_v = c->beta2 * vv;
    vec new_v = decayed_v + c->one_minus_beta2 * square;
    const vec other_v = decayed_v + c->one_minus_beta2 * other_square;
    mask good = mask_between(new_v, c->v_low, c->v_high) & mask_equal(new_v, other_v);

    const vec m_hat = unit_m ? new_m : divide_by_constant(new_m, c->m_scale, c->m_inverse);
    const vec v_hat = unit_v ? new_v : divide_by_constant(new_v, c->v_scale, c->v_inverse);
    mask doubt;
    vec rest;
    const vec root = root_by_residual(&c->root, v_hat, &doubt, &rest);
    const vec step = c->lr_t * m_hat / (root + c->eps);
    vec new_p = p - step;
    /* 2**-639 <= |new_p| < 2**897, and no nan, by its exponent: 128 more either overflows it or leaves it below 512
     * exactly outside. So no step was so small that it lost bits, or that did not matter, and none overflowed. */
    good &= mask_any_bit(ivec_add((ivec)new_p, (ivec)c->p_exponent), (ivec)c->p_in_range);
    /* The other root, one unit in the last place above or below, moves root + eps by at most two units in its last
     * place, 2**-51 of itself. That moves the quotient, of s units, 2**52 <= s < 2**53, the other way by s * 2**-51 of
     * them, and the step, which is the quotient rounded, by a whole number that is less than one more: by 3 where
     * s < 1.5 * 2**52, by 4 or 5 above, and so by at most 3 * 2**-52 of itself. Where a step that is so much shorter
     * (or longer) gives the same parameter, so does every step in between. (Without fused multiply-adds the product is
     * rounded, and the margin is wider.) */
    const vec other_step = vec_copysign(c->slack, rest) - c->one; /* times step, and negative */
    doubt = mask_unequal(doubt, new_p, nudge(step, other_step, p));

    if (sleepers && any_asleep) {
        new_p = mask_select(asleep, p, new_p);
        new_m = mask_select(asleep, asleep_m, new_m);
        new_v = mask_select(asleep, asleep_v, new_v);
        good |= asleep;
        doubt &= ~asleep;
    }
    vec_store_unaligned(data, new_p);
    vec_store_unaligned(grad, vec_set(0.0));
    vec_store_unaligned(m, new_m);
    vec_store_unaligned(v, new_v);
    mask_store_bits(sound, good);
    mask_store_bits(doubtful, doubt);
}

#define ADAM_CHUNK 256 /* parameters between one look at what was left open and the next; a multiple of 64 */

/* A chunk before its update, and of each vector the bits of those lanes whose update is sound, or doubtful. */
typedef struct {
    double data[ADAM_CHUNK], grad[ADAM_CHUNK], v[ADAM_CHUNK];
    uint8_t sound[ADAM_CHUNK / LANES], doubtful[ADAM_CHUNK / LANES];
} __attribute__((aligned(64))) adam_chunk;

/* Eight vectors at a time: a bit in the byte of each that has something left. */
ALWAYS uint64_t adam_left(const adam_chunk *old, int k)
{
    const uint64_t bytes = 0x0101010101010101u;
    uint64_t sound, doubtful;
    memcpy(&sound, old->sound + 8 * k, 8);
    memcpy(&doubtful, old->doubtful + 8 * k, 8);
    const uint64_t open = (~sound & bytes * ALL_LANES) | doubtful;
    return (((open & bytes * 0x7f) + bytes * 0x7f) | open) & bytes * 0x80; /* the high bit of each byte that is not 0 */
}

/* The lanes of a vector that must be done again. */
ALWAYS unsigned adam_open(const adam_chunk *old, int64_t i)
{
    return (ALL_LANES & ~(unsigned)old->sound[i / LANES]) | old->doubtful[i / LANES];
}

/* Parameters that the vectors could not answer for, as they were before; m is the new one already, and in its place. */
enum { ADAM_PENDING = 2 * ADAM_CHUNK };
typedef struct {
    int64_t count, at[ADAM_PENDING];
    double data[ADAM_PENDING + LANES], grad[ADAM_PENDING + LANES], v[ADAM_PENDING + LANES];
} __attribute__((aligned(64))) adam_pending;

/* Whether g, m and v are all +0.0: the row of a letter, or a position, that has not come up yet. They stay so, and the
 * parameter stays what it is if lr_t is positive (p - 0.0 is p, but -0.0 - -0.0 is not). */
ALWAYS int adam_idle(const mg_adam_coefs *c, const adam_chunk *old, int64_t i, const double *m)
{
    const ivec any = (ivec)vec_load(old->grad + i) | (ivec)vec_load_unaligned(m) | (ivec)vec_load(old->v + i);
    return c->lr_t > 0.0 && !mask_bits(mask_any_bit(any, ivec_set(-1)));
}

/* Put what is open of a chunk, the n parameters from `first`, on the list. */
static __attribute__((noinline)) void adam_collect(const mg_adam_coefs *c, const adam_chunk *old, int64_t first, int64_t n,
                                                   double *data, const double *m, double *v, adam_pending *pending)
{
    int64_t count = pending->count;
    for (int k = 0; k < ADAM_CHUNK / LANES / 8; k++)
    for (uint64_t left = adam_left(old, k); left; left &= left - 1) {
        const int64_t i = LANES * (8 * k + (int64_t)__builtin_ctzll(left) / 8);
        if (n - i >= LANES && adam_idle(c, old, i, m + first + i)) {
            vec_store_unaligned(data + first + i, vec_load(old->data + i));
            vec_store_unaligned(v + first + i, vec_set(0.0));
            continue;
        }
        for (unsigned open = adam_open(old, i); open; open &= open - 1) {
            const int64_t j = i + __builtin_ctz(open);
            pending->at[count] = first + j;
            pending->data[count] = old->data[j];
            pending->grad[count] = old->grad[j];
            pending->v[count] = old->v[j];
            count += j < n;
        }
    }
    pending->count = count;
}

/* A vector of the list, its m loaded: data and v become the new ones. Divisions and root are the processor's, correctly
 * rounded at any magnitude. pow may return another double than the square and the root rounded to nearest: where that
 * would lead elsewhere, and nowhere else, the C library is asked. Returns the lanes that are right; the others are out
 * of the ranges in which this is so. */
ALWAYS unsigned adam_again(const mg_adam_coefs *c, double *data, const double *grad, const double *m, double *v)
{
    const vec p = vec_load(data), g = vec_load(grad), new_m = vec_load(m);
    const vec square = g * g, decayed_v = c->beta2 * vec_load(v);
    vec new_v = decayed_v + c->one_minus_beta2 * square;
    /* A unit in the last place of the square is at most 2**-52 of it, in the wide range; pow(0, y) is 0. */
    const ivec wide = (g == 0.0) | ((vec_abs(g) >= 0x1p-480) & (vec_abs(g) < 0x1p+250));
    const ivec near = (vec_abs(g) >= 0x1p-150) & (vec_abs(g) < 0x1p+70);
    const ivec same_v = decayed_v + c->one_minus_beta2 * (square * (1.0 + 0x1p-51))
                        == decayed_v + c->one_minus_beta2 * (square * (1.0 - 0x1p-51));
    const vec other_square = nudge(product_error(g, g, square), vec_set(1.0 + STRETCH(SQUARE_WINDOW)), square);
    const ivec near_same_v = decayed_v + c->one_minus_beta2 * other_square == new_v;
    ivec right = (wide & same_v) | near;
    for (unsigned ask = mask_bits(mask_any_bit(near & ~same_v & ~near_same_v, ivec_set(-1))); ask; ask &= ask - 1) {
        const int l = __builtin_ctz(ask);
        new_v[l] = decayed_v[l] + c->one_minus_beta2 * mg_pow(g[l], 2.0);
    }

    const vec v_hat = new_v / c->v_scale, root = vec_sqrt(v_hat), scaled_m = c->lr_t * (new_m / c->m_scale);
    const vec step = scaled_m / (root + c->eps);
    vec new_p = p - step;
    /* The same for the root. A step so small that its own last place is coarser (below 2**-960) does not move a parameter
     * of 2**-900 or more. */
    right &= (vec_abs(p) >= 0x1p-900) & (vec_abs(new_m) < 0x1p+500) & (new_v >= 0.0) & (new_v < 0x1p+500);
    const ivec same_p = p - step * (1.0 + 0x1p-49) == p - step * (1.0 - 0x1p-49);
    const ivec near_root = (v_hat >= 0x1p-200) & (v_hat < 0x1p+140);
    const vec other_root = nudge(root_rest(v_hat, root) / root, vec_set(0.5 * (1.0 + STRETCH(POW_WINDOW))), root);
    const ivec near_same_p = p - scaled_m / (other_root + c->eps) == new_p;
    right &= same_p | near_root;
    for (unsigned ask = mask_bits(mask_any_bit(near_root & ~same_p & ~near_same_p, ivec_set(-1))); ask; ask &= ask - 1) {
        const int l = __builtin_ctz(ask);
        new_p[l] = p[l] - scaled_m[l] / (mg_pow(v_hat[l], 0.5) + c->eps);
    }
    vec_store(data, new_p);
    vec_store(v, new_v);
    return mask_bits(mask_any_bit(right, ivec_set(-1)));
}

/* Settle what is on the list. */
static __attribute__((noinline)) int adam_settle(const mg_adam_coefs *c, adam_pending *pending, double *data, double *m,
                                                 double *v)
{
    for (int l = 0; l < LANES; l++) /* there is nothing to do beyond the end, but something must stand there */
        pending->data[pending->count + l] = pending->grad[pending->count + l] = pending->v[pending->count + l] = 1.0;
    for (int64_t k = 0; k < pending->count; k += LANES) {
        double new_data[LANES] __attribute__((aligned(64))), new_v[LANES] __attribute__((aligned(64)));
        double new_m[LANES] __attribute__((aligned(64))) = {0.0};
        const int lanes = pending->count - k < LANES ? (int)(pending->count - k) : LANES;
        for (int l = 0; l < lanes; l++) new_m[l] = m[pending->at[k + l]];
        memcpy(new_data, pending->data + k, sizeof new_data);
        memcpy(new_v, pending->v + k, sizeof new_v);
        const unsigned right = adam_again(c, new_data, pending->grad + k, new_m, new_v);
        for (int l = 0; l < lanes; l++) {
            const int64_t j = pending->at[k + l];
            if (!(right >> l & 1)) {
                new_data[l] = pending->data[k + l];
                new_v[l] = pending->v[k + l];
                const int status = adam_rest(c, 0, new_data + l, pending->grad + k + l, m + j, new_v + l);
                if (status) return status;
            }
            data[j] = new_data[l];
            v[j] = new_v[l];
        }
    }
    pending->count = 0;
    return MG_OK;
}

/* The last vector, of which `lanes` lanes exist. */
static void adam_part(const adam_vectors *c, int unit_m, int unit_v, int sleepers, int64_t lanes, double *data,
                      double *grad, double *m, double *v, adam_chunk *old, int64_t i)
{
    double part[4][LANES] = {{0.0}};
    double *const whole[4] = {data, grad, m, v};
    for (int a = 0; a < 4; a++) memcpy(part[a], whole[a], (size_t)lanes * sizeof(double));
    adam_lanes(c, unit_m, unit_v, sleepers, part[0], part[1], part[2], part[3], old->data + i, old->grad + i,
               old->v + i, old->sound + i / LANES, old->doubtful + i / LANES);
    for (int a = 0; a < 4; a++) memcpy(whole[a], part[a], (size_t)lanes * sizeof(double));
}

ALWAYS int adam_chunks(const mg_adam_coefs *coefs, int unit_m, int unit_v, int sleepers, int64_t n, double *data,
                       double *grad, double *m, double *v)
{
    const adam_vectors c = adam_prepare(coefs);
    adam_chunk old;
    adam_pending pending;
    pending.count = 0;
    for (int64_t first = 0; first < n; first += ADAM_CHUNK) {
        const int64_t count = n - first < ADAM_CHUNK ? n - first : ADAM_CHUNK;
        double *const d = data + first, *const g = grad + first, *const mm = m + first, *const vv = v + first;
        int64_t i = 0;
        if (count < ADAM_CHUNK) { /* there is nothing to do beyond the end */
            memset(old.sound, ALL_LANES, sizeof old.sound);
            memset(old.doubtful, 0, sizeof old.doubtful);
        }
        for (; i + LANES <= count; i += LANES)
            adam_lanes(&c, unit_m, unit_v, sleepers, d + i, g + i, mm + i, vv + i, old.data + i, old.grad + i, old.v + i,
                       old.sound + i / LANES, old.doubtful + i / LANES);
        if (i < count) adam_part(&c, unit_m, unit_v, sleepers, count - i, d + i, g + i, mm + i, vv + i, &old, i);
        adam_collect(coefs, &old, first, count, data, m, v, &pending);
        if (pending.count > ADAM_PENDING - ADAM_CHUNK) {
            const int status = adam_settle(coefs, &pending, data, m, v);
            if (status) return status;
        }
    }
    return adam_settle(coefs, &pending, data, m, v);
}

typedef int adam_kernel(const mg_adam_coefs *c, int64_t n, double *data, double *grad, double *m, double *v);
#define ADAM_KERNEL(name, unit_m, unit_v, sleepers)                                                             \
    static int name(const mg_adam_coefs *c, int64_t n, double *data, double *grad, double *m, double *v)              \
    {                                                                                                                 \
        return adam_chunks(c, unit_m, unit_v, sleepers, n, data, grad, m, v);                                          \
    }
ADAM_KERNEL(adam_update_early, 0, 0, 0)
ADAM_KERNEL(adam_update_unit_m, 1, 0, 0)
ADAM_KERNEL(adam_update_unit, 1, 1, 0)
ADAM_KERNEL(adam_update_unit_m_sleepers, 1, 0, 1)
ADAM_KERNEL(adam_update_unit_sleepers, 1, 1, 1)
#undef ADAM_KERNEL

static adam_kernel *adam_choose(const mg_adam_coefs *c)
{
    if (c->m_scale != 1.0) return adam_update_early;
    if (c->sleepers) return c->v_scale != 1.0 ? adam_update_unit_m_sleepers : adam_update_unit_sleepers;
    return c->v_scale != 1.0 ? adam_update_unit_m : adam_update_unit;
}

/* If the script would raise an error at one of the parameters, a piece must be undone, and gone through as the script
 * does it. */
static int adam_update_or_undo(adam_kernel *update, const mg_adam_coefs *c, int64_t n, double *data, double *grad,
                               double *m, double *v)
{
    enum { PIECE = 256 };
    double old[4][PIECE];
    double *const whole[4] = {data, grad, m, v};
    for (int64_t i = 0; i < n; i += PIECE) {
        const int64_t count = n - i < PIECE ? n - i : PIECE;
        for (int a = 0; a < 4; a++) memcpy(old[a], whole[a] + i, (size_t)count * sizeof(double));
        if (update(c, count, data + i, grad + i, m + i, v + i)) {
            for (int a = 0; a < 4; a++) memcpy(whole[a] + i, old[a], (size_t)count * sizeof(double));
            return adam_each(c, 0, count, data + i, grad + i, m + i, v + i);
        }
    }
    return MG_OK;
}

static int adam_update(const mg_adam_coefs *c, int may_fail, int64_t n, double *data, double *grad, double *m, double *v)
{
    if (!exact_is_known) return adam_each(c, 1, n, data, grad, m, v);
    if (!c->vectorizable) return adam_each(c, 0, n, data, grad, m, v);
    adam_kernel *const update = adam_choose(c);
    if (may_fail) return adam_update_or_undo(update, c, n, data, grad, m, v);
    return update(c, n, data, grad, m, v);
}
