# cython: language_level=3
"""What is called instead of Python's functions and this package's, where those would not record what they do."""
import bisect
import builtins
import collections
import functools
import heapq
import math
import operator
import sys

from microgpt.core.outside cimport is_heap_type
from microgpt.core.recorder cimport current
from microgpt.core.symbols cimport SymFloat, SymInt, call_number, extreme_of
from microgpt.core.traced cimport Traced, custom
from microgpt.core.tracing cimport linear_rows

from microgpt.core.operators import binary, iterated, length
from microgpt.core.outside import augmenting, changing, found_outside, made_by
from microgpt.core.reading import (
    reading, traced_delattr, traced_getattr, traced_hasattr, traced_isinstance, traced_setattr,
)
from microgpt.core.recorder import TraceError
from microgpt.core.symbols import FUNCTIONS

subscript = None  # hooks.subscript and hooks.attribute, set when that module is loaded
attribute = None


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


def _traced_vars(*x):
    return attribute(x[0], "__dict__") if len(x) == 1 else builtins.vars(*x)


def traced_type(*arguments):
    if len(arguments) != 1:
        return type(*arguments)
    return arguments[0].__class__ if type(arguments[0]) in (Traced, SymFloat, SymInt) else type(arguments[0])


def traced_value(data=None, children=(), local_grads=()):
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


def refusing(what, why):
    def refuse(*_, **__):
        raise TraceError(f"{what} in a compiled function: {why}")

    return refuse


cdef object _changing_first(f, check):
    """f, which changes its first argument. check: called with that first."""
    def call(x, *arguments, **named):
        check(x)
        return f(x, *arguments, **named)

    return call


special = {
    builtins.max: _traced_max, builtins.min: _traced_min, builtins.sum: _traced_sum,
    math.pow: _traced_math_pow, builtins.sorted: functools.partial(made_by, reading(builtins.sorted)), builtins.len: length,
    builtins.getattr: traced_getattr, builtins.hasattr: traced_hasattr, builtins.setattr: traced_setattr,
    builtins.delattr: traced_delattr, builtins.isinstance: traced_isinstance,
    # Of compiled code there is no frame: these are the globals of the function that asks.
    builtins.vars: _traced_vars, builtins.globals: functools.partial(found_outside, builtins.globals),
    **{f: _changing_first(f, changing) for f in (operator.setitem, operator.delitem)},
    **{getattr(operator, name): _changing_first(getattr(operator, name), augmenting)
       for name in dir(operator) if name[0] == "i" and name[1:] in dir(operator)},
    **{f: _changing_first(reading(f), changing) for module in (heapq, bisect, collections) for name, f in vars(module).items()
       if name.startswith(("heap", "insort", "_count_elements"))},
    **{getattr(math, name): math_function(name) for name in FUNCTIONS},
    **{f: refusing(f"{f.__name__}()", "it would happen when the function is traced, not in every call")
       for f in (builtins.print, builtins.input, builtins.open, builtins.eval, builtins.exec)},
}
cdef dict package = None  # functions of this package -> their stand-ins


def package_functions():
    global package
    if package is None:
        from microgpt.core import functions, gpt

        package = {functions.linear: _traced_linear, functions.softmax: _traced_softmax, functions.rmsnorm: _traced_rmsnorm,
                   gpt.gpt: _traced_gpt, type: traced_type}
    return package


cdef object method_of(object x, str name):
    """x.name of a Value, bound to what records."""
    if type(x) is Traced:
        return getattr(x, name)
    return getattr(traced_leaf(x), name)


def traced_leaf(value):
    """A real leaf as a traced Value."""
    return current().traced(value)
