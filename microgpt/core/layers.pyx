# cython: language_level=3, cdivision=True
"""The layers of the model as nodes on the tape: the nodes that the script's lines would make, with every sum of products
as one dot product.

A layer takes its slots and memory from the builder first. In a dry run that is all it does, apart from recording its order.
"""
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from microgpt.core.blocks cimport hold_external
from microgpt.core.builder cimport (
    Builder, Vector, builder_bytes, builder_doubles, builder_slots, builder_visits, record_pairs, record_run, record_visit,
    set_binary, set_leaf, set_unary, slot_at, vector,
)
from microgpt.core.libm cimport mg_exp, mg_pow
from microgpt.core.tape cimport DOT, DotRows, LEAF, MG_OK


# ---- sums ----

cdef void dot_rows(const double *a, size_t stride, const double *x, double *out, size_t rows, size_t n) noexcept nogil:
    """out[r] = sum of a[r, i] * x[i], i ascending from 0.0 on. Eight sums at a time, none of them reordered."""
    cdef size_t r = 0, i, k
    cdef double sums[8]
    cdef const double *row
    while r + 8 <= rows:
        for k in range(8):
            sums[k] = 0.0
        row = a + r * stride
        for i in range(n):
            for k in range(8):
                sums[k] = sums[k] + row[k * stride + i] * x[i]
        for k in range(8):
            out[r + k] = sums[k]
        r += 8
    while r < rows:
        sums[0] = 0.0
        for i in range(n):
            sums[0] = sums[0] + a[r * stride + i] * x[i]
        out[r] = sums[0]
        r += 1


cdef double sum_of(const double *x, size_t n) noexcept nogil:
    cdef double total = 0.0
    cdef size_t i
    for i in range(n):
        total = total + x[i]
    return total


cdef DotRows *add_dots(Builder *b, uint32_t first, uint32_t rows, uint32_t n, const double *sums, Vector *a,
                       Vector *v) noexcept nogil:
    """Make rows dot products of n terms from slot first on. a: [rows * n], v: [n]; v NULL: plain sums.

    Returns NULL in a dry run.
    """
    cdef DotRows *dots = <DotRows *>builder_bytes(b, sizeof(DotRows))
    cdef uint32_t row
    if b.dry:
        return NULL
    dots.n, dots.rows, dots.first = n, rows, first
    dots.a_base, dots.a_slots, dots.a_data, dots.a_leaves = a.base, a.slots, a.data, a.leaves
    dots.a_low, dots.a_high = a.low, a.high
    dots.a_row, dots.a_step = n, 1
    dots.b_base, dots.b_slots, dots.b_data, dots.b_leaves = 0, NULL, NULL, False
    dots.b_low, dots.b_high, dots.b_row, dots.b_step = 0, 0, 0, 1
    dots.distinct = False
    dots.a_sort = dots.b_sort = 0
    dots.capacity, dots.total = 0, 0.0
    if v != NULL:
        dots.b_base, dots.b_slots, dots.b_data, dots.b_leaves = v.base, v.slots, v.data, v.leaves
        dots.b_low, dots.b_high = v.low, v.high
        dots.distinct = a.slots == NULL and v.slots == NULL and (a.high < v.low or v.high < a.low)
    for row in range(rows):
        set_leaf(b, first + row, sums[row], DOT)
        b.node[first + row].payload.pointer = dots
        b.node[first + row].local_grad0 = 0.0
    return dots


# ---- layers ----

cdef void linear_layer(Builder *b, Vector *w, Vector *x, uint32_t nout, uint32_t nin, uint32_t first,
                       double *out) noexcept nogil:
    """w: [nout, nin], x: [nin] -> the nodes first, ... and their data out, both [nout]."""
    if not b.dry:
        dot_rows(w.data, nin, x.data, out, nout, nin)
    add_dots(b, first, nout, nin, out, w, x)


cdef Vector add_layer(Builder *b, Vector *x, Vector *y, uint32_t n) noexcept nogil:
    """x + y, [n]. Its order is the caller's to record."""
    cdef uint32_t first = builder_slots(b, n), i
    cdef double *out = builder_doubles(b, n)
    if not b.dry:
        for i in range(n):
            out[i] = x.data[i] + y.data[i]
            set_binary(b, first + i, out[i], slot_at(x, i), slot_at(y, i), 1.0, 1.0)
    return vector(first, out, n)


