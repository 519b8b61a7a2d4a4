# cython: language_level=3, cdivision=True, boundscheck=True, wraparound=True, auto_pickle=False
"""The model on the tape: GPT and the script's linear, softmax, rmsnorm and gpt.

They build the very graph that the script would build, without a Python object per node and without the GIL. What they
are given that is not all Values goes through the script's own lines instead, operator by operator.
"""
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES
from cpython.object cimport PyObject
from libc.math cimport isfinite
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from microgpt.stream cimport Stream
from microgpt.value cimport (
    BINARY, CHAIN, LEAF, UNARY, Fold, Node, Value, begin, end, handle, keep, know_order, let_go, make_region, tape,
    wait_for_tape,
)

cdef extern from "mg_math.h" nogil:
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

cdef class Doubles:
    """The buffer behind GPT.data and GPT.grad; holds on to the model."""

    cdef GPT model
    cdef double *start
    cdef Py_ssize_t shape, stride

    def __getbuffer__(self, Py_buffer *buffer, int flags):
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


cdef int draw(GPT model, object rng) except -1:
    """The script's draws, in its order."""
    cdef Py_ssize_t i
    cdef double number
    if rng is None:
        from random import Random
        rng = Random(42)
    if type(rng) is Stream:
        (<Stream>rng).fill_gauss(model.params_data, model.num_params, 0.0, model.init_std)
        return 0
    gauss = rng.gauss
    for i in range(model.num_params):
        number = gauss(0, model.init_std)
        model.params_data[i] = number
    return 0


cdef class GPT:
    """The parameters of the model (the script's "Initialize the parameters").

    One contiguous run of leaf nodes in the script's order, drawn by rng.gauss(0, init_std); rng is a random.Random, by
    default Random(42). state_dict: name -> matrix [nout][nin] of Values. params: the same Values in one list. data,
    grad: NumPy views, [num_params] float64, of their numbers and gradients. Impossible settings raise ValueError.
    """

    def __init__(self, vocab_size, n_embd=16, n_head=4, n_layer=1, block_size=16, init_std=0.08, rng=None):
        cdef Py_ssize_t i
        cdef uint32_t slot, n
        cdef void *memory
        if self.region:
            raise TypeError("a GPT is initialised once")
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
        self.vocab_size, self.n_embd, self.n_head = vocab_size, n_embd, n_head
        self.n_layer, self.block_size, self.init_std = n_layer, block_size, init_std
        self.head_dim, self.num_params = self.n_embd // self.n_head, num_params
        wait_for_tape()
        # Some slots more, so that the parameters can begin where a cache line does, as the kernels like it.
        n = <uint32_t>self.num_params + ALIGNMENT - 1
        slot = make_region(n, 0, &memory)
        if slot == 0:
            raise MemoryError("no memory for the parameters")
        self.region = slot
        self.first = (slot + ALIGNMENT) // ALIGNMENT * ALIGNMENT
        self.params_data, self.params_grad = tape.data + self.first, tape.grad + self.first
        for i in range(slot + 1, slot + 1 + n):
            tape.data[i] = tape.grad[i] = 0.0
            tape.node[i].owner = slot
            tape.node[i].kind, tape.node[i].flags = LEAF, 0
        draw(self, rng)

    def __dealloc__(self):
        if self.region:
            let_go(self.region)

    @property
    def params(self):
        """The parameters' Values in the script's order, a list."""
        if self.values is None:
            self.values = handles(self.first, self.num_params)
        return self.values

    @property
    def state_dict(self):
        """name -> matrix, a tuple of nout tuples of nin Values. Read-only: gpt works on the parameters themselves."""
        if self.matrices is None:
            self.matrices = self._matrices()
        return self.matrices

    def _matrices(self):
        from types import MappingProxyType

        values = iter(self.params)

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
        return as_array(self, self.params_data)

    @property
    def grad(self):
        """The parameters' gradients: a NumPy view, [num_params] float64, without a copy."""
        return as_array(self, self.params_grad)

    def _clear_grad(self):
        """Set all gradients to 0 without NumPy, whose import an interrupt would spoil."""
        memset(self.params_grad, 0, self.num_params * sizeof(double))

    def __repr__(self):
        return (f"GPT(vocab_size={self.vocab_size}, n_embd={self.n_embd}, n_head={self.n_head}, "
                f"n_layer={self.n_layer}, block_size={self.block_size})")

    def _repr_html_(self):
        from .display import gpt_html

        return gpt_html(self)

    def generate(self, prompt=(), temperature=0.5, top_k=None, top_p=None, max_length=None, rng=None):
        """The token ids that the model writes after prompt, as they are drawn: see `microgpt.sampling.generate`."""
        from .sampling import generate

        return generate(self, prompt, temperature, top_k, top_p, max_length, rng)


