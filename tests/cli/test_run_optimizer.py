"""`microgpt run` of scripts with an optimizer of their own: the same output, the loop compiled, or said why not."""
import ast
import textwrap

import pytest
from test_run import SCRIPT, both

from microgpt.scripting.plan import Plan

START, LOOP, END = SCRIPT.index("rate, decay1"), SCRIPT.index("    now = rate"), SCRIPT.index('    print(f"{step} {word}')


def script(setup, loop, shown=""):
    """run_script.py with other settings, another optimizer, and something printed at the end."""
    begin = SCRIPT[SCRIPT.index("steps = 60") : LOOP].replace("steps = 60", "steps = 30")
    loop = "".join(f"    {line}\n" for line in loop.splitlines())
    return f"{SCRIPT[:START]}{setup}\n{begin}{loop}{SCRIPT[END:]}{shown}\n"


ADAM = """b1, b2, m, v = 0.85, 0.99, [0.0] * len(parameters), [0.0] * len(parameters)"""
COMPILED = {
    "sgd": ("", "for p in parameters:\n    p.data -= 0.1 * p.grad\n    p.grad = 0"),
    "as micrograd": ("lr = 0.1", "for p in parameters:\n    p.data += -lr * p.grad\nfor p in parameters:\n    p.grad = 0.0"),
    "momentum": ("lr, mu = 0.1, 0.9\nvel = [0.0] * len(parameters)",
                 "for i, p in enumerate(parameters):\n    vel[i] = mu * vel[i] + p.grad\n"
                 "    p.data -= lr * vel[i]\n    p.grad = 0"),
    "momentum and weight decay": (
        "lr, mu, decay = 0.1, 0.9, 0.01\nvel = [0.0 for _ in parameters]", "for i in range(len(parameters)):\n    p = parameters[i]\n"
        "    vel[i] = mu * vel[i] + p.grad + decay * p.data\n    p.data = p.data - lr * vel[i]\n    p.grad = 0"),
    "names read later": ("lr = 0.1", "lr_t = lr * (1 - step / steps)\nfor p in parameters:\n    g = p.grad + 0.01 * p.data\n"
                         "    p.data -= lr_t * g\n    p.grad = 0", 'print(f"{g:.17g} {lr_t} {p.data:.17g}")'),
    "adamw": (ADAM, "for i, p in enumerate(parameters):\n    m[i] = b1 * m[i] + (1 - b1) * p.grad\n"
              "    v[i] = b2 * v[i] + (1 - b2) * p.grad ** 2\n    m_hat = m[i] / (1 - b1 ** (step + 1))\n"
              "    v_hat = v[i] / (1 - b2 ** (step + 1))\n    p.data -= 0.05 * (m_hat / (v_hat ** 0.5 + 1e-8) + 0.1 * p.data)\n"
              "    p.grad = 0"),
    "zip, and moments read": (
        ADAM, "for i, (p, a, b) in enumerate(zip(parameters, m, v)):\n    m[i], v[i] = b1 * a + 0.1 * p.grad, b2 * b + p.grad * p.grad\n"
        "    p.data -= 0.01 * m[i] / (math.sqrt(v[i]) + 1e-8)\n    p.grad = 0", 'print(f"{sum(m):.17g} {max(v):.17g} {a:.17g} {i}")'),
    "nested": ("", "for w in weights.values():\n    for row in w:\n        for p in row:\n            p.data -= 0.1 * p.grad\n"
               "            p.grad = 0"),
    "function": ("vel = [0.0] * len(parameters)\n\n\ndef update(ps, vs, rate):\n    for i, p in enumerate(ps):\n"
                 "        vs[i] = 0.9 * vs[i] + p.grad\n        p.data -= rate * vs[i]\n        p.grad = 0\n",
                 "update(parameters, vel, 0.1)\nprint(f'{sum(vel):.17g}')"),
    "two groups": ("half = len(parameters) // 2\ngroups = parameters[:half], parameters[half:]\n\n\ndef update(ps, rate):\n"
                   "    for p in ps:\n        p.data -= rate * p.grad\n        p.grad = 0\n",
                   "for k, group in enumerate(groups):\n    update(group, 0.1 / (k + 1))"),
    "one list for two groups": (
        "half = len(parameters) // 2\ngroups, vel = (parameters[:half], parameters[half:]), [0.0] * half\n\n\ndef update(ps, vs):\n"
        "    for i, p in enumerate(ps):\n        vs[i] = 0.5 * vs[i] + p.grad\n        p.data -= 0.1 * vs[i]\n        p.grad = 0\n",
        "for group in groups:\n    update(group, vel)"),
    "class": ("class SGD:\n    def __init__(self, params, lr):\n        self.params, self.lr = params, lr\n"
              "        self.buf = [0.0] * len(params)\n\n    def step(self):\n        for i, p in enumerate(self.params):\n"
              "            self.buf[i] = 0.9 * self.buf[i] + p.grad\n            p.data -= self.lr * self.buf[i]\n\n"
              "    def zero_grad(self):\n        for p in self.params:\n            p.grad = 0\n\n\noptimizer = SGD(parameters, 0.1)\n",
              "optimizer.lr = 0.1 * (1 - step / steps)\noptimizer.step()\noptimizer.zero_grad()"),
    "over a call": ("def every():\n    return [p for w in weights.values() for row in w for p in row]\n",
                    "for p in every():\n    p.data -= 0.1 * p.grad\n    p.grad = 0"),
    "clipped by the norm": ("", "norm = sum(p.grad ** 2 for p in parameters) ** 0.5\nfor p in parameters:\n"
                            "    p.data -= 0.1 * min(1.0, 1.0 / norm) * p.grad\n    p.grad = 0"),
    "list changed elsewhere": (
        "buf = [0.0] * len(parameters)", "if step == 10:\n    buf[3] = 0.5\nif step == 20:\n    buf = [0.0] * len(parameters)\n"
        "for i, p in enumerate(parameters):\n    buf[i] = 0.9 * buf[i] + p.grad\n    p.data -= 0.05 * buf[i]\n    p.grad = 0"),
    "another name for the list": (
        "buf = [0.0] * len(parameters)\nothers = [buf]", "for i, p in enumerate(parameters):\n    buf[i] = 0.9 * buf[i] + p.grad\n"
        "    p.data -= 0.05 * buf[i]\n    p.grad = 0\nprint(f'{sum(others[0]):.17g}')"),
}  # fmt: skip
QUICK = ("sgd", "momentum and weight decay", "class")


