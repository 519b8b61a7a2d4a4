# linear, softmax and rmsnorm as the script has them, from lists of Values: what they are given, looked at and taken to
# the tape. Part of model.pyx.
#
# Other threads may change a list while we wait for the tape. So everything that can run Python code comes before
# begin(), and whether the items are Values is looked at after it, in one go with taking their slots. What comes between
# begin() and end() is one function that cannot raise: an exception there would leave the tape taken for ever.

cdef object sequence(object items):
    """items as a list or tuple."""
    return items if type(items) is list or type(items) is tuple else list(items)


cdef bint are_values(object items) noexcept:
    """Whether a list or tuple holds initialised Values only, and at least one. Runs no Python code."""
    cdef Py_ssize_t i
    cdef PyObject *item
    for i in range(PySequence_Fast_GET_SIZE(items)):
        item = PySequence_Fast_GET_ITEM(items, i)
        if not isinstance(<object>item, Value) or (<Value>item).slot == 0:
            return False
    return PySequence_Fast_GET_SIZE(items) > 0


cdef int collect(uint32_t owner, object items, Py_ssize_t n, uint32_t *slots, double *data) noexcept:
    """The slots and numbers of the first n items, which the region `owner` keeps. Runs no Python code."""
    cdef Py_ssize_t i
    for i in range(n):
        slots[i] = (<Value>PySequence_Fast_GET_ITEM(items, i)).slot
        data[i] = tape.data[slots[i]]
        if keep(owner, slots[i]) != MG_OK:
            return MG_NO_MEMORY
    return MG_OK


cdef Vector operands(uint32_t *slots, double *data, size_t n) noexcept nogil:
    """Slots and numbers as operands; slots that follow one another are recognised."""
    cdef Vector x
    cdef size_t i
    cdef bint contiguous = True
    x.low, x.high, x.leaves = slots[0], slots[0], True
    for i in range(n):
        x.low, x.high = min(x.low, slots[i]), max(x.high, slots[i])
        contiguous = contiguous and slots[i] == slots[0] + i
        x.leaves = x.leaves and tape.node[slots[i]].kind == LEAF
    x.base, x.slots, x.data = slots[0], NULL if contiguous else slots, data
    return x


cdef list handles(uint32_t first, Py_ssize_t n):
    cdef Py_ssize_t i
    return [handle(<uint32_t>(first + i)) for i in range(n)]


def linear(x, w):
    """The matrix-vector product. x: [nin], w: [nout][nin] -> [nout] (the script's linear)."""
    cdef object xs = sequence(x)
    cdef list rows = [sequence(row) for row in w]
    cdef Build b
    cdef uint32_t first = 0
    cdef int code
    begin()
    code = build_linear(&b, xs, rows, &first)
    end()
    if code == MG_NOT_VALUES:
        return [sum([wi * xi for wi, xi in zip(row, xs)]) for row in rows]
    return finish(&b, code, first, len(rows))


cdef int build_linear(Build *b, object xs, list rows, uint32_t *first) noexcept:
    """linear's nodes in a region of their own; its results are those from *first on. Runs no Python code."""
    cdef Vector inputs, weights
    cdef size_t nin = row_length(xs, rows), nout = PyList_GET_SIZE(rows), n = nout * nin + nin, r
    cdef uint32_t *slots
    cdef double *data
    cdef int code
    b.owner = 0
    if nin == 0:
        return MG_NOT_VALUES
    if nin >= MOST_NODES:
        return MG_NO_MEMORY
    code = start(b, nout, n * (sizeof(double) + sizeof(uint32_t)) + nout * sizeof(double) + sizeof(Fold))
    if code != MG_OK:
        return code
    data = room(b, n)
    slots = <uint32_t *>(b.memory + nout * sizeof(double) + sizeof(Fold))
    code = collect(b.owner, xs, nin, slots, data)
    for r in range(nout):
        if code == MG_OK:
            row = <object>PyList_GET_ITEM(rows, r)
            code = collect(b.owner, row, nin, slots + (r + 1) * nin, data + (r + 1) * nin)
    if code != MG_OK:
        return give_back(b, code)
    with nogil:
        inputs = operands(slots, data, nin)
        weights = operands(slots + nin, data + nin, nout * nin)
        first[0] = take(b, <uint32_t>nout)
        linear_layer(b, &weights, &inputs, <uint32_t>nout, <uint32_t>nin, first[0], room(b, nout))
    return MG_OK


