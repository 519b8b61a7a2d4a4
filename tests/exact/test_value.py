"""Value behaves as the script's class does, in everything a program can observe."""
import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest
from children import child, environment
from graphs import assert_same, assert_same_graph, bits

from microgpt import linear, reference, softmax
from microgpt.core.value import Value

BOTH = pytest.mark.parametrize("V", [Value, reference.Value], ids=["graph", "reference"])


def test_names():
    assert Value.__name__ == Value.__qualname__ == "Value"
    assert Value.__module__ == "microgpt.core.value"
    assert repr(Value(1.5)) == "Value(data=1.5, grad=0.0)"


@BOTH
def test_structure_of_every_operator(V):
    a, b = V(3.0), V(2.0)

    def shape(v):
        return [(c.data, g) for c, g in zip(v._children, v._local_grads)]

    assert shape(a) == []
    assert shape(a + b) == [(3, 1), (2, 1)]
    assert shape(a * b) == [(3, 2), (2, 3)]
    assert shape(-a) == [(3, -1), (-1, 3)]
    assert shape(a - b) == [(3, 1), (-2, 1)]
    assert shape((a - b)._children[1]) == [(2, -1), (-1, 2)]
    assert shape(a / b) == [(3, 0.5), (0.5, 3)]
    assert shape((a / b)._children[1]) == [(2, -0.25)]
    assert shape(a**3) == [(3, 27)]
    assert shape(a + 5) == [(3, 1), (5, 1)] == shape(5 + a)
    assert shape(a * 5) == [(3, 5), (5, 3)] == shape(5 * a)
    assert shape(a - 5) == [(3, 1), (-5, 1)]
    assert shape(5 - a) == [(-3, 1), (5, 1)]
    assert shape(a / 4) == [(3, 0.25), (0.25, 3)]
    assert shape(4 / b) == [(0.5, 4), (4, 0.5)]
    assert shape(V(0.0).exp()) == [(0, 1)]
    assert shape(b.log()) == [(2, 0.5)]
    assert shape(a.relu()) == [(3, 1)] and shape((-a).relu()) == [(-3, 0)]


@BOTH
def test_children_are_the_very_objects(V):
    a, b = V(1.0), V(2.0)
    c = a * b
    assert c._children[0] is a and c._children[1] is b
    assert (a + a)._children == (a, a)
    inner = (c + 1)._children[1]
    assert inner.data == 1 and a not in (b, c) and a == a and a != b


def test_a_node_outlives_its_handle():
    a = Value(2.0)
    b = (a * 3.0) + 1.0
    product = b._children[0]
    number, product.grad = hash(product), 7.0
    del product
    others = [a + 0.0 for _ in range(3)]  # one of which takes the place of the object
    assert hash(b._children[0]) == number not in map(hash, others)
    assert b._children[0].grad == 7.0
    assert b._children[0]._children[0] is a


def test_hash_is_identity():
    values = [Value(1.0) for _ in range(100)]
    assert len(set(values)) == 100 and values[3] in set(values)
    assert {values[0]: "x"}[values[0]] == "x"


@BOTH
def test_data_and_grad_are_written_at_any_time(V):
    a, b = V(2.0), V(3.0)
    c = a * b
    a.data, c.grad = 100.0, 55.0  # the local gradients were taken when the node was made
    c.backward()
    assert (a.grad, b.grad, c.grad, c.data) == (3, 2, 1, 6)
    a.grad = 0
    c.backward()
    assert (a.grad, b.grad) == (3, 4)


@BOTH
def test_second_backward_adds_to_the_inside_too(V):
    a = V(3.0)
    b = a * 2.0
    c = b * 5.0
    c.backward()
    c.backward()
    assert (c.grad, b.grad, a.grad) == (1, 10, 30)


@BOTH
def test_root_gets_its_one_after_the_sort(V):
    a = V(3.0)
    a.grad = 9.0
    a.backward()
    assert a.grad == 1


@BOTH
def test_custom_nodes(V):
    a, b, c = V(1.0), V(2.0), V(3.0)
    n = V(7.0, (a, b, c, a), (10.0, 20.0, 30.0, 40.0))
    assert n._children == (a, b, c, a) and tuple(n._local_grads) == (10.0, 20.0, 30.0, 40.0)
    short = V(1.0, (n, a), (2.0,))  # zip stops at the shorter one
    short.backward()
    assert (a.grad, b.grad, c.grad, n.grad) == (100, 40, 60, 2)
    extra = V(1.0, (), (2.0, 3.0))
    extra.backward()
    assert tuple(extra._local_grads) == (2.0, 3.0) and extra._children == ()


@BOTH
def test_initialising_again(V):
    a, b = V(1.0), V(2.0)
    c = a + b
    d = c * 2.0
    c.__init__(5.0, (b,), (4.0,))
    d.backward()
    assert (a.grad, b.grad, c.data, c.grad) == (0, 8, 5, 2)


@BOTH
def test_a_leaf_that_is_given_children_later(V):
    """A node that was computed from a former leaf sends its gradient further down now."""
    a, b = V(2.0), V(3.0)
    c, d = a * b, b * a
    a.__init__(7.0, (b,), (10.0,))
    (c + d).backward()
    assert (a.data, a.grad, b.grad) == (7.0, 6.0, 2.0 + 2.0 + 60.0)
    b.__init__(1.0)  # and back again
    e = b * b
    e.backward()
    assert (e.data, b.grad) == (1.0, 2.0)



