# cython: language_level=3
"""What functions that are not traced read of their arguments: those in C, and those of the standard library.

They are called as they are. But dicts that they are given are compared as a whole in later calls, functions that they
are given are recorded when they call them, and so are loops over objects of users' classes.
"""
import builtins
import dataclasses
import functools
import operator
from types import BuiltinFunctionType, FunctionType, MethodType, MethodWrapperType, ModuleType

cimport cython

from microgpt.core.outside cimport is_heap_type
from microgpt.core.recorder cimport Symbol, current
from microgpt.core.value cimport Value

from microgpt.core.operators import iterated
from microgpt.core.outside import (
    came_from, changing, contents_of, guard_attribute, guard_class, put_back, storing, whole,
)
from microgpt.core.strays import check_class, needs_care

called = None  # hooks.called, set when that module is loaded
attribute = None  # hooks.attribute

#: They read nothing of what is in their arguments, and call nothing.
cdef set plain = {builtins.range, builtins.abs, builtins.round, builtins.ord, builtins.chr, builtins.divmod, builtins.id,
                  builtins.callable, builtins.slice, builtins.object, builtins.issubclass}
#: They call __repr__ and the like.
cdef set words = {builtins.str, builtins.repr, builtins.format, builtins.ascii}
#: They go through what they are given.
cdef set iterating = {builtins.zip, builtins.enumerate, builtins.list, builtins.tuple, builtins.set, builtins.frozenset, builtins.sorted,
                      builtins.min, builtins.max, builtins.any, builtins.all, builtins.sum, builtins.iter, builtins.map,
                      builtins.filter, functools.reduce}
#: They change nothing of what they are given.
cdef set only_reading = {builtins.bool, builtins.float, builtins.int, builtins.dict, builtins.reversed, builtins.type, operator.getitem}
#: Methods that change their object.
changing_methods = frozenset({
    "append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse", "add", "discard", "update", "setdefault", "popitem",
    "appendleft", "extendleft", "popleft", "rotate", "fill", "subtract", "put", "put_nowait", "get_nowait", "move_to_end",
    "__setitem__", "__delitem__", "__ior__", "__iadd__", "__iand__", "__isub__", "__ixor__",
})
#: Methods of lists and the like that keep or return what they are given as it is.
cdef set plain_methods = {"append", "appendleft", "insert", "pop", "popleft", "clear", "reverse", "add", "discard", "keys", "values",
                          "items"}
#: Functions that read the attributes of objects.
cdef tuple attribute_readers = (operator.attrgetter, operator.methodcaller)


def reading(f):
    """f, with the arguments prepared."""
    return f if f in plain else Reading(f, False)


def reading_method(f):
    return f if f.__name__ in plain_methods else Reading(f, False)


def reading_all(f):
    """The same for a function that may read attributes."""
    return Reading(f, True)


@cython.final
cdef class Reading:
    """A function that is called with its arguments prepared. with_attributes: it may read those of objects."""

    cdef object f
    cdef bint with_attributes, iterates, only_reads, is_method

    def __init__(self, f, with_attributes):
        self.f, self.with_attributes = f, with_attributes or isinstance(f, attribute_readers)
        self.iterates = f in iterating or getattr(f, "__module__", None) == "itertools" or getattr(f, "__name__", "") in (
            "extend", "join")
        self.only_reads = self.iterates or f in words or f in only_reading
        self.is_method = with_attributes and "." in getattr(f, "__qualname__", "")

    def __call__(self, *arguments, **named):
        cdef set seen = set()
        if self.with_attributes:
            needs_care()
        arguments = tuple([self.prepared(x, seen) for x in arguments])
        if named:
            named = {name: self.prepared(x, seen) for name, x in named.items()}
        if self.only_reads:
            result = self.f(*arguments, **named)
        else:
            if arguments and self.is_method and getattr(self.f, "__name__", "") in changing_methods:
                changing(arguments[0])
            copies = contents_of((*arguments, *named.values()))
            try:
                result = self.f(*arguments, **named)
            finally:
                put_back(copies)
        came_from(result, (arguments, named))
        return result

    cdef object prepared(self, object x, set seen):
        kind = type(x)
        if kind is FunctionType or kind is MethodType or kind is functools.partial or kind is MethodWrapperType or (
                kind is BuiltinFunctionType and x.__self__ is not None and type(x.__self__) is not ModuleType):
            return called(x)
        self.read(x, seen, 0)
        if is_heap_type(kind) and not isinstance(x, (type, Value)):
            check_class(kind)
            if self.f in words or getattr(self.f, "__name__", "") == "format":
                needs_care()
        return iterated(x) if self.iterates else x

    cdef int read(self, object x, set seen, int depth) except -1:
        """Note the dicts in x, and the attributes of objects."""
        if isinstance(x, (Symbol, Value, float, int, str, type, ModuleType)) or x is None or depth > 20:
            return 0
        if isinstance(x, (list, tuple)):
            if len(x) == 0 or isinstance(x[0] if type(x) is list or type(x) is tuple else None, (Symbol, Value, float, int, str)):
                return 0  # a list of numbers or Values
            if id(x) in seen:
                return 0
            seen.add(id(x))
            for item in tuple(x):
                self.read(item, seen, depth + 1)
        elif isinstance(x, dict):
            if id(x) in seen:
                return 0
            seen.add(id(x))
            whole(x)
            for item in tuple(dict.values(x)):
                self.read(item, seen, depth + 1)
        elif self.with_attributes and id(x) not in seen and id(x) not in current().created and is_heap_type(type(x)):
            seen.add(id(x))
            guard_class(x)
            held = getattr(x, "__dict__", None)
            if type(held) is dict:
                self.read(held, seen, depth + 1)
            for name in slots_of(type(x)):
                if hasattr(x, name):
                    guard_attribute(x, name, getattr(x, name))
        return 0


cdef list slots_of(object kind):
    names = []
    for base in kind.__mro__:
        slots = vars(base).get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                names.append(f"_{base.__name__.lstrip('_')}{name}" if name.startswith("__") and not name.endswith("__") else name)
    return names


# ---- stand-ins for functions that read or set attributes by name ----


def traced_getattr(x, name, *default):
    try:
        return attribute(x, name)
    except AttributeError:
        if default:
            return default[0]
        raise


def traced_hasattr(x, name):
    try:
        attribute(x, name)
    except AttributeError:
        return False
    return True


def traced_setattr(x, name, value):
    setattr(storing(x), name, value)


def traced_delattr(x, name):
    delattr(storing(x), name)


def traced_isinstance(x, kinds):
    guard_class(x)
    return isinstance(x, kinds)
