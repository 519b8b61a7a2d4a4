# cython: language_level=3
"""What rewritten functions call instead of subscripts, attributes, calls and `is` (compiler/rewrite.py puts them there)."""
import builtins
import functools
import math
import operator
import sys
from collections import deque
from random import Random
from dis import get_instructions
from types import (
    BuiltinFunctionType, CodeType, FunctionType, MappingProxyType, MethodDescriptorType, MethodType, MethodWrapperType, ModuleType,
    NoneType, SimpleNamespace, WrapperDescriptorType,
)
from weakref import WeakKeyDictionary

cimport cython
from cpython.buffer cimport PyObject_CheckBuffer

from microgpt.core.outside cimport is_heap_type
from microgpt.core.recorder cimport Recorder, current
from microgpt.core.symbols cimport SymFloat, SymInt, call_number, extreme_of
from microgpt.core.traced cimport Traced, custom
from microgpt.core.tracing cimport data_of_value, linear_rows, look_up
from microgpt.core.value cimport Value

from microgpt.core import operators, reading as reading_of
from microgpt.core.guards import MISSING
from microgpt.core.operators import binary, iterated, length
from microgpt.core.outside import (
    add_root, changing, guard, guard_attribute, guard_class, is_from_outside, is_plain_dataclass, made, made_by, storing, whole,
)
from microgpt.core.reading import (
    reading, reading_all, reading_method, traced_delattr, traced_getattr, traced_hasattr, traced_isinstance, traced_setattr,
)
from microgpt.core.recorder import TraceError
from microgpt.core.strays import check_c_function, check_class, needs_care
from microgpt.core.symbols import FUNCTIONS

rewrite = None  # compiler.rewrite.rewritten, set when that module is loaded: a user's function, with operators -> its twin
rewritten_codes = None  # compiler.rewrite.rewritten_codes: the codes of twins
is_user_code = None  # of a function: whether it is to be rewritten


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

def _traced_max(*items, **options):
    return extreme(builtins.max, True, items, options)


def _traced_min(*items, **options):
    return extreme(builtins.min, False, items, options)


cdef object extreme(plain, bint largest, tuple arguments, dict options):
    cdef list items = list(iterated(arguments[0])) if len(arguments) == 1 else list(arguments)
    if not any([type(x) is SymFloat or type(x) is SymInt for x in items]):
        return reading(plain)(items, **options)
    if options:
        raise TraceError(f"{plain.__name__}() with {sorted(options)[0]}= of numbers that are not known while the function is "
                         "traced")
    return extreme_of(largest, items)


def _traced_sum(items, start=0):
    total = start
    if sys.version_info >= (3, 12):
        items = list(iterated(items))
        if any([type(x) is SymFloat or type(x) is SymInt for x in items]):
            raise TraceError("sum() of plain numbers that are not known while the function is traced: Python 3.12 and later "
                             "compensate its rounding errors; write a loop")
        if not any([type(x) is not Traced and is_heap_type(type(x)) for x in (start, *items)]):
            return builtins.sum(items, start)
    for x in iterated(items):
        total = total + x if type(x) is Traced or type(total) is Traced else binary("add", total, x)
    return total


def _traced_type(*arguments):
    if len(arguments) != 1:
        return type(*arguments)
    return arguments[0].__class__ if type(arguments[0]) in (Traced, SymFloat, SymInt) else type(arguments[0])


def _traced_value(data=None, children=(), local_grads=()):
    return custom(data, children, local_grads)


def _traced_linear(x, w):
    return linear_rows(list(x), [list(row) for row in w])


def _traced_softmax(logits):
    logits = list(logits)
    largest = extreme_of(True, [attribute(logit, "data") for logit in logits])
    exps = [method_of(logit - largest, "exp")() for logit in logits]
    total = _traced_sum(exps)
    return [e / total for e in exps]


def _traced_rmsnorm(x):
    x = list(x)
    scale = (_traced_sum([xi * xi for xi in x]) / len(x) + 1e-5) ** -0.5
    return [xi * scale for xi in x]


