"""Adam against reference.Adam, on every instruction set: the same bits in every number, and the same errors."""
import math
import random
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import environment, hexes
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import square_root
from profiles import examples

from microgpt import GPT, Adam, reference, simd_info
from microgpt.core import simd

DEFAULTS = {"learning_rate": 0.01, "beta1": 0.85, "beta2": 0.99, "eps": 1e-8, "num_steps": 1000}


def model_of(n):
    """A model with exactly n parameters, 15 or more."""
    model = GPT(vocab_size=1, n_embd=1, n_head=1, block_size=n - 14)
    assert len(model.params) == n
    return model


class Pair:
    """Our Adam and the reference's, side by side on the same numbers."""

    def __init__(self, data, m=None, v=None, step_index=0, **settings):
        n = len(data)
        self.model = model_of(n)
        self.model.data[:] = data
        self.ours = Adam(self.model, **settings)
        self.params = [reference.Value(float(x)) for x in data]
        self.theirs = reference.Adam(SimpleNamespace(params=self.params), **settings)
        self.ours.step_index = self.theirs.step_index = step_index
        if m is not None:
            self.ours.m[:], self.theirs.m = m, [float(x) for x in m]
        if v is not None:
            self.ours.v[:], self.theirs.v = v, [float(x) for x in v]

    def step(self, grad, libm=False):
        """One update of both; the error that both raised, if they did."""
        self.model.grad[:] = grad
        for p, g in zip(self.params, grad):
            p.grad = float(g)
        error = None
        try:
            self.theirs.step()
        except ArithmeticError as raised:
            error = raised
            with pytest.raises(type(error)) as caught:
                self.ours._step(libm)
            assert str(caught.value) == str(error)
            assert caught.value.args == error.args
        else:
            self.ours._step(libm)
        self.check()
        return error

    def check(self):
        assert_same_bits(self.ours.m, self.theirs.m)
        assert_same_bits(self.ours.v, self.theirs.v)
        assert_same_bits(self.model.data, [p.data for p in self.params])
        assert_same_bits(self.model.grad, [p.grad for p in self.params])
        assert self.ours.step_index == self.theirs.step_index


def assert_same_bits(ours, theirs):
    if ours.tobytes() != np.array(theirs, np.float64).tobytes():  # which is so, too, where two nan have other signs
        assert hexes(ours) == hexes(theirs)


def gradients(rng, n, zeros=0.1):
    return [0.0 if rng.random() < zeros else rng.gauss(0, 1) * 10 ** rng.uniform(-6, 0) for _ in range(n)]


WAYS = [(isa, choice) for isa in simd_info()["supported"] for choice in ((0, 1) if isa == "avx512" else (1,))]


@pytest.fixture(params=WAYS, ids=lambda way: way[0] + " estimate" * (way[1] == 0))
def isa(request):
    """An instruction set of this processor in force, AVX-512 with both ways to take a root."""
    isa, choice = request.param
    before, chosen = simd._use(isa), square_root(isa, -1)
    square_root(isa, choice)
    assert square_root(isa, -1) == choice
    yield isa
    square_root(isa, chosen)
    simd._use(before)


@pytest.mark.parametrize("n", [*range(15, 33), 63, 64, 65, 255, 256, 257, 511, 512, 513, 1000])
def test_sizes(isa, n):
    rng = random.Random(n)
    pair = Pair([rng.gauss(0, 0.08) for _ in range(n)])
    for _ in range(12):
        assert pair.step(gradients(rng, n)) is None


@pytest.mark.slow
@pytest.mark.parametrize("start", [0, 230, 3700])
def test_many_steps(isa, start):
    """From the first step; across the step where 1 - beta1**t becomes 1.0; across that of beta2."""
    rng = random.Random(7)
    n = 2000
    v = [1e-6] * n if start else None
    pair = Pair([rng.gauss(0, 0.08) for _ in range(n)], v=v, step_index=start, num_steps=5000)
    scale = [10 ** rng.uniform(-5, -1) for _ in range(n)]
    for _ in range(60):
        assert pair.step([rng.gauss(0, 1) * s for s in scale]) is None


def test_libm_mode_is_the_same(isa):
    rng = random.Random(8)
    pair = Pair([rng.gauss(0, 0.08) for _ in range(300)])
    for _ in range(20):
        assert pair.step(gradients(rng, 300), libm=True) is None


