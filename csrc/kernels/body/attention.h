/* Attention, some heads of one panel of queries: the queries fill the lanes, the keys come one after the other.
 *
 * In the panel's own keys (the diagonal) a query must not see the keys after it. What belongs to such a pair is set
 * to +0.0 *after* multiplying, because 0 * inf is nan; adding +0.0 leaves a sum that began at +0.0 as it is. */

/* out[t] = sum over j of x[t][j] * y[j] for the LANES keys of one panel; j ascending or descending. */
ALWAYS void dot_keys(int descending, int64_t head_dim, const double *x, const double *y, vec out[LANES])
{
    UNROLL for (int t = 0; t < LANES; t++) out[t] = (vec){0};
    for (int64_t s = 0; s < head_dim; s++) {
        int64_t j = descending ? head_dim - 1 - s : s;
        vec yj = vec_load(y + j * LANES);
        UNROLL for (int t = 0; t < LANES; t++) out[t] += vec_set(x[j * LANES + t]) * yj;
    }
}

/* sum[j] += x[t][j] * weight[t] for the keys of one panel, of which `count` exist. */
ALWAYS void sum_panel(int descending, int diagonal, int dims, int64_t count, const double *x, const double *weight,
                      vec sum[8])
{
    UNROLL for (int s = 0; s < LANES; s++) {
        const int t = descending ? LANES - 1 - s : s;
        if (t >= count) continue;
        vec weight_t = vec_load(weight + t * LANES);
        UNROLL for (int j = 0; j < dims; j++) {
            vec term = vec_set(x[j * LANES + t]) * weight_t;
            sum[j] = vec_add_if(diagonal, lanes_from(t), sum[j], term);
        }
    }
}

/* out[j] = sum over t of x[t][j] * weight[t], `dims` of the head's dimensions, t ascending or descending. */
ALWAYS void sum_keys(int descending, int dims, int64_t panel, int64_t nkeys, const double *x, int64_t stride,
                     const double *weight, double *out)
{
    vec sum[8];
    UNROLL for (int j = 0; j < dims; j++) sum[j] = (vec){0};
    const int64_t last = nkeys - panel * LANES;
    if (descending) sum_panel(1, 1, dims, last, x + panel * stride, weight + panel * LANES * LANES, sum);
    for (int64_t s = 0; s < panel; s++) {
        const int64_t b = descending ? panel - 1 - s : s;
        sum_panel(descending, 0, dims, LANES, x + b * stride, weight + b * LANES * LANES, sum);
    }
    if (!descending) sum_panel(0, 1, dims, last, x + panel * stride, weight + panel * LANES * LANES, sum);
    UNROLL for (int j = 0; j < dims; j++) vec_store(out + j * LANES, sum[j]);
}

ALWAYS void sum_keys_all(int descending, int64_t panel, int64_t nkeys, int64_t head_dim, const double *x,
                         int64_t stride, const double *weight, double *out)
{
    int64_t j = 0;
    for (; j + 8 <= head_dim; j += 8)
        sum_keys(descending, 8, panel, nkeys, x + j * LANES, stride, weight, out + j * LANES);
    for (; j + 4 <= head_dim; j += 4)
        sum_keys(descending, 4, panel, nkeys, x + j * LANES, stride, weight, out + j * LANES);
    for (; j < head_dim; j++)
        sum_keys(descending, 1, panel, nkeys, x + j * LANES, stride, weight, out + j * LANES);
}

/* Keys that some query of this panel sees. */
ALWAYS int64_t keys_of(int64_t panel, int64_t n)
{
    int64_t end = (panel + 1) * LANES;
    return end < n ? end : n;
}

