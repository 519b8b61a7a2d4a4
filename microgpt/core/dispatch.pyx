# cython: language_level=3, cdivision=True, auto_pickle=False
"""From a call's arguments to a program: the structure of the arguments as bytes, the numbers in them as inputs.

A Dispatcher is a compiled function. What it has no program for goes to its subclass in compiler/, which traces, compares
and compiles.
"""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_GetItem
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.list cimport PyList_CheckExact, PyList_GET_SIZE
from cpython.long cimport PyLong_CheckExact
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_SIZE
from cpython.unicode cimport PyUnicode_CheckExact
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from microgpt.core._csrc cimport MG_OK
from microgpt.core.backward cimport probe_backward
from microgpt.core.calls cimport Call, Shape, backward_call, call_of
from microgpt.core.lock cimport begin_nogil as begin, end_nogil as end, wait_until_idle as wait_for_tape
from microgpt.core.recorder cimport tracing_here
from microgpt.core.replay cimport Program
from microgpt.core.tape cimport LEAF, PROGRAM, Replay, next_mark, tape
from microgpt.core.value cimport Value, handle


cdef extern from "Python.h":
    long PyLong_AsLongAndOverflow(object x, int *overflow) except? -1
    const char *PyUnicode_AsUTF8AndSize(object x, Py_ssize_t *size) except NULL

cdef enum:
    SMALL = 512

cdef struct Arguments:
    char *signature
    int32_t *ints
    double *floats
    Py_ssize_t n, n_ints, n_floats, capacity
    bint odd  # something that no program can be for: an int beyond 32 bits, a Value that is no leaf
    char small_signature[4 * SMALL]
    int32_t small_ints[SMALL]
    double small_floats[SMALL]


cdef int more_arguments(Arguments *a) except -1:
    """Twice the room, on the heap."""
    cdef Py_ssize_t capacity = 2 * a.capacity
    cdef char *memory = <char *>PyMem_RawMalloc(capacity * (4 + sizeof(int32_t) + sizeof(double)))
    cdef char *old = a.signature if a.capacity > SMALL else NULL
    cdef double *floats = <double *>memory
    cdef int32_t *ints = <int32_t *>(floats + capacity)
    if memory == NULL:
        raise MemoryError()
    memcpy(floats, a.floats, a.n_floats * sizeof(double))
    memcpy(ints, a.ints, a.n_ints * sizeof(int32_t))
    memcpy(<char *>(ints + capacity), a.signature, a.n)
    if old != NULL:
        PyMem_RawFree(a.floats)
    a.floats, a.ints, a.signature, a.capacity = floats, ints, <char *>(ints + capacity), capacity
    return 0


cdef inline int put_code(Arguments *a, char code, const void *detail, Py_ssize_t size) except -1:
    while a.n + size + 1 > 4 * a.capacity or a.n_ints >= a.capacity or a.n_floats >= a.capacity:
        more_arguments(a)
    a.signature[a.n] = code
    if size:
        memcpy(a.signature + a.n + 1, detail, size)
    a.n += 1 + size
    return 0


cdef int put_static(Arguments *a, object x) except -1:
    """Numbers and text by value, all else by identity."""
    cdef long number
    cdef int overflow = 0
    cdef double real
    cdef Py_ssize_t size
    cdef const char *text
    cdef void *address
    if PyLong_CheckExact(x):
        number = PyLong_AsLongAndOverflow(x, &overflow)
        a.odd |= overflow != 0
        return put_code(a, b"I", &number, sizeof(number))
    if PyFloat_CheckExact(x):
        real = PyFloat_AS_DOUBLE(x)
        return put_code(a, b"F", &real, sizeof(real))
    if PyUnicode_CheckExact(x):
        text = PyUnicode_AsUTF8AndSize(x, &size)
        put_code(a, b"s", &size, sizeof(size))
        return put_code(a, b"=", text, size)
    address = <void *>x
    return put_code(a, b"o", &address, sizeof(address))


