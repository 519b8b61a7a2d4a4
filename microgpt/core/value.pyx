# distutils: define_macros=CYTHON_USE_TYPE_SPECS=1
# cython: language_level=3, c_api_binop_methods=True, cdivision=True, boundscheck=True, wraparound=True
# cython: auto_pickle=False, embedsignature=False
"""`Value`, the script's number in a computation graph, on a tape of node slots (tape.pxd says what a slot is).

A Value is a thin handle, a Python object for a node that the program holds; the nodes in between have none. A node lives
as long as a handle or a parent needs it. Every operation does the arithmetic of the script's class, in its order.
"""
cimport cython
from cpython.float cimport PyFloat_AsDouble
from cpython.number cimport PyNumber_Add, PyNumber_Multiply
from cpython.object cimport PyObject, PyTypeObject
from libc.math cimport isfinite
from libc.stdint cimport uint32_t
from libc.stdlib cimport free

from microgpt.core.backward cimport run_backward
from microgpt.core.folding cimport Pending, extend_folded, fold_at_once, fold_pending
from microgpt.core.handles cimport (
    Handles, Py_DECREF, Py_TYPE, audited, forget, is_temporary, is_unsettled, keep, new_handle, settle_handles, take_over,
)
from microgpt.core.libm cimport mg_exp, mg_log
from microgpt.core.lock cimport begin_nogil, end_nogil, release_handle, tracing_here, wait_until_idle
from microgpt.core.nary cimport children_of, local_grads_of, new_nary
from microgpt.core.nodes cimport new_constant, new_negative, new_node, new_product, new_sum, new_unary, set_children, unlikely
from microgpt.core.numbers cimport as_number, inverse, negative, power, refuse, to_double
from microgpt.core.rewiring cimport rewire
from microgpt.core.tape cimport BINARY, DOT, HASHED, LEAF, MG_DEBUG, MG_OK, Nary, audit_tape, retain, tape


# ---- handles ----

cdef Handles handles
cdef Pending pending

# What is not called for each term of a sum of products. Through pointers, so that it is not inlined: what is called for each
# term would save and restore the registers that it needs.
cdef void (*dealloc_seldom)(PyObject *o) noexcept
cdef object (*add_seldom)(object left, object right)


cdef void dealloc_value(PyObject *o) noexcept:
    """tp_dealloc of Value; o is dead already, so nothing here may count references to it."""
    if not (forget(&handles, o) and keep(&handles, o)):
        dealloc_seldom(o)


cdef void dealloc_with_node(PyObject *o) noexcept:
    cdef PyObject *type_of = Py_TYPE(o)
    cdef uint32_t slot = (<Value>o).slot
    if slot:
        if slot == pending.sum:
            pending.sum = 0
        if slot == handles.head:
            settle()
        release_handle(slot)
    if type_of == <PyObject *>Value and keep(&handles, o):
        return
    (<PyTypeObject *>type_of).tp_free(o)
    Py_DECREF(type_of)


cdef void settle() noexcept:
    if is_unsettled(&handles):
        settle_handles(&handles)


cdef object no_memory():
    raise MemoryError("no memory for another node")


cdef inline object wrap(uint32_t slot):
    """Return the handle of a node that has just been made, to which nothing else refers yet."""
    if unlikely(slot == 0):
        return no_memory()
    tape.node[slot].refs = 1
    return audited(new_handle(&handles, slot)) if MG_DEBUG else new_handle(&handles, slot)


cdef object handle(uint32_t slot):
    """Return the Value of a node: the living one, or a new one."""
    if tape.busy and not tracing_here():
        wait_until_idle()
    settle()
    if tape.node[slot].handle != NULL:
        return <object>tape.node[slot].handle
    value = new_handle(&handles, slot)
    retain(slot)
    return audited(value)


cdef int no_node() except -1:
    raise AttributeError("this Value was never initialised: Value.__init__ has not been called")


cdef inline uint32_t slot_of(object value) except 0:
    """Return the slot of a Value, once the tape is idle."""
    if (<Value>value).slot != 0 and not tape.busy:
        return (<Value>value).slot
    return slot_when_idle(value)


cdef uint32_t slot_when_idle(object value) except 0:
    if (<Value>value).slot == 0:
        settle()
        if (<Value>value).slot == 0:
            no_node()
    wait_until_idle()
    return (<Value>value).slot


# ---- sums and products ----
#
# Most nodes are made here. What is called on the way is inlined: slot_of, which may raise errors, would not be.