def _traced_gpt(token_id, pos_id, keys, values, model):
    """The script's gpt."""
    w = model.state_dict
    head_dim = model.n_embd // model.n_head
    x = [t + p for t, p in zip(subscript(w["wte"], token_id), subscript(w["wpe"], pos_id))]
    x = _traced_rmsnorm(x)
    for li in range(model.n_layer):
        x_residual = x
        x = _traced_rmsnorm(x)
        q = _traced_linear(x, w[f"layer{li}.attn_wq"])
        k = _traced_linear(x, w[f"layer{li}.attn_wk"])
        v = _traced_linear(x, w[f"layer{li}.attn_wv"])
        keys[li].append(k)
        values[li].append(v)
        x_attn = []
        for h in range(model.n_head):
            hs = h * head_dim
            q_h = q[hs:hs + head_dim]
            k_h = [ki[hs:hs + head_dim] for ki in keys[li]]
            v_h = [vi[hs:hs + head_dim] for vi in values[li]]
            logits = [_traced_sum([q_h[j] * k_h[t][j] for j in range(head_dim)]) / head_dim**0.5 for t in range(len(k_h))]
            weights = _traced_softmax(logits)
            x_attn.extend([_traced_sum([weights[t] * v_h[t][j] for t in range(len(v_h))]) for j in range(head_dim)])
        x = _traced_linear(x_attn, w[f"layer{li}.attn_wo"])
        x = [a + b for a, b in zip(x, x_residual)]
        x_residual = x
        x = _traced_rmsnorm(x)
        x = _traced_linear(x, w[f"layer{li}.mlp_fc1"])
        x = [xi.relu() for xi in x]
        x = _traced_linear(x, w[f"layer{li}.mlp_fc2"])
        x = [a + b for a, b in zip(x, x_residual)]
    return _traced_linear(x, w["lm_head"])


cdef object math_function(name):
    plain = getattr(math, name)
    cdef int function = FUNCTIONS[name]

    @functools.wraps(plain)
    def call(*arguments):
        if len(arguments) == 1 and (type(arguments[0]) is SymFloat or type(arguments[0]) is SymInt):
            return call_number(function, arguments[0])
        return plain(*arguments)

    return call


def _traced_math_pow(x, y):
    return x ** y if type(x) in (SymFloat, SymInt) or type(y) in (SymFloat, SymInt) else math.pow(x, y)


def _refusing(what, why):
    def refuse(*_, **__):
        raise TraceError(f"{what} in a compiled function: {why}")

    return refuse


cdef object _changing_first(f):
    def call(x, *arguments):
        if hasattr(type(x), "__iadd__") or f is operator.setitem or f is operator.delitem:
            changing(x)
        return f(x, *arguments)

    return call


cdef dict special = {
    builtins.max: _traced_max, builtins.min: _traced_min, builtins.sum: _traced_sum,
    math.pow: _traced_math_pow, builtins.sorted: functools.partial(made_by, reading(builtins.sorted)), builtins.len: length,
    builtins.getattr: traced_getattr, builtins.hasattr: traced_hasattr, builtins.setattr: traced_setattr,
    builtins.delattr: traced_delattr, builtins.isinstance: traced_isinstance,
    **{getattr(operator, name): _changing_first(getattr(operator, name))
       for name in dir(operator) if name in ("setitem", "delitem") or name[0] == "i" and name[1:] in dir(operator)},
    **{getattr(math, name): math_function(name) for name in FUNCTIONS},
    **{f: _refusing(f"{f.__name__}()", "it would happen when the function is traced, not in every call")
       for f in (builtins.print, builtins.input, builtins.open)},
}
cdef set changing_methods = {"append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse", "add", "discard", "update",
                     "setdefault", "popitem", "appendleft", "extendleft", "popleft", "rotate", "fill"}
cdef dict package = None  # functions of this package -> their stand-ins


cdef dict package_functions():
    global package
    if package is None:
        from microgpt.core import functions, gpt

        package = {functions.linear: _traced_linear, functions.softmax: _traced_softmax, functions.rmsnorm: _traced_rmsnorm,
                   gpt.gpt: _traced_gpt, type: _traced_type}
    return package


cdef object method_of(object x, str name):
    """x.name of a Value, bound to what records."""
    if type(x) is Traced:
        return getattr(x, name)
    return getattr(traced_leaf(x), name)


cdef object traced_leaf(object value):
    """A real leaf as a traced Value."""
    return current().traced(value)


def function_for(f):
    """What is called for a function: its twin that records, or one of a library as it is."""
    cdef Recorder trace = current()
    g = trace.functions.get(f)
    if g is None:
        trace.unrecorded += 1  # reading a source asks the system for files
        try:
            g = (rewrite(f, trace.careful) if is_user_code(f)
                 else f if f.__code__ in rewritten_codes else reading_all(f))
        finally:
            trace.unrecorded -= 1
        trace.functions[f] = g
        if type(g) is FunctionType and g is not f:
            guard_function(f)
    return g


