# cython: language_level=3, auto_pickle=False
"""The trace of one call of a user's function: its inputs, lookups by int arguments, and the layers that are known.

While a function is traced its thread holds the tape.
"""
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport int32_t

from microgpt.core.lock cimport begin_nogil, end_nogil
from microgpt.core.recorder cimport (
    MG_ADD, MG_FLOAT, MG_GATHER, MG_MUL, MG_NUM_VALUE, MG_TABLE, add_leaf, check_serial, constant, current, is_value,
    list_node, new_number, node, node_of_leaf, set_current, tracing_here,
)
from microgpt.core.symbols cimport add_int_input, data_of, is_symbolic, new_float, new_int, number_node
from microgpt.core.tape cimport tape
from microgpt.core.traced cimport Traced, exchange_operators, new_traced, node_of_value
from microgpt.core.value cimport Value

from microgpt.core.recorder import TraceError


cdef class Trace(Recorder):
    """The graph of one call, from its inputs to its results."""

    def int_input(self, name):
        return new_int(add_int_input(self, name))

    def float_input(self):
        self.graph.n_floats += 1
        return new_float(node(MG_FLOAT, self.graph.n_floats - 1, -1))

    def leaf_input(self):
        """A Value argument, which is another one in every call."""
        return new_traced(add_leaf(0))

    def number_input(self):
        """A Value argument of which only the number counts."""
        return new_traced(node(MG_NUM_VALUE, (<SymFloat>self.float_input()).node, -1))

    def traced(self, value):
        """A real leaf as a traced Value."""
        return new_traced(node_of_value(value))

    def root(self, result):
        """The node of a result."""
        if isinstance(result, SymFloat):
            check_serial((<SymFloat>result).serial)
            return (<SymFloat>result).node
        return node_of_value(result)

    def __enter__(self):
        """Hold the tape, and let Values' operators record."""
        if tracing_here():
            raise TraceError("a function is already being traced")
        begin_nogil()
        tape.tracing_thread = PyThread_get_thread_ident()
        set_current(self)
        exchange_operators(Value, True)
        return self

    def __exit__(self, *_):
        exchange_operators(Value, False)
        set_current(None)
        tape.tracing_thread = 0
        end_nogil()
        return False


# ---- lookups by an int argument ----

cdef bint same_items(list before, object items):
    cdef Py_ssize_t i, n = len(before)
    if len(items) != n:
        return False
    for i in range(n):
        if before[i] is not items[i]:
            return False
    return True


cdef object look_up(object items, SymInt index):
    """items[index]: a node that stands for all of them."""
    key = (id(items), index.index)
    found = current().rows.get(key)
    if found is not None and same_items(found[1], items):
        return found[0]
    result = look_up_fresh(items, index)
    current().rows[key] = (result, list(items))
    current().keep.append(items)
    return result


cdef object look_up_fresh(object items, SymInt index):
    cdef Py_ssize_t n = len(items), width, j
    cdef int32_t at
    cdef double number
    cdef bint numbers = True, values = True
    check_serial(index.serial)
    if n == 0:
        raise IndexError("list index out of range")
    bound = current().bounds[index.index]
    if bound is None or n < bound:
        current().bounds[index.index] = n
    if all([type(row) is list or type(row) is tuple for row in items]):
        width = len(items[0])
        if any([len(row) != width for row in items]):
            raise TraceError("an int argument as index of rows of different lengths")
        for row in items:  # leaves in the order of the rows
            for x in row:
                if isinstance(x, Value) and type(x) is not Traced:
                    node_of_leaf(x)
        columns = [look_up_fresh([row[j] for row in items], index) for j in range(width)]
        return columns if type(items[0]) is list else tuple(columns)
    for x in items:
        if is_value(x):
            numbers = False
        elif is_symbolic(x) or (isinstance(x, (int, float)) and not isinstance(x, bool)):
            values = False
        else:
            numbers = values = False
    if values:
        return new_traced(list_node(MG_GATHER, index.index, [node_of_value(x) for x in items]))
    if not numbers:
        raise TraceError("an int argument as index of a list that holds something else than Values alone, numbers alone or "
                         "rows of them")
    if any([is_symbolic(x) for x in items]):
        return new_float(list_node(MG_GATHER, index.index, [number_node(x) for x in items]))
    at = new_number(float(items[0]))
    for x in items[1:]:
        new_number(float(x))
    return new_float(node(MG_TABLE, index.index, at))


# ---- for the hooks ----

cdef SymFloat data_of_value(object value):
    return data_of(node_of_value(value))


cdef list linear_rows(object x, object w):
    """The script's linear: sum(wi * xi for wi, xi in zip(row, x)) for each row."""
    cdef list rows = [], inputs
    cdef int32_t total
    cdef Py_ssize_t i, n
    inputs = [node_of_value(xi) for xi in x]
    for row in w:
        n = min(len(row), len(inputs))
        total = constant(0.0)
        for i in range(n):
            if i == 0:  # sum() begins with 0 + the first product, which is the product + 0
                total = node(MG_ADD, node(MG_MUL, node_of_value(row[0]), inputs[0]), total)
            else:
                total = node(MG_ADD, total, node(MG_MUL, node_of_value(row[i]), inputs[i]))
        rows.append(new_traced(total) if n else 0)
    return rows
