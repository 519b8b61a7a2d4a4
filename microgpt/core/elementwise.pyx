# cython: language_level=3
"""Straight-line arithmetic for many parameters at a time: the optimizer loops of scripts (scripting/optimizer.py).

Each operation is an instruction of compiled programs (csrc/compiler/program.h) for a block of parameters.
"""
cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int32_t, uint32_t
from libc.string cimport memcpy, memset

from microgpt.core._csrc cimport mg_kernels
from microgpt.core.lock cimport wait_until_idle
from microgpt.core.simd cimport kernels
from microgpt.core.tape cimport tape
from microgpt.core.value cimport Value, settled_slot


cdef extern from *:
    """
    #include "compiler/graph.h"
    #include "compiler/program.h"
    #include "kernels/kernels.h"
    /* One block of numbers: the interpreter of compiled programs runs it. */
    static int mg_run_block(const mg_kernels *k, mg_instruction *code, mg_tile *tiles, int32_t n, double *frame) {
        mg_program program = {.instructions = code, .tiles = tiles, .n_forward = n};
        return k->replay(&program, 0, frame, frame, 0);
    }
    """
    ctypedef struct mg_instruction:
        int32_t kind, nt, R, da, db, ints, table, first
        double constant
    ctypedef struct mg_tile:
        int32_t a, b, o, n, ka, kb
    int MG_I_ADD, MG_I_MUL, MG_I_DIV, MG_I_POW, MG_I_NEG, MG_I_CALL
    int MG_F_SQRT, MG_F_EXP, MG_F_LOG, MG_F_TANH, MG_F_FABS
    int mg_run_block(const mg_kernels *k, mg_instruction *code, mg_tile *tiles, int32_t n, double *frame) nogil

cdef enum:
    BLOCK = 512  # parameters at a time
    MOST_LISTS = 16


