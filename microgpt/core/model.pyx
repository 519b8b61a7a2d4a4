# cython: language_level=3, cdivision=True, boundscheck=True, wraparound=True, auto_pickle=False
"""The model on the tape: GPT and the script's linear, softmax, rmsnorm and gpt.

They build the very graph that the script would build, without a Python object per node and without the GIL. What they
are given that is not all Values goes through the script's own lines instead, operator by operator.
"""
cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES
from cpython.number cimport PyIndex_Check, PyNumber_Index
from cpython.object cimport PyObject
from libc.math cimport isfinite
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from microgpt.core.mt19937 cimport MT19937
from microgpt.core.value cimport (
    BINARY, CHAIN, LEAF, UNARY, Fold, Node, Value, begin, end, handle, keep, know_order, let_go, make_region, release,
    tape, wait_for_tape,
)

cdef extern from "base/libm.h" nogil:
    double mg_pow(double x, double y)
    double mg_exp(double x)
    double mg_log(double x)

cdef extern from "Python.h":  # borrowed items, without a check
    Py_ssize_t PySequence_Fast_GET_SIZE(object items)
    PyObject *PySequence_Fast_GET_ITEM(object items, Py_ssize_t i)
    Py_ssize_t PyList_GET_SIZE(list items)
    PyObject *PyList_GET_ITEM(list items, Py_ssize_t i)

cdef extern from "microgpt.h":
    enum:
        MG_OK
        MG_NO_MEMORY
        MG_LOG_DOMAIN

cdef enum:
    MG_MISCOUNTED = 1000  # a layer did not take what it said: a fault of ours
    MG_NOT_VALUES = 1001  # what a layer is given is not all Values, or not as many as it needs
    MOST_NODES = 1 << 28
    ALIGNMENT = 8  # slots: 64 bytes of doubles

include "_layers.pxi"
include "_gpt.pxi"


cdef int check(int code) except -1:
    """The exception that the script would raise."""
    if code == MG_OK:
        return 0
    if code == MG_NO_MEMORY:
        raise MemoryError("no memory for the nodes of the graph")
    if code == MG_LOG_DOMAIN:
        from math import log
        log(0.0)
    raise SystemError(f"the graph was not built as planned (code {code})")


include "_functions.pxi"


# ---- the model ----

@cython.no_gc_clear  # the numbers stay while somebody can reach them
cdef class Doubles:
    """The buffer behind GPT.data and GPT.grad; holds on to the model."""

    cdef GPT model
    cdef double *start
    cdef Py_ssize_t shape, stride

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        if self.model is None:
            raise BufferError("these numbers belong to no model")
        buffer.buf, buffer.obj = self.start, self
        buffer.itemsize = sizeof(double)
        buffer.len = self.shape * sizeof(double)
        buffer.ndim, buffer.readonly, buffer.suboffsets, buffer.internal = 1, 0, NULL, NULL
        buffer.format = <char *>"d" if flags & PyBUF_FORMAT else NULL
        buffer.shape = &self.shape if flags & PyBUF_ND else NULL
        buffer.strides = &self.stride if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL


cdef object as_array(GPT model, double *start):
    from numpy import frombuffer

    cdef Doubles doubles = Doubles.__new__(Doubles)
    doubles.model, doubles.start = model, start
    doubles.shape, doubles.stride = model.num_params, sizeof(double)
    return frombuffer(doubles)


cdef int draw(double *numbers, Py_ssize_t n, double init_std, object rng) except -1:
    """The script's draws, in its order: numbers[0:n]."""
    cdef Py_ssize_t i
    cdef double number
    if rng is None:
        from random import Random
        rng = Random(42)
    if type(rng) is MT19937:
        (<MT19937>rng).ready()
        (<MT19937>rng).fill_gauss(numbers, n, 0.0, init_std)
        return 0
    gauss = rng.gauss
    for i in range(n):
        number = gauss(0, init_std)
        numbers[i] = number
    return 0


cdef object whole(object number, str name):
    """number as an exact int. NumPy's narrow integers wrap around, and subclasses of int may define their own operators:
    neither is computed with."""
    if not PyIndex_Check(number):
        raise TypeError(f"{name} must be a whole number, not {number!r}")
    return PyNumber_Index(number)