@pytest.mark.parametrize("parts", [pytest.param(parts, id=name, marks=() if name in QUICK else pytest.mark.slow)
                                   for name, parts in COMPILED.items()])  # fmt: skip
def test_an_optimizer_loop_is_compiled(tmp_path, parts):
    _, ours = both(tmp_path, script(*parts))
    assert "the optimizer's loop, line" in ours.stderr and "as written" not in ours.stderr, ours.stderr


LEFT = {
    "if": ("", "for p in parameters:\n    if p.grad > 0.5:\n        p.grad = 0.5\n    p.data -= 0.1 * p.grad\n    p.grad = 0",
           "there is an if in it"),
    "carried": ("", "total = 0.0\nfor p in parameters:\n    total = total + p.grad\n    p.data -= 0.1 * p.grad\n    p.grad = 0",
                "total goes from one parameter to the next"),
    "ints at first": ("vel = [0] * len(parameters)", "for i, p in enumerate(parameters):\n    vel[i] = 0.9 * vel[i] + p.grad\n"
                      "    p.data -= 0.1 * vel[i]\n    p.grad = 0", "ran as written 1 of 30 times: its lists hold more than floats"),
    "generator": ("def every():\n    for w in weights.values():\n        for row in w:\n            yield from row\n",
                  "for p in every():\n    p.data -= 0.1 * p.grad\n    p.grad = 0", "it is not over a list of Values"),
    "twice": ("", "for p in parameters + parameters[:2]:\n    p.data -= 0.1 * p.grad", "a Value is updated twice"),
    "division by zero": ("sq = [0.0] * len(parameters)", "for i, p in enumerate(parameters):\n    sq[i] = sq[i] + p.grad ** 2\n"
                         "    p.data -= 0.1 * p.grad / sq[i]\n    p.grad = 0", "Python might raise an error in it"),
    "in a function of one parameter": ("def update(p):\n    p.data -= 0.1 * p.grad\n    p.grad = 0\n",
                                       "for p in parameters:\n    update(p)", "it is not in a loop over parameters"),
    "while": ("", "k = 0\nwhile k < len(parameters):\n    parameters[k].data -= 0.1 * parameters[k].grad\n    parameters[k].grad = 0\n"
              "    k += 1", "it is not in a loop over parameters"),
    "overflow": ("", "for p in parameters:\n    p.data -= (p.grad * 1e200) ** 2\n    p.grad = 0", "Python might raise an error in it"),
}  # fmt: skip


