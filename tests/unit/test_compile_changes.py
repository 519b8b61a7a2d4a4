"""Objects that a compiled function changes: those it made itself are traced once, those from outside change in every call."""
import bisect
import builtins
import collections
import concurrent.futures
import copy
import dataclasses
import heapq
import inspect
import itertools
import json
import operator
import pickle
import queue
import random
import struct
import sys
import types
import warnings
import weakref

import numpy
import pytest
from compiled_functions import only, replayed

import microgpt
from microgpt import Value

W = [Value(0.5 + i / 8) for i in range(6)]
TABLE = {"a": W[0], "b": W[1]}


@dataclasses.dataclass
class State:
    h: object = None
    items: list = dataclasses.field(default_factory=list)


class Row(list):
    pass


# ---- what the function makes itself may be changed: traced once ----


def comprehension_of_a_dict(x):
    table = {name: w for name, w in zip("abc", W)}
    table["a"] = table["a"] * x
    return table["a"] * table["b"]


def comprehension_of_a_list(x):
    row = [w for w in W]
    row[0] = row[0] * x
    row += [row[0]]
    return row[0] * row[-1]


def dict_display(x):
    table = {"a": W[0], "b": {"c": W[1]}}
    table["a"] = table["a"] * x
    table["b"]["c"] = table["b"]["c"] * table["a"]
    del table["a"]
    return table["b"]["c"] * 2


def dict_called(x):
    table = dict(a=W[0])
    table["a"] = table["a"] * x
    return table["a"] * 2


def copy_of_a_dict(x):
    table, other, both = TABLE.copy(), dict(TABLE), TABLE | {"c": W[2]}
    for each in (table, other, both):
        each["a"] = each["a"] * x
    return table["a"] * other["a"] + both["a"] * both["c"]


def default_dict(x):
    table = collections.defaultdict(list)
    table["a"].append(W[0])
    table["a"][0] = table["a"][0] * x
    return table["a"][0] * 2


def updated_dict(x):
    table = dict.fromkeys("ab", W[0])
    table.update(b=W[1])
    table["b"] = table["b"] * x
    return table["b"] * table.setdefault("a", W[2])


def namespace(x):
    state = types.SimpleNamespace(h=W[0])
    state.h = state.h * x
    return state.h * 2


def dataclass(x):
    state = State(W[0])
    state.h = state.h * x
    state.items.append(state.h)
    return state.items[0] * 2


def list_subclass(x):
    row = Row([W[0]])
    row[0] = row[0] * x
    row.append(W[1])
    return row[0] * row[1]


def sorted_copy(x):
    names = sorted(["b", "a"])
    names[0] = names[0] + ""
    return TABLE[names[0]] * x


MADE_INSIDE = [comprehension_of_a_dict, comprehension_of_a_list, dict_display, dict_called, copy_of_a_dict, default_dict,
               updated_dict, namespace, dataclass, list_subclass, sorted_copy]


@pytest.mark.parametrize("function", MADE_INSIDE, ids=lambda f: f.__name__)
def test_what_the_function_made_may_be_changed(function):
    compiled = microgpt.compile(function, fallback="error")
    for i in range(14):
        assert compiled(i / 4).data == function(i / 4).data
    assert only(compiled).traced == 1 and only(compiled).replays == 12, compiled.explain()


# ---- what comes from outside may not ----


