# cython: language_level=3
"""Optimizers over any list of Values: the leaves' slots cut into runs, and SGD.

A model's parameters are one run of slots. A user's are where the tape had room: mostly long runs, and single slots. A run
is updated in place; single slots are gathered into contiguous numbers, updated, and written back.
"""
cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.math cimport sqrt
from libc.stdint cimport uint32_t

from microgpt.core._csrc cimport MG_OK, mg_adam_coefs, mg_adam_decay, mg_adam_update
from microgpt.core.adam cimport Adam, Moments, raise_adam
from microgpt.core.model cimport GPT
from microgpt.core.simd cimport kernels
from microgpt.core.lock cimport wait_until_idle
from microgpt.core.tape cimport tape
from microgpt.core.value cimport Value, settled_slot

cdef enum:
    SHORTEST_RUN = 16  # shorter ones are gathered together


cdef struct Group:
    Py_ssize_t first, n  # places in the list
    bint is_run  # their slots are consecutive; otherwise they are gathered, and distinct


@cython.no_gc_clear  # the slots are those of values, a tuple, because the collector empties lists
cdef class Leaves:
    """The Values of an optimizer in the order given, and the groups in which they are updated."""

    cdef readonly tuple values
    cdef uint32_t *slots
    cdef Group *groups
    cdef double *gathered  # data and grad of the longest group that is not a run
    cdef Py_ssize_t n, n_groups, longest
    cdef readonly Py_ssize_t first_aligned  # place of the first Value of a run whose numbers are at a multiple of 64

    def __init__(self, params):
        cdef Py_ssize_t i
        if self.values is not None:
            raise TypeError("Leaves are initialised once")
        if isinstance(params, Value):
            raise TypeError("params must be a sequence of Values, not one Value")
        values = tuple(params.params if isinstance(params, GPT) else params)
        for i, value in enumerate(values):
            if not isinstance(value, Value):
                from ..errors import class_name

                raise TypeError(f"params[{i}] must be a Value, not {class_name(value)}")
            if settled_slot(<Value>value) == 0:
                raise AttributeError(f"params[{i}] was never initialised: Value.__init__ has not been called")
        self.n = len(values)
        self.slots = <uint32_t *>PyMem_Malloc((self.n + 1) * sizeof(uint32_t))
        self.groups = <Group *>PyMem_Malloc((self.n + 1) * sizeof(Group))
        if self.slots == NULL or self.groups == NULL:
            raise MemoryError()
        for i in range(self.n):
            self.slots[i] = (<Value>values[i]).slot
        self._cut()
        self.gathered = <double *>PyMem_Malloc((2 * self.longest + 1) * sizeof(double))
        if self.gathered == NULL:
            raise MemoryError()
        self.values = values

    cdef int _cut(self) except -1:
        """Find the groups."""
        cdef Py_ssize_t i = 0, end, lead
        cdef bint opened = False
        cdef set seen = set()
        while i < self.n:
            end = i + 1
            while end < self.n and self.slots[end] == self.slots[end - 1] + 1:
                end += 1
            if end - i >= SHORTEST_RUN:
                # Vectors that cross a cache line take twice as long: up to 7 Values before the first line go first. (The
                # tape's arrays begin at one.)
                lead = -self.slots[i] & 7
                if not self.n_groups:
                    self.first_aligned = i + lead
                if lead:
                    self.groups[self.n_groups] = Group(i, lead, True)
                    self.n_groups += 1
                self.groups[self.n_groups] = Group(i + lead, end - i - lead, True)
                self.n_groups += 1
                i, opened = end, False
                continue
            while i < end:
                # The second update of a Value has to see the first one.
                if not opened or self.slots[i] in seen:
                    self.groups[self.n_groups] = Group(i, 0, False)
                    self.n_groups += 1
                    opened = True
                    seen.clear()
                seen.add(self.slots[i])
                self.groups[self.n_groups - 1].n += 1
                self.longest = max(self.longest, self.groups[self.n_groups - 1].n)
                i += 1
        return 0

    def __dealloc__(self):
        PyMem_Free(self.slots)
        PyMem_Free(self.groups)
        PyMem_Free(self.gathered)

    def __len__(self):
        return self.n

    @property
    def group_sizes(self):
        """For tests: (number of Values, whether their slots are one run) of each group."""
        return [(self.groups[i].n, self.groups[i].is_run) for i in range(self.n_groups)]

    def adam_step(self, Adam adam not None, bint libm):
        """One update of every Value in the order of the list: see `Adam.step`."""
        cdef mg_adam_coefs coefs
        cdef Group group
        cdef Py_ssize_t g, i
        cdef uint32_t *slots
        cdef double *data
        cdef double *grad
        cdef int status = MG_OK
        at_rest()
        adam.prepare(&coefs)
        cdef double squares = 0.0, norm, scale
        with nogil:
            if coefs.clip != 0.0:
                for i in range(self.n):
                    squares += tape.grad[self.slots[i]] * tape.grad[self.slots[i]]
                norm = sqrt(squares)
                if norm > coefs.clip:
                    scale = coefs.clip / norm
                    for i in range(self.n):
                        tape.grad[self.slots[i]] *= scale
            if coefs.weight_decay != 0.0:
                for i in range(self.n):
                    mg_adam_decay(&coefs, 1, tape.data + self.slots[i])
            for g in range(self.n_groups):
                group = self.groups[g]
                slots = self.slots + group.first
                if group.is_run:
                    data, grad = tape.data + slots[0], tape.grad + slots[0]
                else:
                    data, grad = self.gathered, self.gathered + group.n
                    for i in range(group.n):
                        data[i], grad[i] = tape.data[slots[i]], tape.grad[slots[i]]
                status = mg_adam_update(kernels(), &coefs, group.n, data, grad, adam.m_data + group.first,
                                        adam.v_data + group.first, libm)
                if not group.is_run:
                    for i in range(group.n):
                        tape.data[slots[i]], tape.grad[slots[i]] = data[i], grad[i]
                if status != MG_OK:
                    break
        if status != MG_OK:
            raise_adam(status)
        adam.steps += 1


