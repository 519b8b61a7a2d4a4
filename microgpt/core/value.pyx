# distutils: define_macros=CYTHON_USE_TYPE_SPECS=1
# cython: language_level=3, c_api_binop_methods=True, cdivision=True, boundscheck=True, wraparound=True
# cython: auto_pickle=False, embedsignature=False
"""`Value`, the script's number in a computation graph, on a tape of node slots (value.pxd says what a slot is).

A Value is a thin handle, a Python object for a node that somebody holds; the nodes in between have none. A node lives
as long as a handle or a parent needs it. Every operation does the arithmetic of the script's class, in its order.
"""
cimport cython
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_AsDouble, PyFloat_Check, PyFloat_CheckExact
from cpython.long cimport PyLong_AsDouble, PyLong_Check, PyLong_CheckExact
from cpython.number cimport PyNumber_Add, PyNumber_Multiply
from cpython.object cimport PyObject, PyTypeObject
from cpython.pythread cimport (
    PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock, PyThread_release_lock, PyThread_type_lock,
    WAIT_LOCK,
)
from libc.float cimport DBL_MIN
from libc.math cimport fabs, floor, fmod, isfinite
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memmove, memset

cdef extern from "base/libm.h" nogil:
    double mg_pow(double x, double y)
    double mg_exp(double x)
    double mg_log(double x)

include "_tape.pxi"
include "_cycles.pxi"
include "_chain.pxi"
include "_backward.pxi"

if reserve_tape() != MG_OK:
    raise MemoryError("no address space for the nodes of the graph")

include "_turns.pxi"
include "_nodes.pxi"


# ---- handles ----
#
# Most Values live for a moment, as an operand of the next operator. So their objects are kept for reuse, here and not
# with cython.freelist, whose tp_dealloc saves and restores the current exception around every __dealloc__.

cdef extern from "Python.h":
    void _Py_NewReference(PyObject *o)
    void Py_DECREF(PyObject *o)
    PyObject *Py_TYPE "(PyObject *)Py_TYPE"(PyObject *o)

cdef enum:
    MOST_SPARE = 1024

cdef PyObject *spare[MOST_SPARE]
cdef int n_spare = 0


cdef void dealloc_value(PyObject *o) noexcept:
    """tp_dealloc of Value; o is dead already, so nothing here may count references to it."""
    global n_spare
    cdef PyObject *type_of = Py_TYPE(o)
    cdef uint32_t slot = (<Value>o).slot
    if slot:
        let_go(slot)
    if type_of == <PyObject *>Value and n_spare < MOST_SPARE:
        spare[n_spare] = o
        n_spare += 1
        return
    (<PyTypeObject *>type_of).tp_free(o)
    Py_DECREF(type_of)


cdef inline Value wrap(uint32_t slot):
    """The handle of a node that has none."""
    global n_spare
    cdef PyObject *o
    cdef Value value
    if slot == 0:
        raise MemoryError("no memory for another node")
    if n_spare:
        n_spare -= 1
        o = spare[n_spare]
        _Py_NewReference(o)
        value = <Value>o
        Py_DECREF(o)  # the one that _Py_NewReference made: value has its own
    else:
        value = Value.__new__(Value)
    value.slot = slot
    tape.node[slot].handle = <PyObject *>value
    retain(slot)
    if MG_DEBUG:
        audit_now()
    return value


cdef Value handle(uint32_t slot):
    """The Value of a node: the living one, or a new one."""
    if tape.busy:
        wait_for_tape()
    if tape.node[slot].handle != NULL:
        return <Value>tape.node[slot].handle
    return wrap(slot)


cdef int no_node() except -1:
    raise AttributeError("this Value was never initialised: Value.__init__ has not been called")


cdef inline uint32_t slot_of(object value) except 0:
    """The slot of a Value, with the tape at rest."""
    if (<Value>value).slot != 0 and not tape.busy:
        return (<Value>value).slot
    return slot_after_all(value)


cdef uint32_t slot_after_all(object value) except 0:
    if (<Value>value).slot == 0:
        no_node()
    wait_for_tape()
    return (<Value>value).slot


include "_audit.pxi"
include "_numbers.pxi"


