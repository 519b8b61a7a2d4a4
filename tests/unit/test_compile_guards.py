"""What a compiled function reads from outside and no argument holds: a change of any of it is seen in the next call."""
import math
import operator
import sys

import guarded_classes
import guarded_containers
import pytest
import unguarded
from compiled_functions import only
from guarded_containers import Object, W
from unguarded import counter, generator, random_numbers_of_numpy, random_numbers_within_a_library, the_time

import microgpt
from microgpt import GPT, Value


@pytest.mark.parametrize("case", guarded_containers.CASES + guarded_classes.CASES, ids=lambda f: f.__name__)
def test_a_change_is_seen_in_the_next_call(case):
    function, change = case()
    compiled = microgpt.compile(function, fallback="error")
    for i in range(4):
        assert compiled([1.0, 2.0 + i]).data == function([1.0, 2.0 + i]).data
    assert only(compiled).replays == 2, compiled.explain()
    before = function([1.0, 2.0]).data
    change()
    assert function([1.0, 2.0]).data != before, "the case changes nothing"
    for i in range(3):
        assert compiled([1.0, 2.0 + i]).data == function([1.0, 2.0 + i]).data
    assert "had changed" in compiled.explain() and only(compiled).program is not None, compiled.explain()


# ---- what cannot be compared is refused, and runs as written ----


@pytest.mark.parametrize("case", unguarded.CASES, ids=lambda f: f.__name__)
def test_what_cannot_be_compared_runs_as_written(case):
    function, change = case()
    varies = case in (the_time, random_numbers_of_numpy, random_numbers_within_a_library)
    compiled = microgpt.compile(function)
    found = [compiled([1.0]).data for _ in range(4)]
    if case in (counter, generator):
        assert found == [3.0, 6.0, 9.0, 12.0]  # nothing is asked for in vain
    elif varies:
        assert len(set(found)) == 4
    change()
    if not varies and case not in (counter, generator):
        assert [compiled([1.0]).data for _ in range(2)] == [function([1.0]).data] * 2
    assert only(compiled).program is None and "as written" in compiled.explain(), compiled.explain()


def sets_an_attribute(o):
    def f(xs):
        setattr(o, "n", o.n + 1)  # noqa: B010
        return W * xs[0]

    return f


def sets_an_item(o):
    def f(xs):
        operator.setitem(o.__dict__, "n", o.n + 1)
        return W * xs[0]

    return f


def sets_by_dunder(o):
    def f(xs):
        o.__dict__.__setitem__("n", o.n + 1)
        return W * xs[0]

    return f


def counts_in_an_operator(o):
    class A:
        def __add__(self, x):
            o.n += 1
            return x

    a = A()
    return lambda xs: (a + W) * xs[0]


def appends_by_the_class(o):
    o.rows = []

    def f(xs):
        list.append(o.rows, 1)
        return W * xs[0]

    return f


@pytest.mark.parametrize("make", [sets_an_attribute, sets_an_item, sets_by_dunder, counts_in_an_operator, appends_by_the_class],
                         ids=lambda f: f.__name__)
def test_changes_in_roundabout_ways_happen_in_every_call(make):
    o = Object(n=0)
    compiled = microgpt.compile(make(o))
    for _ in range(6):
        compiled([1.0])
    assert (len(o.rows) if make is appends_by_the_class else o.n) == 6


# ---- what does not matter does not trace again ----


def test_other_entries_and_attributes_may_change():
    state, o = {"w": [W], "step": 0, 7: 0}, Object(k=2.0, step=0, lines=[])
    compiled = microgpt.compile(lambda xs: state["w"][0] * o.k * state[7] * isinstance(o, Object) * xs[0], fallback="error")
    for i in range(10):
        assert compiled([1.0]).data == 0.0
        state["step"] += 1
        o.step += 1
        o.lines.append(i)
    assert only(compiled).traced == 1 and only(compiled).replays == 8


def test_equal_numbers_are_the_same():
    k, table, nan = [2.0, 300], {"a": 2.5}, [float("nan")]
    compiled = microgpt.compile(lambda xs: W * k[0] * k[1] * table["a"] * len(nan) * xs[0], fallback="error")
    for _ in range(10):
        k[0], k[1], table["a"], nan[0] = float(f"{2}.0"), int(f"{300}"), float("2.5"), float("nan")
        assert compiled([1.0]).data == 3.0 * 2.0 * 300 * 2.5
    assert only(compiled).traced == 1


