# cython: language_level=3, cdivision=True, auto_pickle=False
"""From a call's arguments to a program: what is known of each shape of the arguments, and whether it still holds.

A Dispatcher is a compiled function. What it has no program for goes to its subclass in compiler/, which traces, compares
and compiles.
"""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.tuple cimport PyTuple_GET_SIZE
from libc.stdint cimport int32_t, uint32_t, uint64_t

from microgpt.core.arguments cimport Arguments, close_arguments, open_arguments, put_argument, put_derived, put_static
from microgpt.core.calls cimport Shape
from microgpt.core.guards cimport Guards
from microgpt.core.lock cimport wait_until_idle
from microgpt.core.recorder cimport tracing_here
from microgpt.core.replay cimport Program
from microgpt.core.tape cimport next_mark, tape
from microgpt.core.value cimport Value


@cython.final
@cython.no_gc_clear  # calls ask no program and no guards whether they are None
cdef class Entry:
    """What is known of one shape of the arguments."""
    cdef public Program program  # None: not compiled
    cdef Guards watched
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
        self.watched, self.kept, self.missed = Guards(), (), {}

    @property
    def guards(self):
        """(kind, holder, name, value) of everything that was read from outside. Set once."""
        return self.watched.watched

    @guards.setter
    def guards(self, tuple guards):
        if self.watched.watched:
            raise RuntimeError("the guards are set once: other threads may check them")
        self.watched = Guards(guards)

    @property
    def compared(self):
        """How many items of lists and dicts are compared before each call."""
        return self.watched.n_items

    def miss(self, why):
        """Count a call that runs as written although there is a program."""
        self.missed[why] = self.missed.get(why, 0) + 1

    def check_guards(self):
        """The first guard that does not hold, or None."""
        cdef Py_ssize_t i = self.watched.broken()
        return None if i < 0 else self.watched.watched[i]


cdef set plain_threads = set()  # those that run a function as written to compare with, inner ones included


def plainly(function, arguments):
    """function(*arguments) with all compiled functions in it as they are written."""
    cdef object thread = PyThread_get_thread_ident()
    if thread in plain_threads:
        return function(*arguments)
    try:
        plain_threads.add(thread)
        return function(*arguments)
    finally:
        plain_threads.discard(thread)


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
        if plain_threads and PyThread_get_thread_ident() in plain_threads:
            return self.function(*arguments, **named)
        if named:
            positional = self.positional(arguments, named)
            if positional is None:
                return self.function(*arguments, **named)
            arguments = positional
        open_arguments(&a)
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
            if entry.program is None or self.always_verify or entry.watched.broken() >= 0:
                return self.later_call(entry, signature, arguments)
            results = self.replay(entry, &a, values)
            if results is None:
                return self.function(*arguments)
            entry.replays += 1
            return results[0] if entry.results is None else self.put_together(entry, results, arguments)
        finally:
            close_arguments(&a)

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
            wait_until_idle()
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
        open_arguments(&a)
        try:
            for i in range(len(arguments)):
                if i in self.static:
                    put_static(&a, arguments[i])
                else:
                    put_argument(&a, arguments[i], values)
            return None if a.odd else self.replay(entry, &a, values)
        finally:
            close_arguments(&a)

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
