# cython: language_level=3, cdivision=True, boundscheck=True, wraparound=True, auto_pickle=False
"""gpt and a whole document's loss as nodes on the tape, out of the layers.

They build the very graph that the script would build, without a Python object per node and without the GIL. document_loss
also records the order in which backward will visit it.
"""
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc

from microgpt.core._csrc cimport MG_LOG_DOMAIN
from microgpt.core.builder cimport (
    Builder, Vector, builder_bytes, builder_doubles, builder_slots, builder_visits, finish_block, record_run, record_visit,
    set_binary, set_leaf, set_unary, start_block, start_dry_run, vector,
)
from microgpt.core.functions cimport MG_NOT_VALUES, are_values, check, collect, handles, results, sequence
from microgpt.core.layers cimport Cache, Shape, add_dots, exps_layer, gpt_layers, keep_weights, sum_of
from microgpt.core.libm cimport mg_log, mg_pow
from microgpt.core.lock cimport begin_nogil, end_nogil, release_handle
from microgpt.core.model cimport GPT
from microgpt.core.tape cimport LEAF, MG_NO_MEMORY, MG_OK, MOST_SLOTS
from microgpt.core.value cimport handle


cdef extern from "Python.h":  # borrowed items, without a check
    Py_ssize_t PySequence_Fast_GET_SIZE(object items)
    PyObject *PyList_GET_ITEM(list items, Py_ssize_t i)

cdef Shape shape_of(GPT model) except *:
    cdef Shape m
    cdef uint32_t E = <uint32_t>model.n_embd
    model.ready()
    m.vocab_size, m.n_embd, m.n_head = <uint32_t>model.vocab_size, E, <uint32_t>model.n_head
    m.n_layer, m.block_size, m.head_dim = <uint32_t>model.n_layer, <uint32_t>model.block_size, <uint32_t>model.head_dim
    m.num_params, m.params, m.data = <uint32_t>model.num_params, model.first, NULL
    m.wte = 0
    m.wpe = m.vocab_size * E
    m.lm_head = m.wpe + m.block_size * E
    m.layers = m.lm_head + m.vocab_size * E
    m.attn_wq, m.attn_wk, m.attn_wv, m.attn_wo = 0, E * E, 2 * E * E, 3 * E * E
    m.mlp_fc1, m.mlp_fc2, m.layer_size = 4 * E * E, 8 * E * E, 12 * E * E
    return m


cdef uint32_t index_of(object index, Py_ssize_t n) except? 0xFFFFFFFF:
    """Return a list index, as the script's lists of n take it."""
    if not isinstance(index, int) and not hasattr(type(index), "__index__"):
        raise TypeError(f"list indices must be integers or slices, not {type(index).__name__}")
    from operator import index as as_index
    cdef object i = index if type(index) is int else as_index(index)
    if i < 0:
        i = i + n
    if not 0 <= i < n:
        raise IndexError("list index out of range")
    return <uint32_t>i


# ---- one position ----


def gpt(token_id, pos_id, keys, values, GPT model not None):
    """Return the logits of the token that follows token_id at position pos_id (lines 108-144 of the script).

    Parameters
    ----------
    token_id, pos_id : int
    keys, values : list of lists
        For each layer a list that holds n_embd Values for each position so far; this position's are appended.
    model : GPT

    Returns
    -------
    list of Value, [vocab_size]

    Raises
    ------
    IndexError
        For a token or a position that the model does not have.
    ValueError
        For keys or values that do not hold equally many positions in every layer, or rows of fewer than n_embd Values.
    """
    cdef Shape m = shape_of(model)
    cdef uint32_t token = index_of(token_id, model.vocab_size), pos = index_of(pos_id, model.block_size), li
    cdef Py_ssize_t E = model.n_embd, L = model.n_layer, n_before = -1
    cdef list before = [], rows  # every row of keys and values so far: layer by layer, keys before values
    cdef Builder b
    cdef Cache *caches
    cdef uint32_t logits = 0
    cdef int code
    for li in range(L):
        for cached_rows in (keys[li], values[li]):
            # Rows are counted here, not by len(): a class may return any number there.
            rows = [sequence(row) for row in cached_rows]
            if n_before < 0:
                n_before = len(rows)
            elif len(rows) != n_before:
                raise ValueError("keys and values must hold as many positions as each other, in every layer")
            before += rows
    n_before = max(n_before, 0)  # a model without layers has neither
    caches = <Cache *>malloc(2 * L * sizeof(Cache) + 1)
    if caches == NULL:
        raise MemoryError()
    try:
        begin_nogil()
        code = build_gpt(&b, &m, token, pos, before, n_before, caches, &logits)
        end_nogil()
        if code == MG_NOT_VALUES:
            raise ValueError(f"the keys and values of a position must be n_embd ({E}) Values each")
        result = results(&b, code, logits, m.vocab_size)
        for li in range(L):
            keys[li].append(handles(caches[li].slots[n_before * E], E))
            values[li].append(handles(caches[L + li].slots[n_before * E], E))
    finally:
        free(caches)
    return result


