# cython: language_level=3
"""What a traced function reads from outside, which must be the same in later calls, and what it has made and may change."""
from collections import deque
from collections.abc import MappingView
from gc import get_referents
from types import BuiltinFunctionType, CellType, FrameType, FunctionType, MappingProxyType, MethodType, ModuleType

from cpython.buffer cimport PyObject_CheckBuffer
from cpython.ref cimport Py_REFCNT

from microgpt.core.guards cimport same_value
from microgpt.core.recorder cimport Recorder, Symbol, current
from microgpt.core.value cimport Value

from microgpt.core.guards import MISSING, bytes_of, items_of, keys_of
from microgpt.core.recorder import TraceError
from microgpt.core.strays import check_class

#: What holds objects from outside, wherever it is found itself.
cdef tuple HOLDERS = (ModuleType, type, FunctionType, CellType, MappingProxyType)

cdef enum:
    MOST_BYTES = 1 << 20  # of an array that is compared before every call
    MOST_ITEMS = 1 << 16  # of a list that is compared before and after a function that is not recorded


def guard(kind, holder, name, value):
    """Note what was read from outside; a call of the compiled function finds it the same or is traced again."""
    cdef Recorder trace = current()
    key = (kind, id(holder), name)
    if key in trace.guards:
        return
    trace.guards[key] = (kind, holder, name, value)
    if value is MISSING or kind == "class" or kind == "function":
        return
    if kind == "global" or kind == "cell":
        trace.outside.append(value)
    elif not cannot_change(value):
        if isinstance(holder, HOLDERS) or id(holder) in trace.captured:
            trace.outside.append(value)
        else:
            trace.reads.setdefault(id(holder), []).append(value)
    if isinstance(value, (BuiltinFunctionType, MethodType)):
        value = value.__self__
        trace.outside.append(value)
    if not cannot_change(value):
        if hasattr(type(value), "__next__"):
            refuse(name, value, [])
        add_root(str(name), value)


def add_root(name, x):
    """Note an object from outside: what is in it is compared if it is a container."""
    cdef Recorder trace = current()
    trace.roots.append((name, x))
    if not trace.careful:
        check_items(trace, x)


cdef int check_items(Recorder trace, object x) except -1:
    """Begin again if there are objects of users' classes with methods that are not recorded.

    Each object is looked at once per trace: dicts in dicts are all read one by one. What the function itself has since put
    into one has been looked at when it was read or made.
    """
    cdef list todo = [x]
    while todo:
        x = todo.pop()
        if id(x) in trace.checked:
            continue
        trace.checked.add(id(x))
        trace.keep.append(x)
        if isinstance(x, dict):
            items = list(dict.values(x))
        elif isinstance(x, list):
            items = <list>x
        elif isinstance(x, (tuple, set, frozenset, deque)):
            items = list(x)
        else:
            check_class(type(x))
            continue
        todo.extend([item for item in items if type(item) is not Value and not cannot_change(item)])
    return 0


def guard_attribute(x, name, r):
    """Note an attribute of an object from outside, or of the class of one that the function has made."""
    if id(x) in current().created:
        if not is_heap_type(type(x)) or name in getattr(x, "__dict__", ()):
            return
        x = type(x)
        r = getattr(x, name, MISSING)
    elif isinstance(x, Value):
        return
    elif type(x) is ModuleType and name in x.__dict__:
        guard("global", x.__dict__, name, r)
        return
    if same_value(getattr(x, name, MISSING), r):  # others are made when they are asked for
        guard("attribute", x, name, r)
    elif not cannot_change(r):
        add_root(name, r)


def guard_class(x):
    """Note the class of an object from outside."""
    if is_heap_type(type(x)) and id(x) not in current().created:
        guard("class", x, "__class__", type(x))


cdef bint is_heap_type(object kind):
    return kind.__flags__ & 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement, its attributes can be set


def whole(x):
    """Note that a dict was read by more than single entries; the same for the attributes of an object."""
    cdef Recorder trace = current()
    if id(x) not in trace.whole and id(x) not in trace.created:
        trace.whole.add(id(x))
        trace.keep.append(x)
        trace.roots.append(("a dict", x))


def contents(Recorder trace):
    """The guards of what is in the containers that were read."""
    cdef list todo = list(trace.roots), found = []
    cdef set seen = set()
    cdef Py_ssize_t at = 0
    while at < len(todo):
        name, x = <tuple>todo[at]
        at += 1
        if id(x) in seen or id(x) in trace.created:
            continue
        seen.add(id(x))
        if isinstance(x, list):
            items = tuple(list.copy(x))
            found.append(("list", x, name, items))
        elif isinstance(x, tuple):
            items = tuple.__getitem__(x, slice(None))
        elif isinstance(x, dict):
            keys = items = keys_of(x)
            if id(x) in trace.whole:
                items = keys + tuple([dict.get(x, key) for key in keys])
            found.append(("entries" if id(x) in trace.whole else "keys", x, name, items))
        elif isinstance(x, (set, deque)):
            items = items_of(x)
            found.append(("items", x, name, items))
        elif isinstance(x, frozenset):
            items = items_of(x)
        elif isinstance(x, MappingProxyType):
            items = tuple(x.items())
            found.append(("items", x.items(), name, items))
        elif isinstance(x, MappingView) and type(x).__module__ == "builtins":
            items = tuple(x)
            found.append(("items", x, name, items))
        else:
            items = ()
            refuse(name, x, found)
        for item in items:
            if type(item) is not Value and not cannot_change(item):
                todo.append((name, item))
    return tuple(found)


