# cython: language_level=3
"""What rewritten functions call instead of subscripts, attributes, calls and `is` (compiler/rewrite.py puts them there)."""
import functools
import operator
import weakref
from collections import deque
from random import Random
from types import (
    BuiltinFunctionType, FunctionType, GetSetDescriptorType, MappingProxyType, MemberDescriptorType, MethodDescriptorType,
    MethodType, MethodWrapperType, ModuleType, NoneType, SimpleNamespace, WrapperDescriptorType,
)

from cpython.buffer cimport PyObject_CheckBuffer

from microgpt.core.outside cimport is_heap_type
from microgpt.core.recorder cimport Recorder, current
from microgpt.core.symbols cimport SymFloat, SymInt
from microgpt.core.traced cimport Traced
from microgpt.core.tracing cimport data_of_value, look_up
from microgpt.core.value cimport Value

from microgpt.core import operators, reading as reading_of, stand_ins
from microgpt.core.guards import MISSING
from microgpt.core.outside import (
    add_root, changing, check_frame, found_outside, guard, guard_attribute, guard_class, is_from_outside, is_plain_dataclass, made,
    made_by, storing, whole,
)
from microgpt.core.reading import changing_methods, reading, reading_method
from microgpt.core.recorder import TraceError
from microgpt.core.stand_ins import package_functions, refusing, special, traced_leaf, traced_type, traced_value
from microgpt.core.strays import check_c_function, check_class, needs_care
from microgpt.core.twins import function_for, is_users


# ---- x[i], x.name, x is y (what changes something: outside.pyx) ----

def subscript(x, i):
    if type(i) is SymInt:
        if type(x) is list or type(x) is tuple:
            return look_up(x, i)
        method = getattr(type(x), "__getitem__", None)
        if isinstance(method, FunctionType):
            return recorded_method(x, "__getitem__", method)(x, i)
        raise TraceError(f"an int argument can only index lists and tuples, not a {type(x).__name__}")
    if type(x) is list or type(x) is tuple:
        return x[i]  # lists are compared as a whole
    if type(x) is not dict:
        method = getattr(type(x), "__getitem__", None)
        if isinstance(method, FunctionType):
            return recorded_method(x, "__getitem__", method)(x, i)
    if id(x) in current().created or isinstance(x, (str, bytes, range, tuple, list)):
        return x[i]
    if not isinstance(x, dict):
        r = x[i]
        if isinstance(x, MappingProxyType):
            guard("subscript", x, i, r)
        return r
    if is_heap_type(type(i)):
        needs_care()  # to hash it
    simple = type(i) in (str, int, bool, tuple, NoneType, bytes)
    try:
        r = x[i]
    except KeyError:
        if simple:
            guard("item", x, i, MISSING)
        raise
    if not simple:
        whole(x)
    elif type(r) is not Traced:
        guard("item", x, i, r)
    return r


def attribute(x, name):
    check_frame(x)
    if name == "data" and type(x) is not Traced and isinstance(x, Value):
        return data_of_value(x)
    read = getattr(type(x), name, None)
    if type(read) is property and isinstance(read.fget, FunctionType):
        return recorded_method(x, name, read, read.fget)(x)
    try:
        r = getattr(x, name)
    except AttributeError:
        guard_attribute(x, name, MISSING)
        raise
    if (name == "data" or name == "grad") and type(x) is not Traced and type(x).__module__.startswith("microgpt."):
        raise TraceError(f"{type(x).__name__}.{name} in a compiled function: its numbers would be those of the trace in every "
                         "call. Use the Values")
    if type(x) is Traced or type(r) is Traced or type(r) is SymFloat or type(r) is SymInt:
        return r
    guard_attribute(x, name, r)
    return r


def method(x, name):
    """What is called where the function says x.name(...)."""
    if type(x) is Traced or type(x) is list or isinstance(x, Value):
        return called(getattr(x, name))
    return called(attribute(x, name))


def read_whole(x):
    """x, of which more is read than single entries if it is a dict."""
    if isinstance(x, dict):
        whole(x)
    elif is_heap_type(type(x)):
        needs_care()
    return x


cdef object recorded_method(object x, object name, object found, object function=None):
    """A method that Python finds in the class of x, as what records."""
    kind = type(x)
    function = function_for(found if function is None else function)
    guard("attribute", kind, name, found)
    guard_class(x)
    return function


def same(x, y):
    for a, b in ((x, y), (y, x)):
        if (type(a) is SymInt or type(a) is SymFloat) and a is not b and isinstance(b.__class__, type) and issubclass(
                b.__class__, (int, float)):
            a == b  # raises, in words
    return x is y


# ---- calls ----