@cython.no_gc_clear  # the slots are those of values, a tuple, because the collector empties lists
cdef class Elementwise:
    """The same straight-line arithmetic for each of many parameters: an optimizer's loop as a script has it.

    Per parameter there are its data and grad, an element of each list, and results; scalars are the same for all. An operand
    is ("data", 0), ("grad", 0), ("list", k), ("scalar", k) or ("result", k): what instruction k computes.

    params: distinct Values.  lists: lists of as many floats, which are copied.  code: (operation, operand, operand).
    stored: what becomes of data, grad and the lists.
    """

    cdef tuple values
    cdef uint32_t *slots  # of the params
    cdef Py_ssize_t n
    cdef mg_instruction *code
    cdef mg_tile *tiles
    cdef double *frame  # [registers][BLOCK], and the scalars
    cdef double *arrays  # [2 + lists][n]: data and grad after the step, the lists now
    cdef double *before  # [lists][n]: the lists before the step
    cdef int32_t n_code, n_lists, n_scalars
    cdef list power_of, negated, stored
    cdef int32_t results  # the register of the first result
    cdef Py_ssize_t scalars_at  # where the scalars are in the frame; behind them the negated ones
    cdef dict places  # ("result", k) -> its register

    def __init__(self, params, lists, Py_ssize_t n_scalars, code, stored):
        cdef Py_ssize_t n, k, size
        if self.values is not None:
            raise TypeError("an Elementwise is initialised once")
        if len(lists) > MOST_LISTS:
            raise ValueError(f"at most {MOST_LISTS} lists")
        values = tuple(params)
        n = len(values)
        self.n_lists, self.n_scalars = <int32_t>len(lists), <int32_t>n_scalars
        self.results = 2 + self.n_lists
        n_code = sum(2 if name == "-" else 1 for name, _, _ in code)
        self.scalars_at = (self.results + n_code) * BLOCK
        size = self.scalars_at + n_scalars + n_code
        self.slots = <uint32_t *>PyMem_Malloc((n + 1) * sizeof(uint32_t))
        self.code = <mg_instruction *>PyMem_Malloc((n_code + 1) * sizeof(mg_instruction))
        self.tiles = <mg_tile *>PyMem_Malloc((n_code + 1) * sizeof(mg_tile))
        self.frame = <double *>PyMem_Malloc(size * sizeof(double))
        self.arrays = <double *>PyMem_Malloc((self.results * n + 1) * sizeof(double))
        self.before = <double *>PyMem_Malloc((self.n_lists * n + 1) * sizeof(double))
        if (self.slots == NULL or self.code == NULL or self.tiles == NULL or self.frame == NULL or self.arrays == NULL
                or self.before == NULL):
            raise MemoryError()
        memset(self.code, 0, (n_code + 1) * sizeof(mg_instruction))
        memset(self.tiles, 0, (n_code + 1) * sizeof(mg_tile))
        memset(self.frame, 0, size * sizeof(double))
        self.power_of, self.negated, self.places = [], [], {}
        for k, (name, a, b) in enumerate(code):
            self.places["result", k] = self._add(name, a, b)
        self.stored = [stored.get(place, place) for place in [("data", 0), ("grad", 0), *(("list", k) for k in range(self.n_lists))]]
        for k, numbers in enumerate(lists):
            if len(numbers) != n:
                raise ValueError(f"list {k} has another length than params")
        for k, value in enumerate(values):
            self.slots[k] = settled_slot(<Value?>value)
        if len(set(map(id, values))) != n:
            raise ValueError("a Value is in params twice")
        self.values, self.n = values, n
        for k, numbers in enumerate(lists):
            self.set_list(k, numbers)

    def __dealloc__(self):
        PyMem_Free(self.slots)
        PyMem_Free(self.code)
        PyMem_Free(self.tiles)
        PyMem_Free(self.frame)
        PyMem_Free(self.arrays)
        PyMem_Free(self.before)

    cdef int32_t _at(self, operand) except -1:
        """The place of an operand in the frame."""
        kind, k = operand
        if kind == "scalar":
            return <int32_t>(self.scalars_at + k)
        return <int32_t>(BLOCK * (self.places[operand] if kind == "result" else 2 + k if kind == "list" else int(kind == "grad")))

    cdef object _add(self, name, a, b):
        """Append an operation; the register of its result."""
        cdef int32_t at_a = self._at(a), at_b = self._at(b), step_a = a[0] != "scalar", step_b = b[0] != "scalar"
        functions = {"sqrt": MG_F_SQRT, "exp": MG_F_EXP, "log": MG_F_LOG, "tanh": MG_F_TANH, "fabs": MG_F_FABS}
        if name == "-":  # a - b is a + -b
            if step_b:
                self._instruction(MG_I_NEG, at_b, at_b, 1, 1)
                at_b = self.tiles[self.n_code - 1].o
            else:
                at_b = <int32_t>(self.scalars_at + self.n_scalars + len(self.negated))
                self.negated.append(b[1])
        if name in functions:
            self._instruction(MG_I_CALL, at_a, at_a, 1, 1).constant = functions[name]
        elif name == "neg":
            self._instruction(MG_I_NEG, at_a, at_a, 1, 1)
        elif name == "**":
            self.power_of.append((self.n_code, b[1]))
            self._instruction(MG_I_POW, at_a, at_a, 1, 1)
        else:
            self._instruction(MG_I_MUL if name == "*" else MG_I_DIV if name == "/" else MG_I_ADD, at_a, at_b, step_a, step_b)
        return self.results + self.n_code - 1

    cdef mg_instruction *_instruction(self, int kind, int32_t a, int32_t b, int32_t da, int32_t db) except NULL:
        cdef mg_instruction *code = self.code + self.n_code
        code.kind, code.nt, code.ints, code.first, code.da, code.db = kind, 1, -1, self.n_code, da, db
        self.tiles[self.n_code] = mg_tile(a, b, (self.results + self.n_code) * BLOCK, 0, -1, -1)
        self.n_code += 1
        return code

    def step(self, scalars):
        """Do it once for every parameter. False: Python might have raised an error on the way, and nothing is changed."""
        cdef Py_ssize_t n = self.n, first, size, i, k
        cdef double *scalar = self.frame + self.scalars_at
        cdef double *given
        cdef uint32_t *slots
        cdef int32_t c, odd = 0
        cdef const double *sources[2 + MOST_LISTS]
        cdef bint same[2 + MOST_LISTS]
        for k in range(self.n_scalars):
            scalar[k] = scalars[k]
        for i, k in enumerate(self.negated):
            scalar[self.n_scalars + i] = -scalar[k]
        for at, k in self.power_of:
            self.code[at].constant = scalar[k]
        for k in range(self.results):
            kind = self.stored[k][0]
            sources[k] = self.frame + self._at(self.stored[k])
            same[k] = kind == "scalar"
        if tape.tracing_thread != 0:
            raise TypeError("an optimizer's loop cannot be part of a compiled function")
        wait_until_idle()
        with nogil:
            memcpy(self.before, self.arrays + 2 * n, self.n_lists * n * sizeof(double))
            first = 0
            while first < n:
                size = min(n - first, BLOCK)
                slots = self.slots + first
                i = 1
                while i < size and slots[i] == slots[0] + i:  # mostly all of them are neighbours
                    i += 1
                if i == size:
                    memcpy(self.frame, tape.data + slots[0], size * sizeof(double))
                    memcpy(self.frame + BLOCK, tape.grad + slots[0], size * sizeof(double))
                else:
                    for i in range(size):
                        self.frame[i], self.frame[BLOCK + i] = tape.data[slots[i]], tape.grad[slots[i]]
                for k in range(self.n_lists):
                    memcpy(self.frame + (2 + k) * BLOCK, self.before + k * n + first, size * sizeof(double))
                for c in range(self.n_code):
                    self.code[c].R = <int32_t>size
                odd = mg_run_block(kernels(), self.code, self.tiles, self.n_code, self.frame)
                if odd:
                    break
                for k in range(self.results):
                    given = self.arrays + k * n + first
                    if same[k]:
                        for i in range(size):
                            given[i] = sources[k][0]
                    else:
                        memcpy(given, sources[k], size * sizeof(double))
                first += BLOCK
            if odd:
                memcpy(self.arrays + 2 * n, self.before, self.n_lists * n * sizeof(double))
            else:
                for i in range(n):
                    tape.data[self.slots[i]] = self.arrays[i]
                    tape.grad[self.slots[i]] = self.arrays[n + i]
        return not odd

    def get_list(self, Py_ssize_t k):
        """The numbers of a list, as a list."""
        cdef Py_ssize_t i, n = self.n
        return [self.arrays[(2 + k) * n + i] for i in range(n)]

    def set_list(self, Py_ssize_t k, list numbers):
        """Take a list's numbers: floats."""
        cdef Py_ssize_t i, n = self.n
        for i in range(n):
            self.arrays[(2 + k) * n + i] = numbers[i]

    def last(self, operand):
        """What an operand that is not a scalar was for the last parameter in the last step."""
        return self.frame[self._at(operand) + (self.n - 1) % BLOCK]
