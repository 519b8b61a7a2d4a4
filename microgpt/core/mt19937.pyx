# cython: embedsignature=False
"""The stream of random numbers: what `random.Random` draws, without importing `random`.

The script seeds one generator (`random.seed(42)`) and draws everything from it: the order of the documents, the
parameters, the sampled tokens. A `MT19937` gives the same numbers in the same order, on every version of Python.
"""
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.number cimport PyIndex_Check, PyNumber_Index
from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uintptr_t

from microgpt.core._csrc cimport (
    MG_CHOICE_TOTAL_NOT_FINITE,
    MG_CHOICE_TOTAL_ZERO,
    mg_mt19937_below,
    mg_mt19937_choice,
    mg_mt19937_fill_below,
    mg_mt19937_fill_gauss,
    mg_mt19937_gauss,
    mg_mt19937_random,
    mg_mt19937_seed,
)
from microgpt.core.documents cimport TextLines


cdef extern from "Python.h":
    PyObject **PySequence_Fast_ITEMS(list x)
    Py_ssize_t PyList_GET_SIZE(list x)


cdef enum:
    DRAWN = 256  # numbers of a shuffle that are drawn at once
    UNSEEDED = -1  # the position in a state that nothing was written to


cdef uint32_t word(object number) except? 0xFFFFFFFF:
    return PyNumber_Index(number)  # Cython alone would cut a float to an integer


cdef int raise_choice(int64_t status) except -1:
    """Raise what random.choices raises where mg_mt19937_choice returns this status, unless it is none of its own."""
    if status == MG_CHOICE_TOTAL_ZERO:
        raise ValueError("Total of weights must be greater than zero")
    if status == MG_CHOICE_TOTAL_NOT_FINITE:
        raise ValueError("Total of weights must be finite")
    return 0


ctypedef fused item:
    int32_t
    uintptr_t


cdef void shuffle_items(mg_mt19937 *state, item *items, Py_ssize_t n) noexcept:
    cdef uint64_t drawn[DRAWN]
    cdef Py_ssize_t i = n - 1, j, k, count
    while i > 0:
        count = min(i, DRAWN)
        mg_mt19937_fill_below(state, i + 1, count, drawn)
        for k in range(count):
            j = <Py_ssize_t>drawn[k]
            items[i - k], items[j] = items[j], items[i - k]
        i -= count