@pytest.mark.parametrize("kind", ["item", "deep", "alias", "delete", "method", "class attribute", "slice"])
def test_changes_of_what_comes_from_outside_happen_in_every_call(kind):
    class Log:
        seen = [0.0]

    counts = {"n": 0, "rows": [[0.0]], "gone": list(range(20))}

    def f(x):
        if kind == "item":
            counts["n"] += 1
        elif kind == "deep":
            for row in counts["rows"]:
                row[0] = row[0] + 1
        elif kind == "alias":
            rows = counts["rows"]
            rows += [[1.0]]
        elif kind == "delete":
            del counts["gone"][0]
        elif kind == "method":
            for row in counts["rows"]:
                row.append(1.0)
        elif kind == "slice":
            counts["rows"][:] = [[counts["rows"][0][0] + 1]]
        else:
            Log.seen[0] = Log.seen[0] + 1
        return W[0] * x

    compiled = microgpt.compile(f)
    for _ in range(6):
        assert compiled(0.5).data == W[0].data * 0.5
    assert {"item": counts["n"], "deep": counts["rows"][0][0], "slice": counts["rows"][0][0], "alias": len(counts["rows"]) - 1,
            "delete": 20 - len(counts["gone"]), "method": len(counts["rows"][0]) - 1, "class attribute": Log.seen[0]}[kind] == 6
    assert "of a list from outside" in compiled.explain() or "from outside is changed" in compiled.explain(), compiled.explain()
    assert only(compiled).traced == 1


SEEN, QUEUE = [], queue.SimpleQueue()
HOLDER = types.SimpleNamespace(rows=SEEN)
BUSY, USERS, REFERENCE, COUNTS = queue.Queue(), collections.UserList(), weakref.ref(QUEUE), collections.Counter()
COLUMN = collections.OrderedDict(n=0)


@pytest.mark.parametrize("change, count", [
    (lambda: heapq.heappush(SEEN, 1), "len(SEEN)"),
    (lambda: bisect.insort(SEEN, 1), "len(SEEN)"),
    (lambda: operator.methodcaller("append", 1)(SEEN), "len(SEEN)"),
    (lambda: operator.methodcaller("update", n=COLUMN["n"] + 1)(COLUMN), 'COLUMN["n"]'),
    (lambda: operator.attrgetter("rows")(HOLDER).append(1), "len(SEEN)"),
    (lambda: vars(HOLDER)["rows"].append(1), "len(SEEN)"),
    (lambda: globals()["SEEN"].append(1), "len(SEEN)"),
    (lambda: globals().__setitem__("COUNTED", globals().get("COUNTED", 0) + 1), 'globals()["COUNTED"]'),
    (lambda: COUNTS.update("a"), 'COUNTS["a"]'),
    (lambda: COUNTS.subtract("a"), '-COUNTS["a"]'),
    (lambda: BUSY.put(1), "BUSY.qsize()"),
    (lambda: REFERENCE().put(1), "QUEUE.qsize()"),
    (lambda: USERS.append(1), "len(USERS)"),
    (lambda: warnings.warn("often", UserWarning, stacklevel=1), "len(warned)"),
], ids=range(14))  # fmt: skip
def test_changes_by_functions_of_python_happen_in_every_call(change, count):
    SEEN.clear()
    COUNTS.clear()
    compiled = microgpt.compile(lambda x: (change(), W[0] * x)[1])
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(6):
            assert compiled(0.5).data == W[0].data * 0.5
    assert eval(count, {**globals(), "warned": warned}) == 6
    assert only(compiled).traced == 1 and " in a compiled function" in compiled.explain(), compiled.explain()


def given_rows(rows=SEEN):
    """A function with a default, an attribute and a name of its module."""


def held_rows():
    rows = SEEN
    return lambda: rows


class Holder:
    """A class whose objects hold SEEN in a slot."""

    __slots__ = ("__weakref__", "rows")
    held = SEEN

    def __init__(self):
        self.rows = SEEN

    @property
    def read(self):
        return SEEN


given_rows.rows = SEEN
IN_A_CELL, IN_A_SLOT, BYTES, ARRAY = held_rows(), Holder(), bytearray(8), numpy.zeros(2)
NAMES, LINED, NUMBERS = collections.UserDict(n=0), collections.ChainMap({"n": 0, "rows": SEEN}), [*range(8)]
SHUFFLED = [*NUMBERS]
for _ in range(6):
    random.Random(1).shuffle(SHUFFLED)