cdef bint is_users(object f):
    """is_user_code, which asks the system for paths."""
    cdef Recorder trace = current()
    trace.unrecorded += 1
    try:
        return is_user_code(f)
    finally:
        trace.unrecorded -= 1


cdef object global_names = WeakKeyDictionary()  # code -> the globals that it reads, functions within included


cdef set names_in(code):
    found = global_names.get(code)
    if found is None:
        found = set()
        for instruction in get_instructions(code):
            if instruction.opname == "LOAD_GLOBAL" or instruction.opname == "LOAD_NAME":
                found.add(instruction.argval)
        for constant in code.co_consts:
            if type(constant) is CodeType:
                found |= names_in(constant)
        global_names[code] = found
    return found


cdef int guard_function(object f) except -1:
    """What a function reads by name from outside, its code and its defaults."""
    cdef Recorder trace = current()
    held, built_in = f.__globals__, f.__builtins__
    for name in names_in(f.__code__):
        guard("global", held, name, held.get(name, MISSING))
        if name not in held and type(built_in) is dict:
            guard("global", built_in, name, built_in.get(name, MISSING))
    for name, cell in zip(f.__code__.co_freevars, f.__closure__ or ()):
        try:
            guard("cell", cell, name, cell.cell_contents)
        except ValueError:  # empty
            pass
    guard("function", f, f.__name__, (f.__code__, f.__defaults__, f.__kwdefaults__))
    for default in f.__defaults__ or ():
        trace.outside.append(default)
        add_root(f.__name__, default)
    if f.__kwdefaults__:
        trace.outside.append(f.__kwdefaults__)
        whole(f.__kwdefaults__)
    return 0


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
            return _refusing(f"{owner.__name__}.{f.__name__}()", "its result would be that of the trace in every call")
        return functools.partial(made_by, reading(f)) if f.__name__ == "fromkeys" else reading(f)
    if f.__name__ in changing_methods and is_from_outside(owner):
        return _refusing(f"{f.__name__}() of a {type(owner).__name__} from outside",
                         "it would happen when the function is traced, not in every call: return the value")
    if id(owner) in current().created or isinstance(owner, (str, bytes, int, float, list, tuple, set, frozenset, deque)):
        pass
    elif isinstance(owner, dict):
        if f.__name__ == "get":
            return functools.partial(_get, owner, f)
        if f.__name__ != "keys":
            whole(owner)
    elif not PyObject_CheckBuffer(owner) and type(owner).__module__ not in FIXED_MODULES and is_from_outside(owner):
        return _refusing(f"{f.__name__}() of a {type(owner).__name__} from outside", "its result may be another one in every call")
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
    if f.__name__ in ("__setitem__", "__delitem__") or f.__name__.startswith("__i") and hasattr(
            operator, f.__name__.strip("_")) and f.__name__ not in ("__index__", "__invert__"):
        changing(owner)
    elif isinstance(owner, dict):
        whole(owner)
    elif hasattr(type(owner), "__next__") and is_from_outside(owner):
        raise TraceError(f"a {type(owner).__name__} from outside gives something else each time it is asked: pass what it gives as "
                         "an argument")
    return reading(f)


cdef object drawing(object f, object generator):
    """A method of random.Random: fine where the function has made the generator itself, from a seed."""
    if generator is not None and id(generator) in current().created:
        return f
    return _refusing("random numbers", "every call would see those of the trace. Draw them outside and pass them in")


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
        return drawing(f, owner)
    if isinstance(function, FunctionType):
        return MethodType(function_for(function), owner)
    if type(owner).__module__.startswith("numpy.random"):
        return drawing(f, None)
    return reading(f)


cdef object called_class(object f):
    if f is Value:
        return _traced_value
    if f is type:
        return _traced_type
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
    return f


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
    if isinstance(f, functools._lru_cache_wrapper):
        return functools.partial(_call_cached, f)
    inner = getattr(f, "__compiled_function__", None)
    if inner is not None:
        return called(inner)
    found = getattr(type(f), "__call__", None)
    if isinstance(found, FunctionType):
        return MethodType(recorded_method(f, "__call__", found), f)
    return reading(f)


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