cdef int refuse(object name, object x, list found) except -1:
    """Compare an array, and refuse what changes when it is read."""
    if PyObject_CheckBuffer(x):
        if isinstance(x, bytes):
            return 0
        try:
            view = memoryview(x)
            if view.nbytes > MOST_BYTES or "O" in view.format:
                raise ValueError
            found.append(("bytes", x, name, bytes_of(x)))
        except (ValueError, TypeError, BufferError, NotImplementedError):
            raise TraceError(f"{name} is a {type(x).__name__} from outside that cannot be compared in every call: pass lists of "
                             "numbers") from None
    elif hasattr(type(x), "__next__"):
        raise TraceError(f"{name} is a {type(x).__name__} from outside, which gives something else each time it is asked: pass "
                         "what it gives as an argument")
    return 0


cdef bint cannot_change(object x):
    """Whether x has nothing in it that a function could change."""
    return (x is None or isinstance(x, (Value, Symbol, bool, int, float, str, bytes))
            or isinstance(x, (FunctionType, ModuleType, type)))


def made(x):
    """x, which the function has just made: it may change it."""
    cdef Recorder trace = current()
    trace.created.add(id(x))
    trace.keep.append(x)  # no other object gets its id
    return x


def made_by(f, *arguments, **options):
    return made(f(*arguments, **options))


def found_outside(f, *arguments):
    """What f finds: objects that were there before."""
    found = f(*arguments)
    current().outside.append(found)
    return found


def came_from(result, arguments):
    """Note where the result of a function comes from that is not recorded: what others hold as well was there before.

    Unless it is in what the function was given. What is in an object that the function has made is looked at in the same way.
    """
    cdef Recorder trace = current()
    cdef list todo = [], given = None
    cdef set seen = set(), within = None
    if cannot_change(result) or id(result) in trace.created:
        return
    check_frame(result)
    if Py_REFCNT(result) > 2 + (result is arguments):  # the caller's, and this function's
        todo.append(result)
    elif PyObject_CheckBuffer(result) and memory_of(result) is None:
        made(result)
    else:
        todo.extend(held_by_others(result, seen))
    for x in todo:
        if id(x) in trace.created or is_from_outside(x):
            continue
        if within is None:
            given = []
            within = reachable(arguments, given)
        if id(x) not in within:
            trace.outside.append(x)


def contents_of(arguments):
    """Copies of the lists and the like from outside among arguments: (it, its copy) each. See `put_back`."""
    cdef list found = []
    for x in arguments:
        if cannot_change(x) or not is_from_outside(x):
            continue
        if isinstance(x, (list, dict, set, deque)):
            if len(x) <= MOST_ITEMS:
                found.append((x, x.copy()))
        elif PyObject_CheckBuffer(x):
            view = memoryview(x)
            if not view.readonly and view.c_contiguous and view.nbytes <= MOST_BYTES:
                found.append((view.cast("B"), bytes(view)))
    return found


def put_back(copies):
    """Undo what a function that is not recorded has changed of what it was given, and raise TraceError if it has."""
    changed = None
    for x, copied in copies:
        if isinstance(x, memoryview):
            if bytes(x) != copied:
                changed = x.obj
                x[:] = copied
        elif ids_in(x) != ids_in(copied):
            changed = x
            if isinstance(x, (list, deque)):
                x.clear()
                x.extend(copied)
            else:
                x.clear()
                x.update(copied)
    if changed is not None:
        changing(changed)


cdef list ids_in(object x):
    if isinstance(x, dict):
        return [id(y) for item in x.items() for y in item]
    ids = [id(y) for y in x]
    return sorted(ids) if isinstance(x, set) else ids


def check_frame(x):
    """Raise TraceError for a frame, in which Python keeps what is different in compiled code."""
    if isinstance(x, FrameType):
        raise TraceError("a frame in a compiled function: compiled code has none, so it would be one of the trace")


cdef list held_by_others(object made, set seen):
    """What is in an object that a function has made, and which has other holders."""
    cdef list todo = [made], found = []
    while todo:
        x = todo.pop()
        for held in get_referents(x):
            if not cannot_change(held) and id(held) not in seen:
                seen.add(id(held))
                # Its holder, the list of referents and this loop.
                (found if Py_REFCNT(held) > 3 else todo).append(held)
    return found


cdef set reachable(object x, list kept):
    """The ids of what can be reached from x, but for what is from outside."""
    cdef list todo = [x]
    cdef set seen = set()
    while todo:
        for held in get_referents(todo.pop()):
            if not cannot_change(held) and id(held) not in seen and not is_from_outside(held):
                seen.add(id(held))
                kept.append(held)
                todo.append(held)
    return seen


def is_from_outside(x):
    """Whether an object was read from outside, or is within one that was, or shares the memory of one."""
    cdef Recorder trace = current()
    if id(x) in trace.created:
        return False
    while trace.outside:
        walk(trace, trace.outside.pop())
    if id(x) in trace.captured:
        return True
    of = memory_of(x)
    return of is not None and is_from_outside(of)


cdef object memory_of(object x):
    """The object of whose memory x is a view, or None."""
    if not PyObject_CheckBuffer(x):
        return None
    return x.obj if isinstance(x, memoryview) else getattr(x, "base", None)


cdef int walk(Recorder trace, object found) except -1:
    """Note an object from outside; what is in it follows."""
    if id(found) in trace.captured or id(found) in trace.created or cannot_change(found):
        return 0
    trace.captured.add(id(found))
    trace.keep.append(found)
    trace.outside.extend(trace.reads.pop(id(found), ()))
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