cdef int at_rest() except -1:
    """Wait until the tape is idle. A traced function must not get here: replaying it would not do the update."""
    if tape.tracing_thread != 0:
        raise TypeError("an optimizer's step() cannot be part of a compiled function: call it after backward()")
    return wait_until_idle()


cdef void sgd_update(Py_ssize_t n, double *data, double *grad, double *m, double rate, double momentum,
                     double decay) noexcept nogil:
    """reference.SGD.step of n contiguous parameters."""
    cdef Py_ssize_t i
    if momentum != 0.0 and decay != 0.0:
        for i in range(n):
            m[i] = momentum * m[i] + grad[i] + decay * data[i]
            data[i] -= rate * m[i]
            grad[i] = 0.0
    elif momentum != 0.0:
        for i in range(n):
            m[i] = momentum * m[i] + grad[i]
            data[i] -= rate * m[i]
            grad[i] = 0.0
    elif decay != 0.0:
        for i in range(n):
            data[i] -= rate * (grad[i] + decay * data[i])
            grad[i] = 0.0
    else:
        for i in range(n):
            data[i] -= rate * grad[i]
            grad[i] = 0.0


cdef class SGD:
    """Stochastic gradient descent over a `GPT` or any sequence of Values.

    Per parameter, left to right: `m = momentum * m + grad + weight_decay * data`, `data -= learning_rate * m`, `grad = 0`.
    With weight_decay 0 the last term is left out. With momentum 0 there is no m: `data -= learning_rate * grad`, or
    `data -= learning_rate * (grad + weight_decay * data)`.

    Parameters
    ----------
    params : GPT or sequence of Value
        What is updated. A sequence is read once. A Value that occurs twice is updated twice per step.
    learning_rate, momentum, weight_decay : float
        Settings, which may be read and set at any time.

    Attributes
    ----------
    m : float64 array [number of parameters]
        The moments, as a NumPy view without a copy; all 0.0 at first.
    step_index : int
        The updates done so far.

    Raises
    ------
    TypeError
        An item of params is not a Value.

    The bits are those of `reference.SGD`.
    """

    cdef Leaves leaves
    cdef Moments moments
    cdef public double learning_rate, momentum, weight_decay
    cdef public Py_ssize_t step_index

    def __init__(self, params, double learning_rate=0.1, double momentum=0.0, double weight_decay=0.0):
        if self.leaves is not None:
            raise TypeError("an SGD is initialised once")
        leaves = Leaves(params)
        self.moments = Moments(len(leaves))
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        self.leaves = leaves

    cdef int ready(self) except -1:
        if self.leaves is None:
            raise RuntimeError("SGD.__init__ has not been called")
        return 0

    def step(self):
        """Move every parameter against its gradient, and clear the gradients. The GIL is released."""
        cdef double rate = self.learning_rate, momentum = self.momentum, decay = self.weight_decay
        cdef Leaves leaves = self.leaves
        cdef Group group
        cdef Py_ssize_t g, i
        self.ready()
        at_rest()
        cdef double *m = self.moments.data
        with nogil:
            for g in range(leaves.n_groups):
                group = leaves.groups[g]
                if group.is_run:
                    sgd_update(group.n, tape.data + leaves.slots[group.first], tape.grad + leaves.slots[group.first],
                               m + group.first, rate, momentum, decay)
                    continue
                for i in range(group.first, group.first + group.n):
                    sgd_update(1, tape.data + leaves.slots[i], tape.grad + leaves.slots[i], m + i, rate, momentum, decay)
        self.step_index += 1

    @property
    def params(self):
        """The Values that are updated, a list."""
        self.ready()
        return list(self.leaves.values)

    @property
    def m(self):
        """The moments: a NumPy view, [number of parameters] float64, without a copy."""
        from numpy import frombuffer

        self.ready()
        return frombuffer(self.moments)

    def __reduce_ex__(self, protocol):
        raise TypeError("an SGD cannot be copied or pickled: microgpt.save_values saves its state")

    def __repr__(self):
        if self.leaves is None:
            return f"<{type(self).__name__}, not initialised>"
        return (f"SGD(learning_rate={self.learning_rate}, momentum={self.momentum}, weight_decay={self.weight_decay}, "
                f"step_index={self.step_index})")
