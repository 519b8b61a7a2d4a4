# cython: language_level=3, c_api_binop_methods=True, auto_pickle=False
"""Values that are traced, and real Values' operators while they are: both record nodes instead of computing.

Any use of a real Value that is not recorded is an error: nothing that could change from call to call becomes a constant
unseen.
"""
cimport cython
from cpython.float cimport PyFloat_AsDouble
from libc.math cimport fabs
from libc.stdint cimport int32_t
from libc.string cimport memcpy

from microgpt.core.recorder cimport (
    MG_ADD, MG_CONST, MG_CUSTOM, MG_EXP, MG_LOG, MG_MUL, MG_NUM_VALUE, MG_POW, MG_RELU, check_serial, constant, is_value,
    list_node, new_number, node, node_of_leaf, plain_number, tracing_here,
)
from microgpt.core.symbols cimport data_of, is_symbolic, number_node
from microgpt.core.value cimport Value

from microgpt.core.recorder import TraceError


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


cdef int32_t node_of_value(object value) except -1:
    if type(value) is Traced:
        check_serial((<Traced>value).serial)
        return (<Traced>value).node
    if isinstance(value, Value):
        return node_of_leaf(value)
    raise TraceError(f"a Value is needed here, not {type(value).__name__!r}")


cdef int32_t operand(object x) except -2:
    """The node of an operand as the script's operators take it: a Value, or Value(number). -1: neither."""
    cdef double number
    if type(x) is Traced:
        check_serial((<Traced>x).serial)
        return (<Traced>x).node
    if isinstance(x, Value):
        return node_of_leaf(x)
    if is_symbolic(x):
        return number_node(x)
    if plain_number(x, &number):
        return constant(number)
    return -1


cdef Traced negative(int32_t i):
    return new_traced(node(MG_MUL, i, constant(-1.0)))  # -x is x * -1


cdef object traced_binary(int op, object left, object right):
    """A sum or a product."""
    cdef int32_t a, b
    if not is_value(left):
        left, right = right, left  # 2 + x is x + 2
    a = operand(left)
    b = operand(right)
    if b < 0:
        return NotImplemented
    return new_traced(node(op, a, b))


cdef inline object traced_add(object left, object right):
    return traced_binary(MG_ADD, left, right)


cdef inline object traced_multiply(object left, object right):
    return traced_binary(MG_MUL, left, right)


cdef object traced_subtract(object left, object right):
    if not is_value(left):
        return traced_add(negative(operand(right)), left)
    if is_value(right):
        return new_traced(node(MG_ADD, operand(left), negative(operand(right)).node))
    return traced_add(left, -right)


cdef object traced_divide(object left, object right):
    cdef int32_t a
    if is_value(right):
        a = power_node(operand(right), -1.0)
        return traced_multiply(left, new_traced(a))
    return traced_multiply(left, right ** -1)


cdef int32_t power_node(int32_t base, double exponent) except -1:
    return node(MG_POW, base, new_number(exponent))


cdef object traced_power(object left, object right, object modulus):
    cdef double exponent
    cdef int32_t a
    if not is_value(left):
        return NotImplemented  # the script has no __rpow__
    if modulus is not None:
        raise TypeError("Value.__pow__() takes 2 positional arguments but 3 were given")
    a = operand(left)
    if is_symbolic(right):
        x = data_of(a)
        return custom(x ** right, (new_traced(a),), (right * x ** (right - 1),))
    if is_value(right) or not plain_number(right, &exponent) or fabs(exponent) >= 9007199254740992.0:
        raise TraceError(f"a power whose exponent is {type(right).__name__!r}")
    return new_traced(power_node(a, exponent))


cdef object traced_negative(object x):
    return negative(operand(x))


cdef object custom(object data, object children, object local_grads):
    """Value(data, children, local_grads)."""
    cdef list items = []
    children, local_grads = tuple(children), tuple(local_grads)
    if not children and not local_grads:
        if is_symbolic(data):
            return new_traced(node(MG_NUM_VALUE, number_node(data), 0))  # b 0: a leaf of its own
        return new_traced(node(MG_CONST, new_number(PyFloat_AsDouble(data)), 0))
    if len(children) > 60000:
        raise TraceError(f"a Value with {len(children)} children")
    if len(children) != len(local_grads):
        raise TraceError("a Value with more children than local gradients, or fewer")
    for child, local_grad in zip(children, local_grads):
        items.append(node_of_value(child))
        items.append(number_node(local_grad))
    return new_traced(list_node(MG_CUSTOM, number_node(data), items))