@pytest.mark.parametrize("kept", [{"learning_rate": 0.1, "num_steps": 7}, {"beta1": 0.0}, {"beta2": 0.0}, {"eps": 1e-3},
                                  {"beta1": 0.0, "beta2": 0.0, "eps": 1.0}, {"beta1": 0.9999, "beta2": 0.999999},
                                  {"learning_rate": -0.01}, {"learning_rate": 0.0}, {"beta1": -0.5}, {"beta2": 1.5},
                                  {"learning_rate": 1e200}, {"beta1": math.inf}, {"beta2": math.nan}, {"eps": -1e-3}],
                         ids=str)  # fmt: skip
def test_settings(isa, kept):
    rng = random.Random(9)
    pair = Pair([rng.gauss(0, 0.08) for _ in range(100)], **kept)
    for _ in range(6 if "beta2" in kept and kept["beta2"] > 1 else 10):
        grad = gradients(rng, 100)
        if pair.ours.beta2 > 1:  # 1 - beta2 is negative, and so is 1 - beta2**t: the quotient is not
            grad = [g or 1e-3 for g in grad]
        pair.step(grad)


def told_apart(power, plain, draw, count):
    """Numbers at which libm's power is not the correctly rounded one."""
    found = []
    while len(found) < count:
        x = draw()
        if power(x) != plain(x):
            found.append(x)
    return found


def test_squares_that_libm_rounds_the_other_way(isa):
    rng = random.Random(10)
    grad = told_apart(lambda g: g**2, lambda g: g * g, lambda: rng.uniform(-1, 1) * 10 ** rng.uniform(-8, 2), 200)
    pair = Pair([0.0] * 200, beta2=0.0)  # v is the square itself
    pair.step(grad)
    assert hexes(pair.ours.v) == hexes(g**2 for g in grad) != hexes(g * g for g in grad)


def test_roots_that_libm_rounds_the_other_way(isa):
    rng = random.Random(11)
    v = told_apart(lambda v: v**0.5, math.sqrt, lambda: rng.uniform(0, 1) * 10 ** rng.uniform(-20, 4), 200)
    pair = Pair([0.0] * 200, v=v, m=[1.0] * 200, beta1=0.5, beta2=0.5, eps=1e-290, learning_rate=1.0, num_steps=10**15)
    pair.step([0.0] * 200)
    ours = hexes(pair.model.data)
    shown = sum(a != (-1.0 / math.sqrt(x)).hex() for a, x in zip(ours, v))
    assert shown > 50  # the root's last bit shows in the quotient


def test_roots_whose_last_bit_decides_whether_a_step_overflows(isa):
    rng = random.Random(17)
    steps, lr_t = 2000, 1.0 - 2000 / 10**15
    v, m = [], []
    for x in told_apart(lambda v: v**0.5, math.sqrt, lambda: rng.uniform(0, 1) * 10 ** rng.uniform(-20, -2), 200):
        near = sys.float_info.max * math.sqrt(x) / lr_t
        for y in (near * (1 + k * 2**-53) for k in range(-6, 7)):
            if math.isinf(lr_t * y / math.sqrt(x)) != math.isinf(lr_t * y / x**0.5):
                v.append(2 * x)
                m.append(2 * y)
                break
    assert len(v) > 50
    pair = Pair([1.0] * len(v), m, v, steps, beta1=0.5, beta2=0.5, eps=1e-100, learning_rate=1.0, num_steps=10**15)
    pair.step([0.0] * len(v))
    assert 20 < sum(math.isinf(p) for p in pair.model.data) < len(v) - 20


def test_roots_whose_last_bit_shows_in_a_tiny_parameter(isa):
    rng = random.Random(18)
    v = told_apart(lambda v: v**0.5, math.sqrt, lambda: rng.uniform(0, 1) * 10 ** rng.uniform(-20, -2), 400)
    for power in (-1000, -960, -600, -550, -549, -548, -547, -510):
        m = [rng.choice((-1, 1)) * rng.uniform(1, 2) * 2.0**power * math.sqrt(x) for x in v]
        data = [rng.uniform(-2, 2) * 2.0**power for _ in v]
        pair = Pair(data, [2 * x for x in m], [2 * x for x in v], 2000, beta1=0.5, beta2=0.5, eps=1e-100,
                    learning_rate=1.0, num_steps=10**15)  # fmt: skip
        pair.step([0.0] * len(v))


EXTREMES = [0.0, -0.0, 1.0, -1.0, 1e-8, -3e-5, 0.1, 5e-324, -5e-324, 1e-310, 2.3e-308, 1e-300, 1e-200, 1e-162, 1e-160,
            1e-154, -1e-100, 1e-60, 1e-31, 1e-30, 1e-15, 7.0, 1e15, 1.1e30, -1e31, 1e60, 1e100, 1.3e154, -1.3e154,
            math.inf, -math.inf, math.nan]  # fmt: skip