@pytest.mark.parametrize("setup, loop, why", [pytest.param(*parts, id=name, marks=() if name == "if" else pytest.mark.slow)
                                              for name, parts in LEFT.items()])  # fmt: skip
def test_another_optimizer_loop_runs_as_written_and_why(tmp_path, setup, loop, why):
    plain, ours = both(tmp_path, script(setup, loop))
    assert "line" in ours.stderr and "as written" in ours.stderr and why in ours.stderr, ours.stderr
    if plain.returncode:
        assert plain.stderr.splitlines()[-1] in ours.stderr.splitlines()


ADAM_LOOP = SCRIPT[SCRIPT.index("    for k, w in enumerate(parameters)") : END]
BEGIN = "decay1, decay2, tiny, first, second = 0.85, 0.99, 1e-8, [0.0] * len(parameters), [0.0] * len(parameters)\n\n\n"


@pytest.mark.slow
@pytest.mark.parametrize("arguments, call", [
    ("parameters, first, second, now, step", "a, b = first, second\nupdate(parameters, a, b, 0.01, step)"),
    ("now, step", "update(0.01, step)\na, b = first, second")])  # fmt: skip
def test_adams_moments_by_another_name(tmp_path, arguments, call):
    """In a function its lists are the caller's, or the module's."""
    text = script(f"{BEGIN}def update({arguments}):\n{ADAM_LOOP}\n", f"{call}\nprint(f'{{sum(a):.17g}} {{sum(b):.17g}}')")
    _, ours = both(tmp_path, text)
    assert "Adam's loop" in ours.stderr


def test_moments_that_nothing_else_reads_are_not_written_back():
    """Names of functions' own do not count, though they be the same."""
    other = "def other(now):\n    first = [second for second in now]\n    return first\n"
    text = script(BEGIN + other, f"now = 0.01\n{textwrap.dedent(ADAM_LOOP)}")
    assert ", step, False, False)" in ast.unparse(Plan(ast.parse(text)).tree)
    text = text.replace("steps = 30", "steps = 30\nprint(f'{sum(first)}')")
    assert ", step, True, False)" in ast.unparse(Plan(ast.parse(text)).tree)


@pytest.mark.parametrize("loop", [textwrap.dedent(ADAM_LOOP), "for p in parameters:\n    p.data -= 0.1 * p.grad\n    p.grad = 0"],
                         ids=["adam", "sgd"])  # fmt: skip
def test_parameters_that_take_the_place_of_others(tmp_path, loop):
    """In the same list, as many as before: in the loss and in the optimizer's loop."""
    setup = "decay1, decay2, tiny, now, first, second = 0.85, 0.99, 1e-8, 0.02, [0.0] * len(parameters), [0.0] * len(parameters)"
    change = ("if step == 10:\n    weights['mix'][0][1] = Value(0.25)\n"
              "    parameters[:] = [p for w in weights.values() for row in w for p in row]\n"
              "if step == 20:\n    weights['out'][0], weights['out'][1] = weights['out'][1], weights['out'][0]\n")
    _, ours = both(tmp_path, script(setup, change + loop))
    assert "the loss of the training loop (compiled)" in ours.stderr
