# cython: language_level=3, c_api_binop_methods=True, auto_pickle=False
"""What stands for numbers and Values while a user's function is traced, and what its rewritten code calls.

A Traced is a Value of the function's graph; its operators record nodes instead of computing. A SymInt and a SymFloat are
numbers that are known only when the compiled program runs: they may be computed with, but not decide anything. While a
function is traced its thread holds the tape, and any use of a real Value that is not recorded is an error: nothing that
could change from call to call becomes a constant unseen.
"""
import operator

cimport cython
from cpython.float cimport PyFloat_AsDouble, PyFloat_Check
from cpython.long cimport PyLong_Check
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawRealloc
from cpython.object cimport PyObject, PyTypeObject
from cpython.pythread cimport PyThread_get_thread_ident
from libc.math cimport fabs
from libc.string cimport memcpy

from microgpt.core.lock cimport begin_nogil as begin, end_nogil as end
from microgpt.core.tape cimport LEAF, tape
from microgpt.core.value cimport Value



class TraceError(TypeError):
    """This function cannot be compiled as it is; the message says what to write instead."""

    raised = 0  # how many there were: a function may catch one, and is not to be compiled then

    def __init__(self, *arguments):
        super().__init__(*arguments)
        TraceError.raised += 1


cdef Trace current = None
cdef uint64_t serials = 0


cdef extern from *:
    """
    static PyNumberMethods *mg_number_methods(PyObject *type) { return ((PyTypeObject *)type)->tp_as_number; }
    """
    ctypedef object (*binaryfunc)(object, object)
    ctypedef object (*unaryfunc)(object)
    ctypedef object (*ternaryfunc)(object, object, object)
    ctypedef struct PyNumberMethods:
        binaryfunc nb_add, nb_subtract, nb_multiply, nb_true_divide
        ternaryfunc nb_power
        unaryfunc nb_negative
    PyNumberMethods *mg_number_methods(object type)


# ---- recording ----

cdef int32_t *pairs_find(Pairs *pairs, uint64_t key) except NULL:
    """The value of a key, -1 for one that is new; it is in the table then, to be set."""
    cdef Pair *old = pairs.items
    cdef uint32_t old_size = pairs.mask + 1 if old != NULL else 0, i
    cdef uint64_t h
    if 2 * pairs.n >= old_size:
        pairs.mask = 2 * old_size - 1 if old != NULL else 1023
        pairs.items = <Pair *>PyMem_RawCalloc(<size_t>pairs.mask + 1, sizeof(Pair))
        if pairs.items == NULL:
            pairs.items, pairs.mask = old, old_size - 1
            raise MemoryError()
        for i in range(old_size):
            if old[i].key:
                h = old[i].key * <uint64_t>0x9e3779b97f4a7c15
                h ^= h >> 32
                while pairs.items[h & pairs.mask].key:
                    h += 1
                pairs.items[h & pairs.mask] = old[i]
        PyMem_RawFree(old)
    h = key * <uint64_t>0x9e3779b97f4a7c15
    h ^= h >> 32
    while pairs.items[h & pairs.mask].key != key:
        if pairs.items[h & pairs.mask].key == 0:
            pairs.items[h & pairs.mask].key = key
            pairs.items[h & pairs.mask].value = -1
            pairs.n += 1
            break
        h += 1
    return &pairs.items[h & pairs.mask].value


cdef class Trace:
    """The graph of one call: nodes, leaves, inputs, and what was read from outside on the way."""

    def __cinit__(self):
        global serials
        serials += 1
        self.serial = serials
        self.int_names, self.bounds, self.guards, self.keep = [], [], {}, []
        self.derived, self.derived_index = [], {}
        self.captured, self.created, self.functions, self.rows, self.numbers = set(), set(), {}, {}, {}

    def __dealloc__(self):
        mg_graph_free(&self.graph)
        PyMem_RawFree(self.leaf_slots)
        PyMem_RawFree(self.leaves.items)
        PyMem_RawFree(self.constants.items)

    def int_input(self, name):
        self.int_names.append(name)
        self.bounds.append(None)
        self.graph.n_ints += 1
        return new_int(self.graph.n_ints - 1)

    def float_input(self):
        self.graph.n_floats += 1
        return new_float(node(MG_FLOAT, self.graph.n_floats - 1, -1))

    def leaf_input(self):
        """A Value argument, which is another one in every call."""
        return new_traced(add_leaf(0))

    def number_input(self):
        """A Value argument of which only the number counts."""
        return new_traced(node(MG_NUM_VALUE, (<SymFloat>self.float_input()).node, -1))

    @property
    def n_nodes(self):
        return self.graph.n

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
        global current
        if tracing_here():
            raise TraceError("a function is already being traced")
        begin()
        tape.tracing_thread = PyThread_get_thread_ident()
        current = self
        exchange_operators(Value, True)
        return self

    def __exit__(self, *_):
        global current
        exchange_operators(Value, False)
        current = None
        tape.tracing_thread = 0
        end()
        return False


