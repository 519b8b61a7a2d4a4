"""Python in compiled functions: whatever a function is made of, a compiled one has the bits of the one as written."""
import functools
import itertools
import math
import operator
import random
import warnings
from collections import namedtuple
from dataclasses import dataclass, field
from importlib import import_module

import pytest
from conftest import ROOT, hexes

import microgpt
from microgpt import Value, reference

Pair = namedtuple("Pair", "left right")


@dataclass
class Config:
    width: int = 2
    scale: float = 0.5
    names: list = field(default_factory=lambda: ["a", "b"])


class Tensor:
    """A user's own wrapper around Values."""

    def __init__(self, items):
        self.items = items

    def __add__(self, other):
        return Tensor([a + b for a, b in zip(self.items, other.items)])

    def __mul__(self, other):
        other = other.items if isinstance(other, Tensor) else [other] * len(self.items)
        return Tensor([a * b for a, b in zip(self.items, other)])

    def __getitem__(self, i):
        return self.items[i]

    def __len__(self):
        return len(self.items)

    def __iter__(self):
        return iter(self.items)

    @property
    def total(self):
        return sum(self.items)

    @classmethod
    def zeros(cls, n):
        return cls([0.0] * n)


class Base:
    def forward(self, x):
        return [v * 2 for v in x]

    def __private(self, x):
        return x * 3

    def secret(self, x):
        return self.__private(x)


class Derived(Base):
    def forward(self, x):
        return [v + 1 for v in super().forward(x)]


def double(x):
    return x + x


def wrapper(Value, w):
    t = Tensor(w[:3])

    def f(i, x):
        y = (t + t * x) * t
        return y[i] + y.total * len(y) + sum(Tensor.zeros(2)) + sum(v for v in y)

    return f


def inheritance(Value, w):
    m = Derived()
    return lambda i, x: sum(m.forward(w[:3])) * x + m.secret(w[i])


def configuration(Value, w):
    c, pair = Config(), Pair(w[0], w[1])
    return lambda i, x: sum(w[:c.width]) * c.scale * x + pair.left * pair[1] + w[i] * len(c.names)


def higher_order(Value, w):
    def f(i, x):
        products = list(map(operator.mul, w, w[1:]))
        doubled = list(map(double, filter(lambda v: v is not None, products)))
        total = functools.reduce(lambda a, b: a * 0.5 + b, doubled)
        partial = functools.partial(lambda a, b: a * b + x, w[i])
        return total + partial(w[0]) + sum(itertools.chain(doubled, [w[0]])) + sum(itertools.accumulate(w[:3]))

    return f


def generators(Value, w):
    def pairs(items):
        for a, b in zip(items, items[1:]):
            yield a * b
        return

    def f(i, x):
        first, *rest = pairs(w)
        total = sum(rest, start=first)
        while (n := len(rest)) > 2:
            total = total + rest.pop() / n
        return total * x + w[i]

    return f


def control_flow(Value, w):
    def f(i, x):
        counter = 0

        def count():
            nonlocal counter
            counter += 1
            return counter

        total = None
        for k, v in enumerate(reversed(w)):
            if k == 1:
                continue
            if k > 4:
                break
            total = v if total is None else total * v + count()
        else:
            total = 0
        try:
            total = total + w[99]
        except IndexError:
            total = total + w[-1]
        finally:
            total = total * x
        assert isinstance(total, Value) and not isinstance(total, float)
        table = {name: value for name, value in zip("abc", w)}
        table["a"] = table["a"] * 2
        return total + table["a"] + (table.get("b") or w[0]) + w[i] if x is not None else w[0] * 0

    return f


def match(Value, w):
    def f(i, x):
        total = 0
        for kind, *values in (("one", w[0]), ("two", w[1], w[2]), ("more", *w)):
            match values:
                case [a]:
                    total = total + a * x
                case [a, b]:
                    total = total + a * b
                case _:
                    total = total + sum(values) * len(kind)
        return total + w[i]

    return f


def numbers(Value, w):
    def f(i, x):
        a = math.exp(x) + x**2 - 1 / (x + 2) + abs(-x) * 3 - (-x) + 2**x + x**0.5
        b = max(x, 0.25, w[0].data) - min([x, 1.0]) + math.sqrt(x) * math.pow(x, 3)
        return w[i] * a + b * w[0] + i * w[1] + (i / 2) * w[2] + w[3] ** x + (w[0].data + x) + [1.5, 2.5, 3.5][i] * w[4]

    return f


