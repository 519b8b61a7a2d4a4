# Numbers that a trace does not know: int arguments, float arguments, the data of Values. Part of tracing.pyx.

cdef object unknown_float(str what):
    raise TraceError(f"{what} a number that is not known while the function is traced (a float argument, or a Value's "
                     "data): it can be computed with, but it cannot decide what the function does, nor go through "
                     "functions other than those of math")


cdef object unknown_int(SymInt x, str what):
    name = current.int_names[x.index] if current is not None and current.serial == x.serial else "an int argument"
    raise TraceError(f"{what} {name}: an int argument of a compiled function can index lists and meet Values in "
                     "arithmetic, but it cannot decide what the function does. Name it in compile(static=...) if a program "
                     "for each of its values is wanted")


cdef object derived_int(object operation, object left, object right):
    """An int that is computed from int arguments before the program runs; NotImplemented where it is none."""
    cdef Trace trace = current
    operands = []
    for x in (left, right):
        if type(x) is SymInt:
            check_serial((<SymInt>x).serial)
            operands.append(((<SymInt>x).index, None))
        elif PyLong_Check(x):
            operands.append((-1, int(x)))
        else:
            return NotImplemented
    key = (operation, operands[0], operands[1])
    index = trace.derived_index.get(key)
    if index is None:
        index = trace.derived_index[key] = trace.graph.n_ints
        trace.int_input(f"a number computed from {trace.int_names[max(operands[0][0], operands[1][0])]}")
        trace.derived.append(key)
    return new_int(index)


cdef bint meets_value(object left, object right):
    return is_value(left) or is_value(right)


cdef object number_result(int op, object left, object right):
    cdef double ignored
    cdef object other = right if type(left) is SymFloat or type(left) is SymInt else left
    if not (type(other) is SymFloat or type(other) is SymInt or plain_number(other, &ignored)):
        return NotImplemented
    return new_float(shared_number(op, number_node(left), number_node(right)))


cdef object number_negative(object x):
    return new_float(shared_number(MG_NUM_NEG, number_node(x), -1))


cdef object symbol_add(object left, object right):
    return NotImplemented if meets_value(left, right) else number_result(MG_NUM_ADD, left, right)


cdef object symbol_subtract(object left, object right):
    if meets_value(left, right):
        return NotImplemented
    if type(right) is SymFloat or type(right) is SymInt:
        return number_result(MG_NUM_ADD, left, number_negative(right))  # a - b is a + -b, bit for bit
    return number_result(MG_NUM_ADD, left, -right)


cdef object symbol_multiply(object left, object right):
    return NotImplemented if meets_value(left, right) else number_result(MG_NUM_MUL, left, right)


cdef object symbol_divide(object left, object right):
    return NotImplemented if meets_value(left, right) else number_result(MG_NUM_DIV, left, right)


cdef object symbol_power(object left, object right, object modulus):
    if meets_value(left, right):
        return NotImplemented
    if modulus is not None:
        raise TraceError("pow() with a modulus of numbers that are not known while the function is traced")
    return number_result(MG_NUM_POW, left, right)


@cython.final
@cython.no_gc
@cython.freelist(256)
cdef class SymFloat:
    """A number that is known only when the compiled program runs. It has no gradient."""

    @property
    def __class__(self):
        return float

    def __add__(left, right):
        return symbol_add(left, right)

    def __sub__(left, right):
        return symbol_subtract(left, right)

    def __mul__(left, right):
        return symbol_multiply(left, right)

    def __truediv__(left, right):
        return symbol_divide(left, right)

    def __pow__(left, right, modulus):
        return symbol_power(left, right, modulus)

    def __neg__(self):
        return number_negative(self)

    def __pos__(self):
        return self

    def __abs__(self):
        return new_float(shared_number(MG_NUM_CALL, number_node(self), FUNCTIONS["fabs"]))

    def __mod__(left, right):
        unknown_float("% of")

    def __floordiv__(left, right):
        unknown_float("// of")

    def __divmod__(left, right):
        unknown_float("divmod() of")

    def __bool__(self):
        unknown_float("a condition on")

    def __float__(self):
        unknown_float("float() of")

    def __int__(self):
        unknown_float("int() of")

    def __index__(self):
        unknown_float("an index from")

    def __round__(self, *digits):
        unknown_float("round() of")

    def __hash__(self):
        unknown_float("a dict or set looked up by")

    def __richcmp__(self, other, int op):
        unknown_float("a comparison of")

    def __repr__(self):
        return "<a number that is not known yet>"

    def __str__(self):
        unknown_float("text from")

    def __format__(self, spec):
        unknown_float("text from")

    def __reduce__(self):
        unknown_float("a copy of")


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class SymInt:
    """An int argument: an index that is known only when the compiled program runs."""

    @property
    def __class__(self):
        return int

    def __add__(left, right):
        result = derived_int(operator.add, left, right)
        return symbol_add(left, right) if result is NotImplemented else result

    def __sub__(left, right):
        result = derived_int(operator.sub, left, right)
        return symbol_subtract(left, right) if result is NotImplemented else result

    def __mul__(left, right):
        result = derived_int(operator.mul, left, right)
        return symbol_multiply(left, right) if result is NotImplemented else result

    def __truediv__(left, right):
        return symbol_divide(left, right)

    def __pow__(left, right, modulus):
        return symbol_power(left, right, modulus)

    def __neg__(self):
        return derived_int(operator.sub, 0, self)

    def __pos__(self):
        return self

    def __mod__(left, right):
        result = derived_int(operator.mod, left, right)
        if result is NotImplemented:
            unknown_int(left if type(left) is SymInt else right, "% of")
        return result

    def __floordiv__(left, right):
        result = derived_int(operator.floordiv, left, right)
        if result is NotImplemented:
            unknown_int(left if type(left) is SymInt else right, "// of")
        return result

    def __divmod__(left, right):
        unknown_int(left if type(left) is SymInt else right, "divmod() of")

    def __bool__(self):
        unknown_int(self, "a condition on")

    def __float__(self):
        unknown_int(self, "float() of")

    def __int__(self):
        unknown_int(self, "int() of")

    def __index__(self):
        unknown_int(self, "a plain index or count from")

    def __hash__(self):
        unknown_int(self, "a dict or set looked up by")

    def __richcmp__(self, other, int op):
        unknown_int(self, "a comparison of")

    def __repr__(self):
        return "<an int argument>"

    def __str__(self):
        unknown_int(self, "text from")

    def __format__(self, spec):
        unknown_int(self, "text from")

    def __reduce__(self):
        unknown_int(self, "a copy of")


