"""Random programs, run on the graph engine and on the reference: everything they can observe agrees by bits."""
import random

import pytest
from graphs import INSTRUCTIONS, LAYERS, assert_same, assert_same_graph, bits, run_both
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from profiles import examples

from microgpt import model, reference
from microgpt.value import Value

PLAIN = st.floats(-3, 3)
ODD = st.sampled_from(
    [0.0, -0.0, 1.0, -1.0, 2, 3, -2, 0.5, float("inf"), float("-inf"), float("nan"), 5e-324, -2e-310, 1e300, 1e-200]
)
INDICES = st.lists(st.integers(0, 99), min_size=3, max_size=20)


def programs(names, numbers):
    return st.lists(st.tuples(st.sampled_from(names), INDICES, numbers), min_size=1, max_size=16)


def leaves(numbers):
    return st.lists(numbers.map(float), min_size=1, max_size=5)


@settings(max_examples=examples(400), suppress_health_check=[HealthCheck.too_slow])
@given(leaves(PLAIN | ODD), programs(INSTRUCTIONS, PLAIN | ODD))
def test_any_program(numbers, program):
    run_both(numbers, program)


@settings(max_examples=examples(300), suppress_health_check=[HealthCheck.too_slow])
@given(leaves(PLAIN), programs((*LAYERS, "recent", "a+b", "a*b", "backward", "look"), PLAIN))
def test_layers_over_each_other(numbers, program):
    run_both(numbers, program)


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


# The order of additions in a folded sum differs from the script's only in these shapes (see _backward.pxi), so each is
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
        for m, V in ((model, Value), (reference, reference.Value)):
            given = [V(x) for x in numbers]
            root = SHAPES[shape](m, *given)
            root = sum(r * (k + 0.7) for k, r in enumerate(root)) if len(root) > 1 else root[0]
            root.backward()
            roots.append(root)
            inputs.append(given)
        for ours, theirs in zip(*inputs):
            assert_same(ours.grad, theirs.grad, shape)
        assert_same_graph(*roots)


def test_a_long_recurrence_unfolds_in_linear_time():
    a, b, c = Value(0.3), Value(0.9), Value(-0.7)
    root = recurrence(model, a, b, c, 3000)[0]
    root.backward()
    expected = [reference.Value(v.data) for v in (a, b, c)]
    recurrence(reference, *expected, 3000)[0].backward()
    assert [bits(v.grad) for v in (a, b, c)] == [bits(v.grad) for v in expected]


@pytest.mark.parametrize("when", ["before", "after", "between", "twice"])
def test_looking_inside_changes_nothing(when):
    """The inside of a folded sum, looked at before or after one backward or between two, is what the script has."""
    roots, inputs = [], []
    for m, V in ((model, Value), (reference, reference.Value)):
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
    """The head's grad may have been overwritten by the time that somebody looks at the nodes below it."""
    heads = []
    for m, V in ((model, Value), (reference, reference.Value)):
        (head,) = m.linear([V(2.0), V(3.0)], [[V(5.0), V(7.0)]])
        head.grad = -0.0
        (head * -0.0).backward()  # head.grad becomes -0.0 + -0.0; what is inside starts at 0 and becomes 0.0
        head.grad = 123.0
        heads.append(head)
    assert_same_graph(*heads)
