# cython: language_level=3
"""Operators, len() and loops over objects of users' classes: the methods that Python would call are recorded.

A function is rewritten with the hooks of operators only if it turned out that it needs them (strays.pyx).
"""
import operator
from types import FunctionType

from microgpt.core.recorder cimport Recorder, current
from microgpt.core.symbols cimport SymFloat, SymInt
from microgpt.core.traced cimport Traced

from microgpt.core.outside import guard

function_for = None  # hooks.function_for, set when that module is loaded: a function -> its twin that records

#: AST names of operators -> the names of methods.
BINARY = {"Add": "add", "Sub": "sub", "Mult": "mul", "Div": "truediv", "FloorDiv": "floordiv", "Mod": "mod", "Pow": "pow",
          "MatMult": "matmul", "LShift": "lshift", "RShift": "rshift", "BitOr": "or", "BitAnd": "and", "BitXor": "xor"}
UNARY = {"USub": "neg", "UAdd": "pos", "Invert": "invert"}
COMPARE = {"Eq": "eq", "NotEq": "ne", "Lt": "lt", "LtE": "le", "Gt": "gt", "GtE": "ge"}
cdef dict REFLECTED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le", "eq": "eq", "ne": "ne"}


def method_of_class(object x, str name):
    """A method that the user's class of x has for an operator, as what records; None: Python's own."""
    cdef object kind = type(x)
    if kind is Traced or kind is float or kind is int or kind is list or kind is SymFloat or kind is SymInt:
        return None
    method = getattr(kind, name, None)
    if not isinstance(method, FunctionType):
        return None
    recorded = function_for(method)
    if recorded is method:
        return None
    guard("attribute", kind, name, method)
    if id(x) not in current().created:
        guard("class", x, "__class__", kind)
    return recorded


cdef object tried(str name, str reflected, plain, left, right):
    """left OPERATOR right, by the methods that Python would try, in its order."""
    first, second = method_of_class(left, name), method_of_class(right, reflected)
    if first is None and second is None:
        return plain(left, right)
    if second is not None and type(right) is not type(left) and issubclass(type(right), type(left)):
        result = second(right, left)
        if result is not NotImplemented:
            return result
        second = None
    if first is None and second is not None:
        if hasattr(type(left), name):
            result = getattr(type(left), name)(left, right)
            if result is not NotImplemented:
                return result
        result = second(right, left)
    elif first is not None:
        result = first(left, right)
        if result is NotImplemented and second is not None and type(right) is not type(left):
            result = second(right, left)
        elif result is NotImplemented and hasattr(type(right), reflected) and second is None:
            return plain(left, right)
    if result is not NotImplemented:
        return result
    return plain(left, right)  # raises, or compares identities


def binary(str name, left, right):
    """left + right and the like. name: "add" and the like."""
    return tried(f"__{name}__", f"__r{name}__", plain_binary(name), left, right)


cdef object plain_binary(str name):
    return getattr(operator, name + "_" if name in ("or", "and") else name)


def inplace(str name, left, right):
    """The new value of left in left += right and the like."""
    method = method_of_class(left, f"__i{name}__")
    if method is not None:
        result = method(left, right)
        if result is not NotImplemented:
            return result
    elif hasattr(type(left), f"__i{name}__"):
        return getattr(operator, f"i{name}")(left, right)
    return binary(name, left, right)


def set_item(value, x, i):
    """x[i] = value"""
    method = method_of_class(x, "__setitem__")
    if method is None:
        x[i] = value
    else:
        method(x, i, value)


def unary(str name, x):
    """-x and the like."""
    method = method_of_class(x, f"__{name}__")
    return getattr(operator, name)(x) if method is None else method(x)


def compared(str name, left, right):
    """left == right and the like."""
    return tried(f"__{name}__", f"__{REFLECTED[name]}__", getattr(operator, name), left, right)


def contained(x, items):
    """x in items."""
    method = method_of_class(items, "__contains__")
    if method is not None:
        return bool(method(items, x))
    if not hasattr(type(items), "__contains__"):
        items = iterated(items)
    return x in items


def iterated(x):
    """What a loop over x goes through."""
    method = method_of_class(x, "__iter__")
    if method is not None:
        return iterated(method(x))
    return x


def length(x):
    """len(x)"""
    method = method_of_class(x, "__len__")
    return len(x) if method is None else method(x)
