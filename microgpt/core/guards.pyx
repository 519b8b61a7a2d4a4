# cython: language_level=3, auto_pickle=False
"""What a program read from outside, and whether it is still there: compared before every call of a compiled function.

A guard is a tuple (kind, holder, name, value):

    global, item    a dict, a key, what is there or MISSING
    cell            a closure's cell, its name, its content
    attribute       an object or class, a name, what getattr finds or MISSING
    class           an object, its name, its class
    function        a function, its name, its code and defaults
    subscript       another container, an index, what is there
    cached          a function that keeps its results, arguments, the result
    list, items     a list; a set or deque: its name, its items
    keys, entries   a dict, its name, its keys; or its keys and values
    bytes           an array, its name, its format, shape and memory
"""
from collections import OrderedDict, deque
from types import BuiltinFunctionType, MethodType

cimport cython
from cpython.buffer cimport PyBuffer_IsContiguous
from cpython.dict cimport PyDict_CheckExact, PyDict_GetItem, PyDict_Next, PyDict_Size
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from libc.string cimport memcmp, memcpy

from microgpt.core.value cimport Value, settled_slot

cdef extern from *:
    """
    static void mg_fetch_list(PyObject *list) { __builtin_prefetch(&((PyListObject *)list)->ob_item); }

    static void mg_fetch_items(PyObject *list)
    {
        const char *items = (const char *)((PyListObject *)list)->ob_item;
        __builtin_prefetch(items);
        __builtin_prefetch(items + 64);
    }

    static int mg_list_is(PyObject *list, PyObject **items, Py_ssize_t n) /* whether it has these n items */
    {
        return Py_SIZE(list) == n && (n == 0 || memcmp(((PyListObject *)list)->ob_item, items, n * sizeof *items) == 0);
    }
    """
    void mg_fetch_list(PyObject *x) noexcept nogil
    void mg_fetch_items(PyObject *x) noexcept nogil
    bint mg_list_is(PyObject *x, PyObject **items, Py_ssize_t n) noexcept nogil

cdef enum:  # how many lists ahead of the one that is compared: they and their items are all over the memory
    LISTS_AHEAD = 12
    ITEMS_AHEAD = 6

cdef extern from "Python.h":
    Py_buffer *PyMemoryView_GET_BUFFER(object view)
    PyObject **PySequence_Fast_ITEMS(object sequence)
    Py_ssize_t Py_SIZE(object sequence)  # the true one, whatever a subclass says of its length
    PyObject *PyFunction_GetCode(object function)  # borrowed
    PyObject *PyFunction_GetDefaults(object function)  # borrowed, NULL for none
    PyObject *PyFunction_GetKwDefaults(object function)


class _Missing:
    def __repr__(self):
        return "<nothing>"


MISSING = _Missing()

cdef dict KINDS = {"cell": OF_CELL, "attribute": OF_ATTRIBUTE, "item": OF_DICT, "global": OF_DICT, "class": OF_CLASS,
                   "function": OF_FUNCTION, "subscript": OF_SUBSCRIPT, "cached": OF_CACHED, "list": OF_LIST, "items": OF_ITEMS,
                   "keys": OF_KEYS, "entries": OF_ENTRIES, "bytes": OF_BYTES}


cdef bint same_value(object now, object value):
    """Whether two objects are the same for a program: one object, equal constants, or one method of one object."""
    cdef double x, y
    cdef Py_ssize_t i
    if now is value:
        return True
    kind = type(now)
    if kind is not type(value):
        return False
    if kind is float:  # by bits: -0.0 is another number than 0.0
        x, y = now, value
        return memcmp(&x, &y, sizeof(double)) == 0
    if kind is int or kind is str or kind is bytes or kind is bool:
        return now == value
    if kind is tuple:
        if len(<tuple>now) != len(<tuple>value):
            return False
        for i in range(len(<tuple>now)):
            if not same_value((<tuple>now)[i], (<tuple>value)[i]):
                return False
        return True
    if kind is MethodType:
        return now.__func__ is value.__func__ and now.__self__ is value.__self__
    if kind is BuiltinFunctionType:
        return now.__self__ is value.__self__ and now.__name__ == value.__name__
    if kind is Value:
        return settled_slot(<Value>now) == settled_slot(<Value>value)
    return False


