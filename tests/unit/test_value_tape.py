"""What the tape keeps of a node: marks of sorts, cycles, and Python code that runs while a node is made or read."""
import gc
import inspect

import pytest
from children import child
from cycles import CYCLES
from graphs import assert_same_graph, bits

import microgpt
from microgpt import reference
from microgpt.core.value import Value

# ---- marks ----


def test_marks_of_slots_that_were_free_when_the_sort_numbers_began_anew():
    """A layer at the end of the tape is marked and freed; after 2**32 sorts it is built there again."""
    child("""
from microgpt import Value, softmax
from microgpt.core.audit import sorts_until_wrap
xs, leaf, number = [Value(k * 0.01) for k in range(600)], Value(1.0), 12
def gradients():
    for x in xs:
        x.grad = 0.0
    softmax(xs)[3].backward()
    return [x.grad for x in xs]
expected = gradients()
for sorts in range(1, number):
    for _ in range(2):  # the second time the layer's nodes are marked with the number of this very sort
        sorts_until_wrap(0)
        for _ in range(sorts):
            leaf.backward()
        assert gradients() == expected, sorts
""")


def test_sorts_of_a_layer_on_both_sides_of_the_numbers_beginning_anew():
    """What the rows of a layer share is visited in each sort, whatever number an earlier one had."""
    child("""
from microgpt import Value, linear
from microgpt.core.audit import sorted_slots, sorts_until_wrap
a = Value(0.5)
xs = [a.exp(), a * a, a + 1.0]
roots = [linear(xs, [[a] * 3, xs])[0] * 1.0, linear([a] * 3, [xs, xs])[1] * 1.0]
expected = [sorted_slots(root) for root in roots]
for sorts in range(1, 9):
    for _ in range(2):
        sorts_until_wrap(sorts // 2)
        for _ in range(sorts):
            a.backward()
        assert [sorted_slots(root) for root in roots] == expected, sorts
""")


# ---- cycles ----

@pytest.mark.parametrize("name", CYCLES)
def test_backward_through_acycle(name):
    for root in (0, 1):
        for backwards in (1, 2):
            nodes = CYCLES[name](Value, microgpt), CYCLES[name](reference.Value, reference)
            for pair in nodes:
                for _ in range(backwards):
                    pair[root].backward()
            assert_same_graph(nodes[0][0], nodes[1][0])
            assert_same_graph(nodes[0][1], nodes[1][1])


def test_cycles_that_somebody_holds_stay():
    """Collections do not take what a handle, a parent or a layer's nodes lead to."""
    def make(V, m, rounds):
        kept, log = [], []
        for k in range(rounds):
            x, y = CYCLES[list(CYCLES)[k % len(CYCLES)]](V, m)
            if k % 50 == 0:
                kept.append(x)  # the cycle itself
            elif k % 50 == 7:
                kept.append(y * 3.0 + V(1.0))  # what was computed from it
            elif k % 50 == 14:
                kept.append(m.softmax([V(1.0), x, y])[1])
            elif k % 50 == 21:
                kept.append(V(2.0, (V(1.0, (x,), (2.0,)), y, y), (1.0, 2.0, 3.0)))
        for value in kept:
            value.backward()
            log.append([bits(value.data), bits(value.grad), [bits(c.grad) for c in value._children]])
        return log, kept

    ours, kept = make(Value, microgpt, 2000)
    theirs, expected = make(reference.Value, reference, 2000)
    assert ours == theirs
    for a, b in zip(kept, expected):
        assert_same_graph(a, b)


# ---- Python code that runs while a Value is made or read ----


class Number:
    """A number that does something when it is asked for its value."""

    def __init__(self, number, action):
        self.number, self.action = number, action

    def __float__(self):
        self.action()
        return self.number

    __index__ = None


def test_local_gradients_that_use_values():
    """They may build, differentiate and drop graphs, and even initialise the Value that is being made."""
    a, b, new = Value(2.0), Value(3.0), Value.__new__(Value)

    def build():
        c = a * b + 1.0
        c.backward()
        microgpt.softmax([a, c])[0].backward()
        Value(1.0, (c,), (1.0,))

    c = Value(Number(1.0, build), (a, b, a), [Number(k, build) for k in (1.0, 2.0, 3.0)])
    assert c._children == (a, b, a) and c._local_grads == (1.0, 2.0, 3.0)
    c.__init__(Number(4.0, build), (b,), (Number(5.0, build),))
    new.__init__(Number(6.0, lambda: new.__init__(7.0)), (a,), (Number(8.0, lambda: new.__init__(9.0, (b,), (1.0,))),))
    a.grad = b.grad = 0.0
    (c + new).backward()
    assert (c.data, new.data, new._children, a.grad, b.grad) == (4.0, 6.0, (a,), 8.0, 5.0)


def test_local_gradients_that_fail():
    """An error half way changes nothing, whether the Value is new or not."""
    def fail():
        raise KeyError("wrong")

    a = Value(2.0)
    b, new = a * 3.0, Value.__new__(Value)
    for value in (b, new):
        with pytest.raises(KeyError):
            value.__init__(1.0, (a, a, a), (1.0, 2.0, Number(3.0, fail)))
    assert b.data == 6.0 and b._local_grads == (3.0, 2.0)
    with pytest.raises(AttributeError):
        new.data  # noqa: B018
    b.backward()
    assert a.grad == 3.0


@pytest.mark.parametrize("name", ["_children", "_local_grads"])
def test_reading_a_node_that_changes_meanwhile(name):
    """Making the result may run the garbage collector, and that may run anything: the node may be another by then."""
    a = Value(1.0)
    wide = (1.0,) * 1000
    node = Value(1.0, (a,) * 1000, wide)
    calls = []

    def change(phase, info):
        if phase == "start":
            calls.append(phase)
            node.__init__(2.0, (a, a, a), (1.0, 2.0, 3.0))
            calls.append([Value(1.0, (a,) * 1000, (7.0,) * 1000) for _ in range(3)])  # where the old children were

    threshold = gc.get_threshold()
    held, found = [], set()
    try:
        for first in range(1, 40):
            node.__init__(1.0, (a,) * 1000, wide)
            gc.collect()  # empties the free lists too: objects from there start no collection
            gc.callbacks.append(change)
            gc.set_threshold(first, 1000, 1000)  # of young objects alone
            held.append(getattr(node, name))
            gc.set_threshold(*threshold)
            gc.callbacks.clear()
            found.add(held[-1])
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.clear()
    assert found <= ({(a,) * 1000, (a,) * 3} if name == "_children" else {wide, (1.0, 2.0, 3.0)})


def test_signature():
    def names(kind):
        return [(parameter.name, parameter.default) for parameter in inspect.signature(kind).parameters.values()]

    assert names(Value) == names(reference.Value)
    for name in ("log", "exp", "relu", "backward"):
        assert str(inspect.signature(getattr(Value, name))) == "(self)"
    assert Value.__doc__.startswith("A number in a computation graph")