BY_OBJECT = weakref.WeakKeyDictionary({IN_A_SLOT: SEEN})
POOL = concurrent.futures.ThreadPoolExecutor(1)
FROM_OUTSIDE = [
    # Namespaces: frames, modules, functions, classes.
    lambda: inspect.currentframe().f_globals["SEEN"].append(1),
    lambda: sys._getframe().f_globals["SEEN"].append(1),
    lambda: operator.attrgetter("f_globals")(sys._getframe())["SEEN"].append(1),
    lambda: inspect.stack()[0].frame.f_globals["SEEN"].append(1),
    lambda: sys._getframe().f_locals.get("SEEN", SEEN).append(1),
    lambda: sys.modules[__name__].SEEN.append(1),
    lambda: sys.modules[__name__].__dict__["SEEN"].append(1),
    lambda: getattr(builtins, "eval")("SEEN").append(1),  # noqa: B009
    lambda: given_rows.__globals__["SEEN"].append(1),
    lambda: given_rows.__defaults__[0].append(1),
    lambda: given_rows.__dict__["rows"].append(1),
    lambda: given_rows.rows.append(1),
    lambda: IN_A_CELL.__closure__[0].cell_contents.append(1),
    lambda: vars(Holder)["held"].append(1),
    lambda: Holder.__dict__["held"].append(1),
    # Ways around x.name.
    lambda: type.__getattribute__(Holder, "held").append(1),
    lambda: object.__getattribute__(IN_A_SLOT, "rows").append(1),
    lambda: super(Holder, IN_A_SLOT).__getattribute__("rows").append(1),
    lambda: Holder.rows.__get__(IN_A_SLOT).append(1),
    lambda: Holder.read.__get__(IN_A_SLOT).append(1),
    lambda: inspect.getattr_static(Holder, "held").append(1),
    lambda: dict(inspect.getmembers(HOLDER))["rows"].append(1),
    # What functions return that are not recorded.
    lambda: copy.copy(HOLDER).rows.append(1),
    lambda: pickle.loads(f"c{__name__}\nSEEN\n.".encode()).append(1),
    lambda: LINED["rows"].append(1),
    lambda: BY_OBJECT[IN_A_SLOT].append(1),
    # Functions that call what changes something.
    lambda: SEEN.append.__call__(1),
    lambda: type(SEEN.append).__call__(SEEN.append, 1),
    lambda: sorted([1], key=SEEN.append),
    lambda: max([1], key=SEEN.append),
    lambda: [*itertools.starmap(SEEN.append, [(1,)])],
    lambda: json.loads("{}", object_hook=SEEN.append),
    lambda: POOL.submit(SEEN.append, 1).result(),
]  # fmt: skip


@pytest.mark.parametrize("change", FROM_OUTSIDE, ids=range(len(FROM_OUTSIDE)))
def test_what_is_found_in_a_roundabout_way_changes_in_every_call(change):
    SEEN.clear()
    compiled = microgpt.compile(lambda x: (change(), W[0] * x)[1])
    for _ in range(6):
        assert compiled(0.5).data == W[0].data * 0.5
    assert len(SEEN) == 6 and only(compiled).traced == 1 and " in a compiled function" in compiled.explain(), compiled.explain()


CHANGED_IN_PLACE = [
    (lambda: SEEN.__init__([*SEEN, 1]), lambda: len(SEEN)),
    (lambda: list.__init__(SEEN, [*SEEN, 1]), lambda: len(SEEN)),
    (lambda: numpy.copyto(ARRAY, ARRAY + 1), lambda: ARRAY[0]),
    (lambda: numpy.add(ARRAY, 1, out=ARRAY), lambda: ARRAY[0]),
    (lambda: operator.setitem(ARRAY.reshape(2, 1), 0, ARRAY[0] + 1), lambda: ARRAY[0]),
    (lambda: operator.setitem(numpy.asarray(ARRAY).T, 0, ARRAY[0] + 1), lambda: ARRAY[0]),
    (lambda: struct.pack_into("d", BYTES, 0, struct.unpack_from("d", BYTES)[0] + 1), lambda: struct.unpack("d", BYTES)[0]),
    (lambda: collections.UserDict.__setitem__(NAMES, "n", NAMES["n"] + 1), lambda: NAMES["n"]),
    (lambda: LINED.__setitem__("n", LINED["n"] + 1), lambda: LINED["n"]),
    (lambda: random.Random(1).shuffle(NUMBERS), lambda: 6 if NUMBERS == SHUFFLED else NUMBERS),
]


