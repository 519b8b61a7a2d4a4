# cython: language_level=3, auto_pickle=False
"""Recording a traced call: one graph at a time, in the thread that holds the tape.

Nodes are numbers in the order in which they are made. Equal constants, and equal expressions of numbers without a
gradient, are one node; a leaf is one node, however often the function comes to it.
"""
from cpython.float cimport PyFloat_AsDouble, PyFloat_Check
from cpython.long cimport PyLong_Check
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawRealloc
from cpython.pythread cimport PyThread_get_thread_ident
from libc.string cimport memcpy, memset

from microgpt.core.tape cimport LEAF, tape
from microgpt.core.value cimport Value, settled_slot


class TraceError(TypeError):
    """This function cannot be compiled as it is; the message says what to write instead."""

    raised = 0  # how many there were: a function may catch one, and is not to be compiled then

    def __init__(self, *arguments):
        super().__init__(*arguments)
        TraceError.raised += 1


cdef enum:
    PAGE_BITS = 10  # leaves of a page in a recorder's table

cdef Recorder recording = None
cdef uint64_t serials = 0


cdef Recorder current():
    """The recorder of the call that is being traced, or None."""
    return recording


cdef int set_current(Recorder recorder) except -1:
    global recording
    recording = recorder
    return 0


cdef bint tracing_here():
    """Whether this thread is tracing a function."""
    return recording is not None and tape.tracing_thread == PyThread_get_thread_ident()


# ---- the graph ----

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


cdef int32_t *entry_of_leaf(uint32_t slot) except NULL:
    """Where the node of a leaf is kept, plus 1. The slots of a row are neighbours, and so are these entries."""
    cdef uint32_t page = slot >> PAGE_BITS, n
    cdef int32_t **larger
    if page >= recording.n_leaf_pages:
        n = page + page // 2 + 8
        larger = <int32_t **>PyMem_RawRealloc(recording.leaf_pages, n * sizeof(int32_t *))
        if larger == NULL:
            raise MemoryError()
        memset(larger + recording.n_leaf_pages, 0, (n - recording.n_leaf_pages) * sizeof(int32_t *))
        recording.leaf_pages, recording.n_leaf_pages = larger, n
    if recording.leaf_pages[page] == NULL:
        recording.leaf_pages[page] = <int32_t *>PyMem_RawCalloc(<size_t>1 << PAGE_BITS, sizeof(int32_t))
        if recording.leaf_pages[page] == NULL:
            raise MemoryError()
    return &recording.leaf_pages[page][slot & ((<uint32_t>1 << PAGE_BITS) - 1)]


cdef class Recorder:
    """The graph of one call: nodes, leaves, inputs, and what was read from outside on the way."""

    def __cinit__(self):
        global serials
        serials += 1
        self.serial = serials
        self.int_names, self.bounds, self.guards, self.keep = [], [], {}, []
        self.derived, self.derived_index = [], {}
        self.outside, self.reads, self.captured, self.created, self.checked = [], {}, set(), set(), set()
        self.functions, self.rows, self.numbers = {}, {}, {}
        self.roots, self.whole = [], set()

    def __dealloc__(self):
        cdef uint32_t page
        mg_graph_free(&self.graph)
        PyMem_RawFree(self.leaf_slots)
        for page in range(self.n_leaf_pages):
            PyMem_RawFree(self.leaf_pages[page])
        PyMem_RawFree(self.leaf_pages)
        PyMem_RawFree(self.constants.items)

    @property
    def n_nodes(self):
        return self.graph.n


cdef class Symbol:
    """The base of what stands for a Value or a number while a function is traced."""


cdef int32_t node(int op, int32_t a, int32_t b) except -1:
    cdef int32_t i = mg_graph_node(&recording.graph, op, a, b)
    if i < 0:
        raise MemoryError("no memory for the trace")
    return i


cdef int32_t list_node(int op, int32_t a, list items) except -1:
    """A node with a list of nodes."""
    cdef int32_t at = mg_graph_list(&recording.graph, <int32_t>len(items), NULL), k = 0
    if at < 0:
        raise MemoryError("no memory for the trace")
    for item in items:
        k += 1
        recording.graph.lists[at + k] = item
    return node(op, a, at)


cdef int32_t add_leaf(uint32_t slot) except -1:
    cdef int32_t n = recording.graph.n_leaves, capacity
    cdef uint32_t *larger
    if n == recording.leaves_capacity:
        capacity = 2 * n + 256
        larger = <uint32_t *>PyMem_RawRealloc(recording.leaf_slots, capacity * sizeof(uint32_t))
        if larger == NULL:
            raise MemoryError()
        recording.leaf_slots, recording.leaves_capacity = larger, capacity
    recording.leaf_slots[n] = slot
    recording.graph.n_leaves = n + 1
    return node(MG_LEAF, n, -1)


cdef int32_t new_number(double x) except -1:
    cdef int32_t at = mg_graph_numbers(&recording.graph, 1, &x)
    if at < 0:
        raise MemoryError()
    return at


cdef int32_t constant(double x) except -1:
    """The node of a number; equal numbers share one."""
    cdef uint64_t bits
    cdef int32_t *found
    memcpy(&bits, &x, sizeof(bits))
    found = pairs_find(&recording.constants, bits ^ <uint64_t>0x5555555555555555)
    if found[0] < 0:
        found[0] = node(MG_CONST, new_number(x), -1)
    return found[0]


cdef int check_serial(uint64_t serial) except -1:
    if recording is None or serial != recording.serial:
        raise TraceError("a result of a traced computation was kept in a global, an attribute or a cache, where a later "
                         "call finds it: return it instead")
    return 0


cdef int32_t node_of_leaf(Value value) except -1:
    """The node of a real Value, which must be a leaf."""
    cdef int32_t *found
    if settled_slot(value) == 0:
        raise TraceError("a Value that was never initialised")
    found = entry_of_leaf(value.slot)
    if found[0] == 0:
        if tape.node[value.slot].kind != LEAF:
            raise TraceError("a Value from outside that was computed from others: pass in what it is computed from, or "
                             "compute it in the compiled function")
        found[0] = add_leaf(value.slot) + 1
        recording.keep.append(value)
    return found[0] - 1


cdef bint plain_number(object x, double *number) except -1:
    """Whether x is a number that Values take, and which."""
    if PyFloat_Check(x) or PyLong_Check(x) or hasattr(type(x), "__float__") or hasattr(type(x), "__index__"):
        number[0] = PyFloat_AsDouble(x)
        return True
    return False


cdef int32_t shared_number(int op, int32_t a, int32_t b) except -1:
    """Numbers have no gradient, so equal expressions may be one node."""
    key = (op, a, b)
    found = recording.numbers.get(key)
    if found is None:
        found = recording.numbers[key] = node(op, a, b)
    return found