cdef class GPT:
    """The parameters of the model (the script's "Initialize the parameters").

    One contiguous run of leaf nodes in the script's order, drawn by rng.gauss(0, init_std); rng is a random.Random, by
    default Random(42). state_dict: name -> matrix [nout][nin] of Values. params: the same Values in one list. data,
    grad: NumPy views, [num_params] float64, of their numbers and gradients. Impossible settings raise ValueError.
    """

    def __init__(self, vocab_size, n_embd=16, n_head=4, n_layer=1, block_size=16, init_std=0.08, rng=None):
        cdef double std = init_std
        cdef Py_ssize_t count
        cdef uint32_t slot, first
        if self.region:
            raise TypeError("a GPT is initialised once")
        vocab_size, n_embd, n_head = whole(vocab_size, "vocab_size"), whole(n_embd, "n_embd"), whole(n_head, "n_head")
        n_layer, block_size = whole(n_layer, "n_layer"), whole(block_size, "block_size")
        sizes = {"vocab_size": vocab_size, "n_embd": n_embd, "n_head": n_head, "block_size": block_size}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} ({size}) must be at least 1")
        if n_layer < 0:
            raise ValueError(f"n_layer ({n_layer}) must not be negative")
        if n_embd % n_head:
            raise ValueError(f"n_embd ({n_embd}) must be a multiple of n_head ({n_head})")
        num_params = n_embd * (2 * vocab_size + block_size + 12 * n_layer * n_embd)
        if num_params + ALIGNMENT >= MOST_NODES:
            raise ValueError(f"{num_params} parameters are more than the graph can hold ({MOST_NODES - ALIGNMENT - 1})")
        count = num_params
        slot = new_parameters(<uint32_t>count)
        first = (slot + ALIGNMENT) // ALIGNMENT * ALIGNMENT
        # rng may run Python code: until it is done this object is not initialised, so that nobody sees half of it.
        try:
            draw(tape.data + first, count, std, rng)
            if self.region:
                raise TypeError("a GPT is initialised once")
        except BaseException:
            let_go(slot)
            raise
        self.vocab_size, self.n_embd, self.n_head = vocab_size, n_embd, n_head
        self.n_layer, self.block_size, self.init_std = n_layer, block_size, std
        self.head_dim, self.num_params = self.n_embd // self.n_head, count
        self.params_data, self.params_grad = tape.data + first, tape.grad + first
        self.first, self.region = first, slot

    def __dealloc__(self):
        if self.region:
            let_go(self.region)

    cdef int ready(self) except -1:
        """Raise RuntimeError where __init__ has not run to its end: a subclass may forget it."""
        if self.region == 0:
            raise RuntimeError("GPT.__init__ has not been called")
        return 0

    @property
    def params(self):
        """The parameters' Values in the script's order, a list."""
        self.ready()
        if self.values is None:
            self.values = handles(self.first, self.num_params)
        return self.values

    @property
    def state_dict(self):
        """name -> matrix, a tuple of nout tuples of nin Values. Read-only: gpt works on the parameters themselves."""
        self.ready()
        if self.matrices is None:
            self.matrices = self._matrices()
        return self.matrices

    def _matrices(self):
        from types import MappingProxyType

        self.ready()
        values = iter(handles(self.first, self.num_params))  # not params, a list that its user may have changed

        def matrix(nout, nin):
            return tuple([tuple([next(values) for _ in range(nin)]) for _ in range(nout)])

        E = self.n_embd
        shapes = {"wte": (self.vocab_size, E), "wpe": (self.block_size, E), "lm_head": (self.vocab_size, E)}
        for i in range(self.n_layer):
            for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo"):
                shapes[f"layer{i}.{name}"] = (E, E)
            shapes[f"layer{i}.mlp_fc1"] = (4 * E, E)
            shapes[f"layer{i}.mlp_fc2"] = (E, 4 * E)
        return MappingProxyType({name: matrix(*shape) for name, shape in shapes.items()})

    @property
    def data(self):
        """The parameters' numbers: a NumPy view, [num_params] float64, without a copy."""
        self.ready()
        return as_array(self, self.params_data)

    @property
    def grad(self):
        """The parameters' gradients: a NumPy view, [num_params] float64, without a copy."""
        self.ready()
        return as_array(self, self.params_grad)

    def __reduce_ex__(self, protocol):
        raise TypeError("a GPT cannot be copied or pickled: model.data.copy() is its parameters")

    def _clear_grad(self):
        """Set all gradients to 0 without NumPy, whose import an interrupt would spoil."""
        self.ready()
        memset(self.params_grad, 0, self.num_params * sizeof(double))

    def __repr__(self):
        if self.region == 0:
            return f"<{type(self).__name__}, not initialised>"
        return (f"{type(self).__name__}(vocab_size={self.vocab_size}, n_embd={self.n_embd}, n_head={self.n_head}, "
                f"n_layer={self.n_layer}, block_size={self.block_size})")

    def _repr_html_(self):
        from ..viz.notebook import gpt_html

        self.ready()
        return gpt_html(self)

    def generate(self, prompt=(), temperature=0.5, top_k=None, top_p=None, max_length=None, rng=None):
        """The token ids that the model writes after prompt, as they are drawn: see `microgpt.generation.generate`."""
        from ..generation import generate

        self.ready()
        return generate(self, prompt, temperature, top_k, top_p, max_length, rng)