@BOTH
def test_subclass(V):
    class Named(V):
        def __init__(self, data, name):
            super().__init__(data)
            self.name = name

        def double(self):
            return self * 2

    a = Named(3.0, "a")
    b = a.double() + Named(1.0, "b")
    assert type(b) is V and a.name == "a" and b._children[0]._children[0] is a
    b.backward()
    assert a.grad == 2 and isinstance(a, V)
    assert sum([a, a]).data == 6


@BOTH
@pytest.mark.parametrize("x", [-0.0, 0.0, float("nan"), -1.0, 2.0, float("inf"), 5e-324])
def test_relu(V, x):
    r = V(x).relu()
    assert_same(r.data, max(0, x))
    assert bits(r._local_grads[0]) == bits(float(x > 0))


def test_numpy_scalars_on_either_side():
    import numpy as np

    for number in (np.float64(2.5), np.int64(2)):
        for operate in (lambda a, b: a + b, lambda a, b: b + a, lambda a, b: a * b, lambda a, b: b * a,
                        lambda a, b: a - b, lambda a, b: b - a, lambda a, b: b / a):
            ours, theirs = operate(Value(1.7), number), operate(reference.Value(1.7), number)
            assert type(ours) is Value
            assert_same(ours.data, theirs.data)
    assert (Value(1.7) + np.float32(0.1)).data == 1.7 + float(np.float32(0.1))  # a double: docs/explain/differences.md
    assert (Value(1.0) / np.float64(4.0)).data == 0.25
    assert (Value(3.0) ** np.float64(2.0)).data == 9.0


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, -1, -2, 7, 0.5, -0.5, 2.0, -3.0, 1.5, True])
@pytest.mark.parametrize("x", [1.7, 0.3, -2.5, -1.0, 1.0, 1e-200, 123456.789, -0.1])
def test_powers(x, exponent):
    if x < 0 and exponent != int(exponent):
        return  # complex: see test_value_errors
    try:
        theirs = reference.Value(x) ** exponent
    except OverflowError:
        with pytest.raises(OverflowError):
            Value(x) ** exponent
        return
    assert_same_graph(Value(x) ** exponent, theirs)


def test_a_power_is_the_librarys_pow():
    """x**2 is not x*x: over enough numbers a folded power would show."""
    import random

    rng = random.Random(1)
    differ = 0
    for _ in range(20000):
        x = rng.uniform(-3.0, 3.0)
        for exponent in (2, -1, 0.5, -0.5):
            base = abs(x) if exponent in (0.5, -0.5) else x
            assert bits((Value(base) ** exponent).data) == bits(base**exponent)
        differ += x**2 != x * x
    assert differ > 0  # so this test would have noticed


def test_script_in_the_manner_of_the_original():
    """One program, three classes (its own, ours and the reference's), the same bytes."""
    script = (Path(__file__).parents[1] / "support" / "run_script.py").read_text(encoding="utf-8")
    for old, new in (
        ("steps = 60", "steps = 15"), ("h.relu()", "(1 / 3 - h).relu() + h * 0.1 - h / 2 + (2 - h) ** 3"),
        ("    loss.backward()", "    loss = 1 / loss - loss / 3 + 2 * loss\n    loss.backward()"),
    ):  # fmt: skip
        assert old in script
        script = script.replace(old, new)
    outputs = []
    for module in (None, "microgpt.core.value", "microgpt.reference"):
        ours = f"from {module} import Value\n"
        program = script if module is None else re.sub(r"class Value:.*?\n\n\n", ours, script, flags=re.S)
        outputs.append(child(program))
    assert outputs[0] == outputs[1] == outputs[2] and outputs[0].count("\n") == 16


def test_importing_brings_nothing_along():
    code = (
        "import sys; before = set(sys.modules)\n"
        "import microgpt.core.value, microgpt.core.model\n"
        "microgpt.core.value.Value(1.0).backward()\n"
        "new = {m for m in set(sys.modules) - before if not m.startswith(('microgpt', '_cython', 'cython'))}\n"
        "print(sorted(new & {'numpy', 'random', 'operator', 'types', 'typing', 'inspect', 're', 'enum'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_fused_training_does_not_load_the_graph_engine():
    """Each compiled module costs 0.05 to 0.25 ms at the start."""
    code = (
        "import sys; from microgpt import Trainer\n"
        "trainer = Trainer(['ab', 'ba'], engine='fused', n_embd=4, n_head=2, num_steps=1); trainer.run()\n"
        "def compiled(): return {m[14:] for m in sys.modules if m.startswith('microgpt.core.')}\n"
        "print(*sorted(compiled()))\n"
        "trainer.model.params[0].backward()\n"
        "print('value' in compiled())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["adam documents encoded fused lock model mt19937 simd tape", "True"]


@pytest.mark.parametrize("thing", [Value, linear, softmax])
def test_examples_in_docstrings_run(thing):
    found = doctest.DocTestParser().get_doctest(thing.__doc__, {}, thing.__name__, None, 0)
    assert found.examples
    assert doctest.DocTestRunner().run(found).failed == 0