cdef int build_gpt(Builder *b, Shape *m, uint32_t token, uint32_t pos, list before, size_t n_before, Cache *caches,
                   uint32_t *logits) noexcept:
    """Build the nodes of gpt in a new block; *logits is the slot of the first. Runs no Python code.

    before: n_before rows for each layer's keys, then for its values. caches: [2 * n_layer], filled in.
    """
    cdef size_t i
    cdef int code
    for i in range(2 * m.n_layer * n_before):
        row = <object>PyList_GET_ITEM(before, i)
        if not are_values(row) or <size_t>PySequence_Fast_GET_SIZE(row) < m.n_embd:
            return MG_NOT_VALUES
    start_dry_run(b, False)  # the order depends on where backward will come from
    fill_gpt(b, m, token, pos, before, n_before, caches, logits)
    code = start_block(b)
    if code == MG_OK:
        code = fill_gpt(b, m, token, pos, before, n_before, caches, logits)
    return finish_block(b, code)


cdef int fill_gpt(Builder *b, Shape *m, uint32_t token, uint32_t pos, list before, size_t n_before, Cache *caches,
                  uint32_t *logits) noexcept:
    cdef size_t E = m.n_embd, n = n_before + 1, i = 0, t
    cdef uint32_t li
    cdef Cache *cache
    cdef int code = keep_weights(b, m)
    for li in range(2 * m.n_layer):
        cache = caches + (li >> 1) + (m.n_layer if li & 1 else 0)  # keys of every layer, then values of every layer
        cache.base, cache.low, cache.high = 0, 0xFFFFFFFF, 0
        cache.slots, cache.data = <uint32_t *>builder_bytes(b, n * E * sizeof(uint32_t)), builder_doubles(b, n * E)
        if b.dry:
            continue
        for t in range(n_before):
            row = <object>PyList_GET_ITEM(before, i)
            if code == MG_OK:
                code = collect(b.owner, row, E, cache.slots + t * E, cache.data + t * E)
            i += 1
        for t in range(n_before * E if code == MG_OK else 0):
            cache.low, cache.high = min(cache.low, cache.slots[t]), max(cache.high, cache.slots[t])
    if b.dry:
        logits[0] = gpt_layers(b, m, token, pos, caches, caches + m.n_layer, <uint32_t>n_before).base
    elif code == MG_OK:
        with nogil:
            logits[0] = gpt_layers(b, m, token, pos, caches, caches + m.n_layer, <uint32_t>n_before).base
    return code


# ---- a document ----

def document_loss(tokens, GPT model not None):
    """Return the mean loss of predicting each token of a document from those before it (lines 158-169 of the script).

    Parameters
    ----------
    tokens : sequence of int
        The document's token ids with BOS on both sides; those beyond the model's block_size are left out.
    model : GPT

    Returns
    -------
    Value
    """
    cdef Shape m = shape_of(model)
    cdef Py_ssize_t n = min(model.block_size, len(tokens) - 1), i
    cdef object one = 1
    cdef Builder b
    cdef Cache *caches = NULL
    cdef uint32_t *ids = NULL
    cdef uint32_t root = 0
    cdef int code
    if n <= 0:
        return (one / n) * 0  # what the script's last line makes of no losses at all
    ids = <uint32_t *>malloc((n + 1) * sizeof(uint32_t))
    caches = <Cache *>malloc(2 * m.n_layer * sizeof(Cache) + 1)
    try:
        if ids == NULL or caches == NULL:
            raise MemoryError()
        for i in range(n + 1):
            ids[i] = index_of(tokens[i], model.vocab_size)
        begin_nogil()
        with nogil:
            code = build_document(&b, &m, ids, <uint32_t>n, caches, &root)
        end_nogil()
    finally:
        free(ids)
        free(caches)
    check(code)
    try:
        return handle(root)
    finally:
        release_handle(b.owner)


