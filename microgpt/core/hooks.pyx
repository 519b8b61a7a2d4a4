# cython: language_level=3
"""What rewritten functions call instead of subscripts, attributes, calls and `is` (compiler/rewrite.py puts them there)."""
import builtins
import functools
import math
import sys
from collections import deque
from random import Random
from dis import get_instructions
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from weakref import WeakKeyDictionary

cimport cython
from cpython.object cimport PyObject

from microgpt.core.recorder cimport Recorder, current
from microgpt.core.symbols cimport SymFloat, SymInt, call_number, extreme_of
from microgpt.core.traced cimport Traced, custom
from microgpt.core.tracing cimport data_of_value, linear_rows, look_up
from microgpt.core.value cimport Value

from microgpt.core.outside import guard, is_from_outside, is_plain_dataclass, made, made_by, note_read
from microgpt.core.recorder import TraceError
from microgpt.core.symbols import FUNCTIONS

rewrite = None  # compiler.rewrite.rewritten, set when that module is loaded: a user's function -> its rewritten twin
is_user_code = None  # of a function: whether it is to be rewritten


# ---- x[i], x.name, x is y (what changes something: outside.pyx) ----

def subscript(x, i):
    if type(i) is SymInt:
        if type(x) is list or type(x) is tuple:
            return look_up(x, i)
        method = getattr(type(x), "__getitem__", None)
        if isinstance(method, FunctionType):
            return function_for(method)(x, i)
        raise TraceError(f"an int argument can only index lists and tuples, not a {type(x).__name__}")
    if type(x) is not list and type(x) is not tuple and type(x) is not dict:
        method = getattr(type(x), "__getitem__", None)
        if isinstance(method, FunctionType):
            return function_for(method)(x, i)
    r = x[i]
    if isinstance(x, dict) and type(r) is not Traced and type(i) is str and id(x) not in current().created:
        guard("item", x, i, r)
    return r


def attribute(x, name):
    if name == "data" and type(x) is not Traced and isinstance(x, Value):
        return data_of_value(x)
    read = getattr(type(x), name, None)
    if type(read) is property and isinstance(read.fget, FunctionType):
        return function_for(read.fget)(x)
    r = getattr(x, name)
    if (name == "data" or name == "grad") and type(x) is not Traced and type(x).__module__.startswith("microgpt."):
        raise TraceError(f"{type(x).__name__}.{name} in a compiled function: its numbers would be those of the trace in every "
                         "call. Use the Values")
    if type(x) is Traced or type(r) is Traced or type(r) is SymFloat or type(r) is SymInt:
        return r
    if id(x) not in current().created:
        held = getattr(x, "__dict__", None)
        if held is not None and name in held:
            guard("attribute", x, name, r)
        else:
            note_read(x, name, r)
    return r


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
    cdef list items = list(arguments[0]) if len(arguments) == 1 else list(arguments)
    if not any([type(x) is SymFloat or type(x) is SymInt for x in items]):
        return plain(items, **options)
    if options:
        raise TraceError(f"{plain.__name__}() with {sorted(options)[0]}= of numbers that are not known while the function is "
                         "traced")
    return extreme_of(largest, items)


def _traced_sum(items, start=0):
    total = start
    if sys.version_info >= (3, 12):
        items = list(items)
        if any([type(x) is SymFloat or type(x) is SymInt for x in items]):
            raise TraceError("sum() of plain numbers that are not known while the function is traced: Python 3.12 and later "
                             "compensate its rounding errors; write a loop")
        return builtins.sum(items, start)
    for x in items:
        total = total + x
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


