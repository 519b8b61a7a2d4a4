"""Random programs, run on the graph engine and on the reference: everything they can observe agrees by bits."""
import random

import pytest
from graphs import AGAIN, INSTRUCTIONS, LAYERS, assert_same, assert_same_graph, bits, run_both
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples

import microgpt
from microgpt import reference
from microgpt.core.value import Value

PLAIN = st.floats(-3, 3)
ODD = st.sampled_from(
    [0.0, -0.0, 1.0, -1.0, 2, 3, -2, 0.5, float("inf"), float("-inf"), float("nan"), 5e-324, -2e-310, 1e300, 1e-200]
)
INDICES = st.lists(st.integers(0, 99), min_size=3, max_size=20)


def programs(names, numbers):
    return st.lists(st.tuples(st.sampled_from(names), INDICES, numbers), min_size=1, max_size=16)


def leaves(numbers):
    return st.lists(numbers.map(float), min_size=1, max_size=5)


@pytest.mark.slow
@settings(max_examples=examples(400))
@given(leaves(PLAIN | ODD), programs(INSTRUCTIONS, PLAIN | ODD))
def test_any_program(numbers, program):
    run_both(numbers, program)


@pytest.mark.slow
@settings(max_examples=examples(300))
@given(leaves(PLAIN), programs((*LAYERS, "recent", "a+b", "a*b", "backward", "look"), PLAIN))
def test_layers_over_each_other(numbers, program):
    run_both(numbers, program)


WRITES = ("set data", "set grad", "len of children", "look")


@given(leaves(PLAIN), programs((*LAYERS, "recent", "a+b", "a*b", "backward", "backward", *AGAIN, *WRITES), PLAIN))
def test_init_again_below_layers(numbers, program):
    run_both(numbers, program)


@pytest.mark.parametrize("seed", range(8))
def test_many_init_again_below_layers(seed):
    """Values that are given other children after layers have been computed from them; what hypothesis rarely draws."""
    rng = random.Random(seed)
    names = ["linear", "recent", "square", "softmax", "rmsnorm", "custom", "a+b", "a*b", "backward", *AGAIN, *WRITES]
    for _ in range(150):
        program = [
            (rng.choice(names), [rng.randrange(100) for _ in range(rng.randint(3, 20))], rng.gauss(0, 1))
            for _ in range(rng.randint(2, 14))
        ]
        run_both([rng.gauss(0, 1) for _ in range(rng.randint(1, 5))], program)


@pytest.mark.parametrize("seed", range(8))
def test_many_layers_over_each_other(seed):
    """Folded sums whose inputs are shared, repeated and computed from each other; what hypothesis rarely draws."""
    rng = random.Random(seed)
    names = ["linear", "recent", "square", "softmax", "rmsnorm", "custom", "a+b", "a*b", "backward", "relu"]
    for _ in range(150):
        program = [
            (rng.choice(names), [rng.randrange(100) for _ in range(rng.randint(3, 20))], rng.gauss(0, 1))
            for _ in range(rng.randint(2, 12))
        ]
        run_both([rng.gauss(0, 1) for _ in range(rng.randint(1, 5))], program)


# The order of additions in a folded sum differs from the script's only in these shapes (see topo.pyx), so each is
# here by name: numbers are chosen so that another order gives other bits.

SHAPES = {
    "second depends on first": lambda m, a, b, c: m.linear([a, a * b], [[b, c]]),
    "second weight depends on first": lambda m, a, b, c: m.linear([a, b], [[c, c.exp()]]),
    "third depends on first, through two": lambda m, a, b, c: m.linear([a, b, (a * c).exp() + a], [[c, a, b]]),
    "the same list twice": lambda m, a, b, c: m.linear([a, b, a], [[a, b, a]]),
    "depends on itself scaled": lambda m, a, b, c: m.rmsnorm([a, a * b, a * b * c]),
    "logits from each other": lambda m, a, b, c: m.softmax([a, a * b, b]),
    "sum over sums": lambda m, a, b, c: m.linear(m.linear([a, b], [[b, c], [c, a]]), [[a, b]]),
    "a recurrence with one weight": lambda m, a, b, c: recurrence(m, a, b, c, 30),
    "tied": lambda m, a, b, c: m.linear(m.rmsnorm(m.linear([a, b], [[a, c], [b, a]])), [[a, c], [b, a]]),
}