def called(f):
    """What is called where the function says f(...)."""
    cdef object kind = type(f)
    if kind is FunctionType:
        return function_for(f)
    if kind is BuiltinFunctionType:
        return called_builtin(f, f.__self__)
    if kind is MethodType:
        return called_method(f)
    if kind is MethodDescriptorType or kind is WrapperDescriptorType:
        return functools.partial(_unbound, f)
    if kind is MethodWrapperType:
        return called_wrapper(f, f.__self__)
    if isinstance(f, type):
        return called_class(f)
    return called_object(f)


cdef object called_builtin(object f, object owner):
    """A function in C, or a method of owner in C."""
    if owner is None or type(owner) is ModuleType:
        if owner is not None:
            check_c_function(owner, f)
        if f is functools.reduce:
            return functools.partial(_with_function, f)
        return special.get(f) or reading(f)
    if isinstance(owner, Random):
        return drawing(f, owner)
    if type(owner).__module__.startswith("numpy.random"):
        return drawing(f, None)
    if isinstance(owner, type):
        if f.__name__ in ("now", "utcnow", "today"):
            return refusing(f"{owner.__name__}.{f.__name__}()", "its result would be that of the trace in every call")
        return functools.partial(made_by, reading(f)) if f.__name__ == "fromkeys" else reading(f)
    if f.__name__ in changing_methods and is_from_outside(owner):
        return refusing_change(f.__name__, owner)
    if id(owner) in current().created or isinstance(owner, (str, bytes, int, float, list, tuple, set, frozenset, deque)):
        pass
    elif isinstance(owner, dict):
        if f.__name__ == "get":
            return functools.partial(_get, owner, f)
        if f.__name__ != "keys":
            whole(owner)
    elif not PyObject_CheckBuffer(owner) and type(owner).__module__ not in FIXED_MODULES and is_from_outside(owner):
        return refusing(f"{f.__name__}() of a {type(owner).__name__} from outside", "its result may be another one in every call")
    if f.__name__ == "copy" or f.__name__ == "fromkeys":
        return functools.partial(made_by, f)
    return reading_method(f)


#: Modules in C whose objects never change.
FIXED_MODULES = frozenset({"re", "datetime", "decimal", "numpy", "_struct", "types", "builtins"})


def _unbound(f, *arguments, **named):
    """A method in C that was read from its class, list.append say: its first argument is the object."""
    if arguments and f.__name__ in ("__setattr__", "__delattr__"):
        storing(arguments[0])
    elif arguments and type(f) is MethodDescriptorType and not isinstance(arguments[0], Value) and type(
            getattr(arguments[0], f.__name__, None)) is BuiltinFunctionType:
        bound = f.__get__(arguments[0])
        return called_builtin(bound, arguments[0])(*arguments[1:], **named)
    elif arguments and type(f) is WrapperDescriptorType and not isinstance(arguments[0], Value):
        return called_wrapper(f.__get__(arguments[0]), arguments[0])(*arguments[1:], **named)
    return f(*arguments, **named)


cdef object called_wrapper(object f, object owner):
    """x.__setitem__ and the like of objects whose class is in C."""
    if f.__name__ == "__call__":
        return called(owner)
    if f.__name__ == "__getattribute__":
        return functools.partial(attribute, owner)
    if f.__name__ == "__get__":
        return functools.partial(_got, owner, f)
    if f.__name__ in ("__setitem__", "__delitem__", "__init__", "__setstate__") or f.__name__.startswith("__i") and hasattr(
            operator, f.__name__.strip("_")) and f.__name__ not in ("__index__", "__invert__"):
        changing(owner)
    elif f.__name__ in ("__setattr__", "__delattr__"):
        storing(owner)
    elif isinstance(owner, dict):
        whole(owner)
    elif hasattr(type(owner), "__next__") and is_from_outside(owner):
        raise TraceError(f"a {type(owner).__name__} from outside gives something else each time it is asked: pass what it gives as "
                         "an argument")
    return reading(f)


def _got(descriptor, f, x, *kind):
    """x.name, by its descriptor."""
    if type(descriptor) is property and x is not None:
        return called(descriptor.fget)(x)
    if type(descriptor) in (MemberDescriptorType, GetSetDescriptorType) and x is not None:
        return attribute(x, descriptor.__name__)
    return reading(f)(x, *kind)


cdef object refusing_change(object name, object owner):
    return refusing(f"{name}() of a {type(owner).__name__} from outside",
                    "it would happen when the function is traced, not in every call: return the value")


cdef object drawing(object f, object generator):
    """A method of random.Random: fine where the function has made the generator itself, from a seed."""
    if generator is not None and id(generator) in current().created:
        return f
    return refusing("random numbers", "every call would see those of the trace. Draw them outside and pass them in")