def test_dicts_that_hold_each_other():
    nodes = [{"w": Value(float(i)), "near": []} for i in range(5)]
    for node in nodes:
        node["near"].extend(other for other in nodes if other is not node)
    compiled = microgpt.compile(lambda xs: sum(node["w"] * xs[0] for node in nodes[0]["near"]), fallback="error")
    for _ in range(4):
        assert compiled([2.0]).data == 20.0
    nodes[3]["w"] = Value(13.0)
    assert compiled([2.0]).data == 40.0


def test_length_of_a_list_is_the_true_one():
    class Items(list):
        def __len__(self):
            return 3

    items = Items([Value(1.0), Value(2.0), Value(4.0)])

    def f(xs):
        total = W * xs[0]
        for x in items:
            total = total + x
        return total

    compiled = microgpt.compile(f)
    for _ in range(4):
        assert compiled([1.0]).data == 10.0
    list.pop(items)
    assert compiled([1.0]).data == f([1.0]).data == 6.0


def test_leaves_of_a_model_are_compared_by_what_they_are():
    model = GPT(5, n_embd=4, n_head=2, block_size=3)
    compiled = microgpt.compile(lambda xs: sum(a * b for a, b in zip(model.state_dict["wte"][1], xs)), fallback="error")
    for _ in range(6):
        assert compiled([1.0, 2.0]).data == sum(a * b for a, b in zip(model.state_dict["wte"][1], [1.0, 2.0])).data
    assert only(compiled).traced == 1


def test_arguments_by_name_find_new_defaults():
    def f(xs, k=2.0, *, j=1.0):
        return W * k * xs[0]

    compiled = microgpt.compile(f)
    for _ in range(4):
        assert compiled(xs=[1.0]).data == 6.0
    f.__defaults__ = (math.pi,)
    for _ in range(4):
        assert compiled(xs=[1.0]).data == 3.0 * math.pi
    f.__defaults__ = None
    with pytest.raises(TypeError, match="missing a required argument: 'k'|missing 1 required positional argument: 'k'"):
        compiled(xs=[1.0])


def product(n):
    return W * 0.5 if len(n) == 0 else product(n[1:]) * n[0]


def test_a_function_that_calls_itself_by_its_global_name():
    compiled = microgpt.compile(product, fallback="error")
    for n in ([], [1.5], [1.5, 2.0, 3.0]) * 3:
        assert compiled(n).data == product(n).data
    assert all(entry.replays == 1 for entry in compiled.entries.values())


def test_a_profiler_is_left_at_work():
    seen = []
    o = guarded_classes.operator_of_a_class()[0]
    compiled = microgpt.compile(o)
    sys.setprofile(lambda frame, event, what: seen.append(event))
    try:
        for _ in range(3):
            compiled([1.0])
        assert sys.getprofile() is not None
    finally:
        sys.setprofile(None)
    assert seen
    for _ in range(3):
        compiled([1.0])
    assert sys.getprofile() is None


def test_explain_says_how_much_is_compared():
    rows = [[Value(0.5)] * 1000 for _ in range(100)]
    compiled = microgpt.compile(lambda xs: rows[0][0] * rows[99][999] * xs[0], fallback="error")
    for _ in range(3):
        compiled([1.0])
    assert "100,100 items of lists and dicts from outside are compared before every call" in compiled.explain()


def test_dicts_in_dicts_are_each_looked_through_once(monkeypatch):
    """A function that goes down a chain reads each of its dicts, and what is in all of them is in the first one."""
    from microgpt.core import outside

    looked_at = []
    check_class = outside.check_class
    monkeypatch.setattr(outside, "check_class", lambda kind: (looked_at.append(kind), check_class(kind))[1])
    chain = {"end": Object(x=1.0)}
    for _ in range(50):
        chain = {"value": Value(0.5), "next": chain}

    def f(total):
        here = chain
        while "next" in here:
            total, here = total + here["value"], here["next"]
        return total

    compiled = microgpt.compile(f)
    for _ in range(3):
        assert compiled(Value(1.0)).data == f(Value(1.0)).data == 26.0
    assert 1 <= looked_at.count(Object) <= 3  # once per trace, of which there may be several