@pytest.mark.parametrize("change, count", CHANGED_IN_PLACE, ids=range(len(CHANGED_IN_PLACE)))
def test_what_functions_of_libraries_change_in_place_is_changed_in_every_call(change, count):
    SEEN.clear()
    ARRAY.fill(0)
    compiled = microgpt.compile(lambda x: (change(), W[0] * x)[1])
    for _ in range(6):
        assert compiled(0.5).data == W[0].data * 0.5
    assert count() == 6 and only(compiled).traced == 1 and "from outside" in compiled.explain(), compiled.explain()


@pytest.mark.parametrize("change", [
    lambda rows: dict(zip("ab", rows))["a"].append(2.0),
    lambda rows: max(rows, key=len).append(2.0),
    lambda rows: copy.copy(rows)[0].append(2.0),
    lambda rows: next(itertools.chain(rows)).append(2.0),
    lambda rows: operator.itemgetter(0)(rows).append(2.0),
    lambda rows: sorted(rows, key=len)[0].append(2.0),
    lambda rows: random.Random(1).sample(rows, 1)[0].append(2.0),
    lambda rows: copy.copy(types.SimpleNamespace(rows=rows)).rows[0].append(2.0),
    lambda rows: list(map(rows[0].append, [2.0])),
    lambda rows: (numpy.zeros(2).reshape(2, 1).T.__setitem__((0, 0), 2.0), rows[0].append(2.0)),
], ids=range(10))  # fmt: skip
def test_what_the_function_has_made_is_its_own_wherever_it_finds_it(change):
    def f(x):
        rows = [[1.0]]
        change(rows)
        return W[0] * x * rows[0][1]

    compiled = microgpt.compile(f)
    assert [compiled(0.5).data for _ in range(3)] == [W[0].data * 0.5 * 2.0] * 3
    assert replayed(compiled), compiled.explain()


class Table:
    """A class with items of its own, changed in place by +=."""

    def __init__(self):
        self.items, self.n = {}, 0

    def __setitem__(self, name, number):
        self.items[name] = number

    def __iadd__(self, n):
        self.n = self.n + n
        return self


OUTSIDE = {"array": numpy.zeros(2), "table": Table(), "deque": collections.deque(), "layers": [types.SimpleNamespace(rows=[[0.0]])]}


def sets_an_array(x):
    OUTSIDE["array"][0] = OUTSIDE["array"][0] + 1
    return W[0] * x


def adds_to_an_array(x):
    array = OUTSIDE["array"]
    array += 1
    return W[0] * x


def sets_an_item_of_a_class(x):
    OUTSIDE["table"]["x"] = len(OUTSIDE["table"].items)
    return W[0] * x


def adds_to_an_object(x):
    table = OUTSIDE["table"]
    table += 1
    return W[0] * x


def fills_a_deque(x):
    OUTSIDE["deque"].appendleft(x)
    return W[0] * x


def sets_what_an_attribute_holds(x):
    for layer in OUTSIDE["layers"]:
        for row in layer.rows:
            row[0] = row[0] + 1
    return W[0] * x


def sets_what_an_attribute_holds_later(x):
    """The object is known to be from outside before its attribute is read."""
    layer = OUTSIDE["layers"][0]
    "a b".split().append("c")
    layer.rows[0][0] += 1
    return W[0] * x


@pytest.mark.parametrize("function", [sets_an_array, adds_to_an_array, sets_an_item_of_a_class, adds_to_an_object, fills_a_deque,
                                      sets_what_an_attribute_holds, sets_what_an_attribute_holds_later], ids=lambda f: f.__name__)
def test_changes_of_any_object_from_outside_happen_in_every_call(function):
    def state():
        return [*OUTSIDE["array"], OUTSIDE["table"].n, len(OUTSIDE["deque"]), OUTSIDE["layers"][0].rows[0][0]]

    compiled, before = microgpt.compile(function), state()
    for _ in range(5):
        compiled(0.5)
    if function is not sets_an_item_of_a_class:
        assert [5.0 for a, b in zip(state(), before) if a != b] == [b - a for a, b in zip(before, state()) if a != b] != []
    assert only(compiled).program is None and "from outside" in compiled.explain()