def recurrence(m, a, b, c, n):
    h = [a, b]
    for _ in range(n):
        h = m.linear([c, h[0]], [[a, b], [b, c]])
    return h


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_that_a_folded_sum_must_give_way_to(shape):
    for seed in range(30):
        numbers = [random.Random(seed * 3 + k).uniform(-1.1, 1.1) for k in range(3)]
        roots, inputs = [], []
        for m, V in ((microgpt, Value), (reference, reference.Value)):
            given = [V(x) for x in numbers]
            root = SHAPES[shape](m, *given)
            root = sum(r * (k + 0.7) for k, r in enumerate(root)) if len(root) > 1 else root[0]
            root.backward()
            roots.append(root)
            inputs.append(given)
        for ours, theirs in zip(*inputs):
            assert_same(ours.grad, theirs.grad, shape)
        assert_same_graph(*roots)


# What a layer or operator was computed from when it was a leaf, and what it makes of it.
USES = {
    "operators": lambda m, x, w: x[0] * w[0] + x[1] * w[1],
    "input of linear": lambda m, x, w: m.linear(x, [w, w])[1],
    "weight of linear": lambda m, x, w: m.linear(w, [x, x])[1],
    "both sides of linear": lambda m, x, w: m.linear(x, [x, w])[0],
    "row of three": lambda m, x, w: m.linear([w[0], x[1], x[0]], [[w[1], w[0], x[0]]])[0],
    "softmax": lambda m, x, w: m.softmax([*x, *w])[0],
    "rmsnorm": lambda m, x, w: m.rmsnorm([*x, *w])[1],
    "layers over each other": lambda m, x, w: m.softmax(m.linear(m.rmsnorm(m.linear(x, [x, w])), [w, x]))[1],
}
CHANGES = {
    "given a child": lambda V, x, w, z: x[0].__init__(7.0, (z,), (2.0,)),
    "given two": lambda V, x, w, z: x[0].__init__(7.0, (z, w[1]), (2.0, 3.0)),
    "given many": lambda V, x, w, z: x[0].__init__(7.0, (z, z, w[0], x[1]), (2.0, 3.0, 4.0, 5.0)),
    "given what was computed from another": lambda V, x, w, z: x[0].__init__(7.0, (x[1] * z,), (2.0,)),
    "one below the other": lambda V, x, w, z: (x[0].__init__(7.0, (x[1],), (2.0,)), x[1].__init__(3.0, (z,), (5.0,))),
    "a leaf again": lambda V, x, w, z: (x[0].__init__(7.0, (z,), (2.0,)), x[0].__init__(0.5)),
    "other children": lambda V, x, w, z: (x[0].__init__(7.0, (w[0],), (2.0,)), x[0].__init__(0.5, (z,), (3.0,))),
    "given itself": lambda V, x, w, z: x[0].__init__(7.0, (x[0], z), (2.0, 3.0)),
}


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("before", [False, True], ids=["first backward", "after a backward"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("use", USES)
def test_backward_reaches_what_a_leaf_was_given_later(use, change, before, times):
    """A leaf, and what is computed from it as from a leaf; then its second __init__ gives it children."""
    graphs = []
    for m, V in ((microgpt, Value), (reference, reference.Value)):
        x, w, z = [V(0.3), V(-1.7)], [V(1.1), V(0.9)], V(5.0)
        root = USES[use](m, x, w)
        if before:
            root.backward()
        CHANGES[change](V, x, w, z)
        for _ in range(times):
            root.backward()
        graphs.append((root, [*x, *w, z]))
    for ours, theirs in zip(graphs[0][1], graphs[1][1]):
        assert_same(ours.grad, theirs.grad)
    assert_same_graph(graphs[0][0], graphs[1][0])


@pytest.mark.parametrize("name", ["keys", "values"])
def test_backward_reaches_what_a_leaf_in_the_cache_was_given_later(name):
    """The cached keys and values of gpt may be anybody's Values, leaves too."""
    grads = []
    for m, V in ((microgpt, Value), (reference, reference.Value)):
        gpt = m.GPT(5, 4, 2, 1, 8, rng=random.Random(3))
        keys, values = [[[V(0.1 * k) for k in range(4)]]], [[[V(0.3 - k) for k in range(4)]]]
        cached, z = (keys if name == "keys" else values)[0][0], V(2.0)
        logits = m.gpt(1, 1, keys, values, gpt)
        cached[2].__init__(7.0, (z, cached[0]), (2.0, 3.0))
        logits[3].backward()
        logits[2].backward()
        grads.append([bits(v.grad) for v in (*cached, z, *gpt.params)])
    assert grads[0] == grads[1]
    assert any(g != bits(0.0) for g in grads[0][4:5])


def test_slots_of_what_was_below_a_leaf_are_used_again():
    """After a leaf has gone back to being one, or has died, new nodes in the same slots are sorted like any others."""
    for seed in range(40):
        results = []
        for m, V in ((microgpt, Value), (reference, reference.Value)):
            rng = random.Random(seed)
            kept, log = [V(rng.gauss(0, 1)) for _ in range(4)], []
            for _ in range(12):
                x = [V(rng.gauss(0, 1)) for _ in range(3)]
                y = m.linear(x, [kept[:3], kept[1:]])
                x[rng.randrange(3)].__init__(1.5, (rng.choice(kept), rng.choice(y)), (0.5, rng.gauss(0, 1)))
                if rng.random() < 0.5:
                    x[rng.randrange(3)].__init__(2.5)
                y[0].backward()
                m.softmax(y)[1].backward()
                log += [bits(v.grad) for v in (*kept, *x, *y)]
                if rng.random() < 0.3:
                    kept[rng.randrange(4)].__init__(rng.gauss(0, 1), (rng.choice(x),), (1.0,))
            results.append(log)
        assert results[0] == results[1], seed


def test_a_long_recurrence_unfolds_in_linear_time():
    a, b, c = Value(0.3), Value(0.9), Value(-0.7)
    root = recurrence(microgpt, a, b, c, 3000)[0]
    root.backward()
    expected = [reference.Value(v.data) for v in (a, b, c)]
    recurrence(reference, *expected, 3000)[0].backward()
    assert [bits(v.grad) for v in (a, b, c)] == [bits(v.grad) for v in expected]


@pytest.mark.parametrize("when", ["before", "after", "between", "twice"])
def test_looking_inside_changes_nothing(when):
    """The inside of a folded sum, looked at before or after one backward or between two, is what the script has."""
    roots, inputs = [], []
    for m, V in ((microgpt, Value), (reference, reference.Value)):
        x, w = [V(0.3), V(-0.0), V(1.7)], [[V(1.1), V(-2.3), V(0.7)], [V(0.1), V(0.2), V(0.3)]]
        out = m.softmax(m.rmsnorm(m.linear(x, w)))
        root = out[0] * out[1]
        if when == "before":
            walk(root)
        if when != "twice":
            root.backward()
            if when == "between":
                walk(root)
                root.backward()
        else:
            root.backward()
            root.backward()
        roots.append(root)
        inputs.append(x + w[0] + w[1])
    assert_same_graph(*roots)
    for ours, theirs in zip(*inputs):
        assert_same(ours.grad, theirs.grad)


def walk(root):
    stack, seen = [root], {}
    while stack:
        node = stack.pop()
        if id(node) not in seen:
            seen[id(node)] = node
            stack.extend(node._children)


def test_what_flowed_is_remembered():
    """The head's grad may have been overwritten before a test reads the nodes below it."""
    heads = []
    for m, V in ((microgpt, Value), (reference, reference.Value)):
        (head,) = m.linear([V(2.0), V(3.0)], [[V(5.0), V(7.0)]])
        head.grad = -0.0
        (head * -0.0).backward()  # head.grad becomes -0.0 + -0.0; what is inside starts at 0 and becomes 0.0
        head.grad = 123.0
        heads.append(head)
    assert_same_graph(*heads)