def test_extreme_gradients(isa):
    rng = random.Random(12)
    for _ in range(60):
        n = rng.randrange(15, 70)
        pair = Pair([rng.choice(EXTREMES) for _ in range(n)])
        for _ in range(5):
            pair.step([rng.choice(EXTREMES) if rng.random() < 0.3 else rng.gauss(0, 0.01) for _ in range(n)])


def test_extreme_moments(isa):
    rng = random.Random(13)
    for _ in range(150):
        n = rng.randrange(15, 70)
        data, m = ([rng.choice(EXTREMES) for _ in range(n)] for _ in range(2))
        v = [abs(rng.choice(EXTREMES)) for _ in range(n)]
        pair = Pair(data, m, v, step_index=rng.choice([0, 1, 5, 230, 4000]), num_steps=10**6)
        for _ in range(3):
            pair.step([rng.choice(EXTREMES) if rng.random() < 0.2 else rng.gauss(0, 0.01) for _ in range(n)])


def test_steps_that_lose_bits_and_move_a_parameter(isa):
    """Subnormal quotients are not what the proofs cover. A parameter of 0.0 shows each of their bits."""
    rng = random.Random(15)
    n = 400
    for step_index in (5, 100):
        m = [rng.choice((-1, 1)) * 10 ** rng.uniform(-307.5, -300) for _ in range(n)]
        pair = Pair([0.0] * n, m, [10 ** rng.uniform(-21, -19) for _ in range(n)], step_index, num_steps=10**6)
        for _ in range(3):
            assert pair.step([0.0] * n) is None


def test_parameters_without_a_gradient_stay(isa):
    rng = random.Random(14)
    for zero in (0.0, -0.0):
        data = [rng.gauss(0, 1) for _ in range(40)] + [0.0, -0.0]
        pair = Pair(data, m=[zero] * 42)
        pair.step([zero] * 42)
        assert hexes(pair.model.data[:40]) == hexes(data[:40])


@pytest.mark.parametrize("kept", [{}, {"beta1": 0.0}, {"beta2": 0.5}, {"eps": 1e-30}, {"learning_rate": -1e3}], ids=str)
def test_parameters_that_have_had_no_gradient_for_long(isa, kept):
    """Their moments decay to subnormal numbers, which the vectors treat on their own."""
    rng = random.Random(16)
    n = 400
    tiny = [0.0, 5e-324, 1e-323, 1.5e-323, 7e-322, 1e-310, 2.2250738585072009e-308, 2.2250738585072014e-308, 1e-306,
            3e-300, 1e-270, 3.7e-270, 1e-260, 1e-100, 1e-3]  # fmt: skip
    for step_index in (3000, 5000, 10**6):
        data = [rng.choice([0.0, -0.0, 1e-200, math.nan, rng.gauss(0, 1), rng.gauss(0, 1)]) for _ in range(n)]
        m = [rng.choice(tiny) * rng.choice([-1, 1]) for _ in range(n)]
        v = [rng.choice([*tiny, -0.0, math.inf]) for _ in range(n)]
        pair = Pair(data, m, v, step_index, num_steps=10**7, **kept)
        grad = [rng.choice([0.0] * 20 + [-0.0, 5e-324, 1e-300, 1e-5]) for _ in range(n)]
        for _ in range(40):
            pair.step(grad)