@cython.no_gc
cdef class Value:
    # The first line is the signature, in the form in which Python reads it: inspect.signature(Value).
    """Value(data, children=(), local_grads=())\n--\n
A number in a computation graph.

data is taken as a float; local_grads are d(this)/d(child) for each child. Operators build the graph, `backward()`
differentiates it. Mirrors class Value of the script.
"""

    def __init__(self, data, children=(), local_grads=()):
        cdef double number = PyFloat_AsDouble(data)
        cdef Nary *nary = NULL
        cdef uint32_t slot
        if children is not () or local_grads is not ():
            children, local_grads = tuple(children), tuple(local_grads)
            if children or local_grads:
                nary = new_nary(children, local_grads)
        if tape.busy:
            try:
                wait_for_tape()
            except BaseException:
                free(nary)
                raise
        # All that can run Python code has run: what was given may be a number or a sequence that uses this very Value.
        if self.slot:
            init_again(self.slot, number, nary)
            return
        slot = new_node(number, LEAF)
        if slot == 0:
            free(nary)
            raise MemoryError("no memory for another node")
        if nary != NULL:
            set_children(slot, nary)
        self.slot = slot
        tape.node[slot].refs = 1
        tape.node[slot].handle = <PyObject *>self
        if MG_DEBUG and nary != NULL:
            audit_now()

    def __hash__(self):
        return slot_of(self)  # of the node, so that it outlives this handle

    def __repr__(self):
        cdef uint32_t slot = slot_of(self)
        return f"{type(self).__name__}(data={tape.data[slot]!r}, grad={tape.grad[slot]!r})"

    def _repr_html_(self):
        from ..viz.notebook import value_html

        return value_html(self)

    def __reduce_ex__(self, protocol):
        raise TypeError("a Value is a node of a graph: it cannot be copied or pickled (its .data can)")

    def __reduce__(self):
        return self.__reduce_ex__(2)

    @property
    def data(self):
        """The number."""
        return tape.data[slot_of(self)]

    @data.setter
    def data(self, number):
        cdef double value = PyFloat_AsDouble(number)
        tape.data[slot_of(self)] = value

    @data.deleter
    def data(self):
        raise AttributeError("a Value always has its data")

    @property
    def grad(self):
        """d(root)/d(this), summed up over the calls of backward()."""
        return tape.grad[slot_of(self)]

    @grad.setter
    def grad(self, number):
        cdef double value = PyFloat_AsDouble(number)
        tape.grad[slot_of(self)] = value

    @grad.deleter
    def grad(self):
        raise AttributeError("a Value always has its grad")

    @property
    def _children(self):
        """The Values this one was computed from, a tuple."""
        cdef uint32_t slot = slot_of(self)
        cdef Node *node = &tape.node[slot]
        forget_order(slot)
        if node.kind == CHAIN and unfold(slot) != MG_OK:
            raise MemoryError()
        if node.kind == BINARY:
            return (handle(node.child0), handle(node.child1))
        if node.kind == UNARY:
            return (handle(node.child0),)
        if node.kind == NARY:
            return children_of(self)
        return ()

    @property
    def _local_grads(self):
        """d(this)/d(child) for each child, a tuple of floats."""
        cdef uint32_t slot = slot_of(self)
        cdef Node *node = &tape.node[slot]
        if node.kind == CHAIN:
            return (1.0, 1.0)
        if node.kind == BINARY:
            return (node.local_grad0, node.payload.local_grad)
        if node.kind == UNARY:
            return (node.local_grad0,)
        if node.kind == NARY:
            return local_grads_of(self)
        return ()

    # The operators are called with a Value on either side, or on both.

    def __add__(left, right):
        cdef double number
        cdef uint32_t slot
        if isinstance(left, Value):
            slot = slot_of(left)
            if isinstance(right, Value):
                return wrap(new_sum(slot, slot_of(right)))
        else:
            left, right = right, left  # 2 + x is x + 2
            slot = slot_of(left)
        if as_number(right, &number):
            slot_of(left)
            return wrap(new_sum(slot, new_constant(number)))
        return refuse(PyNumber_Add(tape.data[slot], right))

    def __mul__(left, right):
        cdef double number
        cdef uint32_t slot
        if isinstance(left, Value):
            slot = slot_of(left)
            if isinstance(right, Value):
                return wrap(new_product(slot, slot_of(right)))
        else:
            left, right = right, left
            slot = slot_of(left)
        if as_number(right, &number):
            slot_of(left)
            return wrap(new_product(slot, new_constant(number)))
        return refuse(PyNumber_Multiply(tape.data[slot], right))

    def __neg__(self):
        return wrap(new_negative(slot_of(self)))

    def __sub__(left, right):
        cdef double number
        cdef uint32_t slot
        if isinstance(left, Value):
            slot = slot_of(left)
            if isinstance(right, Value):
                return wrap(new_sum(slot, new_negative(slot_of(right))))
            if negative(right, &number):
                slot_of(left)
                return wrap(new_sum(slot, new_constant(number)))
            return left + (-right)
        if as_number(left, &number):
            slot = slot_of(right)
            return wrap(new_sum(new_negative(slot), new_constant(number)))
        return left + (-right)

    def __truediv__(left, right):
        cdef double number, local_grad
        cdef uint32_t slot
        if isinstance(left, Value):
            slot = slot_of(left)
            if isinstance(right, Value):
                power(tape.data[slot_of(right)], -1, &number, &local_grad)
                return wrap(new_product(slot, new_unary(number, slot_of(right), local_grad)))
            if inverse(right, &number):
                slot_of(left)
                return wrap(new_product(slot, new_constant(number)))
            return left * right**-1
        power(tape.data[slot_of(right)], -1, &number, &local_grad)
        inverted = wrap(new_unary(number, slot_of(right), local_grad))
        return left * inverted

    def __pow__(left, right, modulus):
        cdef double data, local_grad
        cdef uint32_t slot
        if not isinstance(left, Value):
            return NotImplemented  # the script has no __rpow__
        if modulus is not None:
            raise TypeError("Value.__pow__() takes 2 positional arguments but 3 were given")
        power(tape.data[slot_of(left)], right, &data, &local_grad)
        slot = slot_of(left)
        return wrap(new_unary(data, slot, local_grad))

    def log(self):
        """The natural logarithm. Errors are those of math.log."""
        cdef uint32_t slot = slot_of(self)
        cdef double x = tape.data[slot], data
        if x > 0.0 and isfinite(x):
            data = mg_log(x)
        else:
            from math import log
            data = log(x)
            slot_of(self)
        return wrap(new_unary(data, slot, 1.0 / x))

    def exp(self):
        """e to the power of this. Errors are those of math.exp."""
        cdef uint32_t slot = slot_of(self)
        cdef double data = mg_exp(tape.data[slot])
        if not isfinite(data):
            from math import exp
            data = exp(tape.data[slot])
            slot_of(self)
        return wrap(new_unary(data, slot, data))

    def relu(self):
        """The larger of 0 and this; 0 for -0.0 and for nan, as max(0, x) says."""
        cdef uint32_t slot = slot_of(self)
        cdef double x = tape.data[slot]
        if x > 0.0:
            return wrap(new_unary(x, slot, 1.0))
        return wrap(new_unary(0.0, slot, 0.0))

    def backward(self):
        """Add d(this)/d(node) to the grad of every node below this one; this node's own grad becomes 1.

        Iterative, so that depth is bounded by memory alone, and without the GIL.
        """
        cdef uint32_t slot
        cdef int code
        slot_of(self)
        begin()
        slot = self.slot
        with nogil:
            code = run_backward(slot)
        end()
        if code != MG_OK:
            raise MemoryError("no memory to sort the graph")


