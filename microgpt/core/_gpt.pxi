# gpt and a whole document's loss as nodes on the tape, out of the layers. Part of model.pyx.

cdef Vector attention_layer(Build *b, Shape *m, Vector *q, Cache *keys, Cache *values, uint32_t n) noexcept nogil:
    """All heads' look back over n positions. q: [n_embd], keys and values: [n, n_embd] -> [n_embd].

    n_head * (8 * n + 1) + n_embd slots, n_head * 4 * n + n_embd doubles, 3 * n_head Folds.
    """
    cdef uint32_t first = take(b, m.n_embd), logits, constants, scaled, head, start, t, j
    cdef double *out = room(b, m.n_embd)
    cdef double *logit
    cdef Vector q_head, key, value, scaled_logits, weights
    cdef Fold *fold
    cdef double scale = mg_pow(mg_pow(m.head_dim, 0.5), -1.0)  # / head_dim**0.5 is * (head_dim**0.5)**-1
    for head in range(m.n_head):
        start = head * m.head_dim
        q_head = vector(q.base + start, q.data + start, m.head_dim)
        # The logits: row t is q . keys[t].
        logits, constants, scaled = take(b, n), take(b, n), take(b, n)
        logit = room(b, n)
        dot_rows(keys.data + start, m.n_embd, q_head.data, logit, n, m.head_dim)
        key = cached(keys, start)
        fold = put_fold(b, logits, n, m.head_dim, logit, &q_head, &key)
        fold.a_row, fold.b_row = 0, m.n_embd
        scaled_logits = vector(scaled, room(b, n), n)
        for t in range(n):
            put(b, constants + t, scale, LEAF)
            scaled_logits.data[t] = logit[t] * scale
            put_binary(b, scaled + t, scaled_logits.data[t], logits + t, constants + t, scale, logit[t])
        weights = softmax_layer(b, &scaled_logits, n)
        visit_attention(b, q_head.base, keys.base + (n - 1) * m.n_embd + start, logits, weights.base, n, m.head_dim)
        # The head's output: row j is the sum over t of weights[t] * values[t][j].
        for j in range(start, start + m.head_dim):
            out[j] = 0.0
        for t in range(n):
            for j in range(start, start + m.head_dim):
                out[j] = out[j] + weights.data[t] * values.data[<size_t>t * m.n_embd + j]
        value = cached(values, start)
        fold = put_fold(b, first + start, m.head_dim, n, out + start, &weights, &value)
        fold.a_row, fold.b_row, fold.b_step = 0, 1, m.n_embd
        # The value of this position is the last term of each output, and the only one that is new.
        visit_pairs(b, value.base + (n - 1) * m.n_embd, first + start, m.head_dim)
    return vector(first, out, m.n_embd)


cdef void visit_attention(Build *b, uint32_t q, uint32_t key, uint32_t logits, uint32_t weights, uint32_t n,
                          uint32_t head_dim) noexcept nogil:
    """The order of a head, up to its weights, from the first weight on. key: this position's, in row n - 1."""
    cdef uint32_t scaled = logits + 2 * n, shifted = scaled + 2 * n, exps = shifted + n, total = exps + n
    cdef uint32_t inverses = total + 1, t
    if b.order == NULL:
        return
    if n == 1:
        visit_pairs(b, q, key, head_dim)
    else:
        visit_run(b, q, head_dim)
    for t in range(n):
        if t > 0 and t == n - 1:
            visit_run(b, key, head_dim)
        visit(b, logits + t)
        visit(b, scaled + t)
        visit(b, shifted + t)
        visit(b, exps + t)
    visit(b, total)
    visit_pairs(b, inverses, weights, n)


cdef Vector cached(Cache *cache, uint32_t start) noexcept nogil:
    """The columns of a cache from start on, as operands."""
    cdef Vector x
    x.base, x.data, x.leaves = cache.base + start, cache.data + start, False
    x.slots = cache.slots + start if cache.slots != NULL else NULL
    x.low, x.high = cache.low, cache.high
    return x