cdef bint same_items(PyObject **now, PyObject **then, Py_ssize_t n):
    cdef Py_ssize_t i
    if n == 0 or memcmp(now, then, n * sizeof(PyObject *)) == 0:
        return True
    for i in range(n):
        if now[i] != then[i] and not same_value(<object>now[i], <object>then[i]):
            return False
    return True


cdef bint same_entries(dict now, PyObject **then, Py_ssize_t n, bint with_values):
    cdef Py_ssize_t position = 0, i = 0
    cdef PyObject *key
    cdef PyObject *value
    if PyDict_Size(now) != n:
        return False
    while PyDict_Next(now, &position, &key, &value):
        if key != then[i] and not same_value(<object>key, <object>then[i]):
            return False
        if with_values and value != then[n + i] and not same_value(<object>value, <object>then[n + i]):
            return False
        i += 1
    return True


def keys_of(x):
    """The keys of any dict in its order, whatever its class says."""
    if isinstance(x, OrderedDict):
        return tuple(OrderedDict.keys(x))
    return tuple(dict.keys(x))


def items_of(x):
    """The items of a set or deque in the order in which they would be found, whatever its class says."""
    for kind in (deque, set, frozenset):
        if isinstance(x, kind):
            return tuple(kind.__iter__(x))
    return tuple(x)


def bytes_of(x):
    """The format, shape and memory of an array."""
    with memoryview(x) as view:
        return view.format, view.shape, view.tobytes()


cdef bint same_bytes(object x, tuple then):
    """Whether an array is as it was; its memory is not copied if it is in one piece."""
    cdef Py_buffer *buffer
    cdef bytes memory = then[2]
    with memoryview(x) as view:
        if view.format != then[0] or view.shape != then[1]:
            return False
        buffer = PyMemoryView_GET_BUFFER(view)
        if not PyBuffer_IsContiguous(buffer, c"C"):
            return view.tobytes() == memory
        return buffer.len == len(memory) and memcmp(buffer.buf, <const char *>memory, buffer.len) == 0


cdef bint is_there(PyObject *found, object value):
    return value is None if found == NULL else <object>found is value