@cython.final
@cython.no_gc
cdef class Traced(Symbol):
    """A Value of a traced computation."""

    @property
    def __class__(self):
        return Value  # isinstance(x, Value) holds

    @property
    def data(self):
        check_serial(self.serial)
        return data_of(self.node)

    @data.setter
    def data(self, number):
        raise TraceError("a Value's data is set in a compiled function: set it outside")

    @property
    def grad(self):
        raise TraceError("a Value's grad is read in a compiled function: read it after backward(), outside")

    @grad.setter
    def grad(self, number):
        raise TraceError("a Value's grad is set in a compiled function: set it outside")

    @property
    def _children(self):
        raise TraceError("a Value's _children are read in a compiled function: read them outside")

    @property
    def _local_grads(self):
        raise TraceError("a Value's _local_grads are read in a compiled function: read them outside")

    def __add__(left, right):
        return traced_add(left, right)

    def __sub__(left, right):
        return traced_subtract(left, right)

    def __mul__(left, right):
        return traced_multiply(left, right)

    def __truediv__(left, right):
        return traced_divide(left, right)

    def __pow__(left, right, modulus):
        return traced_power(left, right, modulus)

    def __neg__(self):
        return traced_negative(self)

    def log(self):
        return new_traced(node(MG_LOG, operand(self), -1))

    def exp(self):
        return new_traced(node(MG_EXP, operand(self), -1))

    def relu(self):
        return new_traced(node(MG_RELU, operand(self), -1))

    def backward(self):
        raise TraceError("backward() in a compiled function: call it on the result, outside")

    def __repr__(self):
        return "<a Value that is being traced>"

    def __str__(self):
        raise TraceError("text from a Value in a compiled function: its number is not known while it is traced")

    def __format__(self, spec):
        raise TraceError("text from a Value in a compiled function: its number is not known while it is traced")

    def __reduce__(self):
        raise TraceError("a copy of a Value in a compiled function")


# While a function is traced, operators on real Values record, too, in the thread that traces.

cdef PyNumberMethods plain

cdef object on_add(object left, object right):
    return traced_add(left, right) if tracing_here() else plain.nb_add(left, right)

cdef object on_subtract(object left, object right):
    return traced_subtract(left, right) if tracing_here() else plain.nb_subtract(left, right)

cdef object on_multiply(object left, object right):
    return traced_multiply(left, right) if tracing_here() else plain.nb_multiply(left, right)

cdef object on_divide(object left, object right):
    return traced_divide(left, right) if tracing_here() else plain.nb_true_divide(left, right)

cdef object on_power(object left, object right, object modulus):
    return traced_power(left, right, modulus) if tracing_here() else plain.nb_power(left, right, modulus)

cdef object on_negative(object x):
    return traced_negative(x) if tracing_here() else plain.nb_negative(x)


cdef int exchange_operators(object kind, bint on) except -1:
    """Of Value and its subclasses, those that have not defined their own."""
    cdef PyNumberMethods *methods = mg_number_methods(kind)
    if on:
        if kind is Value:
            memcpy(&plain, methods, sizeof(plain))
        methods.nb_add = on_add if methods.nb_add == plain.nb_add else methods.nb_add
        methods.nb_subtract = on_subtract if methods.nb_subtract == plain.nb_subtract else methods.nb_subtract
        methods.nb_multiply = on_multiply if methods.nb_multiply == plain.nb_multiply else methods.nb_multiply
        methods.nb_true_divide = on_divide if methods.nb_true_divide == plain.nb_true_divide else methods.nb_true_divide
        methods.nb_power = on_power if methods.nb_power == plain.nb_power else methods.nb_power
        methods.nb_negative = on_negative if methods.nb_negative == plain.nb_negative else methods.nb_negative
    else:
        methods.nb_add = plain.nb_add if methods.nb_add == on_add else methods.nb_add
        methods.nb_subtract = plain.nb_subtract if methods.nb_subtract == on_subtract else methods.nb_subtract
        methods.nb_multiply = plain.nb_multiply if methods.nb_multiply == on_multiply else methods.nb_multiply
        methods.nb_true_divide = plain.nb_true_divide if methods.nb_true_divide == on_divide else methods.nb_true_divide
        methods.nb_power = plain.nb_power if methods.nb_power == on_power else methods.nb_power
        methods.nb_negative = plain.nb_negative if methods.nb_negative == on_negative else methods.nb_negative
    for subclass in kind.__subclasses__():
        exchange_operators(subclass, on)
    return 0
