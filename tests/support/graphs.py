"""What the tests of the graph engine share: exact comparison, and random programs run on two engines side by side."""
import struct
from types import SimpleNamespace

import microgpt
from microgpt import reference
from microgpt.core.value import Value

ENGINES = {
    "graph": SimpleNamespace(
        Value=Value, linear=microgpt.linear, softmax=microgpt.softmax, rmsnorm=microgpt.rmsnorm, gpt=microgpt.gpt
    ),
    "reference": SimpleNamespace(
        Value=reference.Value, linear=reference.linear, softmax=reference.softmax, rmsnorm=reference.rmsnorm,
        gpt=reference.gpt,
    ),
}


def bits(number):
    """The eight bytes of a float; every nan is the same."""
    number = float(number)
    return "nan" if number != number else struct.pack("<d", number)


def assert_same(ours, theirs, what=""):
    assert bits(ours) == bits(theirs), f"{what}: {float(ours).hex()} instead of {float(theirs).hex()}"


def assert_same_graph(ours, theirs):
    """Walk both graphs from their roots: the same structure, sharing, data, local gradients and gradients, by bits.

    Returns the number of nodes.
    """
    pairs, held, stack = {}, {}, [(ours, theirs)]
    while stack:
        a, b = stack.pop()
        if id(b) in pairs:
            assert pairs[id(b)] is a, "a node that is shared there is not shared here"
            continue
        assert id(a) not in held, "a node that is shared here is not shared there"
        pairs[id(b)], held[id(a)] = a, b
        assert_same(a.data, b.data, "data")
        assert_same(a.grad, b.grad, "grad")
        assert len(a._children) == len(b._children)
        assert [bits(g) for g in a._local_grads] == [bits(g) for g in b._local_grads], "local gradients"
        stack.extend(zip(a._children, b._children))
    return len(pairs)


def outcome(action, *arguments):
    """What an action gives, or the type and message of the exception it raises."""
    try:
        return action(*arguments), None
    except Exception as error:
        return None, (type(error), str(error))


# A random program is a list of instructions (name, integers, number). Integers choose among the Values made so far,
# from which an instruction makes new ones. Whatever raises must raise the same on both sides, and makes nothing.

def _step(engine, pool, single, name, numbers, number):
    """One instruction. pool: the Values so far. single: the places in it of those that no layer has made."""
    V = engine.Value
    real = float(number)  # for what the script would keep an int (docs/explain/differences.md)

    def pick(k):
        return pool[numbers[k % len(numbers)] % len(pool)]

    a, b = pick(0), pick(1)
    if name == "relu":
        result = a.relu()
        result.data = float(result.data)  # the script's 0 is an int
        return [result]
    if name == "linear":
        nout, nin = 1 + numbers[0] % 3, 1 + numbers[1] % 5
        x = [pick(k) for k in range(nin)]
        return engine.linear(x, [[pick(2 + r * nin + k) for k in range(nin)] for r in range(nout)])
    if name == "square":  # x is w
        x = [pick(k) for k in range(1 + numbers[0] % 4)]
        return engine.linear(x, [x, x])
    if name == "softmax":
        return engine.softmax([pick(k) for k in range(1 + numbers[0] % 5)])
    if name == "rmsnorm":
        return engine.rmsnorm([pick(k) for k in range(1 + numbers[0] % 5)])
    if name == "custom":
        n = numbers[0] % 5
        grads = [real * (k + 1) for k in range(n if numbers[1] % 4 else n + numbers[2] % 2)]
        return [V(real, tuple(pick(k) for k in range(n)), tuple(grads))]
    if name == "recent":  # a chain through the last results, which often depend on each other
        x = pool[-(1 + numbers[0] % 6):]
        return engine.linear(x[::-1] if numbers[1] % 2 else x, [[pick(2 + k) for k in range(len(x))]])
    if name == "leaf":
        return [V(real)]
    if name in ("init again", "init a leaf again"):
        # The second __init__ of a Value that may be anywhere in the graph. Any child: cycles are part of it.
        places = single if name == "init again" else [k for k in single if k < N_LEAVES]
        n = numbers[1] % 4
        grads = tuple(real * (k + 1) for k in range(n if numbers[2] % 4 else n + 1))
        pool[places[numbers[0] % len(places)]].__init__(real, tuple(pick(k + 3) for k in range(n)), grads)
        return []
    if name == "backward":
        a.backward()
    elif name == "set data":
        a.data = real
    elif name == "set grad":
        a.grad = real + 0.0  # not -0.0, to which the script may add the int 0 where we add -0.0
    elif name == "len of children":
        return [V(float(len(a._children)))]
    elif name == "look":
        a._children[0]._children  # noqa: B018  (looking is what is tested)
    elif name == "look at grads":
        a._local_grads  # noqa: B018
    else:
        return [OPERATORS[name](a, b, number)]
    return []


OPERATORS = {
    "a+b": lambda a, b, c: a + b,
    "a*b": lambda a, b, c: a * b,
    "a-b": lambda a, b, c: a - b,
    "a/b": lambda a, b, c: a / b,
    "-a": lambda a, b, c: -a,
    "a+c": lambda a, b, c: a + c,
    "c+a": lambda a, b, c: c + a,
    "a*c": lambda a, b, c: a * c,
    "c*a": lambda a, b, c: c * a,
    "a-c": lambda a, b, c: a - c,
    "c-a": lambda a, b, c: c - a,
    "a/c": lambda a, b, c: a / c,
    "c/a": lambda a, b, c: c / a,
    "a**2": lambda a, b, c: a**2,
    "a**-1": lambda a, b, c: a**-1,
    "a**3.0": lambda a, b, c: a**3.0,
    "a*a": lambda a, b, c: a * a,
    "a+a": lambda a, b, c: a + a,
    "(a*a)**c": lambda a, b, c: (a * a) ** c,
    "exp": lambda a, b, c: a.exp(),
    "log": lambda a, b, c: a.log(),
}
LAYERS = ("linear", "square", "softmax", "rmsnorm", "recent", "custom")
ACTIONS = ("backward", "set data", "set grad", "look", "look at grads", "len of children")
AGAIN = ("init again", "init a leaf again")
INSTRUCTIONS = (*OPERATORS, *LAYERS, *ACTIONS, *AGAIN, "relu", "leaf")
N_LEAVES = 9  # "init a leaf again" chooses among the first Values of a program, most of which are its leaves


def run_both(leaves, program):
    """Run a program on both engines and compare everything. Returns the number of Values made."""
    ours = [Value(x) for x in leaves]
    theirs = [reference.Value(x) for x in leaves]
    single = list(range(len(leaves)))
    for name, numbers, number in program:
        made, error = outcome(_step, ENGINES["graph"], ours, single, name, numbers, number)
        expected, expected_error = outcome(_step, ENGINES["reference"], theirs, single, name, numbers, number)
        assert error == expected_error, name
        if error is None:
            assert len(made) == len(expected)
            if name not in LAYERS or name == "custom":
                single += range(len(ours), len(ours) + len(made))
            ours += made
            theirs += expected
    for root in {len(ours) - 1, len(ours) // 2}:
        ours[root].backward()
        theirs[root].backward()
    for k, (a, b) in enumerate(zip(ours, theirs)):
        assert_same(a.data, b.data, f"data of {k}")
        assert_same(a.grad, b.grad, f"grad of {k}")
    for a, b in zip(ours[::-3], theirs[::-3]):
        assert_same_graph(a, b)
    return len(ours)
