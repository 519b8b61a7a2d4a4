# cython: language_level=3
"""The lock of the tape: which thread works on it without the GIL, which threads wait, and what happens at a fork.

A thread that works on the tape without the GIL acquires the lock first and sets busy, under the GIL. A thread that has the
GIL and finds the tape busy waits, and a Value that dies in the meantime is put on a list for later. The lock is first come,
first served: each waiting thread has a lock of its own, and lock_release() passes ownership to the first of them and wakes
only that one. With one lock for all, a thread that calls backward() in a loop would have it again before another is awake.
All that is declared here is read and written under the GIL.

The owner never waits for itself. While a process is forked the lock is held and Python code runs: hooks, finalizers,
signal handlers, callbacks of the garbage collector. Any of them may call backward(), which then goes one level deeper.

No thread waits for one that cannot come back: see no_thread_returns(). Where the tape is idle the lock is simply acquired,
and where it is not, a RuntimeError is raised.
"""
from cpython.pystate cimport PyThreadState, PyThreadState_Get
from cpython.pythread cimport (
    PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock, PyThread_get_thread_ident, PyThread_release_lock,
    PyThread_type_lock, WAIT_LOCK,
)


cdef struct Waiter:
    PyThread_type_lock turn  # released when the tape is this thread's
    Waiter *next

cdef bint held = False  # some thread has the lock, or is being woken up to have it
cdef PyThreadState *lock_owner = NULL  # which has it; NULL while it is being woken up
cdef int lock_depth = 0  # how many times the owner has acquired it
cdef bint lost = False  # in a forked child: the thread that was at work on the tape is the parent's
cdef Waiter *first_waiting = NULL
cdef Waiter *last_waiting = NULL


cdef bint no_thread_returns() noexcept:
    """Whether no other thread can get the GIL any more: the interpreter is ending, or the others were the parent's."""
    return lost or mg_is_finalizing()


cdef int lock_wait() except -1:
    """Wait until the lock is passed to this thread."""
    global first_waiting, last_waiting
    cdef Waiter me
    if tape.busy and lock_owner == PyThreadState_Get():
        raise RuntimeError("the graph is used by what runs in the middle of work on it")
    if no_thread_returns():
        if tape.busy:
            raise RuntimeError("the graph cannot be used any more: a thread was at work on it when the process "
                               + ("was forked" if lost else "ended"))
        return 0
    me.turn, me.next = PyThread_allocate_lock(), NULL
    if me.turn == NULL:
        raise MemoryError()
    PyThread_acquire_lock(me.turn, WAIT_LOCK)
    if first_waiting == NULL:
        first_waiting = &me
    else:
        last_waiting.next = &me
    last_waiting = &me
    with nogil:
        PyThread_acquire_lock(me.turn, WAIT_LOCK)
    # The thread that released it had the GIL then, which is here now: no other thread touches the lock any more.
    PyThread_release_lock(me.turn)
    PyThread_free_lock(me.turn)
    return 0


cdef int lock_acquire() except -1:
    global held, lock_owner, lock_depth
    if held and lock_owner == PyThreadState_Get() and not tape.busy:
        lock_depth += 1
        return 0
    if held or tape.busy:
        refuse_while_tracing()
        lock_wait()
    held, lock_owner, lock_depth = True, PyThreadState_Get(), 1
    return 0


cdef void lock_release() noexcept:
    global held, lock_owner, lock_depth, first_waiting
    cdef Waiter *next_one = first_waiting
    lock_depth -= 1
    if lock_depth > 0:
        return
    lock_owner = NULL
    if next_one == NULL or no_thread_returns():
        held = False
        return
    first_waiting = next_one.next
    PyThread_release_lock(next_one.turn)


cdef int lock_and_release() except -1:
    lock_acquire()
    lock_release()
    return 0


cdef bint tracing_here() noexcept:
    return tape.tracing_thread != 0 and tape.tracing_thread == PyThread_get_thread_ident()


cdef int refuse_while_tracing() except -1:
    """A thread that traces a function holds the lock: what it does with Values unseen would not be in the trace."""
    if tracing_here():
        raise TypeError("a Value is used in a compiled function by code that is not traced (a library, a callback, a fork)")
    return 0


cdef int begin_nogil() except -1:
    lock_acquire()
    if tape.settle != NULL:
        tape.settle()
    tape.busy = True
    return 0


cdef int end_nogil() except -1:
    tape.busy = False
    lock_release()
    while tape.deferred.n:
        tape.deferred.n -= 1
        release_handle(tape.deferred.items[tape.deferred.n])
    audit_tape()
    return 0


cdef int count_waiting() noexcept:
    """Return how many threads wait for the lock."""
    cdef Waiter *waiter = first_waiting
    cdef int n = 0
    while waiter != NULL:
        n, waiter = n + 1, waiter.next
    return n


# ---- forks ----
#
# A process is forked when the tape is idle: the thread that forks acquires the lock first, and releases it on both sides.
# Otherwise the child could find it held for ever by a thread that it does not have. The tape is not made busy: what others
# do at a fork (and finalizers that run then) may use Values.

cdef int forks = 0  # under way: a hook may fork, too


cdef int after_fork() except -1:
    global forks
    if forks:  # if there was no memory to wait for the lock, it is not ours to release
        forks -= 1
        end_nogil()
    return 0


def _before_fork():
    global forks
    lock_acquire()
    forks += 1


def _after_fork_in_parent():
    after_fork()


def _after_fork_in_child():
    global first_waiting, held, lock_owner, lost
    first_waiting = NULL  # the threads that waited are the parent's
    if forks == 0:
        held, lock_owner, lost = False, NULL, tape.busy
    after_fork()


try:
    from os import register_at_fork as _register_at_fork
except ImportError:  # this system does not fork
    pass
else:
    _register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent,
                      after_in_child=_after_fork_in_child)
    del _register_at_fork
del _before_fork, _after_fork_in_parent, _after_fork_in_child  # a call at any other time would keep the lock
