# The layers of the model as nodes on the tape, without the GIL: the nodes that the script's own lines would make, with
# every sum of products folded into one. Part of model.pyx.
#
# A Build fills one region. Every vector of nodes is contiguous in it, and its data stand a second time in the region's
# memory, for good: they are the local gradients of what is computed from it, whatever becomes of the Values' .data.

cdef struct Build:
    uint32_t owner  # the region
    uint32_t next  # the next slot that is not yet filled in
    char *memory  # the next byte that is not yet in use
    double *data
    double *grad
    Node *node
    # Where the whole graph below one node is built, its order for backward (see Region.order), else NULL.
    uint32_t *order
    uint32_t n_order


# n nodes as operands. slots: NULL if they are base, base + 1, ... . data: their numbers.
cdef struct Vector:
    uint32_t base
    uint32_t *slots
    double *data
    uint32_t low, high  # bounds of the slots
    bint leaves  # whether all are leaves


# What a model's layers need to know of it. All parameters are leaves, contiguous from slot `params`.
cdef struct Shape:
    uint32_t vocab_size, n_embd, n_head, n_layer, block_size, head_dim, num_params
    uint32_t params
    double *data  # the numbers of the parameters from lm_head on, as the region being built keeps them
    uint32_t wte, wpe, lm_head, layers  # offsets of the matrices in the parameters
    uint32_t attn_wq, attn_wk, attn_wv, attn_wo, mlp_fc1, mlp_fc2, layer_size  # within a layer


# The keys or values of one layer, row t being position t's, [n_embd].
cdef struct Cache:
    uint32_t base
    uint32_t *slots
    double *data
    uint32_t low, high


cdef inline uint32_t take(Build *b, uint32_t n) noexcept nogil:
    b.next += n
    return b.next - n


cdef inline double *room(Build *b, size_t n) noexcept nogil:
    b.memory += n * sizeof(double)
    return <double *>b.memory - n


cdef inline void put(Build *b, uint32_t slot, double data, uint8_t kind) noexcept nogil:
    b.data[slot] = data
    b.grad[slot] = 0.0
    b.node[slot].owner = b.owner
    b.node[slot].kind, b.node[slot].flags = kind, 0


cdef inline void put_unary(Build *b, uint32_t slot, double data, uint32_t child, double local_grad) noexcept nogil:
    put(b, slot, data, UNARY)
    b.node[slot].child0 = child
    b.node[slot].local_grad0 = local_grad


cdef inline void put_binary(Build *b, uint32_t slot, double data, uint32_t child0, uint32_t child1,
                            double local_grad0, double local_grad1) noexcept nogil:
    put(b, slot, data, BINARY)
    b.node[slot].child0, b.node[slot].child1 = child0, child1
    b.node[slot].local_grad0, b.node[slot].payload.local_grad = local_grad0, local_grad1


cdef inline uint32_t slot_at(Vector *x, size_t i) noexcept nogil:
    return x.slots[i] if x.slots != NULL else <uint32_t>(x.base + i)


cdef inline void visit(Build *b, uint32_t slot) noexcept nogil:
    """slot comes next in the order."""
    if b.order != NULL:
        b.order[b.n_order] = slot
        b.n_order += 1