/* Logits of one head, less the largest that each query sees; -inf for a key that it does not see. */
ALWAYS void attention_logits(int64_t panel, int64_t nkeys, int64_t head_dim, double factor, const double *q,
                             const double *k, int64_t stride, double *logits)
{
    vec largest = {0};
    for (int64_t b = 0; b <= panel; b++) {
        vec logit[LANES];
        dot_keys(0, head_dim, k + b * stride, q, logit);
        if (b == 0) largest = logit[0] * factor; /* every query sees key 0 */
        const int64_t count = nkeys - b * LANES < LANES ? nkeys - b * LANES : LANES;
        UNROLL for (int t = 0; t < LANES; t++) {
            if (t >= count) break;
            vec l = logit[t] * factor;
            if (b == panel) l = vec_select(lanes_from(t), l, vec_set(-INFINITY));
            largest = vec_max(largest, l);
            vec_store(logits + (b * LANES + t) * LANES, l);
        }
    }
    for (int64_t t = 0; t < nkeys; t++) vec_store(logits + t * LANES, vec_load(logits + t * LANES) - largest);
}

static void attention_forward(int64_t panel, int64_t n, int64_t heads, int64_t head_dim, double factor,
                              const double *q, const double *k, const double *v, int64_t stride, double *exps,
                              double *total, double *inverse, double *out, double *scratch)
{
    const int64_t nkeys = keys_of(panel, n), diagonal = panel * LANES, square = nkeys * LANES;
    const int64_t head = head_dim * LANES;
    for (int64_t h = 0; h < heads; h++) {
        const double *q_h = q + panel * stride + h * head, *k_h = k + h * head;
        if (head_dim == 4)
            attention_logits(panel, nkeys, 4, factor, q_h, k_h, stride, exps + h * square);
        else
            attention_logits(panel, nkeys, head_dim, factor, q_h, k_h, stride, exps + h * square);
    }
    exp_array(heads * square, exps, exps);
    for (int64_t h = 0; h < heads; h++) {
        const double *exps_h = exps + h * square;
        vec sum = {0};
        for (int64_t t = 0; t < diagonal; t++) sum += vec_load(exps_h + t * LANES);
        UNROLL for (int t = 0; t < LANES; t++)
            if (diagonal + t < nkeys)
                sum = vec_add_where(lanes_from(t), sum, vec_load(exps_h + (diagonal + t) * LANES));
        vec_store(total + h * LANES, sum);
    }
    pow_m1_array(heads * LANES, total, inverse);
    for (int64_t h = 0; h < heads; h++) {
        vec inv = vec_load(inverse + h * LANES);
        for (int64_t t = 0; t < nkeys; t++)
            vec_store(scratch + t * LANES, vec_load(exps + h * square + t * LANES) * inv);
        sum_keys_all(0, panel, nkeys, head_dim, v + h * head, stride, scratch, out + h * head);
    }
}

/* dk[t][j] += q[p][j] * dlogit[p][t] and dv[t][j] += dout[p][j] * weight[p][t] for the keys t of panel b, which fill
 * the lanes, and the queries p of `panel`, which come one after the other, descending. */
ALWAYS void add_to_keys(int dims, int64_t nqueries, int diagonal, int set, const vec dlogit[LANES],
                        const vec weight[LANES], const double *q, const double *dout, double *dk, double *dv)
{
    vec sum_k[4], sum_v[4];
    UNROLL for (int j = 0; j < dims; j++) {
        sum_k[j] = set ? (vec){0} : vec_load(dk + j * LANES);
        sum_v[j] = set ? (vec){0} : vec_load(dv + j * LANES);
    }
    UNROLL for (int p = LANES - 1; p >= 0; p--) {
        if (p >= nqueries) continue;
        UNROLL for (int j = 0; j < dims; j++) {
            vec to_k = vec_set(q[j * LANES + p]) * dlogit[p], to_v = vec_set(dout[j * LANES + p]) * weight[p];
            sum_k[j] = vec_add_if(diagonal, lanes_to(p), sum_k[j], to_k);
            sum_v[j] = vec_add_if(diagonal, lanes_to(p), sum_v[j], to_v);
        }
    }
    UNROLL for (int j = 0; j < dims; j++) {
        vec_store(dk + j * LANES, sum_k[j]);
        vec_store(dv + j * LANES, sum_v[j]);
    }
}

