# cython: language_level=3
"""What a traced function reads from outside, which must be the same in later calls, and what it has made and may change."""
from collections import deque
from types import BuiltinFunctionType, FunctionType, ModuleType

from microgpt.core.recorder cimport Recorder, Symbol, current
from microgpt.core.value cimport Value

from microgpt.core.recorder import TraceError


def guard(kind, holder, name, value):
    """Note what was read from outside; a call of the compiled function finds it the same or is traced again."""
    cdef Recorder trace = current()
    key = (kind, id(holder), name)
    if key not in trace.guards:
        trace.guards[key] = (kind, holder, name, value)
        if kind == "global" or kind == "cell":
            trace.outside.append(value)
        else:
            trace.reads[key] = (holder, value)


def note_read(holder, name, value):
    """Note an attribute that is not watched: one of a class or a module."""
    cdef Recorder trace = current()
    if not cannot_change(value):
        trace.reads["class", id(holder), name] = (holder, value)


cdef bint cannot_change(object x):
    """Whether x has nothing in it that a function could change."""
    return (x is None or isinstance(x, (Value, Symbol, bool, int, float, str, bytes))
            or isinstance(x, (FunctionType, BuiltinFunctionType, ModuleType, type)))


def made(x):
    """x, which the function has just made: it may change it."""
    cdef Recorder trace = current()
    trace.created.add(id(x))
    trace.keep.append(x)  # no other object gets its id
    return x


def made_by(f, *arguments, **options):
    return made(f(*arguments, **options))


def is_from_outside(x):
    """Whether an object was read from outside, or is within one that was."""
    cdef Recorder trace = current()
    if id(x) in trace.created:
        return False
    while True:
        while trace.outside:
            walk(trace, trace.outside.pop())
        for holder, value in trace.reads.values():
            if id(value) not in trace.captured and (id(holder) in trace.captured or isinstance(holder, (ModuleType, type))
                                                    or id(type(holder)) in trace.captured):
                trace.outside.append(value)
        if not trace.outside:
            return id(x) in trace.captured


cdef int walk(Recorder trace, object found) except -1:
    """Note an object from outside; what is in it follows."""
    if id(found) in trace.captured or id(found) in trace.created or cannot_change(found):
        return 0
    trace.captured.add(id(found))
    trace.keep.append(found)
    items = ()  # attributes: see `reads`
    if isinstance(found, dict):
        items = list(dict.values(found))
    elif isinstance(found, list):
        items = list.copy(found)
    elif isinstance(found, (tuple, set, deque)):
        items = tuple(found)
    for item in items:
        if not cannot_change(item) and id(item) not in trace.captured:
            trace.outside.append(item)
    return 0


def changing(x):
    """Before x[i] = ... and del x[i]: what is from outside may not be changed."""
    if is_from_outside(x):
        raise TraceError(f"a {type(x).__name__} from outside is changed in a compiled function, which would happen when it is "
                         "traced, not in every call: change it outside, or return the value")
    return x


def augmenting(x):
    """Before x += ..., which changes some objects in place."""
    if not isinstance(x, (Symbol, int, float, Value, str, tuple)) and hasattr(type(x), "__iadd__"):
        changing(x)


def storing(x):
    """Before x.name = ...: only what this trace has made may be changed."""
    if id(x) not in current().created:
        raise TraceError(f"an attribute of a {x.__class__.__name__} is set in a compiled function, which would happen when it is "
                         "traced, not in every call: set it outside, or return the value")
    return x


def is_plain_dataclass(object kind):
    """Whether an instance is made by code of dataclasses alone, which sets its attributes and no more."""
    fields = getattr(kind, "__dataclass_fields__", None)
    return (fields is not None and type(kind) is type and kind.__new__ is object.__new__
            and not hasattr(kind, "__post_init__") and "__init__" in vars(kind) and not hasattr(kind.__init__, "__wrapped__")
            and kind.__init__.__code__.co_filename == "<string>"
            and all([field.default_factory in (list, dict, set) or type(field.default_factory).__name__ == "_MISSING_TYPE"
                     for field in fields.values()]))