def _seeded(*seed):
    generator = Random(*seed)
    if seed and seed[0] is not None:
        current().created.add(id(generator))
        current().keep.append(generator)
    return generator


cdef object called_method(object f):
    owner, function = f.__self__, f.__func__
    if type(owner) is not Traced and isinstance(owner, Value) and not isinstance(function, FunctionType):
        return getattr(traced_leaf(owner), function.__name__)
    if isinstance(owner, Random):
        return drawing(reading(f), owner)
    if isinstance(function, FunctionType):
        if function.__name__ in changing_methods and not is_users(function) and is_from_outside(owner):
            return refusing_change(function.__name__, owner)
        return MethodType(function_for(function), owner)
    if type(owner).__module__.startswith("numpy.random"):
        return drawing(f, None)
    return reading(f)


cdef object called_class(object f):
    if f is Value:
        return traced_value
    if f is type:
        return traced_type
    if f is Random:
        return _seeded
    if f is map or f is filter:
        return functools.partial(_with_function, f)
    if f is SimpleNamespace or issubclass(f, (list, dict, set, deque)) and not is_user_class(f):
        return functools.partial(made_by, reading(f))
    if not is_heap_type(f):
        return reading(f)
    check_class(f)
    for name in ("__init__", "__new__"):
        guard_attribute(f, name, getattr(f, name))
    if is_plain_dataclass(f):
        return functools.partial(_instance, f, f.__init__)
    init = f.__init__
    if type(f) is type and f.__new__ is object.__new__ and isinstance(init, FunctionType) and is_users(init):
        return functools.partial(_instance, f, function_for(init))
    if issubclass(f, Value):
        raise TraceError(f"{f.__name__}(...), a subclass of Value, in a compiled function: write Value(...)")
    return reading(f)


cdef bint is_user_class(object kind):
    """Whether a class has methods in Python that are the user's."""
    return any([isinstance(method, FunctionType) and is_users(method) for base in kind.__mro__
                for method in vars(base).values()])


def _instance(kind, init, *arguments, **options):
    x = object.__new__(kind)
    trace = current()
    trace.created.add(id(x))
    trace.keep.append(x)
    init(x, *arguments, **options)
    return x


cdef object called_object(object f):
    stand_in = None
    try:
        stand_in = package_functions().get(f)
    except TypeError:  # not hashable
        pass
    if stand_in is not None:
        return stand_in
    if isinstance(f, functools.partial):
        whole(f.keywords)
        for argument in f.args:
            add_root("partial", argument)
        return functools.partial(called(f.func), *f.args, **f.keywords)
    if type(f) is operator.methodcaller:
        return functools.partial(_call_method, f)
    if type(f) is operator.attrgetter or type(f) is weakref.ref:
        return functools.partial(found_outside, reading(f))
    if isinstance(f, functools._lru_cache_wrapper):
        return functools.partial(_call_cached, f)
    inner = getattr(f, "__compiled_function__", None)
    if inner is not None:
        return called(inner)
    found = getattr(type(f), "__call__", None)
    if isinstance(found, FunctionType):
        return MethodType(recorded_method(f, "__call__", found), f)
    return reading(f)


def _call_method(caller, x):
    """operator.methodcaller(name, ...)(x)"""
    make, arguments = caller.__reduce__()  # methodcaller, or a partial of it with what is named
    named = {}
    if isinstance(make, functools.partial):
        arguments, named = make.args + arguments, make.keywords
    return method(x, arguments[0])(*arguments[1:], **named)


def _get(owner, f, *arguments):
    """get() of a dict from outside."""
    if not arguments or type(arguments[0]) not in (str, int, tuple):
        whole(owner)
    elif arguments[0] in owner:
        return subscript(owner, arguments[0])
    else:
        guard("item", owner, arguments[0], MISSING)
    return f(*arguments)


def _with_function(f, function, *arguments):
    """map, filter and reduce."""
    return reading(f)(function if function is None else called(function), *arguments)


def _call_cached(f, *arguments, **options):
    """A function with a cache: only where it returns no Values, because a later call would find those of this one."""
    cdef Recorder trace = current()
    result = called(f.__wrapped__)(*arguments, **options)
    if result is not None and type(result) not in (bool, int, float, str):
        raise TraceError(f"{f.__name__}() keeps its results in a cache (functools.cache), where a later call finds them: call it "
                         "outside, or leave the cache out")
    trace.unrecorded += 1  # it has just been recorded
    try:
        found = f(*arguments, **options)
    finally:
        trace.unrecorded -= 1
    if not options:
        guard("cached", f, arguments, found)
    return found


operators.function_for = function_for
reading_of.called, reading_of.attribute = called, attribute
stand_ins.subscript, stand_ins.attribute = subscript, attribute