ALWAYS void attention_backward_head(int64_t panel, int64_t n, int64_t head_dim, double factor, const double *q,
                                    const double *k, const double *v, int64_t stride, const double *exps,
                                    const double *inverse, const double *power, const double *dout, double *dq,
                                    double *dk, double *dv, double *scratch)
{
    const int64_t nkeys = keys_of(panel, n), diagonal = panel * LANES, nqueries = nkeys - diagonal;
    const double *q_panel = q + panel * stride;
    double *dlogits = scratch, *weights = scratch + (panel + 1) * LANES * LANES;
    vec inv = vec_load(inverse);

    /* The gradient of each weight, into dlogits for now. */
    for (int64_t b = 0; b <= panel; b++) {
        vec dweight[LANES];
        dot_keys(1, head_dim, v + b * stride, dout, dweight);
        UNROLL for (int t = 0; t < LANES; t++) vec_store(dlogits + (b * LANES + t) * LANES, dweight[t]);
    }
    /* total reaches each weight through a total**-1 of its own: one contribution from each, the last first. A zero's
     * sign is lost on the way where the script adds to a fresh 0.0; no sum that it enters can tell. */
    vec dtotal = {0}, slope = -1.0 * vec_load(power);
    UNROLL for (int u = LANES - 1; u >= 0; u--) {
        const int64_t t = diagonal + u;
        if (t >= nkeys) continue;
        vec e = vec_load(exps + t * LANES);
        vec_store(weights + t * LANES, e * inv);
        dtotal = vec_add_where(lanes_from(u), dtotal, slope * (e * vec_load(dlogits + t * LANES)));
    }
    for (int64_t t = diagonal - 1; t >= 0; t--) {
        vec e = vec_load(exps + t * LANES);
        vec_store(weights + t * LANES, e * inv);
        dtotal += slope * (e * vec_load(dlogits + t * LANES));
    }
    for (int64_t t = 0; t < nkeys; t++) {
        vec dexp = inv * vec_load(dlogits + t * LANES) + dtotal;
        vec_store(dlogits + t * LANES, factor * (vec_load(exps + t * LANES) * dexp));
    }
    sum_keys_all(1, panel, nkeys, head_dim, k, stride, dlogits, dq);

    const int set = panel == (n - 1) / LANES;
    for (int64_t b = 0; b <= panel; b++) {
        vec dlogit[LANES], weight[LANES];
        UNROLL for (int t = 0; t < LANES; t++) {
            dlogit[t] = vec_load(dlogits + (b * LANES + t) * LANES);
            weight[t] = vec_load(weights + (b * LANES + t) * LANES);
        }
        vec_transpose(dlogit);
        vec_transpose(weight);
        double *dkb = dk + b * stride, *dvb = dv + b * stride;
        int64_t j = 0;
        for (; j + 4 <= head_dim; j += 4)
            add_to_keys(4, nqueries, b == panel, set, dlogit, weight, q_panel + j * LANES, dout + j * LANES,
                        dkb + j * LANES, dvb + j * LANES);
        for (; j < head_dim; j++)
            add_to_keys(1, nqueries, b == panel, set, dlogit, weight, q_panel + j * LANES, dout + j * LANES,
                        dkb + j * LANES, dvb + j * LANES);
    }
}

static void attention_backward(int64_t panel, int64_t n, int64_t heads, int64_t head_dim, double factor,
                               const double *q, const double *k, const double *v, int64_t stride, const double *exps,
                               const double *inverse, const double *power, const double *dout, double *dq, double *dk,
                               double *dv, double *scratch)
{
    const int64_t square = keys_of(panel, n) * LANES, head = head_dim * LANES;
    for (int64_t h = 0; h < heads; h++) {
        if (head_dim == 4)
            attention_backward_head(panel, n, 4, factor, q + h * head, k + h * head, v + h * head, stride,
                                    exps + h * square, inverse + h * LANES, power + h * LANES, dout + h * head,
                                    dq + h * head, dk + h * head, dv + h * head, scratch);
        else
            attention_backward_head(panel, n, head_dim, factor, q + h * head, k + h * head, v + h * head, stride,
                                    exps + h * square, inverse + h * LANES, power + h * LANES, dout + h * head,
                                    dq + h * head, dk + h * head, dv + h * head, scratch);
    }
}
