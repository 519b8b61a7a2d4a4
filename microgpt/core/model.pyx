# cython: language_level=3, cdivision=True, boundscheck=True, wraparound=True, auto_pickle=False, embedsignature=False
"""GPT: the parameters of the model, on the tape.

The script's functions of them are in functions.pyx and gpt.pyx. Nothing here imports the class Value until the parameters'
Values are asked for: the fused engine works without them.
"""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.number cimport PyIndex_Check, PyNumber_Index
from libc.math cimport signbit
from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset

from microgpt.core.blocks cimport make_block
from microgpt.core.lock cimport release_handle, wait_until_idle
from microgpt.core.mt19937 cimport MT19937
from microgpt.core.tape cimport LEAF, MOST_SLOTS, tape

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

cdef enum:
    ALIGNMENT = 8  # slots: 64 bytes of doubles
    DRAWN_AT_ONCE = 1 << 20  # parameters: some hundredths of a second, after which Ctrl-C is answered


cdef list handles(uint32_t first, Py_ssize_t n):
    """Return the Values of n nodes from slot first on."""
    cdef Py_ssize_t i
    from . import value  # noqa: F401  (sets tape.handle_of)
    return [tape.handle_of(<uint32_t>(first + i)) for i in range(n)]


@cython.no_gc_clear  # the numbers stay while they can be reached
cdef class Doubles:
    """The buffer behind GPT.data and GPT.grad; holds on to the model."""

    cdef GPT model
    cdef double *start
    cdef Py_ssize_t shape, stride

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        if self.model is None:
            raise BufferError("these numbers belong to no model")
        lend_doubles(buffer, flags, self, self.start, &self.shape, &self.stride)


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
        for i in range(0, n, DRAWN_AT_ONCE):
            PyErr_CheckSignals()
            (<MT19937>rng).fill_gauss(numbers + i, min(n - i, DRAWN_AT_ONCE), 0.0, init_std)
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
    # The first line is the signature, in the form in which Python reads it: inspect.signature(GPT).
    """GPT(vocab_size, n_embd=16, n_head=4, n_layer=1, block_size=16, init_std=0.08, rng=None)\n--\n
The parameters of the model (lines 74-90 of the script).

One contiguous run of leaf nodes in the script's order, drawn by rng.gauss(0, init_std).

Parameters
----------
vocab_size, n_embd, n_head, n_layer, block_size : int
    n_embd must be a multiple of n_head.
init_std : float
    The standard deviation of the initial parameters.
rng : random.Random or MT19937, optional
    By default random.Random(42).

Attributes
----------
state_dict : mapping of str to tuple of tuples of Value
    name -> matrix [nout][nin].
params : list of Value
    The same Values in one list, [num_params].
data, grad : numpy.ndarray
    Views of their numbers and gradients, [num_params] float64.

Raises
------
ValueError
    For impossible settings.
"""

    def __init__(self, vocab_size, n_embd=16, n_head=4, n_layer=1, block_size=16, init_std=0.08, rng=None):
        cdef double std = init_std
        cdef Py_ssize_t count
        cdef uint32_t slot, first
        if self.block:
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
        if num_params + ALIGNMENT >= MOST_SLOTS:
            raise ValueError(f"{num_params} parameters are more than the graph can hold ({MOST_SLOTS - ALIGNMENT - 1})")
        count = num_params
        slot = new_parameters(<uint32_t>count)
        first = (slot + ALIGNMENT) // ALIGNMENT * ALIGNMENT
        # rng may run Python code: until it is done this object is not initialised, so that no half of it can be seen.
        try:
            draw(tape.data + first, count, std, rng)
            if self.block:
                raise TypeError("a GPT is initialised once")
        except BaseException:
            release_handle(slot)
            raise
        self.vocab_size, self.n_embd, self.n_head = vocab_size, n_embd, n_head
        self.n_layer, self.block_size, self.init_std = n_layer, block_size, std
        self.head_dim, self.num_params = self.n_embd // self.n_head, count
        self.params_data, self.params_grad = tape.data + first, tape.grad + first
        self.first, self.block = first, slot

    def __dealloc__(self):
        if self.block:
            release_handle(self.block)

    cdef mg_config config(self) noexcept:
        """The sizes, for C."""
        return mg_config(self.vocab_size, self.n_embd, self.n_head, self.n_layer, self.block_size)

    cdef int ready(self) except -1:
        """Raise RuntimeError where __init__ has not run to its end: a subclass may forget it."""
        if self.block == 0:
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

        from ..config import shapes

        self.ready()
        values = iter(handles(self.first, self.num_params))  # not params, a list that its user may have changed

        def matrix(nout, nin):
            return tuple([tuple([next(values) for _ in range(nin)]) for _ in range(nout)])

        return MappingProxyType({name: matrix(*shape) for name, shape in shapes(self.vocab_size, self).items()})

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

    def zero_grad(self):
        """Set all gradients to 0."""
        self.ready()  # and no NumPy: an interrupt would spoil its import
        memset(self.params_grad, 0, self.num_params * sizeof(double))

    def grad_bytes(self):
        """Return a copy of all gradients, or None if all are 0.0: for an engine, without NumPy."""
        cdef Py_ssize_t i, n = self.num_params * sizeof(double)
        self.ready()
        for i in range(self.num_params):
            if self.params_grad[i] != 0.0 or signbit(self.params_grad[i]):
                return PyBytes_FromStringAndSize(<char *>self.params_grad, n)
        return None

    def set_grad_bytes(self, bytes saved not None):
        """Set all gradients to what `grad_bytes` returned."""
        self.ready()
        if len(saved) != self.num_params * <Py_ssize_t>sizeof(double):
            raise ValueError("these are not the gradients of this model")
        memcpy(self.params_grad, <char *>saved, len(saved))

    def __repr__(self):
        if self.block == 0:
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
    """Return the header of a new block of n leaves and a few more, so that the first can begin where a cache line does.

    The caller holds one reference."""
    cdef void *memory
    cdef uint32_t slot, i
    n += ALIGNMENT - 1
    wait_until_idle()
    slot = make_block(n, 0, &memory)
    if slot == 0:
        raise MemoryError("no memory for the parameters")
    for i in range(slot + 1, slot + 1 + n):
        tape.data[i] = tape.grad[i] = 0.0
        tape.node[i].owner = slot
        tape.node[i].kind, tape.node[i].flags = LEAF, 0
    return slot
