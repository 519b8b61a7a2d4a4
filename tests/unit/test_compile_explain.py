"""Nothing is slow in silence: what is traced again or runs as written says why in explain(), and does so only so often."""
import dataclasses
import fractions
import types

import numpy
import pytest
from compiled_functions import only

import microgpt
from microgpt import Value
from microgpt.compiler import CompileError

W = [Value(0.5 + i / 8) for i in range(6)]


@dataclasses.dataclass
class State:
    h: object = None
    items: list = dataclasses.field(default_factory=list)


# ---- calls that run as written although there is a program ----


@pytest.mark.parametrize("function, first, others, why", [
    (lambda i: W[i] * 2, (1,), (-1,), "negative or out of range"),
    (lambda i: W[i // 2] * (1 // i), (4,), (0,), "division by zero"),
    (lambda x: (W[0] * x).log(), (1.0,), (0.0,), "Python might raise an error"),
    (lambda xs: xs[0] * xs[1], ([W[0], W[1]],), ([W[2], W[2]],), "a Value is passed twice"),
    (lambda i: W[0] * i, (1,), (1 << 40,), "an int beyond 32 bits"),
], ids=["negative", "derived", "error", "twice", "large"])
def test_says_how_many_calls_ran_as_written(function, first, others, why):
    compiled = microgpt.compile(function)
    for _ in range(3):
        compiled(*first)
    assert why not in compiled.explain()
    for _ in range(3):
        try:
            expected = function(*others).data
        except ArithmeticError as error:
            with pytest.raises(type(error)):
                compiled(*others)
        except ValueError:
            with pytest.raises(ValueError):
                compiled(*others)
        else:
            assert compiled(*others).data == expected
    assert "3 calls ran as written" in compiled.explain() and why in compiled.explain()


def test_keyword_only_arguments_run_as_written_and_it_is_said():
    def f(x, *, rate=1.0):
        return W[0] * x * rate

    compiled = microgpt.compile(f)
    for rate in (2.0, 3.0, 4.0):
        assert compiled(0.5, rate=rate).data == W[0].data * 0.5 * rate
    assert compiled(x=0.5).data == W[0].data * 0.5 * 1.0
    assert "3 calls ran as written: a keyword-only argument" in compiled.explain()
    with pytest.raises(CompileError, match="keyword-only"):
        microgpt.compile(f, fallback="error")(0.5, rate=2.0)


def test_graphs_that_are_written_out_are_counted():
    f = microgpt.compile(lambda x: (W[0] * x, W[1] * x))
    for _ in range(6):
        f(0.5)[1].backward()
    assert "the graph of 4 calls was written out" in f.explain()


# ---- tracing again and again ----


def test_what_changes_now_and_then_is_traced_again_each_time():
    settings = types.SimpleNamespace(rate=0.0)
    f = microgpt.compile(lambda x: W[0] * settings.rate * x)
    for i in range(400):
        settings.rate = float(i // 20)
        assert f(0.5).data == W[0].data * settings.rate * 0.5
    assert only(f).program is not None and only(f).traced == 20
    assert "traced 20 times, because SimpleNamespace.rate had changed" in f.explain()


def test_what_changes_in_every_call_is_traced_a_few_times_only():
    settings = types.SimpleNamespace(rate=0.0)
    f = microgpt.compile(lambda x: W[0] * settings.rate * x)
    for i in range(100):
        settings.rate = float(i)
        assert f(0.5).data == W[0].data * i * 0.5
    assert only(f).traced == 9 and "changes from call to call" in f.explain()


def test_a_function_that_raises_where_it_is_traced_is_traced_a_few_times_only():
    def f(x):
        y = W[0] * x
        return y.log() if y.data > 0 else [][0]

    compiled = microgpt.compile(f)
    for _ in range(60):
        with pytest.raises(IndexError):
            compiled(-1.0)
    assert only(compiled).traced == 8 and "raises an error (IndexError)" in compiled.explain()
    assert compiled(1.0).data == (W[0] * 1.0).log().data


def test_shapes_that_do_not_come_again_are_compiled_a_few_times_only():
    f = microgpt.compile(lambda xs: sum(xs) * W[0])
    traced = 0
    for n in range(1, 400):
        for _ in range(2):
            assert f([0.5] * n).data == (sum([0.5] * n) * W[0]).data
        traced += list(f.entries.values())[-1].traced
    assert traced < 100, traced
    assert "335 shapes were dropped" in f.explain() and "compiling was often of no use" in f.explain()
    assert "the argument xs has 64 of these shapes" in f.explain()


def test_another_object_in_every_call_is_said():
    f = microgpt.compile(lambda state, x: state.h * x)
    for _ in range(100):
        assert f(State(W[0]), 0.5).data == W[0].data * 0.5
    assert "the argument state is, or holds, another State in nearly every call" in f.explain()


@pytest.mark.parametrize("wrap", [lambda s: [s], lambda s: [[s], 0.5], lambda s: {"s": s}], ids=["list", "nested", "dict"])
def test_another_object_in_a_container_is_said(wrap):
    f = microgpt.compile(lambda given: W[0] * 0.5)
    for _ in range(12):
        f(wrap(State(W[0])))
    assert "is, or holds, another" in f.explain()


@pytest.mark.parametrize("convert", [numpy.int64, numpy.float32, numpy.float64, fractions.Fraction, numpy.array],
                         ids=["int64", "float32", "float64", "Fraction", "array"])
def test_numbers_of_libraries_are_said(convert):
    f = microgpt.compile(lambda x, i: W[0] * float(x) * i)
    for i in range(6):
        assert f(convert(i), 2).data == W[0].data * float(convert(i)) * 2
    assert f"6 calls ran as written: an argument is a {type(convert(1)).__name__}" in f.explain()


def test_compile_in_a_loop_is_said():
    for _ in range(12):
        f = microgpt.compile(lambda x: W[0] * x)
        f(0.5)
    assert "compile() was called 12 times with this function" in f.explain()
    for _ in range(3):
        f(0.5)
    assert "was called" not in f.explain()


def test_functions_that_cannot_be_traced_are_traced_less_and_less():
    def f(xs):
        print(end="")
        return sum(xs) * W[0]

    compiled = microgpt.compile(f)
    for n in range(1, 60):
        for _ in range(2):
            compiled([0.5] * n)
    assert sum(entry.traced for entry in compiled.entries.values()) == 8
    assert "print() in a compiled function" in compiled.explain()


# ---- static arguments ----


@pytest.mark.parametrize("static", [1, "n", [1], ("n",), {1}])
def test_static_takes_names_and_positions(static):
    @microgpt.compile(static=static)
    def power(x, n):
        total = x
        for _ in range(n):
            total = total * x
        return total

    x = Value(1.5)
    for n in (2, 3, 2, 3, 2, 3):
        assert power(x, n).data == 1.5 ** (n + 1)
    assert len(power.entries) == 2 and all(entry.program for entry in power.entries.values())


def test_position_0_can_be_static():
    f = microgpt.compile(lambda n, x: sum(W[:n]) * x, static=0, fallback="error")
    for n in (2, 3, 2, 3, 2, 3):
        assert f(n, 0.5).data == (sum(W[:n]) * 0.5).data
    assert len(f.entries) == 2


@pytest.mark.parametrize("static, error, words", [
    (2, ValueError, "has 2 arguments, counted from 0"),
    (-1, ValueError, "has 2 arguments, counted from 0"),
    (True, TypeError, "names or positions"),
    ([1.5], TypeError, "names or positions"),
    ([None], TypeError, "names or positions"),
    ("rate", ValueError, "only arguments that can be passed by position"),
    ("m", ValueError, "no such argument"),
])
def test_static_that_is_no_argument(static, error, words):
    def f(x, n=1):
        return W[0] * x * n

    def g(x, *, rate=1.0):
        return W[0] * x * rate

    with pytest.raises(error, match=words):
        microgpt.compile(g if static == "rate" else f, static=static)


def test_positions_beyond_the_names_are_those_of_starred_arguments():
    f = microgpt.compile(lambda x, *rest: sum(W[:rest[1]]) * x, static=2)
    for n in (1, 2, 1, 2, 1, 2):
        assert f(0.5, 7, n).data == (sum(W[:n]) * 0.5).data
    assert len(f.entries) == 2