cdef dict special = {
    builtins.max: _traced_max, builtins.min: _traced_min, builtins.sum: _traced_sum,
    math.pow: _traced_math_pow, builtins.sorted: functools.partial(made_by, builtins.sorted), **{getattr(math, name): math_function(name) for name in FUNCTIONS},
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


cdef object function_for(object f):
    """A function's twin that records, or the function itself where it is not the user's."""
    cdef Recorder trace = current()
    g = trace.functions.get(f)
    if g is None:
        g = trace.functions[f] = rewrite(f) if is_user_code(f) else f
        if g is not f:
            guard_function(f)
    return g


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
    """What a function reads by name from outside."""
    for name in names_in(f.__code__):
        if name in f.__globals__:
            guard("global", f.__globals__, name, f.__globals__[name])
    for name, cell in zip(f.__code__.co_freevars, f.__closure__ or ()):
        try:
            guard("cell", cell, name, cell.cell_contents)
        except ValueError:  # empty
            pass
    return 0


def called(f):
    """What is called where the function says f(...)."""
    cdef object kind = type(f), owner
    if kind is FunctionType:
        return function_for(f)
    if kind is BuiltinFunctionType:
        owner = f.__self__
        if owner is None or type(owner) is ModuleType:
            if type(owner) is ModuleType and owner.__name__ in ("time", "posix", "nt", "_random"):
                return _refusing(f"{owner.__name__}.{f.__name__}()", "its result would be that of the trace in every call")
            if f is functools.reduce:
                return functools.partial(_with_function, f)
            return special.get(f, f)
        if isinstance(owner, Random):
            return drawing(f, owner)
        if isinstance(owner, dict) and f.__name__ == "get" and id(owner) not in current().created:
            return functools.partial(_get, owner, f)
        if isinstance(owner, dict) and f.__name__ in ("items", "values") and id(owner) not in current().created:
            for name, value in owner.items():
                if type(name) is str and type(value) is not Traced:
                    guard("item", owner, name, value)
        if f.__name__ in changing_methods and is_from_outside(owner):
            return _refusing(f"{f.__name__}() of a {type(owner).__name__} from outside",
                            "it would happen when the function is traced, not in every call: return the value")
        return functools.partial(made_by, f) if f.__name__ == "copy" or f.__name__ == "fromkeys" else f
    if kind is MethodType:
        return called_method(f)
    if isinstance(f, type):
        return called_class(f)
    return called_object(f)


cdef object drawing(object f, object generator):
    """A method of random.Random: fine where the function has made the generator itself, from a seed."""
    if id(generator) in current().created:
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
    return f


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
        return functools.partial(made_by, f)
    if is_plain_dataclass(f):
        return functools.partial(_instance, f, f.__init__)
    init = f.__init__
    if type(f) is type and f.__new__ is object.__new__ and isinstance(init, FunctionType) and is_user_code(init):
        return functools.partial(_instance, f, function_for(init))
    if issubclass(f, Value):
        raise TraceError(f"{f.__name__}(...), a subclass of Value, in a compiled function: write Value(...)")
    return f


cdef bint is_user_class(object kind):
    """Whether a class has methods in Python that are the user's."""
    return any([isinstance(method, FunctionType) and is_user_code(method) for base in kind.__mro__
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
        return functools.partial(called(f.func), *f.args, **f.keywords)
    if isinstance(f, functools._lru_cache_wrapper):
        return functools.partial(_call_cached, f)
    inner = getattr(f, "__compiled_function__", None)
    if inner is not None:
        return called(inner)
    method = getattr(type(f), "__call__", None)
    if isinstance(method, FunctionType):
        return MethodType(function_for(method), f)
    return f


def _get(owner, f, *arguments):
    """get() of a dict from outside."""
    if arguments and type(arguments[0]) is str and arguments[0] in owner:
        return subscript(owner, arguments[0])
    return f(*arguments)


def _with_function(f, function, *arguments):
    """map, filter and reduce."""
    return f(function if function is None else called(function), *arguments)


def _call_cached(f, *arguments, **options):
    """A function with a cache: only where it returns no Values, because a later call would find those of this one."""
    result = called(f.__wrapped__)(*arguments, **options)
    if result is None or type(result) in (bool, int, float, str):
        return f(*arguments, **options)
    raise TraceError(f"{f.__name__}() keeps its results in a cache (functools.cache), where a later call finds them: call it "
                     "outside, or leave the cache out")