cdef int put_argument(Arguments *a, object x, list values) except -1:
    """values: where Value arguments are collected, None if only their numbers count."""
    cdef long number
    cdef int overflow = 0
    cdef Py_ssize_t n, i
    if PyLong_CheckExact(x):
        number = PyLong_AsLongAndOverflow(x, &overflow)
        if overflow or number > 0x7fffffff or number < -0x7fffffff:
            a.odd = True
            number = 0
        put_code(a, b"i", NULL, 0)
        a.ints[a.n_ints] = <int32_t>number
        a.n_ints += 1
    elif PyFloat_CheckExact(x):
        put_code(a, b"f", NULL, 0)
        a.floats[a.n_floats] = PyFloat_AS_DOUBLE(x)
        a.n_floats += 1
    elif PyList_CheckExact(x):
        n = PyList_GET_SIZE(x)
        put_code(a, b"[", &n, sizeof(n))
        for i in range(n):
            put_argument(a, (<list>x)[i], values)
    elif PyTuple_CheckExact(x):
        n = PyTuple_GET_SIZE(x)
        put_code(a, b"(", &n, sizeof(n))
        for i in range(n):
            put_argument(a, (<tuple>x)[i], values)
    elif isinstance(x, Value):
        if (<Value>x).slot == 0:
            a.odd = True
            return put_code(a, b"v", NULL, 0)
        if values is not None:
            if tape.busy:
                wait_for_tape()
            if tape.node[(<Value>x).slot].kind != LEAF:
                a.odd = True
            values.append(x)
            return put_code(a, b"v", NULL, 0)
        put_code(a, b"v", NULL, 0)
        if tape.busy:
            wait_for_tape()
        a.floats[a.n_floats] = tape.data[(<Value>x).slot]
        a.n_floats += 1
    else:
        a.odd |= is_other_number(x)
        put_static(a, x)
    return 0


cdef bint is_other_number(object x):
    """Whether an argument is a number or an array of a library, which may be another one in every call."""
    if x is None or x is True or x is False or PyUnicode_CheckExact(x) or hasattr(x, "__dict__"):
        return False
    return hasattr(type(x), "__float__") or hasattr(type(x), "__index__")


cdef bint put_derived(Arguments *a, list derived) except -1:
    """The ints that a program computes from its int arguments; False where Python raises an error or they are too large."""
    for operation, (i, x), (j, y) in derived:
        try:
            result = operation(a.ints[<Py_ssize_t>i] if x is None else x, a.ints[<Py_ssize_t>j] if y is None else y)
        except ZeroDivisionError:
            return False
        if not -0x7fffffff <= result <= 0x7fffffff:
            return False
        while a.n_ints >= a.capacity:
            more_arguments(a)
        a.ints[a.n_ints] = <int32_t>result
        a.n_ints += 1
    return True


cdef int find_values(object x, list found) except -1:
    if type(x) is list or type(x) is tuple:
        for y in x:
            find_values(y, found)
    elif isinstance(x, Value):
        found.append(x)
    return 0


cdef bint guard_holds(tuple guard):
    """Whether what the program read from outside is still there."""
    kind, holder, name, value = guard
    cdef PyObject *found
    cdef object now
    if kind == "cell":
        try:
            now = holder.cell_contents
        except ValueError:
            return False
    elif kind == "attribute":
        now = getattr(holder, name, None)
    else:
        found = PyDict_GetItem(holder, name)
        if found == NULL:
            return False
        now = <object>found
    return now is value or (type(now) is type(value) and type(now) in (int, float, str) and now == value)


@cython.final
cdef class Entry:
    """What is known of one shape of the arguments."""
    cdef public Program program  # None: not compiled
    cdef public tuple guards
    cdef public object results  # how results are put together, None: one Value
    cdef public int calls
    cdef public str why  # why it is not compiled
    cdef public object kept  # static arguments, compared by identity
    cdef public object timing  # milliseconds: trace, compile
    cdef public bint verified
    cdef public long replays  # calls that were replayed
    cdef public int retraced  # how often it was traced again in a row for little use
    cdef public int traced  # how often it was traced at all
    cdef public str broken  # what had changed when it was traced again
    cdef public dict missed  # why calls ran as written although there was a program -> how many
    cdef readonly uint64_t used

    def __cinit__(self):
        self.guards, self.kept, self.missed = (), (), {}

    def miss(self, why):
        """Count a call that runs as written although there is a program."""
        self.missed[why] = self.missed.get(why, 0) + 1

    def check_guards(self):
        """The first guard that does not hold, or None."""
        for guard in self.guards:
            if not guard_holds(guard):
                return guard
        return None


