# cython: language_level=3
"""What records the graph of a traced call, and the base of what stands for its numbers and Values."""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from microgpt.core.value cimport Value


cdef extern from "compiler/graph.h" nogil:
    enum:
        MG_LEAF, MG_CONST, MG_FLOAT, MG_INT, MG_TABLE, MG_ADD, MG_MUL, MG_POW, MG_LOG, MG_EXP, MG_RELU, MG_CUSTOM, MG_GATHER
        MG_NUM_ADD, MG_NUM_MUL, MG_NUM_DIV, MG_NUM_POW, MG_NUM_NEG, MG_NUM_VALUE, MG_NUM_CALL, MG_NUM_MAX, MG_NUM_MIN
    ctypedef struct mg_graph:
        int32_t n
        uint8_t *op
        int32_t *a
        int32_t *b
        int32_t *lists
        double *numbers
        int32_t n_lists, n_numbers, n_leaves, n_ints, n_floats
    int32_t mg_graph_node(mg_graph *graph, int op, int32_t a, int32_t b)
    int32_t mg_graph_list(mg_graph *graph, int32_t n, const int32_t *items)
    int32_t mg_graph_numbers(mg_graph *graph, int32_t n, const double *items)
    void mg_graph_free(mg_graph *graph)
    bint mg_op_is_inner(int op)
    bint mg_op_has_list(int op)
    double mg_call_function(int function, double x, int *odd)
    double mg_python_pow(double x, double y, int *odd)


cdef struct Pair:  # of a hash table of ints
    uint64_t key
    int32_t value  # a node; key 0: empty

cdef struct Pairs:
    Pair *items
    uint32_t mask, n


cdef class Recorder:
    cdef mg_graph graph
    cdef uint32_t *leaf_slots  # by leaf: its slot, 0 for an argument
    cdef int32_t leaves_capacity
    cdef int32_t **leaf_pages  # by slot: the node of a leaf, plus 1
    cdef uint32_t n_leaf_pages
    cdef Pairs constants  # bits of a number -> node
    cdef readonly list int_names, bounds  # by int input: what to call it, how many values it can have (None: any)
    cdef readonly list derived  # int inputs that are computed from others, behind these: (operator, operand, operand)
    cdef dict derived_index
    cdef readonly dict guards  # key -> (kind, holder, name, value): what the program read from outside
    cdef readonly set captured, created  # ids: of objects from outside, of objects made in the trace
    cdef readonly list outside  # objects from outside that `captured` does not have yet, nor what is in them
    cdef readonly dict reads  # id of a holder -> values of its attributes and entries, which are from outside if it is
    cdef readonly list roots  # (name, object) from outside whose content is compared, if it is a container
    cdef set checked  # ids: of objects whose classes, and those of what is in them, are known to be recorded
    cdef readonly set whole  # ids of dicts of which more was read than single entries
    cdef public bint careful  # operators of users' classes are recorded, and nothing of the user's may run unrecorded
    cdef public bint needs_care  # so it has to be
    cdef public int unrecorded  # above 0: functions of the user's may run as they are written
    cdef readonly dict functions  # that were called -> what is called instead
    cdef readonly list keep  # what must not be freed while ids are compared
    cdef dict rows, numbers
    cdef uint64_t serial


cdef class Symbol:
    cdef uint64_t serial  # of the trace that it belongs to
    cdef bint is_value  # it stands for a Value, not for a number


cdef Recorder current()
cdef int set_current(Recorder recorder) except -1
cdef bint tracing_here()
cdef int32_t node(int op, int32_t a, int32_t b) except -1
cdef int32_t list_node(int op, int32_t a, list items) except -1
cdef int32_t add_leaf(uint32_t slot) except -1
cdef int32_t new_number(double x) except -1
cdef int32_t constant(double x) except -1
cdef int32_t shared_number(int op, int32_t a, int32_t b) except -1
cdef int check_serial(uint64_t serial) except -1
cdef int32_t node_of_leaf(Value value) except -1
cdef bint plain_number(object x, double *number) except -1


cdef inline bint is_value(object x):
    return isinstance(x, Value) or (isinstance(x, Symbol) and (<Symbol>x).is_value)