cdef Py_ssize_t row_length(object xs, list rows) noexcept:
    """The terms of every row's sum, if all is Values and the rows have equally many, else 0. Runs no Python code."""
    cdef Py_ssize_t n = PySequence_Fast_GET_SIZE(xs), r, nin = 0
    if not are_values(xs):
        return 0
    for r in range(PyList_GET_SIZE(rows)):
        row = <object>PyList_GET_ITEM(rows, r)
        if not are_values(row):
            return 0
        if r == 0:
            nin = min(n, PySequence_Fast_GET_SIZE(row))  # zip stops at the shorter one
        elif nin != min(n, PySequence_Fast_GET_SIZE(row)):
            return 0
    return nin


cdef int start(Build *b, size_t n, size_t size) noexcept:
    """Open a region for n nodes."""
    cdef void *memory = NULL
    b.owner = make_region(<uint32_t>n, size, &memory) if n < MOST_NODES else 0
    b.next, b.memory = b.owner + 1, <char *>memory
    b.data, b.grad, b.node = tape.data, tape.grad, tape.node
    b.order, b.n_order = NULL, 0  # it depends on where backward will come from
    return MG_OK if b.owner else MG_NO_MEMORY


cdef int give_back(Build *b, int code) noexcept:
    """Free the region of a layer that could not be built: its nodes are not filled in. -> code"""
    release(b.owner)
    b.owner = 0
    return code


cdef list finish(Build *b, int code, uint32_t first, Py_ssize_t n):
    """The Values of the nodes first, ..., after which the region lives as long as they do."""
    check(code)
    try:
        return handles(first, n)
    finally:
        let_go(b.owner)


def softmax(logits):
    """Probabilities from logits, [n] -> [n]; the largest logit is subtracted as a number (the script's softmax)."""
    cdef object xs = sequence(logits)
    cdef Build b
    cdef uint32_t first = 0
    cdef Py_ssize_t n = 0
    cdef int code
    begin()
    code = build_softmax(&b, xs, &first, &n)
    end()
    if code == MG_NOT_VALUES:
        largest_logit = max([logit.data for logit in xs])
        exps = [(logit - largest_logit).exp() for logit in xs]
        total = sum(exps)
        return [e / total for e in exps]
    return finish(&b, code, first, n)


cdef int build_softmax(Build *b, object xs, uint32_t *first, Py_ssize_t *count) noexcept:
    """softmax's nodes in a region of their own; its results are *count from *first on. Runs no Python code."""
    cdef size_t n = PySequence_Fast_GET_SIZE(xs)
    cdef Vector x
    cdef double *data
    cdef uint32_t *slots
    cdef int code
    b.owner, count[0] = 0, n
    if not are_values(xs):
        return MG_NOT_VALUES
    code = start(b, 5 * n + 1, n * (3 * sizeof(double) + sizeof(uint32_t)) + sizeof(Fold))
    if code != MG_OK:
        return code
    data = room(b, n)
    slots = <uint32_t *>(b.memory + 2 * n * sizeof(double) + sizeof(Fold))
    code = collect(b.owner, xs, n, slots, data)
    if code != MG_OK:
        return give_back(b, code)
    with nogil:
        x = operands(slots, data, n)
        first[0] = softmax_layer(b, &x, <uint32_t>n).base
    return MG_OK


def rmsnorm(x):
    """x scaled to a root mean square of one, [n] -> [n] (the script's rmsnorm)."""
    cdef object xs = sequence(x)
    cdef Build b
    cdef uint32_t first = 0
    cdef Py_ssize_t n = 0
    cdef int code
    begin()
    code = build_rmsnorm(&b, xs, &first, &n)
    end()
    if code == MG_NOT_VALUES:
        scale = (sum([xi * xi for xi in xs]) / len(xs) + 1e-5) ** -0.5
        return [xi * scale for xi in xs]
    return finish(&b, code, first, n)


cdef int build_rmsnorm(Build *b, object xs, uint32_t *first, Py_ssize_t *count) noexcept:
    """rmsnorm's nodes in a region of their own; its results are *count from *first on. Runs no Python code."""
    cdef size_t n = PySequence_Fast_GET_SIZE(xs)
    cdef Vector v
    cdef double *data
    cdef uint32_t *slots
    cdef int code
    b.owner, count[0] = 0, n
    if not are_values(xs):
        return MG_NOT_VALUES
    code = start(b, n + 6, n * (2 * sizeof(double) + sizeof(uint32_t)) + sizeof(Fold))
    if code != MG_OK:
        return code
    data = room(b, n)
    slots = <uint32_t *>(b.memory + n * sizeof(double) + sizeof(Fold))
    code = collect(b.owner, xs, n, slots, data)
    if code != MG_OK:
        return give_back(b, code)
    with nogil:
        v = operands(slots, data, n)
        first[0] = rmsnorm_layer(b, &v, <uint32_t>n).base
    return MG_OK
