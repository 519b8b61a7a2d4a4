"""Results of compiled functions are Values like others: their graphs, several at once, in larger graphs; Value arguments."""
import random

import pytest
from compiled_functions import both, grads, leaves, replayed, warm
from conftest import hexes

import microgpt
from microgpt import Value, linear, reference, softmax

pytestmark = pytest.mark.usefixtures("no_warnings")


def test_result_is_a_value_with_children_and_local_grads():
    w, compiled, v, plain = both(lambda w: lambda x: (w[0] * x + w[1]).exp() * w[2])
    warm(compiled, 0.5)
    result, expected = compiled(0.25), plain(0.25)
    assert type(result) is Value

    def compare(a, b):
        assert a.data == b.data and len(a._children) == len(b._children)
        assert hexes(a._local_grads) == hexes(b._local_grads)
        for x, y in zip(a._children, b._children):
            compare(x, y)

    compare(result, expected)
    result.backward()
    expected.backward()
    assert grads(w) == grads(v)


def test_second_backward_adds_to_the_grads_inside_as_the_script_does():
    w, compiled, v, plain = both(lambda w: lambda x: ((w[0] * w[1] + x) * w[2] + w[0]) * (w[1] * w[2]))
    warm(compiled, 0.5)
    result, expected = compiled(0.3), plain(0.3)
    for _ in range(3):
        result.backward()
        expected.backward()
        assert grads(w) == grads(v)
    inside, expected_inside = result._children[0], expected._children[0]
    assert inside.grad == expected_inside.grad


def test_result_in_a_larger_graph():
    w, compiled, v, plain = both(lambda w: lambda x: w[0] * x + w[1] * w[1])
    warm(compiled, 0.5)
    total, expected = Value(0.0), reference.Value(0.0)
    for x in (0.1, 0.2, 0.3):
        total = total + compiled(x) * w[0] + w[1]
        expected = expected + plain(x) * v[0] + v[1]
    a, b = total * total, expected * expected
    a.backward()
    b.backward()
    assert a.data == b.data and grads(w) == grads(v)


def test_result_under_the_packages_layers():
    """Folded sums watch their operands while the graph is sorted: a program's leaves are among them."""
    w, compiled, v, plain = both(lambda w: lambda x: w[0] * x + w[1] * w[2])
    warm(compiled, 0.5)

    def graph(w, call, linear, softmax):
        row = [w[0], call(0.3), w[1], call(0.2) * w[2]]
        probs = softmax(linear(row, [row, row[::-1], w[2:6]]))
        return probs[0].log() + probs[1] * w[0]

    a, b = graph(w, compiled, linear, softmax), graph(v, plain, reference.linear, reference.softmax)
    a.backward()
    b.backward()
    assert a.data == b.data and grads(w) == grads(v)


def test_parameters_may_change_before_backward():
    w, compiled, v, plain = both(lambda w: lambda x: w[0] * w[1] * x + w[2] ** 2)
    warm(compiled, 0.5)
    result, expected = compiled(0.7), plain(0.7)
    for p, q in zip(w, v):
        p.data = q.data = 100.0
    result.backward()
    expected.backward()
    assert grads(w) == grads(v)


def test_several_results_may_be_alive():
    w, compiled, v, plain = both(lambda w: lambda x: w[0] * w[1] * x + w[2])
    warm(compiled, 0.5)
    results, expected = [compiled(x / 8) for x in range(12)], [plain(x / 8) for x in range(12)]
    for a, b in zip(results[::-1], expected[::-1]):
        a.backward()
        b.backward()
        assert grads(w) == grads(v)
    assert [r.data for r in results] == [e.data for e in expected]


def test_a_leaf_that_is_initialised_again_with_children():
    w, compiled, v, plain = both(lambda w: lambda x: w[0] * w[1] * x)
    warm(compiled, 0.5)
    result, expected = compiled(0.7), plain(0.7)
    w[0].__init__(2.0, (w[3],), (3.0,))
    v[0].__init__(2.0, (v[3],), (3.0,))
    result.backward()
    expected.backward()
    assert grads(w) == grads(v)
    assert compiled(0.7).data == plain(0.7).data


@pytest.mark.parametrize("passes_it_on", [lambda w: lambda x: (w[0] + w[1]) * 1.0, lambda w: lambda x: w[0] * 2.0 + x,
                                          lambda w: lambda x: w[0] * w[1] + w[2]])  # fmt: skip
def test_grad_of_minus_zero(passes_it_on):
    """A sum's grad is that of its terms, and their own begins at 0.0, which -0.0 does not change."""
    w, compiled, v, plain = both(passes_it_on)
    warm(compiled, 0.5)
    result, expected = compiled(0.1), plain(0.1)
    for p in (*w, result):
        p.grad = -0.0
    for p in (*v, expected):
        p.grad = -0.0
    a, b = result * 0.0, expected * 0.0
    (a * -1.0).backward()
    (b * -1.0).backward()
    assert grads(w) == grads(v) and hexes([result.grad]) == hexes([expected.grad])