cdef uint32_t new_parameters(uint32_t n) except 0:
    """The header of a new region of n leaves, some slots more so that the first can begin where a cache line does, as
    the kernels like it. The caller holds one reference."""
    cdef void *memory
    cdef uint32_t slot, i
    n += ALIGNMENT - 1
    wait_for_tape()
    slot = make_region(n, 0, &memory)
    if slot == 0:
        raise MemoryError("no memory for the parameters")
    for i in range(slot + 1, slot + 1 + n):
        tape.data[i] = tape.grad[i] = 0.0
        tape.node[i].owner = slot
        tape.node[i].kind, tape.node[i].flags = LEAF, 0
    return slot


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
    """A list index, as the script's lists of n take it."""
    if not isinstance(index, int) and not hasattr(type(index), "__index__"):
        raise TypeError(f"list indices must be integers or slices, not {type(index).__name__}")
    from operator import index as as_index
    cdef object i = index if type(index) is int else as_index(index)
    if i < 0:
        i = i + n
    if not 0 <= i < n:
        raise IndexError("list index out of range")
    return <uint32_t>i


def gpt(token_id, pos_id, keys, values, GPT model not None):
    """The logits, [vocab_size], of the token that follows token_id at position pos_id (the script's gpt).

    keys, values: one list a layer, holding a list of n_embd Values for each position so far; this position's are
    appended. IndexError for a token or a position that the model does not have. ValueError for keys or values that do
    not hold equally many positions in every layer, or rows of fewer than n_embd Values.
    """
    cdef Shape m = shape_of(model)
    cdef uint32_t token = index_of(token_id, model.vocab_size), pos = index_of(pos_id, model.block_size), li
    cdef Py_ssize_t E = model.n_embd, L = model.n_layer, n_before = -1
    cdef list before = [], rows  # every row of keys and values so far: layer by layer, keys before values
    cdef Build b
    cdef Cache *caches = NULL
    cdef uint32_t logits = 0
    cdef int code
    for li in range(L):
        for cached_rows in (keys[li], values[li]):
            # Rows are counted here, not by len(): a class may give as many as it likes.
            rows = [sequence(row) for row in cached_rows]
            if n_before < 0:
                n_before = len(rows)
            elif len(rows) != n_before:
                raise ValueError("keys and values must hold as many positions as each other, in every layer")
            before += rows
    n_before = max(n_before, 0)  # a model without layers has neither
    begin()
    code = build_gpt(&b, &m, token, pos, before, n_before, &caches, &logits)
    end()
    if code == MG_NOT_VALUES:
        raise ValueError(f"the keys and values of a position must be n_embd ({E}) Values each")
    result = finish(&b, code, logits, m.vocab_size)
    for li in range(L):
        keys[li].append(cached_handles(caches + li, n_before, E))
        values[li].append(cached_handles(caches + L + li, n_before, E))
    return result