cdef int32_t node(int op, int32_t a, int32_t b) except -1:
    cdef int32_t i = mg_graph_node(&current.graph, op, a, b)
    if i < 0:
        raise MemoryError("no memory for the trace")
    return i


cdef int32_t list_node(int op, int32_t a, list items) except -1:
    """A node with a list of nodes."""
    cdef int32_t at = mg_graph_list(&current.graph, <int32_t>len(items), NULL), k = 0
    if at < 0:
        raise MemoryError("no memory for the trace")
    for item in items:
        k += 1
        current.graph.lists[at + k] = item
    return node(op, a, at)


cdef int32_t add_leaf(uint32_t slot) except -1:
    cdef int32_t n = current.graph.n_leaves, capacity
    cdef uint32_t *larger
    if n == current.leaves_capacity:
        capacity = 2 * n + 256
        larger = <uint32_t *>PyMem_RawRealloc(current.leaf_slots, capacity * sizeof(uint32_t))
        if larger == NULL:
            raise MemoryError()
        current.leaf_slots, current.leaves_capacity = larger, capacity
    current.leaf_slots[n] = slot
    current.graph.n_leaves = n + 1
    return node(MG_LEAF, n, -1)


cdef int32_t new_number(double x) except -1:
    cdef int32_t at = mg_graph_numbers(&current.graph, 1, &x)
    if at < 0:
        raise MemoryError()
    return at


cdef int32_t constant(double x) except -1:
    """The node of a number; equal numbers share one."""
    cdef uint64_t bits
    cdef int32_t *found
    memcpy(&bits, &x, sizeof(bits))
    found = pairs_find(&current.constants, bits ^ <uint64_t>0x5555555555555555)
    if found[0] < 0:
        found[0] = node(MG_CONST, new_number(x), -1)
    return found[0]


cdef int check_serial(uint64_t serial) except -1:
    if current is None or serial != current.serial:
        raise TraceError("a result of a traced computation was kept in a global, an attribute or a cache, where a later "
                         "call finds it: return it instead")
    return 0


cdef int32_t node_of_leaf(Value value) except -1:
    """The node of a real Value, which must be a leaf."""
    cdef int32_t *found
    if value.slot == 0:
        raise TraceError("a Value that was never initialised")
    found = pairs_find(&current.leaves, value.slot)
    if found[0] < 0:
        if tape.node[value.slot].kind != LEAF:
            raise TraceError("a Value from outside that was computed from others: pass in what it is computed from, or "
                             "compute it in the compiled function")
        found[0] = add_leaf(value.slot)
        current.keep.append(value)
    return found[0]


cdef int32_t node_of_value(object value) except -1:
    if type(value) is Traced:
        check_serial((<Traced>value).serial)
        return (<Traced>value).node
    if isinstance(value, Value):
        return node_of_leaf(value)
    raise TraceError(f"a Value is needed here, not {type(value).__name__!r}")


cdef inline Traced new_traced(int32_t i):
    cdef Traced value = Traced.__new__(Traced)
    value.node, value.serial = i, current.serial
    return value


cdef inline SymFloat new_float(int32_t i):
    cdef SymFloat value = SymFloat.__new__(SymFloat)
    value.node, value.serial = i, current.serial
    return value


cdef inline SymInt new_int(int32_t index):
    cdef SymInt value = SymInt.__new__(SymInt)
    value.index, value.serial = index, current.serial
    return value


cdef bint plain_number(object x, double *number) except -1:
    """Whether x is a number that Values take, and which."""
    if PyFloat_Check(x) or PyLong_Check(x) or hasattr(type(x), "__float__") or hasattr(type(x), "__index__"):
        number[0] = PyFloat_AsDouble(x)
        return True
    return False


cdef int32_t number_node(object x) except -1:
    """The node of a number, known or not."""
    cdef double number
    if type(x) is SymFloat:
        check_serial((<SymFloat>x).serial)
        return (<SymFloat>x).node
    if type(x) is SymInt:
        check_serial((<SymInt>x).serial)
        return shared_number(MG_INT, (<SymInt>x).index, -1)
    if isinstance(x, (Traced, Value)) or not plain_number(x, &number):
        raise TraceError(f"a number is needed here, not {type(x).__name__!r}")
    return constant(number)


cdef int32_t shared_number(int op, int32_t a, int32_t b) except -1:
    """Numbers have no gradient, so equal expressions may be one node."""
    key = (op, a, b)
    found = current.numbers.get(key)
    if found is None:
        found = current.numbers[key] = node(op, a, b)
    return found


cdef SymFloat data_of(int32_t i):
    return new_float(shared_number(MG_NUM_VALUE, i, -1))


cdef int32_t operand(object x) except -2:
    """The node of an operand as the script's operators take it: a Value, or Value(number). -1: neither."""
    cdef double number
    if type(x) is Traced:
        check_serial((<Traced>x).serial)
        return (<Traced>x).node
    if isinstance(x, Value):
        return node_of_leaf(x)
    if type(x) is SymFloat or type(x) is SymInt:
        return number_node(x)
    if plain_number(x, &number):
        return constant(number)
    return -1


include "_traced.pxi"
include "_symbols.pxi"