cdef Vector matrix(Shape *m, uint32_t offset, uint32_t size) noexcept nogil:
    """A matrix of parameters, from offset on, as operands."""
    cdef Vector w = vector(m.params + offset, m.data + (offset - m.lm_head), size)
    w.leaves = True
    return w


cdef Vector linear_model(Build *b, Shape *m, uint32_t offset, Vector *x, uint32_t nout, uint32_t nin) noexcept nogil:
    """linear with the model's matrix at offset. nout slots, nout doubles, a Fold."""
    cdef Vector w = matrix(m, offset, nout * nin)
    cdef uint32_t first = take(b, nout)
    cdef double *out = room(b, nout)
    linear_layer(b, &w, x, nout, nin, first, out)
    return vector(first, out, nout)


cdef Vector gpt_layers(Build *b, Shape *m, uint32_t token_id, uint32_t pos_id, Cache *keys, Cache *values,
                       uint32_t n_before) noexcept nogil:
    """The function gpt of the script, for one position, behind n_before others. -> logits, [vocab_size].

    keys, values: [n_layer], each with its rows 0 to n_before - 1 filled in; row n_before is filled in here.
    """
    cdef uint32_t E = m.n_embd, li, i, offset, slot
    cdef double *params = b.data + m.params
    cdef Vector tok_emb = vector(m.params + m.wte + token_id * E, params + m.wte + token_id * E, E)
    cdef Vector pos_emb = vector(m.params + m.wpe + pos_id * E, params + m.wpe + pos_id * E, E)
    cdef Vector x = add_layer(b, &tok_emb, &pos_emb, E), x_residual, q, w, y
    visit_run(b, x.base, E)
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
        visit_pairs(b, y.base, x.base, E)
        x_residual = x
        x = rmsnorm_layer(b, &x, E)
        y = linear_model(b, m, offset + m.mlp_fc1, &x, 4 * E, E)
        x = relu_layer(b, &y, 4 * E)
        visit_pairs(b, y.base, x.base, 4 * E)
        y = linear_model(b, m, offset + m.mlp_fc2, &x, E, 4 * E)
        x = add_layer(b, &y, &x_residual, E)
        visit_pairs(b, y.base, x.base, E)
    return linear_model(b, m, m.lm_head, &x, m.vocab_size, E)


cdef void add_row(Build *b, Vector *w, Vector *x, uint32_t E, Cache *cache, uint32_t t) noexcept nogil:
    """Row t of the cache: linear of x. Where the cache has slots the nodes are fresh ones, else its own. A Fold."""
    cdef uint32_t first, i
    if cache.slots == NULL:
        first = cache.base + t * E
    else:
        first = take(b, E)
        for i in range(E):
            cache.slots[<size_t>t * E + i] = first + i
        cache.low, cache.high = min(cache.low, first), max(cache.high, first + E - 1)
    linear_layer(b, w, x, E, E, first, cache.data + <size_t>t * E)


cdef size_t gpt_slots(Shape *m, size_t n) noexcept nogil:
    """The slots of gpt_layers with n positions in sight, without the keys and values."""
    cdef size_t E = m.n_embd
    return 2 * E + 6 + m.n_layer * (16 * E + 12 + m.n_head * (8 * n + 1)) + m.vocab_size


cdef size_t gpt_memory(Shape *m, size_t n) noexcept nogil:
    """The bytes of gpt_layers with n positions in sight, without the keys and values."""
    cdef size_t E = m.n_embd, doubles, folds
    doubles = 2 * E + m.n_layer * (16 * E + m.n_head * 4 * n) + m.vocab_size
    folds = 2 + m.n_layer * (8 + 3 * m.n_head)
    return doubles * sizeof(double) + folds * sizeof(Fold)


cdef inline void visit_logit(Build *b, uint32_t logit, uint32_t exp, uint32_t vocab_size) noexcept nogil:
    visit(b, logit)
    visit(b, exp - vocab_size)  # logit - max
    visit(b, exp)


