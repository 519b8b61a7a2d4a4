# cython: language_level=3, c_api_binop_methods=True, auto_pickle=False
"""Numbers that a trace does not know: int arguments, float arguments, the data of Values.

They may be computed with, but not decide anything: a condition, a dict or a text made of them is an error that says so.
"""
import operator

cimport cython
from cpython.long cimport PyLong_Check
from libc.stdint cimport int32_t

from microgpt.core.recorder cimport (
    MG_INT, MG_NUM_ADD, MG_NUM_CALL, MG_NUM_DIV, MG_NUM_MAX, MG_NUM_MIN, MG_NUM_MUL, MG_NUM_NEG, MG_NUM_POW, MG_NUM_VALUE,
    Recorder, check_serial, constant, is_value, list_node, plain_number, shared_number,
)

from microgpt.core.recorder import TraceError

# math's names, in the order of enum mg_function.
FUNCTIONS = {name: i for i, name in enumerate(
    "exp log sqrt sin cos tan tanh sinh cosh asin acos atan erf erfc expm1 log1p fabs".split())}


cdef object unknown_float(str what):
    raise TraceError(f"{what} a number that is not known while the function is traced (a float argument, or a Value's "
                     "data): it can be computed with, but it cannot decide what the function does, nor go through "
                     "functions other than those of math")


cdef object unknown_int(SymInt x, str what):
    cdef Recorder recorder = current()
    name = recorder.int_names[x.index] if recorder is not None and recorder.serial == x.serial else "an int argument"
    raise TraceError(f"{what} {name}: an int argument of a compiled function can index lists and meet Values in "
                     "arithmetic, but it cannot decide what the function does. Name it in compile(static=...) if a program "
                     "for each of its values is wanted")


cdef object derived_int(object operation, object left, object right):
    """An int that is computed from int arguments before the program runs; NotImplemented where it is none."""
    cdef Recorder trace = current()
    operands = []
    for x in (left, right):
        if type(x) is SymInt:
            check_serial((<SymInt>x).serial)
            operands.append(((<SymInt>x).index, None))
        elif PyLong_Check(x):
            operands.append((-1, int(x)))
        else:
            return NotImplemented
    key = (operation, operands[0], operands[1])
    index = trace.derived_index.get(key)
    if index is None:
        index = trace.derived_index[key] = add_int_input(
            trace, f"a number computed from {trace.int_names[max(operands[0][0], operands[1][0])]}")
        trace.derived.append(key)
    return new_int(index)


cdef int32_t add_int_input(Recorder recorder, object name) except -1:
    """Another int input; the number of it."""
    recorder.int_names.append(name)
    recorder.bounds.append(None)
    recorder.graph.n_ints += 1
    return recorder.graph.n_ints - 1


cdef int32_t number_node(object x) except -1:
    """The node of a number, known or not."""
    cdef double number
    if type(x) is SymFloat:
        check_serial((<SymFloat>x).serial)
        return (<SymFloat>x).node
    if type(x) is SymInt:
        check_serial((<SymInt>x).serial)
        return shared_number(MG_INT, (<SymInt>x).index, -1)
    if is_value(x) or not plain_number(x, &number):
        raise TraceError(f"a number is needed here, not {type(x).__name__!r}")
    return constant(number)


cdef SymFloat data_of(int32_t i):
    return new_float(shared_number(MG_NUM_VALUE, i, -1))


cdef SymFloat call_number(int function, object x):
    return new_float(shared_number(MG_NUM_CALL, number_node(x), function))


cdef SymFloat extreme_of(bint largest, list items):
    return new_float(list_node(MG_NUM_MAX if largest else MG_NUM_MIN, -1, [number_node(x) for x in items]))


cdef bint meets_value(object left, object right):
    return is_value(left) or is_value(right)


cdef object number_result(int op, object left, object right):
    cdef double ignored
    cdef object other = right if is_symbolic(left) else left
    if not (is_symbolic(other) or plain_number(other, &ignored)):
        return NotImplemented
    return new_float(shared_number(op, number_node(left), number_node(right)))


cdef object number_negative(object x):
    return new_float(shared_number(MG_NUM_NEG, number_node(x), -1))


cdef object symbol_add(object left, object right):
    return NotImplemented if meets_value(left, right) else number_result(MG_NUM_ADD, left, right)


