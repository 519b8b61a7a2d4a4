# cython: language_level=3
"""What a traced function reads from outside, which must be the same in later calls, and what it has made and may change."""
from microgpt.core.recorder cimport Recorder
from microgpt.core.tracing cimport tracing_now

from microgpt.core.recorder import TraceError


def guard(kind, holder, name, value):
    """Note what was read from outside; a call of the compiled function finds it the same or is traced again."""
    cdef Recorder trace = tracing_now()
    key = (kind, id(holder), name)
    if key not in trace.guards:
        trace.guards[key] = (kind, holder, name, value)
        if isinstance(value, (list, tuple, dict, set)):
            trace.outside.append(value)


def made(x):
    """x, which the function has just made: it may change it."""
    cdef Recorder trace = tracing_now()
    trace.created.add(id(x))
    trace.keep.append(x)  # no other object gets its id
    return x


def made_by(f, *arguments, **options):
    return made(f(*arguments, **options))


def is_from_outside(x):
    """Whether a list, tuple, dict or set is one that was read from outside, or within such a one."""
    cdef Recorder trace = tracing_now()
    cdef list outside = trace.outside
    if id(x) in trace.created:
        return False
    while outside:
        found = outside.pop()
        if id(found) not in trace.captured and id(found) not in trace.created:
            trace.captured.add(id(found))
            items = found.values() if isinstance(found, dict) else found
            outside += [item for item in items if isinstance(item, (list, tuple, dict, set))]
    return id(x) in trace.captured


def changing(x):
    """Before x[i] = ..., del x[i] and x += ...: what is from outside may not be changed."""
    if isinstance(x, (list, dict, set)) and is_from_outside(x):
        raise TraceError(f"a {type(x).__name__} from outside is changed in a compiled function, which would happen when it is "
                         "traced, not in every call: change it outside, or return the value")
    return x


def storing(x):
    """Before x.name = ...: only what this trace has made may be changed."""
    if id(x) not in tracing_now().created:
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
