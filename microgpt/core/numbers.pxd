# cython: language_level=3
"""Python's number rules: which operands of Value count as numbers, and powers.

Inlined, because a number that meets a Value is a node.
"""
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_AsDouble, PyFloat_Check, PyFloat_CheckExact
from cpython.long cimport PyLong_AsDouble, PyLong_Check, PyLong_CheckExact
from libc.float cimport DBL_MIN
from libc.math cimport fabs, floor, fmod, isfinite

from microgpt.core.libm cimport mg_pow


# ---- operands that are not Values ----

cdef inline bint as_number(object other, double *number) except -1:
    """Whether other is a number, and which. A number here is whatever float() takes, but for text."""
    if PyFloat_CheckExact(other):
        number[0] = PyFloat_AS_DOUBLE(other)
        return True
    return as_foreign_number(other, number)


cdef inline bint as_foreign_number(object other, double *number) except -1:
    if PyFloat_Check(other):
        number[0] = PyFloat_AS_DOUBLE(other)
    elif PyLong_Check(other):
        number[0] = PyLong_AsDouble(other)
        if number[0] == -1.0:
            float(other)  # raises what PyLong_AsDouble has raised, if it has
    elif hasattr(type(other), "__float__") or hasattr(type(other), "__index__"):
        number[0] = PyFloat_AsDouble(other)
    else:
        return False
    return True


cdef inline double to_double(object number) except? -1.0:
    """float(number), which for an int makes no float first."""
    return PyLong_AsDouble(number) if PyLong_CheckExact(number) else PyFloat_AsDouble(number)


cdef inline object refuse(object result):
    """For an operand that is not a number. result: what a float makes of it, unless that has already raised an error."""
    from microgpt.errors import class_name

    raise TypeError(f"a Value holds one float: {class_name(result)!r} is none")


# ---- powers ----

cdef inline bint plain_pow(double x, double y, double *result) noexcept:
    """x ** y where no special rule of Python's applies: finite operands, no zero base, a finite normal result."""
    if x > 0.0:
        result[0] = mg_pow(x, y)
    elif x < 0.0 and y == floor(y) and fabs(y) < 9007199254740992.0:
        result[0] = mg_pow(-x, y)
        if fmod(y, 2.0) != 0.0:
            result[0] = -result[0]
    else:
        return False
    return isfinite(x) and isfinite(y) and isfinite(result[0]) and fabs(result[0]) >= DBL_MIN


cdef inline double as_real(object number) except? -1.0:
    if isinstance(number, complex):
        raise TypeError("a Value holds one float: this power is a complex number")
    return PyFloat_AsDouble(number)


cdef inline int power(double x, object exponent, double *data, double *local_grad) except -1:
    """data: x ** exponent; local_grad: exponent * x ** (exponent - 1). All that is out of the ordinary is Python's."""
    cdef double y
    cdef bint plain = False
    if PyFloat_CheckExact(exponent):
        y = PyFloat_AS_DOUBLE(exponent)
        plain = True
    elif PyLong_CheckExact(exponent) and -9007199254740992 < exponent < 9007199254740992:
        y = PyLong_AsDouble(exponent)
        plain = True
    if plain and plain_pow(x, y, data) and plain_pow(x, y - 1.0, local_grad):
        local_grad[0] = y * local_grad[0]
        return 0
    base = float(x)
    result = base ** exponent
    data[0] = as_real(result)
    local_grad[0] = as_real(exponent * base ** (exponent - 1))
    return 0


cdef inline bint inverse(object other, double *number) except -1:
    """other ** -1 by Python's rules; False if that is not a number."""
    if PyFloat_CheckExact(other):
        if plain_pow(PyFloat_AS_DOUBLE(other), -1.0, number):
            return True
    elif PyLong_CheckExact(other) and -9007199254740992 < other < 9007199254740992:
        if plain_pow(PyLong_AsDouble(other), -1.0, number):
            return True
    return as_number(other ** -1, number)


cdef inline bint negative(object other, double *number) except -1:
    """-other; False if that is not a number. The negative of the int 0 is 0.0, not -0.0."""
    if PyFloat_CheckExact(other):
        number[0] = -PyFloat_AS_DOUBLE(other)
        return True
    return as_number(-other, number)