cdef int build_gpt(Build *b, Shape *m, uint32_t token, uint32_t pos, list before, size_t n_before, Cache **caches,
                   uint32_t *logits) noexcept:
    """The nodes of gpt in a region of their own: its caches, [2 * n_layer], and its first logit's slot.

    before: n_before rows for each layer's keys, then for its values. Runs no Python code.
    """
    cdef size_t E = m.n_embd, L = m.n_layer, n = n_before + 1, kept = m.num_params - m.lm_head, slots, size, i = 0, t
    cdef uint32_t li
    cdef Cache *cache
    cdef char *places
    cdef int code
    b.owner = 0
    for i in range(2 * L * n_before):
        row = <object>PyList_GET_ITEM(before, i)
        if not are_values(row) or <size_t>PySequence_Fast_GET_SIZE(row) < E:
            return MG_NOT_VALUES
    slots = gpt_slots(m, n) + 2 * L * E
    size = (kept + 2 * L * n * E) * sizeof(double) + 2 * L * sizeof(Cache) + gpt_memory(m, n)
    size += 2 * L * n * E * sizeof(uint32_t)
    code = start(b, slots, size)
    if code != MG_OK:
        return code
    if keep(b.owner, m.params) != MG_OK:
        return give_back(b, MG_NO_MEMORY)
    m.data = room(b, kept)
    memcpy(m.data, b.data + m.params + m.lm_head, kept * sizeof(double))
    caches[0] = <Cache *>b.memory  # keys of every layer, then values of every layer
    b.memory += 2 * L * sizeof(Cache)
    # The slots of the caches' rows go to the end, behind what the layers take.
    places = b.memory + gpt_memory(m, n) + 2 * L * n * E * sizeof(double)
    i = 0
    for li in range(2 * L):
        cache = caches[0] + (li >> 1) + (L if li & 1 else 0)
        cache.base, cache.slots, cache.data = 0, <uint32_t *>places, room(b, n * E)
        cache.low, cache.high = 0xFFFFFFFF, 0
        places += n * E * sizeof(uint32_t)
        for t in range(n_before):
            row = <object>PyList_GET_ITEM(before, i)
            code = collect(b.owner, row, E, cache.slots + t * E, cache.data + t * E)
            if code != MG_OK:
                return give_back(b, code)
            i += 1
        for t in range(n_before * E):
            cache.low, cache.high = min(cache.low, cache.slots[t]), max(cache.high, cache.slots[t])
    with nogil:
        logits[0] = gpt_layers(b, m, token, pos, caches[0], caches[0] + L, <uint32_t>n_before).base
    return MG_OK if b.next == b.owner + 1 + slots else give_back(b, MG_MISCOUNTED)


cdef list cached_handles(Cache *cache, Py_ssize_t t, Py_ssize_t E):
    return handles(cache.slots[t * E], E)


def document_loss(tokens, GPT model not None):
    """The mean loss of predicting each token of a document from those before it, one Value (the script's loop).

    tokens: the document's token ids with BOS on both sides; those beyond the model's block_size are left out.
    """
    cdef Shape m = shape_of(model)
    cdef Py_ssize_t n = min(model.block_size, len(tokens) - 1), i
    cdef object one = 1
    cdef uint32_t *ids
    cdef uint32_t root = 0, owner = 0
    cdef int code
    if n <= 0:
        return (one / n) * 0  # what the script's last line makes of no losses at all
    ids = <uint32_t *>malloc((n + 1) * sizeof(uint32_t))
    if ids == NULL:
        raise MemoryError()
    try:
        for i in range(n + 1):
            ids[i] = index_of(tokens[i], model.vocab_size)
        begin()
        with nogil:
            code = document_layers(&m, ids, <uint32_t>n, &root, &owner)
            if code != MG_OK and owner:
                release(owner)  # its nodes are not all filled in
        end()
    finally:
        free(ids)
    check(code)
    try:
        return handle(root)
    finally:
        let_go(owner)