cdef int build_document(Builder *b, Shape *m, const uint32_t *tokens, uint32_t n, Cache *caches,
                        uint32_t *root) noexcept nogil:
    """Build the loss of n predictions in a new block: tokens[p + 1] from those before it. *root is its last node."""
    cdef int code
    start_dry_run(b, True)
    code = fill_document(b, m, tokens, n, caches, root)
    if code == MG_OK:
        code = start_block(b)
    if code == MG_OK:
        code = fill_document(b, m, tokens, n, caches, root)
    return finish_block(b, code)


cdef int fill_document(Builder *b, Shape *m, const uint32_t *tokens, uint32_t n, Cache *caches,
                       uint32_t *root) noexcept nogil:
    cdef size_t E = m.n_embd
    cdef uint32_t p, li, losses
    cdef Cache *cache
    cdef Vector loss_vector
    cdef double mean = 0.0
    cdef int code = keep_weights(b, m)
    for li in range(2 * m.n_layer):
        cache = caches + li  # keys of every layer, then values of every layer
        cache.base, cache.slots, cache.data = builder_slots(b, n * E), NULL, builder_doubles(b, n * E)
        cache.low, cache.high = cache.base, <uint32_t>(cache.base + n * E - 1)
    losses = builder_slots(b, n)
    loss_vector = vector(losses, builder_doubles(b, n), n)
    for p in range(n):
        if code == MG_OK:
            code = fill_loss(b, m, tokens[p], tokens[p + 1], p, caches, &loss_vector)
    if code != MG_OK:
        return code
    root[0] = builder_slots(b, 3) + 2
    if not b.dry:
        mean = sum_of(loss_vector.data, n)
        set_leaf(b, root[0] - 1, 1.0 / n, LEAF)
        set_binary(b, root[0], mean * (1.0 / n), root[0] - 2, root[0] - 1, 1.0 / n, mean)
    add_dots(b, root[0] - 2, 1, n, &mean, &loss_vector, NULL)
    record_visit(b, root[0] - 2)
    record_visit(b, root[0])
    return MG_OK


cdef int fill_loss(Builder *b, Shape *m, uint32_t token, uint32_t target, uint32_t p, Cache *caches,
                   Vector *losses) noexcept nogil:
    """Fill in the loss of one prediction, number p: that target follows token."""
    cdef Vector logits = gpt_layers(b, m, token, p, caches, caches + m.n_layer, p), exps
    # Of softmax only the target's probability is in the graph.
    cdef uint32_t total = exps_layer(b, &logits, m.vocab_size, &exps), inverse = builder_slots(b, 4), o
    cdef double prob, log_prob
    cdef uint32_t *order
    if b.next >= MOST_SLOTS and b.dry:
        return MG_NO_MEMORY  # before a count of further positions, which could take long
    if not b.dry:
        set_unary(b, inverse, mg_pow(b.data[total], -1.0), total, -1.0 * mg_pow(b.data[total], -2.0))
        prob = exps.data[target] * b.data[inverse]
        if prob == 0.0:
            return MG_LOG_DOMAIN
        set_binary(b, inverse + 1, prob, exps.base + target, inverse, b.data[inverse], exps.data[target])
        log_prob = mg_log(prob)
        set_unary(b, inverse + 2, log_prob, inverse + 1, 1.0 / prob)
        set_leaf(b, inverse + 3, -1.0, LEAF)
        losses.data[p] = log_prob * -1.0
        set_binary(b, losses.base + p, losses.data[p], inverse + 2, inverse + 3, -1.0, log_prob)
    # The target's row first, from prob; the other rows from total.
    order = builder_visits(b, 3 * <size_t>m.vocab_size)
    if order != NULL:
        order = record_logit(order, logits.base + target, exps.base + target, m.vocab_size)
        for o in range(m.vocab_size):
            if o != target:
                order = record_logit(order, logits.base + o, exps.base + o, m.vocab_size)
    record_visit(b, total)
    record_run(b, inverse, 3)
    record_visit(b, losses.base + p)
    return MG_OK


cdef inline uint32_t *record_logit(uint32_t *order, uint32_t logit, uint32_t exp, uint32_t vocab_size) noexcept nogil:
    order[0], order[1], order[2] = logit, exp - vocab_size, exp  # the second is logit - max
    return order + 3