cdef object symbol_subtract(object left, object right):
    if meets_value(left, right):
        return NotImplemented
    if is_symbolic(right):
        return number_result(MG_NUM_ADD, left, number_negative(right))  # a - b is a + -b, bit for bit
    return number_result(MG_NUM_ADD, left, -right)


cdef object symbol_multiply(object left, object right):
    return NotImplemented if meets_value(left, right) else number_result(MG_NUM_MUL, left, right)


cdef object symbol_divide(object left, object right):
    return NotImplemented if meets_value(left, right) else number_result(MG_NUM_DIV, left, right)


cdef object symbol_power(object left, object right, object modulus):
    if meets_value(left, right):
        return NotImplemented
    if modulus is not None:
        raise TraceError("pow() with a modulus of numbers that are not known while the function is traced")
    return number_result(MG_NUM_POW, left, right)


@cython.final
@cython.no_gc
cdef class SymFloat(Symbol):
    """A number that is known only when the compiled program runs. It has no gradient."""

    @property
    def __class__(self):
        return float

    def __add__(left, right):
        return symbol_add(left, right)

    def __sub__(left, right):
        return symbol_subtract(left, right)

    def __mul__(left, right):
        return symbol_multiply(left, right)

    def __truediv__(left, right):
        return symbol_divide(left, right)

    def __pow__(left, right, modulus):
        return symbol_power(left, right, modulus)

    def __neg__(self):
        return number_negative(self)

    def __pos__(self):
        return self

    def __abs__(self):
        return new_float(shared_number(MG_NUM_CALL, number_node(self), FUNCTIONS["fabs"]))

    def __mod__(left, right):
        unknown_float("% of")

    def __floordiv__(left, right):
        unknown_float("// of")

    def __divmod__(left, right):
        unknown_float("divmod() of")

    def __bool__(self):
        unknown_float("a condition on")

    def __float__(self):
        unknown_float("float() of")

    def __int__(self):
        unknown_float("int() of")

    def __index__(self):
        unknown_float("an index from")

    def __round__(self, *digits):
        unknown_float("round() of")

    def __hash__(self):
        unknown_float("a dict or set looked up by")

    def __richcmp__(self, other, int op):
        unknown_float("a comparison of")

    def __repr__(self):
        return "<a number that is not known yet>"

    def __str__(self):
        unknown_float("text from")

    def __format__(self, spec):
        unknown_float("text from")

    def __reduce__(self):
        unknown_float("a copy of")


@cython.final
@cython.no_gc
cdef class SymInt(Symbol):
    """An int argument: an index that is known only when the compiled program runs."""

    @property
    def __class__(self):
        return int

    def __add__(left, right):
        result = derived_int(operator.add, left, right)
        return symbol_add(left, right) if result is NotImplemented else result

    def __sub__(left, right):
        result = derived_int(operator.sub, left, right)
        return symbol_subtract(left, right) if result is NotImplemented else result

    def __mul__(left, right):
        result = derived_int(operator.mul, left, right)
        return symbol_multiply(left, right) if result is NotImplemented else result

    def __truediv__(left, right):
        return symbol_divide(left, right)

    def __pow__(left, right, modulus):
        return symbol_power(left, right, modulus)

    def __neg__(self):
        return derived_int(operator.sub, 0, self)

    def __pos__(self):
        return self

    def __mod__(left, right):
        result = derived_int(operator.mod, left, right)
        if result is NotImplemented:
            unknown_int(left if type(left) is SymInt else right, "% of")
        return result

    def __floordiv__(left, right):
        result = derived_int(operator.floordiv, left, right)
        if result is NotImplemented:
            unknown_int(left if type(left) is SymInt else right, "// of")
        return result

    def __divmod__(left, right):
        unknown_int(left if type(left) is SymInt else right, "divmod() of")

    def __bool__(self):
        unknown_int(self, "a condition on")

    def __float__(self):
        unknown_int(self, "float() of")

    def __int__(self):
        unknown_int(self, "int() of")

    def __index__(self):
        unknown_int(self, "a plain index or count from")

    def __hash__(self):
        unknown_int(self, "a dict or set looked up by")

    def __richcmp__(self, other, int op):
        unknown_int(self, "a comparison of")

    def __repr__(self):
        return "<an int argument>"

    def __str__(self):
        unknown_int(self, "text from")

    def __format__(self, spec):
        unknown_int(self, "text from")

    def __reduce__(self):
        unknown_int(self, "a copy of")