# math's names, in the order of enum mg_function.
FUNCTIONS = {name: i for i, name in enumerate(
    "exp log sqrt sin cos tan tanh sinh cosh asin acos atan erf erfc expm1 log1p fabs".split())}


# ---- lookups by an int argument ----

cdef bint same_items(list before, object items):
    cdef Py_ssize_t i, n = len(before)
    if len(items) != n:
        return False
    for i in range(n):
        if before[i] is not items[i]:
            return False
    return True


cdef object look_up(object items, SymInt index):
    """items[index]: a node that stands for all of them."""
    key = (id(items), index.index)
    found = current.rows.get(key)
    if found is not None and same_items(found[1], items):
        return found[0]
    result = look_up_fresh(items, index)
    current.rows[key] = (result, list(items))
    current.keep.append(items)
    return result


cdef object look_up_fresh(object items, SymInt index):
    cdef Py_ssize_t n = len(items), width, j
    cdef int32_t at
    cdef double number
    cdef bint numbers = True, values = True
    check_serial(index.serial)
    if n == 0:
        raise IndexError("list index out of range")
    bound = current.bounds[index.index]
    if bound is None or n < bound:
        current.bounds[index.index] = n
    if all([type(row) is list or type(row) is tuple for row in items]):
        width = len(items[0])
        if any([len(row) != width for row in items]):
            raise TraceError("an int argument as index of rows of different lengths")
        for row in items:  # leaves in the order of the rows
            for x in row:
                if isinstance(x, Value) and type(x) is not Traced:
                    node_of_leaf(x)
        columns = [look_up_fresh([row[j] for row in items], index) for j in range(width)]
        return columns if type(items[0]) is list else tuple(columns)
    for x in items:
        if is_value(x):
            numbers = False
        elif type(x) is SymFloat or type(x) is SymInt or (isinstance(x, (int, float)) and not isinstance(x, bool)):
            values = False
        else:
            numbers = values = False
    if values:
        return new_traced(list_node(MG_GATHER, index.index, [node_of_value(x) for x in items]))
    if not numbers:
        raise TraceError("an int argument as index of a list that holds something else than Values alone, numbers alone or "
                         "rows of them")
    if any([type(x) is SymFloat or type(x) is SymInt for x in items]):
        return new_float(list_node(MG_GATHER, index.index, [number_node(x) for x in items]))
    at = new_number(float(items[0]))
    for x in items[1:]:
        new_number(float(x))
    return new_float(node(MG_TABLE, index.index, at))


# ---- for the hooks ----

cdef Trace tracing_now():
    return current


cdef object look_up_now(object items, SymInt index):
    return look_up(items, index)


cdef object make_value(object data, object children, object local_grads):
    return custom(data, children, local_grads)


cdef SymFloat call_number(int function, object x):
    return new_float(shared_number(MG_NUM_CALL, number_node(x), function))


cdef SymFloat extreme_of(bint largest, list items):
    return new_float(list_node(MG_NUM_MAX if largest else MG_NUM_MIN, -1, [number_node(x) for x in items]))


cdef SymFloat data_of_value(object value):
    return data_of(node_of_value(value))


cdef list linear_rows(object x, object w):
    """The script's linear: sum(wi * xi for wi, xi in zip(row, x)) for each row."""
    cdef list rows = [], inputs
    cdef int32_t total
    cdef Py_ssize_t i, n
    inputs = [node_of_value(xi) for xi in x]
    for row in w:
        n = min(len(row), len(inputs))
        total = constant(0.0)
        for i in range(n):
            if i == 0:  # sum() begins with 0 + the first product, which is the product + 0
                total = node(MG_ADD, node(MG_MUL, node_of_value(row[0]), inputs[0]), total)
            else:
                total = node(MG_ADD, total, node(MG_MUL, node_of_value(row[i]), inputs[i]))
        rows.append(new_traced(total) if n else 0)
    return rows