cdef unsigned long plain_thread = 0  # the thread that runs a function as written to compare with, inner ones included


def plainly(function, arguments):
    """function(*arguments) with all compiled functions in it as they are written."""
    global plain_thread
    cdef unsigned long before = plain_thread
    plain_thread = PyThread_get_thread_ident()
    try:
        return function(*arguments)
    finally:
        plain_thread = before


cdef class Dispatcher:
    """A compiled function's calls. The subclass in compiler/ does what is not in the cache."""
    cdef readonly object function
    cdef readonly dict entries  # signature -> Entry
    cdef readonly bint with_grad
    cdef readonly frozenset static
    cdef public bint always_verify
    cdef uint64_t clock

    def __init__(self, function, static, with_grad):
        self.function, self.static, self.with_grad, self.entries = function, frozenset(static), with_grad, {}

    def __call__(self, *arguments, **named):
        cdef Arguments a
        cdef Entry entry
        cdef PyObject *found
        cdef bytes signature
        cdef Py_ssize_t i
        cdef tuple results
        cdef list values = [] if self.with_grad else None
        if tracing_here():
            return self.traced_call(arguments, named)
        if plain_thread != 0 and plain_thread == PyThread_get_thread_ident():
            return self.function(*arguments, **named)
        if named:
            positional = self.positional(arguments, named)
            if positional is None:
                return self.function(*arguments, **named)
            arguments = positional
        a.signature, a.ints, a.floats, a.capacity = a.small_signature, a.small_ints, a.small_floats, SMALL
        a.n = a.n_ints = a.n_floats = 0
        a.odd = False
        try:
            for i in range(PyTuple_GET_SIZE(arguments)):
                if self.static and i in self.static:
                    put_static(&a, arguments[i])
                else:
                    put_argument(&a, arguments[i], values)
            signature = PyBytes_FromStringAndSize(a.signature, a.n)
            found = PyDict_GetItem(self.entries, signature)
            if found == NULL or a.odd:
                return self.first_call(signature, arguments, a.odd)
            entry = <Entry>found
            self.clock += 1
            entry.used = self.clock
            if entry.program is None or self.always_verify or entry.check_guards() is not None:
                return self.later_call(entry, signature, arguments)
            results = self.replay(entry, &a, values)
            if results is None:
                return self.function(*arguments)
            entry.replays += 1
            return results[0] if entry.results is None else self.put_together(entry, results, arguments)
        finally:
            if a.capacity > SMALL:
                PyMem_RawFree(a.floats)

    cdef tuple replay(self, Entry entry, Arguments *a, list values):
        """The results, or None where the function itself must be called."""
        cdef tuple results
        cdef Program program = entry.program  # held: another thread may take it from the entry meanwhile
        cdef list bounds
        cdef Py_ssize_t i
        cdef int32_t bound
        if program is None:
            return None
        bounds = program.bounds
        if program.derived and not put_derived(a, program.derived):
            entry.miss("a number computed from int arguments is too large, or a division by zero")
            return None
        for i in range(a.n_ints):
            limit = bounds[i]
            if limit is not None:
                bound = limit
                if a.ints[i] < 0 or a.ints[i] >= bound:
                    entry.miss("an index is negative or out of range")
                    return None
        if values:
            if not self.distinct(program, values):
                entry.miss("a Value is passed twice, or passed and read from outside as well")
                return None
        results = program.run(a.ints, a.floats, values)
        if results is None:
            entry.miss("Python might raise an error (a logarithm of 0, an overflow, ...)")
        return results

    cdef bint distinct(self, Program program, list values):
        """Whether these leaves are different ones, and none of them is among those from outside."""
        cdef Shape *shape = program.shape
        cdef int32_t k
        cdef uint32_t slot
        if tape.busy:
            wait_for_tape()
        next_mark()  # no thread uses marks while the tape is at rest and this one has the GIL
        for value in values:
            slot = (<Value>value).slot
            if tape.node[slot].mark == tape.mark:
                return False
            tape.node[slot].mark = tape.mark
        for k in range(shape.n_used):
            if shape.used[k] and tape.node[shape.used[k]].mark == tape.mark:
                return False
        return True

    def replay_now(self, Entry entry, arguments):
        """The same from Python, for verification."""
        cdef Arguments a
        cdef Py_ssize_t i
        cdef list values = [] if self.with_grad else None
        a.signature, a.ints, a.floats, a.capacity = a.small_signature, a.small_ints, a.small_floats, SMALL
        a.n = a.n_ints = a.n_floats = 0
        a.odd = False
        try:
            for i in range(len(arguments)):
                if i in self.static:
                    put_static(&a, arguments[i])
                else:
                    put_argument(&a, arguments[i], values)
            return None if a.odd else self.replay(entry, &a, values)
        finally:
            if a.capacity > SMALL:
                PyMem_RawFree(a.floats)

    def evict(self, most):
        """Forget what was used longest ago until at most `most` shapes are left -> the entries forgotten."""
        cdef Entry entry
        forgotten = []
        while len(self.entries) > most:
            oldest, least = None, 0
            for signature, kept in self.entries.items():
                entry = kept
                if oldest is None or entry.used < least:
                    oldest, least = signature, entry.used
            forgotten.append(self.entries.pop(oldest))
        return forgotten

    def touch(self, Entry entry):
        self.clock += 1
        entry.used = self.clock