def test_objects_made_inside_may_be_changed():
    def f(x):
        table, queue, both = Table(), collections.deque([x]), [W[0]] + [W[1]]
        table["x"] = W[0] * x
        table += 2
        queue.appendleft(W[2])
        both[0] = both[0] * queue[0]
        return table.items["x"] * queue[0] * table.n + both[0]

    compiled = microgpt.compile(f, fallback="error")
    for i in range(6):
        assert compiled(i / 4).data == f(i / 4).data
    assert only(compiled).traced == 1


def test_changes_of_a_list_argument_are_seen_by_the_caller():
    @microgpt.compile
    def scaled(xs):
        xs[0] = xs[0] * 2
        return W[0] * xs[0]

    @microgpt.compile
    def appending(xs):
        xs.append(1.0)
        return W[0] * xs[0]

    for _ in range(5):
        xs = [1.5, 2.0]
        assert scaled(xs).data == W[0].data * 3.0 and xs == [3.0, 2.0]
        xs = [1.5, 2.0]
        assert appending(xs).data == W[0].data * 1.5 and xs == [1.5, 2.0, 1.0]
    assert "a list argument is changed" in scaled.explain() and "a list argument is appended to" in appending.explain()


def test_lists_of_the_users_own_class_are_no_constants():
    f = microgpt.compile(lambda xs: W[0] * xs[0])
    xs = Row([1.0])
    for i in range(5):
        xs[0] = float(i)
        assert f(xs).data == W[0].data * i
    assert "the argument xs is a Row" in f.explain()


def test_entries_of_ordered_dicts_are_watched():
    settings = collections.OrderedDict(rate=1.0)
    f = microgpt.compile(lambda x: W[0] * settings["rate"] * x, fallback="error")
    for i in range(12):
        settings["rate"] = float(i // 4)
        assert f(0.5).data == W[0].data * settings["rate"] * 0.5
    assert only(f).traced == 3


@pytest.mark.parametrize("kind", [collections.OrderedDict, collections.Counter, lambda x: collections.defaultdict(list, x)])
def test_subclasses_of_dict_are_compiled(kind):
    table = kind({"a": W[0], "b": W[1], "c": W[2]})
    f = microgpt.compile(lambda x: sum((i * p for i, p in enumerate(table.values())), table["b"] * len(table)) * x, fallback="error")
    for i in range(24):
        if i == 8:
            table["d"] = W[3]
        if i == 16:
            table["a"] = table.pop("a")  # now the last
        x = i / 4
        assert f(x).data == (sum((i * p for i, p in enumerate(table.values())), table["b"] * len(table)) * x).data
    assert only(f).traced == 3


def test_properties_and_getitem_of_the_users_classes_are_traced():
    class Model:
        def __init__(self):
            self._scale, self.rows = 1.0, [W[0], W[1]]

        @property
        def scale(self):
            return self._scale * self.rows[0].data

        def __getitem__(self, i):
            return self.rows[i] * self._scale

    model = Model()
    f = microgpt.compile(lambda x: W[2] * model.scale * x + model["0" != "1"], fallback="error")
    for i in range(12):
        model._scale = float(i // 4)
        W[0].data = 0.5 + i
        assert f(0.5).data == (W[2] * model.scale * 0.5 + model[True]).data
    W[0].data = 0.5


def test_get_watches_the_one_entry_that_it_asks_for():
    table = {str(i): float(i) for i in range(100)}
    f = microgpt.compile(lambda x: W[0] * table.get("5", 0.0) * table.get("none", 2.0) * x)
    for i in range(12):
        table["7"] = float(i)
        table["5"] = float(i // 6)
        assert f(0.5).data == W[0].data * table["5"] * 2.0 * 0.5
    assert only(f).traced == 2 and len(only(f).guards) < 10
