# cython: language_level=3, cdivision=True, boundscheck=True, wraparound=True, auto_pickle=False
"""linear, softmax and rmsnorm as the script has them, from lists of Values.

They build the very graph that the script would build, without a Python object per node. What they are given that is not all
Values goes through the script's own lines instead, operator by operator.

Other threads may change a list while we wait for the lock. So everything that can run Python code comes before
begin_nogil(), and whether the items are Values is checked after it, together with reading their slots. What comes between
begin_nogil() and end_nogil() is one function that cannot raise: an exception there would leave the lock held for ever.
"""
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t

from microgpt.core._csrc cimport MG_LOG_DOMAIN
from microgpt.core.blocks cimport hold_external
from microgpt.core.builder cimport (
    Builder, Vector, builder_bytes, builder_doubles, builder_slots, finish_block, start_block, start_dry_run,
)
from microgpt.core.layers cimport linear_layer, rmsnorm_layer, softmax_layer
from microgpt.core.lock cimport begin_nogil, end_nogil, release_handle
from microgpt.core.tape cimport LEAF, MG_NO_MEMORY, MG_OK, MOST_SLOTS, tape
from microgpt.core.value cimport Value, handle, settled_slot


cdef extern from "Python.h":  # borrowed items, without a check
    Py_ssize_t PySequence_Fast_GET_SIZE(object items)
    PyObject *PySequence_Fast_GET_ITEM(object items, Py_ssize_t i)
    Py_ssize_t PyList_GET_SIZE(list items)
    PyObject *PyList_GET_ITEM(list items, Py_ssize_t i)

cdef object sequence(object items):
    """Return items as a list or tuple."""
    return items if type(items) is list or type(items) is tuple else list(items)


cdef bint are_values(object items) noexcept:
    """Whether a list or tuple holds initialised Values only, and at least one."""
    cdef Py_ssize_t i
    cdef PyObject *item
    for i in range(PySequence_Fast_GET_SIZE(items)):
        item = PySequence_Fast_GET_ITEM(items, i)
        if not isinstance(<object>item, Value) or settled_slot(<Value>item) == 0:
            return False
    return PySequence_Fast_GET_SIZE(items) > 0


cdef int collect(uint32_t owner, object items, Py_ssize_t n, uint32_t *slots, double *data) noexcept:
    """Read the slots and numbers of the first n items, and let the block `owner` hold them."""
    cdef Py_ssize_t i
    for i in range(n):
        slots[i] = (<Value>PySequence_Fast_GET_ITEM(items, i)).slot
        data[i] = tape.data[slots[i]]
        if hold_external(owner, slots[i]) != MG_OK:
            return MG_NO_MEMORY
    return MG_OK


cdef list handles(uint32_t first, Py_ssize_t n):
    """Return the Values of n nodes from slot first on."""
    cdef Py_ssize_t i
    return [handle(<uint32_t>(first + i)) for i in range(n)]


cdef int check(int code) except -1:
    """Raise the exception that the script would raise."""
    if code == MG_OK:
        return 0
    if code == MG_NO_MEMORY:
        raise MemoryError("no memory for the nodes of the graph")
    if code == MG_LOG_DOMAIN:
        from math import log
        log(0.0)
    raise SystemError(f"the graph was not built as planned (code {code})")


cdef list results(Builder *b, int code, uint32_t first, Py_ssize_t n):
    """Return the Values of the nodes first, ..., after which the block lives as long as they do."""
    check(code)
    try:
        return handles(first, n)
    finally:
        release_handle(b.owner)


cdef Vector operands(Builder *b, uint32_t *slots, double *data, size_t n) noexcept nogil:
    """Return slots and numbers as operands; slots that follow one another are recognised."""
    cdef Vector x
    cdef size_t i
    cdef bint contiguous = True
    x.base, x.slots, x.data, x.low, x.high, x.leaves = 0, slots, data, 0, 0, True
    if b.dry:
        return x
    x.low = x.high = x.base = slots[0]
    for i in range(n):
        x.low, x.high = min(x.low, slots[i]), max(x.high, slots[i])
        contiguous = contiguous and slots[i] == slots[0] + i
        x.leaves = x.leaves and tape.node[slots[i]].kind == LEAF
    if contiguous:
        x.slots = NULL
    return x


# ---- linear ----

def linear(x, w):
    """Return the matrix-vector product w x (lines 94-95 of the script).

    Parameters
    ----------
    x : iterable of Value, [nin]
    w : iterable of iterables of Value, [nout][nin]

    Returns
    -------
    list of Value, [nout]

    Examples
    --------
    >>> from microgpt import Value, linear
    >>> linear([Value(1.0), Value(2.0)], [[Value(3.0), Value(4.0)]])
    [Value(data=11.0, grad=0.0)]
    """
    cdef object xs = sequence(x)
    cdef list rows = [sequence(row) for row in w]
    cdef Builder b
    cdef uint32_t first = 0
    cdef int code
    begin_nogil()
    code = build_linear(&b, xs, rows, &first)
    end_nogil()
    if code == MG_NOT_VALUES:
        return [sum([wi * xi for wi, xi in zip(row, xs)]) for row in rows]
    return results(&b, code, first, len(rows))