# The memory of a list is allocated before the node is read: an allocation may run the garbage collector, whose callbacks
# may be anything, a second __init__ of this very Value, too. What follows until the list is complete runs no Python code.

cdef tuple children_of(Value value):
    cdef list children = []
    cdef Node *node = &tape.node[slot_of(value)]
    cdef uint32_t i
    if node.kind != NARY:
        return value._children
    for i in range((<Nary *>node.payload.pointer).n_children):
        children.append(handle((<Nary *>node.payload.pointer).children[i]))
    return tuple(children)


cdef tuple local_grads_of(Value value):
    cdef list local_grads = []
    cdef Node *node = &tape.node[slot_of(value)]
    cdef uint32_t i
    if node.kind != NARY:
        return value._local_grads
    for i in range((<Nary *>node.payload.pointer).n_local_grads):
        local_grads.append((<Nary *>node.payload.pointer).local_grads[i])
    return tuple(local_grads)


def _tape_state():
    """For the tests: whether somebody works without the GIL, how many dead Values and how many threads wait for that to
    end."""
    cdef Waiter *waiter = first_waiting
    cdef int n_waiting = 0
    while waiter != NULL:
        n_waiting, waiter = n_waiting + 1, waiter.next
    return bool(tape.busy), deferred.n, n_waiting


def _sorts_until_wrap(uint32_t n):
    """For the tests: n more sorts, and the number by which they mark nodes, 32 bits of it, begins anew."""
    global n_sorts
    n_sorts |= 0xFFFFFFFF
    n_sorts -= n


def _sorted(Value root, bint known=True):
    """For the tests: the order in which backward would visit, as hashes; known=False: without orders known before."""
    cdef uint32_t slot = slot_of(root)
    cdef Region *region
    cdef uint32_t *order_known = NULL
    cdef int code
    cdef Node *owner = &tape.node[tape.node[slot].owner]
    begin()
    if owner.kind == REGION and not known:
        region = <Region *>owner.payload.pointer
        order_known, region.order = region.order, NULL
    code = sort(slot)
    if order_known != NULL:
        region.order = order_known
    end()
    if code != MG_OK:
        raise MemoryError()
    return [order.items[k] for k in range(order.n)]


# Python's messages name a type by tp_name: "Value", as for the script's class, not "microgpt.core.value.Value".
(<PyTypeObject *>Value).tp_name = "Value"
(<PyTypeObject *>Value).tp_dealloc = dealloc_value