cdef void visit_run(Build *b, uint32_t slot, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        visit(b, slot + i)


cdef void visit_pairs(Build *b, uint32_t first, uint32_t second, uint32_t n) noexcept nogil:
    """Each of n nodes from `first` on is first visited from the one that stands as far behind `second`."""
    cdef uint32_t i
    for i in range(n):
        visit(b, first + i)
        visit(b, second + i)


cdef Fold *put_fold(Build *b, uint32_t first, uint32_t rows, uint32_t n, const double *sums, Vector *a,
                    Vector *v) noexcept nogil:
    """rows chains of n terms from slot first on. a: [rows * n], v: [n], both by operand number; v NULL: plain sums."""
    cdef Fold *fold = <Fold *>b.memory
    cdef uint32_t row
    b.memory += sizeof(Fold)
    fold.n, fold.rows, fold.first = n, rows, first
    fold.a_base, fold.a_slots, fold.a_data, fold.a_leaves = a.base, a.slots, a.data, a.leaves
    fold.a_low, fold.a_high = a.low, a.high
    fold.a_row, fold.a_step = n, 1
    fold.b_base, fold.b_slots, fold.b_data, fold.b_leaves = 0, NULL, NULL, False
    fold.b_low, fold.b_high, fold.b_row, fold.b_step = 0, 0, 0, 1
    fold.distinct = False
    fold.a_sort = fold.b_sort = 0
    if v != NULL:
        fold.b_base, fold.b_slots, fold.b_data, fold.b_leaves = v.base, v.slots, v.data, v.leaves
        fold.b_low, fold.b_high = v.low, v.high
        fold.distinct = a.slots == NULL and v.slots == NULL and (a.high < v.low or v.high < a.low)
    for row in range(rows):
        put(b, first + row, sums[row], CHAIN)
        b.node[first + row].payload.pointer = fold
        b.node[first + row].local_grad0 = 0.0
    return fold


cdef Vector vector(uint32_t base, double *data, size_t n) noexcept nogil:
    cdef Vector x
    x.base, x.slots, x.data, x.leaves = base, NULL, data, False
    x.low, x.high = base, <uint32_t>(base + n - 1)
    return x


# ---- sums ----

cdef void dot_rows(const double *a, size_t stride, const double *x, double *out, size_t rows, size_t n) noexcept nogil:
    """out[r] = sum of a[r, i] * x[i], i ascending from 0.0 on. Eight sums at a time, none of them reordered."""
    cdef size_t r = 0, i, k
    cdef double sums[8]
    cdef const double *row
    while r + 8 <= rows:
        for k in range(8):
            sums[k] = 0.0
        row = a + r * stride
        for i in range(n):
            for k in range(8):
                sums[k] = sums[k] + row[k * stride + i] * x[i]
        for k in range(8):
            out[r + k] = sums[k]
        r += 8
    while r < rows:
        sums[0] = 0.0
        for i in range(n):
            sums[0] = sums[0] + a[r * stride + i] * x[i]
        out[r] = sums[0]
        r += 1


cdef double sum_of(const double *x, size_t n) noexcept nogil:
    cdef double total = 0.0
    cdef size_t i
    for i in range(n):
        total = total + x[i]
    return total


# ---- layers. Each says how many slots and doubles it takes. ----

cdef void linear_layer(Build *b, Vector *w, Vector *x, uint32_t nout, uint32_t nin, uint32_t first,
                       double *out) noexcept nogil:
    """w: [nout, nin], x: [nin] -> the nodes first, ... and their data out, both [nout]. A Fold."""
    dot_rows(w.data, nin, x.data, out, nout, nin)
    put_fold(b, first, nout, nin, out, w, x)


cdef Vector add_layer(Build *b, Vector *x, Vector *y, uint32_t n) noexcept nogil:
    """x + y. n slots, n doubles."""
    cdef uint32_t first = take(b, n), i
    cdef double *out = room(b, n)
    for i in range(n):
        out[i] = x.data[i] + y.data[i]
        put_binary(b, first + i, out[i], slot_at(x, i), slot_at(y, i), 1.0, 1.0)
    return vector(first, out, n)


cdef Vector rmsnorm_layer(Build *b, Vector *x, uint32_t n) noexcept nogil:
    """x * (mean square + 1e-5) ** -0.5. n + 6 slots, n doubles, a Fold."""
    cdef uint32_t square = take(b, 6), first = take(b, n), i
    cdef uint32_t count = square + 1, mean = square + 2, eps = square + 3, total = square + 4, scale = square + 5
    cdef double *out = room(b, n)
    cdef double sum_of_squares, s
    dot_rows(x.data, n, x.data, &sum_of_squares, 1, n)
    put_fold(b, square, 1, n, &sum_of_squares, x, x)
    put(b, count, mg_pow(n, -1.0), LEAF)  # / len(x) is * len(x)**-1
    put_binary(b, mean, sum_of_squares * b.data[count], square, count, b.data[count], sum_of_squares)
    put(b, eps, 1e-5, LEAF)
    put_binary(b, total, b.data[mean] + 1e-5, mean, eps, 1.0, 1.0)
    s = mg_pow(b.data[total], -0.5)
    put_unary(b, scale, s, total, -0.5 * mg_pow(b.data[total], -1.5))
    for i in range(n):
        out[i] = x.data[i] * s
        put_binary(b, first + i, out[i], slot_at(x, i), scale, s, x.data[i])
    visit(b, square)  # the operands have been, those behind the first at the latest from this sum
    visit(b, mean)
    visit(b, total)
    visit(b, scale)
    visit_run(b, first, n)
    return vector(first, out, n)


cdef Vector relu_layer(Build *b, Vector *x, uint32_t n) noexcept nogil:
    """max(0, x). n slots, n doubles."""
    cdef uint32_t first = take(b, n), i
    cdef double *out = room(b, n)
    for i in range(n):
        out[i] = x.data[i] if x.data[i] > 0.0 else 0.0
        put_unary(b, first + i, out[i], slot_at(x, i), 1.0 if x.data[i] > 0.0 else 0.0)
    return vector(first, out, n)


cdef double largest(const double *x, uint32_t n) noexcept nogil:
    """Python's max: the first of equals, and a nan stays if it comes first and is never chosen if it does not."""
    cdef double m = x[0]
    cdef uint32_t i
    for i in range(1, n):
        if x[i] > m:
            m = x[i]
    return m


cdef uint32_t exps_layer(Build *b, Vector *x, uint32_t n, Vector *exps) noexcept nogil:
    """exp(x - max(x)) and their sum, whose slot it returns. 3 * n + 1 slots, n doubles, a Fold."""
    cdef uint32_t constants = take(b, n), shifted = take(b, n), first = take(b, n), total = take(b, 1), i
    cdef double *out = room(b, n)
    cdef double shift = -largest(x.data, n), y
    for i in range(n):
        put(b, constants + i, shift, LEAF)
        y = x.data[i] + shift
        put_binary(b, shifted + i, y, slot_at(x, i), constants + i, 1.0, 1.0)
        out[i] = mg_exp(y)
        put_unary(b, first + i, out[i], shifted + i, out[i])
    exps[0] = vector(first, out, n)
    y = sum_of(out, n)
    put_fold(b, total, 1, n, &y, exps, NULL)
    return total


cdef Vector softmax_layer(Build *b, Vector *x, uint32_t n) noexcept nogil:
    """5 * n + 1 slots, 2 * n doubles, a Fold."""
    cdef Vector exps
    cdef uint32_t total = exps_layer(b, x, n, &exps), inverses = take(b, n), first = take(b, n), i
    cdef double *out = room(b, n)
    # e / total is e * total**-1, with a power of its own for every e.
    cdef double inverse = mg_pow(b.data[total], -1.0), local_grad = -1.0 * mg_pow(b.data[total], -2.0)
    for i in range(n):
        put_unary(b, inverses + i, inverse, total, local_grad)
        out[i] = exps.data[i] * inverse
        put_binary(b, first + i, out[i], exps.base + i, inverses + i, inverse, exps.data[i])
    return vector(first, out, n)