cdef int document_layers(Shape *m, const uint32_t *tokens, uint32_t n, uint32_t *root, uint32_t *owner) noexcept nogil:
    """The loss of n predictions: tokens[p + 1] from those before it. -> the region, its last node being the loss."""
    cdef size_t E = m.n_embd, V = m.vocab_size, slots, size, kept = m.num_params - m.lm_head
    cdef uint32_t p, li, o, losses, target, inverse, total
    cdef Build b
    cdef Cache *keys
    cdef Cache *values
    cdef Vector logits, exps, loss_vector
    cdef double prob, log_prob, mean
    cdef void *memory
    # 3 * V + 1 for the exps and their sum, then total**-1, prob, log, -1; the loss; and the mean over the losses.
    slots = 2 * m.n_layer * n * E + n * (3 * V + 6) + 3
    size = (kept + 2 * m.n_layer * n * E + n * (V + 1)) * sizeof(double) + 2 * m.n_layer * sizeof(Cache)
    size += (n + 1) * sizeof(Fold)
    for p in range(n):
        slots += gpt_slots(m, p + 1)
        size += gpt_memory(m, p + 1)
    if slots >= MOST_NODES:
        return MG_NO_MEMORY
    owner[0] = make_region(<uint32_t>slots, size + slots * sizeof(uint32_t), &memory)
    if owner[0] == 0:
        return MG_NO_MEMORY
    b.owner, b.next, b.memory = owner[0], owner[0] + 1, <char *>memory
    b.data, b.grad, b.node = tape.data, tape.grad, tape.node
    b.order, b.n_order = <uint32_t *>(b.memory + size), 0
    if keep(b.owner, m.params) != MG_OK:
        return MG_NO_MEMORY
    m.data = room(&b, kept)
    memcpy(m.data, b.data + m.params + m.lm_head, kept * sizeof(double))
    keys = <Cache *>b.memory
    values = keys + m.n_layer
    b.memory = <char *>(values + m.n_layer)
    for li in range(m.n_layer):
        for p in range(2):
            values = keys + p * m.n_layer + li
            values.base, values.slots, values.data = take(&b, <uint32_t>(n * E)), NULL, room(&b, n * E)
            values.low, values.high = values.base, <uint32_t>(values.base + n * E - 1)
    values = keys + m.n_layer
    losses = take(&b, n)
    loss_vector = vector(losses, room(&b, n), n)
    for p in range(n):
        target = tokens[p + 1]
        logits = gpt_layers(&b, m, tokens[p], p, keys, values, p)
        # Of softmax only the target's probability is in the graph.
        total = exps_layer(&b, &logits, m.vocab_size, &exps)
        inverse = take(&b, 4)
        put_unary(&b, inverse, mg_pow(b.data[total], -1.0), total, -1.0 * mg_pow(b.data[total], -2.0))
        prob = exps.data[target] * b.data[inverse]
        if prob == 0.0:
            return MG_LOG_DOMAIN
        put_binary(&b, inverse + 1, prob, exps.base + target, inverse, b.data[inverse], exps.data[target])
        log_prob = mg_log(prob)
        put_unary(&b, inverse + 2, log_prob, inverse + 1, 1.0 / prob)
        put(&b, inverse + 3, -1.0, LEAF)
        loss_vector.data[p] = log_prob * -1.0
        put_binary(&b, losses + p, loss_vector.data[p], inverse + 2, inverse + 3, -1.0, log_prob)
        # The target's row first, from prob; the other rows from total.
        visit_logit(&b, logits.base + target, exps.base + target, m.vocab_size)
        for o in range(m.vocab_size):
            if o != target:
                visit_logit(&b, logits.base + o, exps.base + o, m.vocab_size)
        visit(&b, total)
        visit_run(&b, inverse, 3)
        visit(&b, losses + p)
    root[0] = take(&b, 3) + 2
    mean = sum_of(loss_vector.data, n)
    put_fold(&b, root[0] - 2, 1, n, &mean, &loss_vector, NULL)
    put(&b, root[0] - 1, 1.0 / n, LEAF)
    put_binary(&b, root[0], mean * (1.0 / n), root[0] - 2, root[0] - 1, 1.0 / n, mean)
    visit(&b, root[0] - 2)
    visit(&b, root[0])
    know_order(b.owner, b.order, b.n_order)
    return MG_OK if b.next == owner[0] + 1 + slots and b.memory == <char *>memory + size else MG_MISCOUNTED