def test_lists_and_tuples_of_results():
    w = leaves(4)
    v = leaves(4, reference.Value)

    def make(w):
        def f(x):
            a = w[0] * x
            b = a.exp() + w[1]
            return a * b, {"b": b, "again": b, "w": w[2]}, [a.data, 3, None]

        return f

    compiled, plain = microgpt.compile(make(w)), make(v)
    warm(compiled, 0.5)
    (first, named, rest), (e_first, e_named, e_rest) = compiled(0.3), plain(0.3)
    assert first.data == e_first.data and named["b"].data == e_named["b"].data and rest == e_rest
    assert named["again"] is named["b"] and named["w"] is w[2]
    for a, b in ((first, e_first), (named["b"], e_named["b"]), (first * named["b"], e_first * e_named["b"])):
        a.backward()
        b.backward()
        assert grads(w) == grads(v)


def test_value_arguments_are_leaves_of_their_own():
    w, compiled, v, plain = both(lambda w: lambda x, y: x[0] * w[0] + x[1] * y)
    a, b = leaves(3, seed=5), leaves(3, reference.Value, seed=5)
    warm(compiled, a[:2], a[2])
    compiled(a[:2], a[2]).backward()
    plain(b[:2], b[2]).backward()
    assert grads(a) == grads(b) and grads(w) == grads(v)
    other, e_other = leaves(3, seed=6), leaves(3, reference.Value, seed=6)
    compiled(other[:2], other[2]).backward()
    plain(e_other[:2], e_other[2]).backward()
    assert grads(other) == grads(e_other) and grads(w) == grads(v)
    # The same Value twice, or one that the function reads anyway: as written.
    compiled([a[0], a[0]], w[0]).backward()
    plain([b[0], b[0]], v[0]).backward()
    assert grads(a) == grads(b) and grads(w) == grads(v)
    # One that is computed from others.
    compiled([a[0] * a[1], a[0]], a[2]).backward()
    plain([b[0] * b[1], b[0]], b[2]).backward()
    assert grads(a) == grads(b) and grads(w) == grads(v)


def test_inference_appends_to_lists_that_it_is_given():
    model = microgpt.GPT(vocab_size=5, n_embd=4, n_head=2, n_layer=1, block_size=8, rng=random.Random(1))
    step = microgpt.compile(lambda token, position, keys, values: [p / 1.0 for p in softmax(
        microgpt.gpt(token, position, keys, values, model))], grad=False)
    for _ in range(4):
        keys, values, e_keys, e_values = [[]], [[]], [[]], [[]]
        for position, token in enumerate([0, 3, 1, 4, 2]):
            probs = step(token, position, keys, values)
            expected = softmax(microgpt.gpt(token, position, e_keys, e_values, model))
            assert hexes(p.data for p in probs) == hexes((p / 1.0).data for p in expected)
        assert hexes(v.data for row in keys[0] for v in row) == hexes(v.data for row in e_keys[0] for v in row)
        assert len(keys[0]) == len(values[0]) == 5
    assert replayed(step), step.explain()
    assert probs[0]._children == ()


def test_results_outlive_the_compiled_function():
    w = leaves(3)
    f = microgpt.compile(lambda x: w[0] * w[1] * x + w[2])
    warm(f, 0.5)
    result = f(2.0)
    del f
    result.backward()
    assert w[0].grad == 2.0 * w[1].data and result._children


def test_many_values_as_arguments():
    """More of them than fit into a call's memory on the stack; the same one twice, far apart, is seen."""
    w, compiled, v, plain = both(lambda w: lambda rows, x: sum((sum(a * b for a, b in zip(row, w)) * x for row in rows), w[0]))
    a, b = leaves(1200, seed=5), leaves(1200, reference.Value, seed=5)
    rows, e_rows = ([values[i:i + 6] for i in range(0, 1200, 6)] for values in (a, b))
    warm(compiled, rows, 0.5)
    for swap in (0, 1, 2):
        if swap == 1:
            rows[3], rows[90], e_rows[3], e_rows[90] = rows[90], rows[3], e_rows[90], e_rows[3]
        elif swap == 2:
            rows[199], e_rows[199] = rows[0][:3] + w[:3], e_rows[0][:3] + v[:3]
        compiled(rows, 0.25).backward()
        plain(e_rows, 0.25).backward()
        assert grads(a) == grads(b) and grads(w) == grads(v)
    assert "1 calls ran as written, at its speed: a Value is passed twice" in compiled.explain()