cdef Vector rmsnorm_layer(Builder *b, Vector *x, uint32_t n) noexcept nogil:
    """x * (mean square + 1e-5) ** -0.5, [n]."""
    cdef uint32_t square = builder_slots(b, 6), first = builder_slots(b, n), i
    cdef uint32_t count = square + 1, mean = square + 2, eps = square + 3, total = square + 4, scale = square + 5
    cdef double *out = builder_doubles(b, n)
    cdef double sum_of_squares = 0.0, s
    if not b.dry:
        dot_rows(x.data, n, x.data, &sum_of_squares, 1, n)
    add_dots(b, square, 1, n, &sum_of_squares, x, x)
    if not b.dry:
        set_leaf(b, count, mg_pow(n, -1.0), LEAF)  # / len(x) is * len(x)**-1
        set_binary(b, mean, sum_of_squares * b.data[count], square, count, b.data[count], sum_of_squares)
        set_leaf(b, eps, 1e-5, LEAF)
        set_binary(b, total, b.data[mean] + 1e-5, mean, eps, 1.0, 1.0)
        s = mg_pow(b.data[total], -0.5)
        set_unary(b, scale, s, total, -0.5 * mg_pow(b.data[total], -1.5))
        for i in range(n):
            out[i] = x.data[i] * s
            set_binary(b, first + i, out[i], slot_at(x, i), scale, s, x.data[i])
    record_visit(b, square)  # the operands were visited before, those behind the first at the latest from this sum
    record_visit(b, mean)
    record_visit(b, total)
    record_visit(b, scale)
    record_run(b, first, n)
    return vector(first, out, n)


cdef Vector relu_layer(Builder *b, Vector *x, uint32_t n) noexcept nogil:
    """max(0, x), [n]. Its order is the caller's to record."""
    cdef uint32_t first = builder_slots(b, n), i
    cdef double *out = builder_doubles(b, n)
    if not b.dry:
        for i in range(n):
            out[i] = x.data[i] if x.data[i] > 0.0 else 0.0
            set_unary(b, first + i, out[i], slot_at(x, i), 1.0 if x.data[i] > 0.0 else 0.0)
    return vector(first, out, n)


cdef double largest(const double *x, uint32_t n) noexcept nogil:
    """Python's max: the first of equals; a nan stays if it comes first and is never chosen if it does not."""
    cdef double m = x[0]
    cdef uint32_t i
    for i in range(1, n):
        if x[i] > m:
            m = x[i]
    return m


cdef uint32_t exps_layer(Builder *b, Vector *x, uint32_t n, Vector *exps) noexcept nogil:
    """exp(x - max(x)), [n], and their sum, whose slot it returns. Its order is the caller's to record."""
    cdef uint32_t constants = builder_slots(b, n), shifted = builder_slots(b, n), first = builder_slots(b, n)
    cdef uint32_t total = builder_slots(b, 1), i
    cdef double *out = builder_doubles(b, n)
    cdef double shift, y = 0.0
    exps[0] = vector(first, out, n)
    if not b.dry:
        shift = -largest(x.data, n)
        for i in range(n):
            set_leaf(b, constants + i, shift, LEAF)
            y = x.data[i] + shift
            set_binary(b, shifted + i, y, slot_at(x, i), constants + i, 1.0, 1.0)
            out[i] = mg_exp(y)
            set_unary(b, first + i, out[i], shifted + i, out[i])
        y = sum_of(out, n)
    add_dots(b, total, 1, n, &y, exps, NULL)
    return total


cdef Vector softmax_layer(Builder *b, Vector *x, uint32_t n) noexcept nogil:
    """exp(x - max(x)) / their sum, [n]. Its order is the caller's to record."""
    cdef Vector exps
    cdef uint32_t total = exps_layer(b, x, n, &exps), inverses = builder_slots(b, n), first = builder_slots(b, n), i
    cdef double *out = builder_doubles(b, n)
    cdef double inverse, local_grad
    if not b.dry:
        # e / total is e * total**-1, with a separate power for every e.
        inverse, local_grad = mg_pow(b.data[total], -1.0), -1.0 * mg_pow(b.data[total], -2.0)
        for i in range(n):
            set_unary(b, inverses + i, inverse, total, local_grad)
            out[i] = exps.data[i] * inverse
            set_binary(b, first + i, out[i], exps.base + i, inverses + i, inverse, exps.data[i])
    return vector(first, out, n)