def leaf_values(arguments):
    """The Values in (nested lists of) arguments, in order."""
    found = []
    find_values(arguments, found)
    return found


def probe(Value root, Program program, list values):
    """d(root)/d(leaf) added to the grad of every leaf of a program (arguments: values), as a list; nothing is changed."""
    cdef int32_t n = program.shape.n_used, k = 0, i
    cdef uint32_t *slots
    cdef double *out
    cdef int code
    cdef uint32_t slot = root.slot
    begin()
    out = <double *>malloc((n + 1) * 16)
    if out == NULL:
        end()
        raise MemoryError()
    slots = <uint32_t *>(out + n)
    for i in range(n):
        slots[i] = program.shape.used[i]
        if slots[i] == 0:
            slots[i] = (<Value>values[k]).slot
            k += 1
    with nogil:
        code = probe_backward(slot, n, slots, out)
    end()
    result = [out[i] for i in range(n)] if code == MG_OK else None
    free(out)
    return result


def probe_replay(Value root, Program program):
    """The same for a result of the program itself."""
    cdef Replay *replay = <Replay *>tape.node[root.slot].payload.pointer
    cdef Call *call
    cdef Shape *shape = program.shape
    cdef int32_t n = shape.n_used, i
    cdef double *before
    if tape.node[root.slot].kind != PROGRAM or replay.backward == NULL:
        return probe_expanded(root, program)
    call = call_of(replay)
    before = <double *>malloc((n + 1) * sizeof(double))
    if before == NULL:
        raise MemoryError()
    begin()
    for i in range(n):
        before[i] = tape.grad[replay.leaves[i]]
    backward_call(replay, 1.0)
    result = []
    for i in range(n):
        result.append(tape.grad[replay.leaves[i]])
        tape.grad[replay.leaves[i]] = before[i]
    end()
    free(before)
    return result


cdef object probe_expanded(Value root, Program program):
    cdef Replay *replay = <Replay *>tape.node[root.slot].payload.pointer
    cdef Call *call = call_of(replay)
    root._children  # written out
    leaves = [handle(replay.leaves[i]) for i in range(program.shape.n_used) if program.shape.used[i] == 0]
    return probe(root, program, leaves)