@pytest.mark.parametrize("beta1", [0.85, 0.0, 0.5, 0.75, 0.999, 1 - 2**-53])
def test_moments_that_have_come_to_rest(isa, beta1):
    """A multiple of the least number that is so small that beta1 times it, rounded, is itself; and the next one."""
    rng = random.Random(17)
    least = 5e-324
    rest = next(k for k in range(1, 1000) if beta1 * (k * least) != k * least or k == 999) - 1
    n = 160
    for few in (0, 0.05):
        m = [rng.choice([0, 0, 1, rest, rest // 2, (rest + 1) * (rng.random() < few)]) for _ in range(n)]
        m = [k * least * rng.choice([-1, 1]) for k in m]
        v = [1e-305 if rng.random() < few else rng.choice([0.0, -0.0, 1e-20, 1e-3]) for _ in range(n)]
        pair = Pair([rng.gauss(0, 1) for _ in range(n)], m, v, 10**6, num_steps=10**7, beta1=beta1)
        grad = [1e-3 if rng.random() < few else 0.0 for _ in range(n)]
        for _ in range(3):
            pair.step(grad)


@pytest.mark.parametrize("n", [15, 16, 31, 300, 600])
def test_a_square_that_overflows_stops_where_the_script_stops(isa, n):
    rng = random.Random(15)
    for k in {0, 1, 7, 8, 14, n // 2, n - 1}:
        pair = Pair([rng.gauss(0, 0.08) for _ in range(n)])
        pair.step(gradients(rng, n))
        grad = gradients(rng, n)
        grad[k] = rng.choice([1.4e154, -1e200, 1.7e308])
        error = pair.step(grad)
        assert isinstance(error, OverflowError)
        assert pair.ours.m[k] == pair.theirs.m[k] and pair.model.grad[k] == grad[k]


def test_divisions_by_zero(isa):
    grad = [0.5, 0.0] * 10
    for kept in ({"num_steps": 0}, {"beta1": 1.0}, {"beta2": 1.0}, {"eps": 0.0}):
        assert isinstance(Pair([0.1] * 20, **kept).step(grad), ZeroDivisionError)
    assert isinstance(Pair([0.1] * 20, beta1=1e200, step_index=1).step(grad), OverflowError)
    assert Pair([0.1] * 20, eps=0.0).step([0.5] * 20) is None


def test_a_negative_v_is_an_error(isa):
    pair = Pair([0.1] * 20, v=[1.0] * 19 + [-1.0])
    with pytest.raises(ValueError, match="v is negative"):
        pair.ours.step()
    assert pair.ours.step_index == 0
    assert pair.model.data[19] == 0.1
    pair = Pair([0.1] * 20, v=[-0.0] * 19 + [-math.inf])  # these are not negative to **
    pair.step([0.0] * 20)


number = st.one_of(st.floats(), st.floats(-1, 1), st.just(0.0))
positive = st.one_of(st.floats(0, 1), st.floats(0, math.inf), st.just(0.0))
rate = st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.85, 0.99]))


@pytest.mark.slow
@settings(max_examples=examples(150))
@given(st.lists(st.tuples(number, number, number, positive), min_size=15, max_size=40), st.floats(1e-6, 1), rate, rate,
       st.floats(0, 1), st.integers(0, 5000))  # fmt: skip
def test_anything(numbers, learning_rate, beta1, beta2, eps, step_index):
    before = simd_info()["in_use"]
    data, grad, m, v = zip(*numbers)
    for isa, choice in WAYS:
        simd._use(isa)
        chosen = square_root(isa, -1)
        square_root(isa, choice)
        try:
            pair = Pair(data, m, v, step_index, learning_rate=learning_rate, beta1=beta1, beta2=beta2, eps=eps)
            pair.step(grad)
            pair.step(grad)
        finally:
            square_root(isa, chosen)
            simd._use(before)


def test_attributes():
    model = model_of(20)
    adam = Adam(model)
    assert {name: getattr(adam, name) for name in DEFAULTS} == DEFAULTS
    assert adam.model is model and adam.step_index == 0
    changed = {"learning_rate": 0.5, "beta1": 0.25, "beta2": 0.75, "eps": 0.125, "num_steps": 3}
    assert {name: getattr(Adam(model, **changed), name) for name in changed} == changed
    for name, value in changed.items():
        setattr(adam, name, value)
    assert {name: getattr(adam, name) for name in changed} == changed
    assert repr(adam) == ("Adam(learning_rate=0.5, beta1=0.25, beta2=0.75, eps=0.125, num_steps=3, step_index=0)")
    for bad in ((None,), (3,), (model, "0.01")):
        with pytest.raises(TypeError):
            Adam(*bad)


def test_moments_are_views():
    model = model_of(33)
    adam = Adam(model)
    m, v = adam.m, adam.v
    for view in (m, v):
        assert view.dtype == np.float64 and view.shape == (33,) and view.flags.writeable and view.flags.c_contiguous
        assert view.ctypes.data % 64 == 0
        assert not view.any()
    model.grad[:] = 1.0
    adam.step()
    assert m.tolist() == [(1 - 0.85) * 1.0] * 33 and adam.m.ctypes.data == m.ctypes.data
    assert v.tolist() == [(1 - 0.99) * 1.0] * 33
    m[:] = 0.5
    assert adam.m.tolist() == [0.5] * 33
    del adam, model
    assert m.tolist() == [0.5] * 33  # a view keeps its memory


def test_numpy_is_not_imported():
    code = "import sys; from microgpt import GPT, Adam; Adam(GPT(3)).step(); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=environment()).returncode == 0