# ---- the model's layers ----

cdef Vector attention_layer(Builder *b, Shape *m, Vector *q, Cache *keys, Cache *values, uint32_t n) noexcept nogil:
    """All heads' attention over n positions. q: [n_embd], keys and values: [n, n_embd] -> [n_embd]."""
    cdef uint32_t first = builder_slots(b, m.n_embd), logits, constants, scaled, head, start, t, j
    cdef double *out = builder_doubles(b, m.n_embd)
    cdef double *logit
    cdef Vector q_head, key, value, scaled_logits, weights
    cdef DotRows *dots
    cdef double scale = 0.0
    if not b.dry:
        scale = mg_pow(mg_pow(m.head_dim, 0.5), -1.0)  # / head_dim**0.5 is * (head_dim**0.5)**-1
    for head in range(m.n_head):
        start = head * m.head_dim
        q_head = vector(q.base + start, q.data + start, m.head_dim)
        # The logits: row t is q . keys[t].
        logits, constants, scaled = builder_slots(b, n), builder_slots(b, n), builder_slots(b, n)
        logit = builder_doubles(b, n)
        key, value = cached(keys, start), cached(values, start)
        if not b.dry:
            dot_rows(keys.data + start, m.n_embd, q_head.data, logit, n, m.head_dim)
        dots = add_dots(b, logits, n, m.head_dim, logit, &q_head, &key)
        scaled_logits = vector(scaled, builder_doubles(b, n), n)
        if not b.dry:
            dots.a_row, dots.b_row = 0, m.n_embd
            for t in range(n):
                set_leaf(b, constants + t, scale, LEAF)
                scaled_logits.data[t] = logit[t] * scale
                set_binary(b, scaled + t, scaled_logits.data[t], logits + t, constants + t, scale, logit[t])
        weights = softmax_layer(b, &scaled_logits, n)
        record_attention(b, q_head.base, keys.base + (n - 1) * m.n_embd + start, logits, weights.base, n, m.head_dim)
        # The head's output: row j is the sum over t of weights[t] * values[t][j].
        if not b.dry:
            for j in range(start, start + m.head_dim):
                out[j] = 0.0
            for t in range(n):
                for j in range(start, start + m.head_dim):
                    out[j] = out[j] + weights.data[t] * values.data[<size_t>t * m.n_embd + j]
        dots = add_dots(b, first + start, m.head_dim, n, out + start, &weights, &value)
        if not b.dry:
            dots.a_row, dots.b_row, dots.b_step = 0, 1, m.n_embd
        # The value of this position is the last term of each output, and the only one that is new.
        record_pairs(b, value.base + (n - 1) * m.n_embd, first + start, m.head_dim)
    return vector(first, out, m.n_embd)


cdef void record_attention(Builder *b, uint32_t q, uint32_t key, uint32_t logits, uint32_t weights, uint32_t n,
                           uint32_t head_dim) noexcept nogil:
    """Record the order of a head, up to its weights, from the first weight on. key: this position's, in row n - 1."""
    cdef uint32_t scaled = logits + 2 * n, shifted = scaled + 2 * n, exps = shifted + n, total = exps + n
    cdef uint32_t inverses = total + 1, t
    cdef uint32_t *order
    if n == 1:
        record_pairs(b, q, key, head_dim)
    else:
        record_run(b, q, head_dim)
        order = builder_visits(b, 4 * <size_t>(n - 1))
        for t in range(n - 1 if order != NULL else 0):
            order[4 * t], order[4 * t + 1], order[4 * t + 2], order[4 * t + 3] = logits + t, scaled + t, shifted + t, exps + t
        record_run(b, key, head_dim)
    t = n - 1
    record_visit(b, logits + t)
    record_visit(b, scaled + t)
    record_visit(b, shifted + t)
    record_visit(b, exps + t)
    record_visit(b, total)
    record_pairs(b, inverses, weights, n)


cdef Vector cached(Cache *cache, uint32_t start) noexcept nogil:
    """Return the columns of a cache from start on, as operands."""
    cdef Vector x
    x.base, x.data, x.leaves = cache.base + start, cache.data + start, False
    x.slots = cache.slots + start if cache.slots != NULL else NULL
    x.low, x.high = cache.low, cache.high
    return x


