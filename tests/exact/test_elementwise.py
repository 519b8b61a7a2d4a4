"""Optimizer loops done for all parameters at once, bit for bit against the loop over reference Values."""
import ast
import math
import random

import pytest
from conftest import hexes

from microgpt import Value, reference
from microgpt.core.elementwise import Elementwise
from microgpt.scripting.optimizer import Unfit, UpdateLoop

ODD = [0.0, -0.0, 5e-324, -5e-324, 1e-310, 1e300, -1e160, math.inf, -math.inf, math.nan]
LOOPS = {
    "sgd": "for p in params:\n    p.data -= rate * p.grad\n    p.grad = 0",
    "momentum": "for i, p in enumerate(params):\n    m[i] = 0.9 * m[i] + p.grad + 0.01 * p.data\n    p.data = p.data - rate * m[i]\n"
                "    p.grad = 0",
    "adamw": "for i, p in enumerate(params):\n    m[i] = 0.9 * m[i] + (1 - 0.9) * p.grad\n"
             "    v[i] = 0.99 * v[i] + (1 - 0.99) * p.grad ** 2\n"
             "    a, b = m[i] / (1 - 0.9 ** (step + 1)), v[i] / (1 - 0.99 ** (step + 1))\n"
             "    p.data -= rate * a / (b ** 0.5 + 1e-8) + rate * 0.1 * p.data\n    p.grad *= 0.5",
    "rmsprop": "for i, (p, s) in enumerate(zip(params, v)):\n    v[i] = s * 0.9 + p.grad ** 2\n"
               "    p.data -= rate * p.grad / (v[i] ** 0.5 + 1e-8)",
    "functions": "for i in range(len(params)):\n    p = params[i]\n    g = abs(p.grad) + 2 * math.sqrt(p.data * p.data)\n"
                 "    v[i] = 3 - pow(g, 3) / math.exp(-g / 1e5)\n    p.data = (-m[i] - +v[i]) / 1e3\n    m[i] = rate = 0.5",
    "powers": "for p in params:\n    p.data = p.data ** 2 + (1 + p.grad ** 2) ** -0.5 - 1 / (2 + p.grad ** 2) ** 1.5",
}  # fmt: skip


def run_as_written(text, params, m, v, rate, step):
    exec(text, {"params": params, "m": m, "v": v, "rate": rate, "step": step, "math": math})


def compiled(text, params, m, v):
    loop = UpdateLoop(ast.parse(text).body[0])
    lists = [{"m": m, "v": v}[x.id] for x in loop.lists]
    return loop, lists, Elementwise(params, lists, len(loop.scalars), loop.code, loop.stored)


@pytest.mark.parametrize("n", [1, 7, 8, 511, 512, 513, 1100])
@pytest.mark.parametrize("name", LOOPS)
def test_has_the_bits_of_the_loop(isa, name, n):
    rng = random.Random(n)
    params = [Value(rng.gauss(0, 1)) for _ in range(3 * n)][: 2 * n : 2] if n == 7 else [Value(rng.gauss(0, 1)) for _ in range(n)]
    others = [reference.Value(p.data) for p in params]
    m, v = [rng.gauss(0, 1) for _ in params], [rng.random() for _ in params]
    loop, lists, update = compiled(LOOPS[name], params, m, v)
    other_m, other_v = list(m), list(v)
    for step in range(3):
        for p, q in zip(params, others):
            p.grad = q.grad = rng.gauss(0, 1) if rng.random() < 0.9 else rng.choice([0.0, -0.0, 1e-310, 1e-160])
        rate = 0.1 / (step + 1)
        scalars = [eval(compile(ast.Expression(x), "", "eval"), {"rate": rate, "step": step, "math": math}) for x in loop.scalars]
        assert update.step(scalars)
        run_as_written(LOOPS[name], others, other_m, other_v, rate, step)
        assert hexes([p.data for p in params]) == hexes([float(q.data) for q in others])
        assert hexes([p.grad for p in params]) == hexes([float(q.grad) for q in others])
        for k, numbers in enumerate(lists):
            assert hexes(update.get_list(k)) == hexes([float(x) for x in (other_m if numbers is m else other_v)])


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("what", ["x + 1", "x - 0.5", "1 - x", "-x", "x * x", "1 / x",
                                  "x / 3", "x ** 2", "x ** 0.5", "x ** -0.5", "x ** -1", "x ** -2", "x ** -1.5",
                                  "x ** 3", "x ** 1", "math.sqrt(x)", "abs(x)", "math.exp(x)", "math.log(x)"])
def test_odd_numbers_have_pythons_result_or_are_left_to_python(isa, what, odd):
    params = [Value(0.5) for _ in range(12)]
    params[10].data = odd
    loop, _, update = compiled(f"for p in params:\n    x = p.data\n    p.grad = {what}", params, [], [])
    done = update.step([eval(compile(ast.Expression(x), "", "eval")) for x in loop.scalars])
    try:
        expected = eval(what, {"x": odd, "math": math})
    except (ArithmeticError, ValueError):
        expected = None
    if isinstance(expected, complex):
        expected = None
    if done:
        assert hexes([params[10].grad]) == hexes([expected])
    else:  # nothing is changed
        assert not math.isfinite(odd) or expected is None or not math.isfinite(expected)
        assert [p.grad for p in params] == [0.0] * 12


@pytest.mark.parametrize("text, why", [
    ("for p in params:\n    total = total + p.grad\n    p.data -= total", "total goes from one parameter to the next"),
    ("for p in params:\n    if p.grad > 1:\n        p.data = 0.0", "there is an if in it"),
    ("for i, p in enumerate(params):\n    p.data -= i * p.grad", "i is used as a number"),
    ("for p in params:\n    p.data -= f(p.grad)", "f() is called in it"),
    ("for p in params:\n    p.data = 2.0 ** p.grad", "a power has another exponent for each parameter"),
    ("for p in params:\n    p.data = p.data // 2", "another operation"),
    ("for p, q in zip(params, others):\n    p.data = q.data", "two lists of Values"),
    ("for i, p in enumerate(params):\n    m[i] = p.grad\n    p.data -= m[0]", "one element of a list"),
    ("for i, p in enumerate(params):\n    m[i - 1] = p.grad\n    p.data -= 1", "something else"),
    ("for i, p in enumerate(params, 1):\n    p.data -= 1", "enumerate() is used in another way"),
    ("for p in params:\n    x = 1", "sets no numbers"),
])  # fmt: skip
def test_other_loops_are_left_and_why(text, why):
    with pytest.raises(Unfit) as caught:
        UpdateLoop(ast.parse(text).body[0])
    assert why in str(caught.value) and str(caught.value).startswith("line ")


def test_rejects_lists_of_other_lengths():
    with pytest.raises(ValueError, match="another length"):
        Elementwise([Value(1.0)], [[1.0, 2.0]], 0, [], {})
    with pytest.raises(TypeError, match="initialised once"):
        Elementwise([Value(1.0)], [], 0, [], {}).__init__([], [], 0, [], {})