def shadowed(Value, w):
    """Names of builtins that are the user's own here."""

    def sum(items):  # noqa: A001
        total = 1.0
        for item in items:
            total = total * item
        return total

    def f(i, x):
        max = min  # noqa: A001
        return sum(w) * x + w[i] * max(1.0, 2.0)

    return f


def rows_and_keywords(Value, w):
    rows = [[w[0], w[1]], [w[2], w[3]], (w[4], w[5])][:2]

    def layer(x, /, weight, *, bias=0.0, **rest):
        return [sum(a * b for a, b in zip(weight, x)) + bias] + list(rest.values())

    def f(i, x):
        row = rows[i % 1] if False else rows[i]
        a, b = row
        return sum(layer(row, rows[0], bias=w[5], extra=a * x)) + b

    return f


def stateful_objects(Value, w):
    class Accumulator:
        def __init__(self):
            self.items, self.n = [], 0

        def push(self, v):
            self.items.append(v)
            self.n = self.n + 1
            return self

    def f(i, x):
        acc = Accumulator()
        for v in w:
            acc.push(v * x)
        acc.push(w[i]).push(acc.items[0])
        return sum(acc.items) / acc.n

    return f


def sequence_of_indices(Value, w):
    """The same argument as index of several lists, an index used in an inner and an outer scope."""
    table = [[w[0], w[1]], [w[2], w[3]], [w[4], w[5]]]
    weights = [0.1, 0.2, 0.3]

    def f(i, x):
        return sum(table[i][k] * weights[i] for k in range(2)) * table[i][0] + [v * w[i] for v in table[i]][1] * x

    return f


def computed_indices(Value, w):
    """Indices computed from int arguments: offsets, strides, hashes."""
    table = w

    def f(i, x):
        return (table[i + 1] * x + table[(31 * i + 2) % 6] * i + table[-i + 2] * (i // 2) + table[2 * i - 1] * (i * x)
                + table[i] ** (i + 1))

    return f


def deep_chain(Value, w):
    def f(i, x):
        y = w[i]
        for _ in range(3000):
            y = y * 0.999 + x * 0.001
        return y * w[0]

    return f


ALL = [wrapper, inheritance, configuration, higher_order, generators, control_flow, match, numbers, shadowed,
       rows_and_keywords, stateful_objects, sequence_of_indices, computed_indices, deep_chain]


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_bits_of_the_function_as_written(make):
    rng = random.Random(3)
    start = [rng.uniform(0.2, 1.0) for _ in range(6)]
    ours, theirs = [Value(x) for x in start], [reference.Value(x) for x in start]
    compiled, plain = microgpt.compile(make(Value, ours)), make(reference.Value, theirs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in range(6):
            arguments = call % 2 if make is rows_and_keywords else call % 3, 0.25 + call / 8
            a, b = compiled(*arguments), plain(*arguments)
            a.backward()
            b.backward()
            assert hexes([a.data]) == hexes([b.data])
            assert hexes(v.grad for v in ours) == hexes(v.grad for v in theirs)
    assert all(entry.program is not None for entry in compiled.entries.values()), compiled.explain()


def test_functions_of_another_module(tmp_path, monkeypatch):
    (tmp_path / "users_layers.py").write_text(
        "def pick(rows, i, x):\n    return [v * x for v in rows[i]]\n\n\nBIAS = 0.5\n\n\n"
        "def biased(v):\n    return max(v.data, 0.0) * v + BIAS\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    users_layers = import_module("users_layers")
    w = [[Value(0.5), Value(1.5)], [Value(-2.5), Value(3.5)]]
    f = microgpt.compile(lambda i, x: sum(users_layers.biased(v) for v in users_layers.pick(w, i, x)))
    for bias in (0.5, 0.75):
        users_layers.BIAS = bias
        for i in (0, 1, 0, 1):
            expected = sum(max(v.data * 2.0, 0.0) * (v.data * 2.0) + bias for v in w[i])
            assert f(i, 2.0).data == expected
        assert any(entry.program is not None for entry in f.entries.values()), f.explain()


def test_program_of_the_documentation_is_compiled(command, tmp_path):
    text = (ROOT / "docs" / "howto" / "compile.md").read_text(encoding="utf-8")
    (tmp_path / "program.py").write_text(text.split("```python\n")[1].split("```")[0], encoding="utf-8")
    done = command("program.py")
    assert done.returncode == 0 and done.stderr == ""
    assert "list of 6 int): compiled: " in done.stdout