cdef int build_linear(Builder *b, object xs, list rows, uint32_t *first) noexcept:
    """Build linear's nodes in a new block; its results are those from *first on."""
    cdef size_t nin = row_length(xs, rows)
    cdef int code
    if nin == 0:
        return MG_NOT_VALUES
    if nin >= MOST_SLOTS:
        return MG_NO_MEMORY
    start_dry_run(b, False)
    fill_linear(b, xs, rows, nin, first)
    code = start_block(b)
    if code == MG_OK:
        code = fill_linear(b, xs, rows, nin, first)
    return finish_block(b, code)


cdef int fill_linear(Builder *b, object xs, list rows, size_t nin, uint32_t *first) noexcept:
    cdef size_t nout = PyList_GET_SIZE(rows), n = nout * nin + nin, r
    cdef double *data = builder_doubles(b, n)
    cdef uint32_t *slots = <uint32_t *>builder_bytes(b, n * sizeof(uint32_t))
    cdef int code
    if b.dry:
        linear_nodes(b, slots, data, nout, nin, first)
        return MG_OK
    code = collect(b.owner, xs, nin, slots, data)
    for r in range(nout):
        if code == MG_OK:
            row = <object>PyList_GET_ITEM(rows, r)
            code = collect(b.owner, row, nin, slots + (r + 1) * nin, data + (r + 1) * nin)
    if code == MG_OK:
        with nogil:
            linear_nodes(b, slots, data, nout, nin, first)
    return code


cdef void linear_nodes(Builder *b, uint32_t *slots, double *data, size_t nout, size_t nin, uint32_t *first) noexcept nogil:
    """slots, data: of x, then of w row by row."""
    cdef Vector inputs = operands(b, slots, data, nin), weights = operands(b, slots + nin, data + nin, nout * nin)
    first[0] = builder_slots(b, nout)
    linear_layer(b, &weights, &inputs, <uint32_t>nout, <uint32_t>nin, first[0], builder_doubles(b, nout))


cdef Py_ssize_t row_length(object xs, list rows) noexcept:
    """Return the terms of every row's sum, if all are Values and the rows have equally many, else 0."""
    cdef Py_ssize_t n = PySequence_Fast_GET_SIZE(xs), r, nin = 0
    if not are_values(xs):
        return 0
    for r in range(PyList_GET_SIZE(rows)):
        row = <object>PyList_GET_ITEM(rows, r)
        if not are_values(row):
            return 0
        if r == 0:
            nin = min(n, PySequence_Fast_GET_SIZE(row))  # zip stops at the shorter one
        elif nin != min(n, PySequence_Fast_GET_SIZE(row)):
            return 0
    return nin


# ---- softmax and rmsnorm ----

ctypedef Vector (*Layer)(Builder *b, Vector *x, uint32_t n) noexcept nogil


cdef int build_layer(Builder *b, Layer layer, object xs, uint32_t *first, Py_ssize_t *count) noexcept:
    """Build a layer of one vector in a new block; its results are *count from *first on."""
    cdef int code
    count[0] = PySequence_Fast_GET_SIZE(xs)
    if not are_values(xs):
        return MG_NOT_VALUES
    start_dry_run(b, False)
    fill_layer(b, layer, xs, first)
    code = start_block(b)
    if code == MG_OK:
        code = fill_layer(b, layer, xs, first)
    return finish_block(b, code)


cdef int fill_layer(Builder *b, Layer layer, object xs, uint32_t *first) noexcept:
    cdef size_t n = PySequence_Fast_GET_SIZE(xs)
    cdef double *data = builder_doubles(b, n)
    cdef uint32_t *slots = <uint32_t *>builder_bytes(b, n * sizeof(uint32_t))
    cdef Vector x
    cdef int code
    if b.dry:
        x = operands(b, slots, data, n)
        first[0] = layer(b, &x, <uint32_t>n).base
        return MG_OK
    code = collect(b.owner, xs, n, slots, data)
    if code == MG_OK:
        with nogil:
            x = operands(b, slots, data, n)
            first[0] = layer(b, &x, <uint32_t>n).base
    return code


def softmax(logits):
    """Return probabilities from logits (lines 97-101 of the script). The largest logit is subtracted as a number.

    Parameters
    ----------
    logits : iterable of Value, [n]

    Returns
    -------
    list of Value, [n]

    Examples
    --------
    >>> from microgpt import Value, softmax
    >>> softmax([Value(0.0), Value(0.0)])
    [Value(data=0.5, grad=0.0), Value(data=0.5, grad=0.0)]
    """
    cdef object xs = sequence(logits)
    cdef Builder b
    cdef uint32_t first = 0
    cdef Py_ssize_t n = 0
    cdef int code
    begin_nogil()
    code = build_layer(&b, softmax_layer, xs, &first, &n)
    end_nogil()
    if code == MG_NOT_VALUES:
        largest_logit = max([logit.data for logit in xs])
        exps = [(logit - largest_logit).exp() for logit in xs]
        total = sum(exps)
        return [e / total for e in exps]
    return results(&b, code, first, n)


def rmsnorm(x):
    """Return x scaled to a root mean square of one (lines 103-106 of the script).

    Parameters
    ----------
    x : iterable of Value, [n]

    Returns
    -------
    list of Value, [n]
    """
    cdef object xs = sequence(x)
    cdef Builder b
    cdef uint32_t first = 0
    cdef Py_ssize_t n = 0
    cdef int code
    begin_nogil()
    code = build_layer(&b, rmsnorm_layer, xs, &first, &n)
    end_nogil()
    if code == MG_NOT_VALUES:
        scale = (sum([xi * xi for xi in xs]) / len(xs) + 1e-5) ** -0.5
        return [xi * scale for xi in xs]
    return results(&b, code, first, n)