cdef object value_sum(object left, object right):
    cdef uint32_t a, b, slot
    if not isinstance(left, Value):
        return with_number(right, left, False)  # 2 + x is x + 2
    if not isinstance(right, Value):
        return with_number(left, right, False)
    a, b = (<Value>left).slot, (<Value>right).slot
    if unlikely(a == 0 or b == 0 or tape.busy or is_unsettled(&handles)):
        settle()
        a, b = slot_of(left), slot_of(right)
    if pending.sum:
        fold_pending(&pending)
        if extend_sum(left, right):
            return take_over(&handles, a, left, right)
    slot = new_sum(a, b)
    if tape.node[a].kind == DOT and tape.node[a].owner == a:
        pending.sum = slot
    return wrap(slot)


cdef inline bint extend_sum(object left, object right) noexcept:
    """Make left, a folded sum, left + right, a product, if both are temporary and it can be done at once."""
    if not (is_temporary(left) and is_temporary(right)) or tape.busy or is_unsettled(&handles) or pending.sum or handles.n_spare == 0:
        return False
    return extend_folded((<Value>left).slot, (<Value>right).slot)


cdef object value_product(object left, object right):
    cdef uint32_t a = (<Value>left).slot, b = (<Value>right).slot
    if unlikely(a == 0 or b == 0 or tape.busy):
        a, b = slot_of(left), slot_of(right)
    return wrap(new_product(a, b))


cdef object with_number(object value, object other, bint product):
    """value * other or value + other, where other is no Value."""
    cdef uint32_t slot = slot_of(value), made
    cdef double number
    if as_number(other, &number):
        wait_until_idle()
        if product:
            return wrap(new_product(slot, new_constant(number)))
        settle()
        if pending.sum:
            fold_pending(&pending)
        if is_temporary(value) and fold_at_once(slot, number):
            return take_over(&handles, slot, value, None)
        made = new_sum(slot, new_constant(number))
        if number == 0.0 and tape.node[slot].kind == BINARY:
            pending.sum = made
        return wrap(made)
    return refuse(PyNumber_Multiply(tape.data[slot], other) if product else PyNumber_Add(tape.data[slot], other))


@cython.no_gc
cdef class Value:
    # The first line is the signature, in the form in which Python reads it: inspect.signature(Value).
    """Value(data, children=(), local_grads=())\n--\n
A number in a computation graph (lines 29-72 of the script).

Operators build the graph, `backward()` differentiates it.

Parameters
----------
data : float
children : sequence of Value
    What this number was computed from.
local_grads : sequence of float
    d(this)/d(child) for each child.

Examples
--------
>>> from microgpt import Value
>>> x = Value(3.0)
>>> (x * x).backward()
>>> x.grad
6.0
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
                wait_until_idle()
            except BaseException:
                free(nary)
                raise
        # All that can run Python code has run: what was given may be a number or a sequence that uses this very Value.
        settle()
        if self.slot:
            rewire(self.slot, number, nary)
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
            audit_tape()

    def __hash__(self):
        cdef uint32_t slot = slot_of(self)  # of the node, so that it outlives this handle
        tape.node[slot].flags |= HASHED
        return slot

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
        cdef double value = to_double(number)
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
        cdef double value = to_double(number)
        tape.grad[slot_of(self)] = value

    @grad.deleter
    def grad(self):
        raise AttributeError("a Value always has its grad")

    @property
    def _children(self):
        """The Values this one was computed from, a tuple."""
        return children_of(slot_of(self))

    @property
    def _local_grads(self):
        """d(this)/d(child) for each child, a tuple of floats."""
        return local_grads_of(slot_of(self))

    # The operators are called with a Value on either side, or on both.

    def __add__(left, right):
        if extend_sum(left, right):
            return take_over(&handles, (<Value>left).slot, left, right)
        return add_seldom(left, right)

    def __mul__(left, right):
        if isinstance(left, Value):
            return value_product(left, right) if isinstance(right, Value) else with_number(left, right, True)
        return with_number(right, left, True)

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
                wait_until_idle()
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
                wait_until_idle()
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
            wait_until_idle()
        return wrap(new_unary(data, slot, 1.0 / x))

    def exp(self):
        """e to the power of this. Errors are those of math.exp."""
        cdef uint32_t slot = slot_of(self)
        cdef double data = mg_exp(tape.data[slot])
        if not isfinite(data):
            from math import exp
            data = exp(tape.data[slot])
            wait_until_idle()
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
        begin_nogil()
        slot = self.slot
        with nogil:
            code = run_backward(slot)
        end_nogil()
        if code != MG_OK:
            raise MemoryError("no memory to sort the graph")


# model.pyx hands out Values without importing this module, which the fused engine does not need.
dealloc_seldom, add_seldom = dealloc_with_node, value_sum
tape.handle_of = handle
tape.settle = settle

if MG_DEBUG:
    from . import audit as _audit  # noqa: F401  (walks the tape from now on)

# Python's messages name a type by tp_name: "Value", as for the script's class, not "microgpt.core.value.Value".
(<PyTypeObject *>Value).tp_name = "Value"
(<PyTypeObject *>Value).tp_dealloc = dealloc_value