cdef bint guard_holds(Guard *guard):
    cdef PyObject *found
    cdef object now, holder = <object>guard.holder, value = <object>guard.value
    cdef int kind = guard.kind
    if kind == OF_DICT:
        found = PyDict_GetItem(<dict>holder, <object>guard.name)
        if found == NULL:
            return value is MISSING
        return found == guard.value or same_value(<object>found, value)
    if kind == OF_FUNCTION:
        return (PyFunction_GetCode(holder) == <PyObject *>(<tuple>value)[0]
                and is_there(PyFunction_GetDefaults(holder), (<tuple>value)[1])
                and is_there(PyFunction_GetKwDefaults(holder), (<tuple>value)[2]))
    if kind == OF_CELL:
        try:
            return same_value(holder.cell_contents, value)
        except ValueError:
            return False
    if kind == OF_CLASS:
        return type(holder) is value
    if kind == OF_KEYS or kind == OF_ENTRIES:
        if PyDict_CheckExact(holder):
            return same_entries(<dict>holder, guard.items, guard.n if kind == OF_KEYS else guard.n // 2, kind == OF_ENTRIES)
        now = keys_of(holder)
        return same_value(now if kind == OF_KEYS else now + tuple([dict.get(holder, key) for key in now]), value)
    try:
        if kind == OF_ATTRIBUTE:
            now = getattr(holder, <object>guard.name, MISSING)
        elif kind == OF_ITEMS:
            now = items_of(holder)
        elif kind == OF_BYTES:
            return same_bytes(holder, <tuple>value)
        elif kind == OF_SUBSCRIPT:
            now = holder[<object>guard.name]
        else:
            now = holder(*<tuple>guard.name)
    except Exception:
        return False
    return same_value(now, value)


cdef object key_in(object holder, object name, dict known):
    """A dict's own key, which is found faster than one that is equal. known: id of a dict -> its keys by themselves."""
    if type(name) is not str:
        return name
    keys = known.get(id(holder))
    if keys is None:
        keys = known[id(holder)] = {key: key for key in dict.keys(holder) if type(key) is str}
    return keys.get(name, name)


cdef Py_ssize_t first_changed(const ListGuard *lists, Py_ssize_t i, Py_ssize_t count) noexcept nogil:
    """The first list from number i on with other items, or count."""
    while i < count:
        if i + LISTS_AHEAD < count:
            mg_fetch_list(lists[i + LISTS_AHEAD].list)
            mg_fetch_items(lists[i + ITEMS_AHEAD].list)
        if not mg_list_is(lists[i].list, lists[i].items, lists[i].n):
            return i
        i += 1
    return count


@cython.final
@cython.no_gc_clear  # the guards point into watched
cdef class Guards:
    """All guards of a program. Set once: other threads may check them."""

    def __cinit__(self, tuple guards=()):
        cdef Py_ssize_t i, n = 0, at = 0
        guards = tuple([guard for guard in guards if guard[0] != "list"] + [guard for guard in guards if guard[0] == "list"])
        known = {}
        guards = tuple([(kind, holder, key_in(holder, name, known) if kind == "item" or kind == "global" else name, value)
                        for kind, holder, name, value in guards])
        for guard in guards:
            if KINDS[guard[0]] in (OF_LIST, OF_KEYS, OF_ENTRIES):
                n += len(guard[3])
        self.watches = <Guard *>PyMem_Malloc((len(guards) + 1) * sizeof(Guard))
        self.items = <PyObject **>PyMem_Malloc((n + 1) * sizeof(PyObject *))
        self.lists = <ListGuard *>PyMem_Malloc((len(guards) + 1) * sizeof(ListGuard))
        if self.watches == NULL or self.items == NULL or self.lists == NULL:
            raise MemoryError()
        self.watched, self.n_items = guards, n
        for i in range(len(guards)):
            kind, holder, name, value = guards[i]
            if kind == "list":
                listed = &self.lists[self.n_lists]
                listed.list, listed.items, listed.n = <PyObject *>holder, self.items + at, len(value)
                memcpy(listed.items, PySequence_Fast_ITEMS(value), len(value) * sizeof(PyObject *))
                at += len(value)
                self.n_lists += 1
                continue
            self.n_watches += 1
            watch = &self.watches[i]
            watch.kind, watch.n = KINDS[kind], 0
            watch.holder, watch.name, watch.value = <PyObject *>holder, <PyObject *>name, <PyObject *>value
            watch.items = self.items + at
            if watch.kind == OF_KEYS or watch.kind == OF_ENTRIES:
                watch.n = len(value)
                memcpy(watch.items, PySequence_Fast_ITEMS(value), watch.n * sizeof(PyObject *))
                at += watch.n

    def __dealloc__(self):
        PyMem_Free(self.watches)
        PyMem_Free(self.items)
        PyMem_Free(self.lists)

    cdef Py_ssize_t broken(self) except -2:
        """The index of the first guard that does not hold, or -1."""
        cdef Py_ssize_t i
        for i in range(self.n_watches):
            if not guard_holds(&self.watches[i]):
                return i
        i = 0
        while True:
            i = first_changed(self.lists, i, self.n_lists)
            if i == self.n_lists:
                return -1
            listed = <object>self.lists[i].list
            if Py_SIZE(listed) != self.lists[i].n or not same_items(PySequence_Fast_ITEMS(listed), self.lists[i].items,
                                                                    self.lists[i].n):
                return self.n_watches + i
            i += 1

    def hold(self):
        """Whether all of them hold."""
        return self.broken() < 0