cdef Vector matrix(Shape *m, uint32_t offset, uint32_t size) noexcept nogil:
    """Return a matrix of parameters, from offset on, as operands."""
    cdef Vector w = vector(m.params + offset, m.data + (offset - m.lm_head), size)
    w.leaves = True
    return w


cdef Vector linear_model(Builder *b, Shape *m, uint32_t offset, Vector *x, uint32_t nout, uint32_t nin) noexcept nogil:
    """linear with the model's matrix at offset. x: [nin] -> [nout]."""
    cdef Vector w = matrix(m, offset, nout * nin)
    cdef uint32_t first = builder_slots(b, nout)
    cdef double *out = builder_doubles(b, nout)
    linear_layer(b, &w, x, nout, nin, first, out)
    return vector(first, out, nout)


cdef int keep_weights(Builder *b, Shape *m) noexcept nogil:
    """Copy the parameters from lm_head on into the block's memory, and let the block hold the model's."""
    cdef size_t n = m.num_params - m.lm_head
    m.data = builder_doubles(b, n)
    if b.dry:
        return MG_OK
    memcpy(m.data, b.data + m.params + m.lm_head, n * sizeof(double))
    return hold_external(b.owner, m.params)


cdef Vector gpt_layers(Builder *b, Shape *m, uint32_t token_id, uint32_t pos_id, Cache *keys, Cache *values,
                       uint32_t n_before) noexcept nogil:
    """The script's gpt for one position, behind n_before others. -> logits, [vocab_size].

    keys, values: [n_layer], each with its rows 0 to n_before - 1 filled in; row n_before is filled in here.
    """
    cdef uint32_t E = m.n_embd, li, offset
    cdef double *params = b.data + m.params
    cdef Vector tok_emb = vector(m.params + m.wte + token_id * E, params + m.wte + token_id * E, E)
    cdef Vector pos_emb = vector(m.params + m.wpe + pos_id * E, params + m.wpe + pos_id * E, E)
    cdef Vector x = add_layer(b, &tok_emb, &pos_emb, E), x_residual, q, w, y
    record_run(b, x.base, E)
    x = rmsnorm_layer(b, &x, E)
    for li in range(m.n_layer):
        offset = m.layers + li * m.layer_size
        x_residual = x
        x = rmsnorm_layer(b, &x, E)
        q = linear_model(b, m, offset + m.attn_wq, &x, E, E)
        w = matrix(m, offset + m.attn_wk, E * E)
        add_row(b, &w, &x, E, &keys[li], n_before)
        w = matrix(m, offset + m.attn_wv, E * E)
        add_row(b, &w, &x, E, &values[li], n_before)
        x = attention_layer(b, m, &q, &keys[li], &values[li], n_before + 1)
        y = linear_model(b, m, offset + m.attn_wo, &x, E, E)
        x = add_layer(b, &y, &x_residual, E)
        record_pairs(b, y.base, x.base, E)
        x_residual = x
        x = rmsnorm_layer(b, &x, E)
        y = linear_model(b, m, offset + m.mlp_fc1, &x, 4 * E, E)
        x = relu_layer(b, &y, 4 * E)
        record_pairs(b, y.base, x.base, 4 * E)
        y = linear_model(b, m, offset + m.mlp_fc2, &x, E, 4 * E)
        x = add_layer(b, &y, &x_residual, E)
        record_pairs(b, y.base, x.base, E)
    return linear_model(b, m, m.lm_head, &x, m.vocab_size, E)


cdef void add_row(Builder *b, Vector *w, Vector *x, uint32_t E, Cache *cache, uint32_t t) noexcept nogil:
    """Fill in row t of a cache: linear of x. Its nodes are new ones if the cache has slots, else those at its base."""
    cdef uint32_t first, i
    if cache.slots == NULL:
        first = cache.base + t * E
    else:
        first = builder_slots(b, E)
        if not b.dry:
            for i in range(E):
                cache.slots[<size_t>t * E + i] = first + i
            cache.low, cache.high = min(cache.low, first), max(cache.high, first + E - 1)
    linear_layer(b, w, x, E, E, first, cache.data + <size_t>t * E)