cdef Shape shape_of(GPT model) except *:
    cdef Shape m
    cdef uint32_t E = <uint32_t>model.n_embd
    if model is None or model.region == 0:
        raise TypeError("model must be a GPT")
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
    appended. IndexError for a token or a position that the model does not have.
    """
    cdef Shape m = shape_of(model)
    cdef uint32_t token = index_of(token_id, model.vocab_size), pos = index_of(pos_id, model.block_size), li, t, first
    cdef Py_ssize_t E = model.n_embd, L = model.n_layer, n_before = 0, i
    cdef list before = []  # every row of keys and values so far: layer by layer, keys before values
    cdef Build b
    cdef Cache *caches = NULL
    cdef Cache *cache
    cdef Vector logits = vector(0, NULL, 0)
    cdef size_t kept = model.num_params - m.lm_head, slots, size
    cdef char *places
    cdef int code
    if L:
        n_before = len(keys[0])
    for li in range(L):
        for cached_rows in (keys[li], values[li]):
            if len(cached_rows) != n_before:
                raise ValueError("keys and values must hold as many positions as each other, in every layer")
            before += [sequence(row) for row in cached_rows]
    slots = gpt_slots(&m, n_before + 1) + 2 * L * E
    size = (kept + 2 * L * (n_before + 1) * E) * sizeof(double) + 2 * L * sizeof(Cache) + gpt_memory(&m, n_before + 1)
    size += 2 * L * ((n_before + 1) * E * sizeof(uint32_t))
    begin()
    for row in before:
        if not are_values(row) or PySequence_Fast_GET_SIZE(row) < E:
            end()
            raise ValueError(f"the keys and values of a position must be n_embd ({E}) Values each")
    code = start(&b, slots, size)
    if code == MG_OK and keep(b.owner, m.params) != MG_OK:
        code = MG_NO_MEMORY
    if code == MG_OK:
        m.data = room(&b, kept)
        memcpy(m.data, b.data + m.params + m.lm_head, kept * sizeof(double))
        caches = <Cache *>b.memory  # keys of every layer, then values of every layer
        b.memory += 2 * L * sizeof(Cache)
        # The slots of the caches' rows go to the end, behind what the layers take.
        places = b.memory + gpt_memory(&m, n_before + 1) + 2 * L * (n_before + 1) * E * sizeof(double)
        i = 0
        for li in range(2 * L):
            cache = caches + (li >> 1) + (L if li & 1 else 0)
            cache.base, cache.slots, cache.data = 0, <uint32_t *>places, room(&b, (n_before + 1) * E)
            cache.low, cache.high = 0xFFFFFFFF, 0
            places += (n_before + 1) * E * sizeof(uint32_t)
            for t in range(n_before):
                if code == MG_OK:
                    code = collect(b.owner, before[i], E, cache.slots + t * E, cache.data + t * E)
                i += 1
            for t in range(n_before * E):
                cache.low, cache.high = min(cache.low, cache.slots[t]), max(cache.high, cache.slots[t])
        if code == MG_OK:
            with nogil:
                logits = gpt_layers(&b, &m, token, pos, caches, caches + L, <uint32_t>n_before)
                if b.next != b.owner + 1 + slots:
                    code = MG_MISCOUNTED
    result = finish(&b, code, logits.base, m.vocab_size)
    for li in range(L):
        keys[li].append(cached_handles(caches + li, n_before, E))
        values[li].append(cached_handles(caches + L + li, n_before, E))
    return result


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
        end()
    finally:
        free(ids)
    try:
        check(code)
        return handle(root)
    finally:
        if owner:
            let_go(owner)
