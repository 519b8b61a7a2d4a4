# Taking turns at the tape: who works on it without the GIL, who waits, and what happens when a process is forked. Part of
# value.pyx.
#
# A thread that works on the tape without the GIL takes it first and sets busy, under the GIL. A thread that has the GIL
# and finds the tape busy waits, and a Value that dies in the meantime is put down for later. Waiting threads stand in a
# line, each with a lock of its own: give_up() hands the tape, held as it is, to the first of them and wakes that one
# alone. With one lock for all, a thread that calls backward() in a loop would have it again before another is awake.
# All that is declared here is read and written under the GIL.
#
# The owner never waits for itself. While a process is forked the tape is held and Python code runs: hooks, finalizers,
# signal handlers, callbacks of the garbage collector. Any of them may call backward(), which then goes one level deeper.
#
# No thread waits for one that cannot come back: see nobody_returns(). Where the tape is at rest it is simply taken, and
# where it is not, whoever wants it gets a RuntimeError.

from cpython.pystate cimport PyThreadState, PyThreadState_Get

cdef extern from *:
    """
    #if PY_VERSION_HEX >= 0x030D0000
    #define mg_is_finalizing() Py_IsFinalizing()
    #else
    #define mg_is_finalizing() _Py_IsFinalizing()
    #endif
    """
    bint mg_is_finalizing()

cdef struct Waiter:
    PyThread_type_lock turn  # released when the tape is this thread's
    Waiter *next

cdef bint held = False  # some thread has the tape, or is being woken up to have it
cdef PyThreadState *tape_owner = NULL  # which has it; NULL while it is being woken up
cdef int tape_depth = 0  # how many times the owner has taken it
cdef bint lost = False  # in a forked child: the thread that was at work on the tape is the parent's
cdef Waiter *first_waiting = NULL
cdef Waiter *last_waiting = NULL
cdef Slots deferred


cdef bint nobody_returns() noexcept:
    """Whether no other thread can get the GIL any more: the interpreter is ending, or the others were the parent's."""
    return lost or mg_is_finalizing()


cdef int wait_turn() except -1:
    """Wait until the tape is handed to this thread."""
    global first_waiting, last_waiting
    cdef Waiter me
    if tape.busy and tape_owner == PyThreadState_Get():
        raise RuntimeError("the graph is used by what runs in the middle of work on it")
    if nobody_returns():
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
    # Who released it had the GIL then, which is here now: nobody touches the lock any more.
    PyThread_release_lock(me.turn)
    PyThread_free_lock(me.turn)
    return 0


cdef int take_tape() except -1:
    global held, tape_owner, tape_depth
    if held and tape_owner == PyThreadState_Get() and not tape.busy:
        tape_depth += 1
        return 0
    if held or tape.busy:
        refuse_while_tracing()
        wait_turn()
    held, tape_owner, tape_depth = True, PyThreadState_Get(), 1
    return 0


cdef void give_up() noexcept:
    global held, tape_owner, tape_depth, first_waiting
    cdef Waiter *next_one = first_waiting
    tape_depth -= 1
    if tape_depth > 0:
        return
    tape_owner = NULL
    if next_one == NULL or nobody_returns():
        held = False
        return
    first_waiting = next_one.next
    PyThread_release_lock(next_one.turn)


cdef int wait_for_tape() except -1:
    if tape.busy:
        take_tape()
        give_up()
    return 0


cdef bint tracing_here() noexcept:
    return tracing_thread != 0 and tracing_thread == PyThread_get_thread_ident()


cdef int refuse_while_tracing() except -1:
    """A thread that traces a function holds the tape: what it does with Values unseen would not be in the trace."""
    if tracing_here():
        raise TypeError("a Value is used in a compiled function by code that is not traced (a library, a callback, a fork)")
    return 0


cdef int begin() except -1:
    take_tape()
    tape.busy = True
    return 0


cdef int end() except -1:
    tape.busy = False
    give_up()
    while deferred.n:
        deferred.n -= 1
        let_go(deferred.items[deferred.n])
    if MG_DEBUG:
        audit_now()
    return 0


cdef void let_go(uint32_t slot) noexcept:
    if tape.busy:
        push_slot(&deferred, slot)  # if even that fails the node stays for ever
        return
    tape.node[slot].handle = NULL
    release(tape.node[slot].owner)
    if MG_DEBUG:
        audit_now()


# A process is forked when the tape is at rest: whoever forks takes it first, and gives it back on both sides. Otherwise
# the child could find it taken for ever by a thread that it does not have. It is not made busy: what others do at a
# fork (and finalizers that run then) may use Values.

cdef int forks = 0  # under way: a hook may fork, too


cdef int after_fork() except -1:
    global forks
    if forks:  # if there was no memory to wait for it, it is not ours to give
        forks -= 1
        end()
    return 0


def _before_fork():
    global forks
    take_tape()
    forks += 1


def _after_fork_in_parent():
    after_fork()


def _after_fork_in_child():
    global first_waiting, held, tape_owner, lost
    first_waiting = NULL  # the threads that waited are the parent's
    if forks == 0:
        held, tape_owner, lost = False, NULL, tape.busy
    after_fork()


try:
    from os import register_at_fork as _register_at_fork
except ImportError:  # this system does not fork
    pass
else:
    _register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent,
                      after_in_child=_after_fork_in_child)
    del _register_at_fork
del _before_fork, _after_fork_in_parent, _after_fork_in_child  # a call at any other time would keep the tape
