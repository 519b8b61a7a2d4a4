# Taking turns at the tape: who works on it without the GIL, who waits, and what happens when a process is forked. Part of
# value.pyx.
#
# Whoever works on the tape without the GIL takes it first and sets busy, under the GIL. Whoever has the GIL and finds it
# busy waits, and a Value that dies in the meantime is put down for later. Who waits stands in a line, each with a lock
# of its own: give_up() hands the tape, held as it is, to the first in it and wakes that one alone. With one lock for
# all, a thread that calls backward() in a loop would have it again before anybody else is awake. held, busy and the line
# are read and written under the GIL.

cdef struct Waiter:
    PyThread_type_lock turn  # released when the tape is this thread's
    Waiter *next

cdef bint held = False  # somebody has the tape, or is being woken up to have it
cdef Waiter *first_waiting = NULL
cdef Waiter *last_waiting = NULL
cdef Slots deferred


cdef int wait_turn() except -1:
    """Wait until the tape is handed to this thread."""
    global first_waiting, last_waiting
    cdef Waiter me
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
    global held
    if held:
        refuse_while_tracing()
        wait_turn()
    held = True
    return 0


cdef void give_up() noexcept:
    global held, first_waiting
    cdef Waiter *next_one = first_waiting
    if next_one == NULL:
        held = False
        return
    first_waiting = next_one.next
    PyThread_release_lock(next_one.turn)


cdef int wait_for_tape() except -1:
    if tape.busy:
        refuse_while_tracing()
        wait_turn()
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

cdef bint forking = False


def _before_fork():
    global forking
    take_tape()
    forking = True


def _after_fork_in_parent():
    global forking
    if forking:  # if there was no memory to wait for it, it is not ours to give
        forking = False
        end()


def _after_fork_in_child():
    global first_waiting
    first_waiting = NULL  # the threads that waited are the parent's
    _after_fork_in_parent()


try:
    from os import register_at_fork as _register_at_fork
except ImportError:  # this system does not fork
    pass
else:
    _register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent,
                      after_in_child=_after_fork_in_child)