cdef class MT19937:
    # The first line is the signature, in the form in which Python reads it: inspect.signature(MT19937).
    """MT19937(seed=42)\n--\n
The generator `random.Random(seed)` for a seed that is an integer: of any sign, any size and any type.

The state is exchanged with `random.Random` both ways: `r.setstate(s.getstate())`, `s.setstate(r.getstate())`.
"""

    def __cinit__(self):
        self.state.pos = UNSEEDED

    def __init__(self, seed=42):
        if not PyIndex_Check(seed):
            raise TypeError(f"a seed is an integer, not {type(seed).__name__}")
        magnitude = abs(PyNumber_Index(seed))  # -3 and 3 are the same seed, as they are in random.seed
        if self.state.pos != UNSEEDED:
            raise TypeError("a MT19937 is initialised once")
        cdef Py_ssize_t i, num_digits = max(1, (magnitude.bit_length() + 31) // 32)
        little_endian = magnitude.to_bytes(4 * num_digits, "little")
        cdef const unsigned char *octets = little_endian
        cdef uint32_t *digits = <uint32_t *>PyMem_Malloc(num_digits * sizeof(uint32_t))
        if digits == NULL:
            raise MemoryError()
        for i in range(num_digits):
            digits[i] = (octets[4 * i] | <uint32_t>octets[4 * i + 1] << 8 | <uint32_t>octets[4 * i + 2] << 16
                         | <uint32_t>octets[4 * i + 3] << 24)
        mg_mt19937_seed(&self.state, digits, num_digits)
        PyMem_Free(digits)

    cdef mg_mt19937 *ready(self) except NULL:
        """The state; raises RuntimeError where there is none: a subclass may forget __init__."""
        if self.state.pos == UNSEEDED:
            raise RuntimeError("MT19937.__init__ has not been called")
        return &self.state

    def random(self):
        """The next number in [0, 1), as `random.random()` draws it."""
        return mg_mt19937_random(self.ready())

    def gauss(self, double mu=0.0, double sigma=1.0):
        """A normally distributed number, as `random.gauss(mu, sigma)` draws it: two at a time, one kept for later."""
        return mg_mt19937_gauss(self.ready(), mu, sigma)

    cdef void fill_gauss(self, double *out, Py_ssize_t n, double mu, double sigma) noexcept nogil:
        """n calls of gauss into out[0:n], by a MT19937 that is ready."""
        mg_mt19937_fill_gauss(&self.state, out, n, mu, sigma)

    def shuffle(self, x not None):
        """Shuffle x, a list or `microgpt.core.documents.TextLines`, in place, as `random.shuffle(x)` does."""
        cdef mg_mt19937 *state = self.ready()
        cdef Py_ssize_t i, j
        # By the true numbers of items: a subclass may give another len().
        if type(x) is list:
            # The pointers change places and no reference count changes: the objects themselves stay out of the cache.
            shuffle_items(state, <uintptr_t *>PySequence_Fast_ITEMS(x), PyList_GET_SIZE(x))
        elif isinstance(x, TextLines):
            (<TextLines>x).ready()
            shuffle_items(state, (<TextLines>x).starts, (<TextLines>x).count)
        elif isinstance(x, list):
            for i in range(len(x) - 1, 0, -1):  # by whatever methods the subclass has
                j = <Py_ssize_t>mg_mt19937_below(state, i + 1)
                x[i], x[j] = x[j], x[i]
        else:
            raise TypeError(f"only a list can be shuffled, not {type(x).__name__}")

    def choice_index(self, weights):
        """An index into weights, drawn as `random.choices(range(len(weights)), weights)[0]` draws it.

        Raises ValueError, in CPython's words, if the weights' total is not positive or not finite; draws nothing then.
        """
        cdef tuple items = tuple(weights)  # as many as there are, whatever len() says and whatever they do to the list
        cdef Py_ssize_t i = 0, n = len(items)
        cdef int64_t index
        cdef double total = 0.0
        if n == 0:
            raise IndexError("there are no weights to choose by")
        cdef double *cum_weights = <double *>PyMem_Malloc(n * sizeof(double))
        if cum_weights == NULL:
            raise MemoryError()
        try:
            for i in range(n):
                # The first weight starts the sum. (Added to 0.0 it would lose the sign of -0.0 at most.)
                total = items[i] if i == 0 else total + <double>items[i]
                cum_weights[i] = total
            index = mg_mt19937_choice(self.ready(), cum_weights, n)
        finally:
            PyMem_Free(cum_weights)
        raise_choice(index)
        return index

    def getstate(self):
        """The state as `random.Random.getstate()` has it: (3, (624 words, the position in them), spare gauss or None)."""
        self.ready()
        words = tuple([self.state.key[i] for i in range(624)])
        return 3, (*words, self.state.pos), self.state.gauss_next if self.state.has_gauss else None

    def copy(self):
        """A MT19937 in the same state, which `setstate` takes as well: so a state is kept in a hundredth of getstate's time."""
        cdef MT19937 kept = MT19937.__new__(MT19937)
        kept.state = self.ready()[0]
        return kept

    def setstate(self, state):
        """Take over a state that `getstate` of this class or of `random.Random` gave; a bad one changes nothing."""
        cdef mg_mt19937 new
        cdef int i
        if isinstance(state, MT19937):
            self.state = (<MT19937>state).ready()[0]
            return
        version, internal, gauss_next = state
        if version != 3:
            raise ValueError(f"state with version {version} passed to MT19937.setstate() of version 3")
        if len(internal) != 625:
            raise ValueError("state vector is the wrong size")
        for i in range(624):
            new.key[i] = word(internal[i])
        position = PyNumber_Index(internal[624])
        if not 0 <= position <= 624:
            raise ValueError("invalid state")
        new.pos = position
        new.has_gauss = gauss_next is not None
        new.gauss_next = gauss_next if gauss_next is not None else 0.0
        self.state = new

    def __reduce__(self):
        return type(self), (), self.getstate()

    def __setstate__(self, state):
        self.setstate(state)
