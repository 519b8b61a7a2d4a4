"""Adam and SGD over lists of Values, bit for bit against the reference's loops; saving and loading Values."""
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from children import child
from conftest import hexes

import microgpt
from microgpt import GPT, SGD, Adam, CheckpointError, Value, reference


def scattered(n, rng):
    """n leaves in runs of many lengths, some backwards, some single; the others are freed on the way."""
    pool = [Value(rng.gauss(0, 1)) for _ in range(3 * n)]
    params, i = [], 0
    while len(params) < n:
        length = rng.choice([1, 1, 2, 15, 16, 17, 40])
        part = pool[i : i + length]
        params += part[::-1] if rng.random() < 0.3 else part
        i += length + rng.randrange(3)
        if i >= len(pool):
            pool, i = [Value(rng.gauss(0, 1)) for _ in range(3 * n)], 0
    return params[:n]


def twins(params):
    """reference Values with the same numbers; one that occurs twice has one twin."""
    made = {}
    return [made.setdefault(id(p), reference.Value(p.data)) for p in params]


def assert_same(params, others):
    assert hexes([p.data for p in params]) == hexes([float(p.data) for p in others])
    assert hexes([p.grad for p in params]) == hexes([float(p.grad) for p in others])


def set_grads(params, others, rng):
    for p, q in zip(params, others):
        p.grad = q.grad = rng.choice([0.0, rng.gauss(0, 1), rng.gauss(0, 1e-5)])


OPTIMIZERS = [
    (Adam, reference.Adam, {"num_steps": None}), (Adam, reference.Adam, {"num_steps": 50, "beta1": 0.9, "eps": 1e-6}),
    (SGD, reference.SGD, {}), (SGD, reference.SGD, {"learning_rate": 0.3, "momentum": 0.9}),
    (SGD, reference.SGD, {"weight_decay": 0.01}), (SGD, reference.SGD, {"momentum": 0.5, "weight_decay": 0.1}),
]  # fmt: skip


@pytest.mark.parametrize("ours, theirs, settings", OPTIMIZERS)
@pytest.mark.parametrize("n", [0, 1, 2, 7, 31, 300])
def test_step_has_the_bits_of_the_loop(ours, theirs, settings, n):
    rng = random.Random(n)
    params = scattered(n, rng)
    params += params[:3] + params[:1]  # updated once more, and once more
    others = twins(params)
    one, other = ours(params, **settings), theirs(others, **settings)
    for step in range(40):
        one.learning_rate = other.learning_rate = 0.1 / (step + 1)
        set_grads(params, others, rng)
        one.step()
        other.step()
        assert_same(params, others)
        assert hexes(one.m) == hexes(other.m)
    assert one.step_index == 40


def test_runs_and_gathered_slots_both_occur():
    """In a new process: which slots follow each other depends on what was freed before."""
    child("""
import random, sys
sys.path[:0] = sys.argv[1:]
from microgpt import GPT
from microgpt.core.optim import Leaves
from test_optim import scattered
sizes = Leaves(scattered(600, random.Random(1))).group_sizes
assert sum(n for n, _ in sizes) == 600
assert {is_run for _, is_run in sizes} == {True, False}
assert Leaves(GPT(5).params).group_sizes == [(len(GPT(5).params), True)]
""", Path(__file__).parent, Path(__file__).parents[1])


def test_constant_rate_stays_constant_for_a_long_time():
    params = [Value(0.5) for _ in range(40)]
    others = twins(params)
    one, other = Adam(params), reference.Adam(others, num_steps=None)
    for index in (0, 1, 5000, 10**7, 2**52):
        one.step_index = other.step_index = index
        for rate in (0.01, 1e-15, 1e-20, 0.0, -1.0, 1e9, 1e12):
            one.learning_rate = other.learning_rate = rate
            set_grads(params, others, random.Random(index))
            one.step()
            other.step()
            assert_same(params, others)
    assert one.num_steps is None


def test_a_model_with_a_constant_rate():
    model, other = GPT(3, n_embd=4), reference.GPT(3, n_embd=4)
    one, two = Adam(model, num_steps=None), reference.Adam(other, num_steps=None)
    for _ in range(5):
        set_grads(model.params, other.params, random.Random(3))
        one.step()
        two.step()
        assert_same(model.params, other.params)
    assert Adam(model).num_steps == 1000 and Adam(model.params).num_steps is None


def test_sgd_takes_a_model():
    model = GPT(3, n_embd=4)
    model.grad[:] = 2.0
    before = model.data.copy()
    SGD(model, 0.5).step()
    assert (model.data == before - 1.0).all() and not model.grad.any()


def test_inner_values_are_updated_as_by_the_loop():
    x = Value(2.0)
    y = x * 3.0
    y.backward()
    SGD([x, y], 0.1).step()
    assert (x.data, y.data, x.grad) == (2.0 - 0.1 * 3.0, 6.0 - 0.1, 0.0)


@pytest.mark.parametrize("kind", [Adam, SGD])
def test_rejects_what_is_not_a_list_of_values(kind):
    with pytest.raises(TypeError, match=r"params\[1\] must be a Value, not float"):
        kind([Value(1.0), 2.0])
    with pytest.raises(TypeError, match="not one Value"):
        kind(Value(1.0))
    with pytest.raises(TypeError, match=r"params\[0\] must be a Value, not list"):
        kind([[Value(1.0)]])
    with pytest.raises(TypeError, match=r"params\[0\] must be a Value, not microgpt\.reference\.Value$"):
        kind([reference.Value(1.0)])
    with pytest.raises(AttributeError, match=r"params\[0\] was never initialised"):
        kind([Value.__new__(Value)])
    with pytest.raises(RuntimeError):
        kind.__new__(kind).step()


def test_an_overflow_stops_where_the_loop_stops():
    params = scattered(100, random.Random(2))
    others = twins(params)
    one, other = Adam(params), reference.Adam(others, num_steps=None)
    set_grads(params, others, random.Random(4))
    params[37].grad = others[37].grad = 1e200
    for optimizer in (one, other):
        with pytest.raises(OverflowError):
            optimizer.step()
    assert_same(params, others)
    assert hexes(one.m) == hexes(other.m)
    assert one.step_index == other.step_index == 0


def test_step_inside_a_compiled_function_is_an_error():
    p = [Value(1.0)]
    sgd = SGD(p)

    @microgpt.compile(fallback="error")
    def loss(x):
        result = p[0] * x
        sgd.step()
        return result

    with pytest.raises(TypeError):
        for _ in range(3):
            loss(2.0)


# ---- files ----


def rows(n, m):
    return [[Value(random.random()) for _ in range(m)] for _ in range(n)]


@pytest.mark.parametrize("kind, settings", [(Adam, {}), (SGD, {"momentum": 0.9})])
def test_a_loaded_run_goes_on_with_the_same_bits(tmp_path, kind, settings):
    def begin():
        named = {"w": rows(3, 4), "b": [Value(0.1), Value(math.pi)], "scale": Value(2.0), "deep": [rows(2, 2), rows(2, 2)]}
        flat = [p for row in named["w"] for p in row] + named["b"] + [named["scale"]]
        return named, flat, kind(flat, **settings)

    def steps(flat, optimizer, n):
        for _ in range(n):
            for i, p in enumerate(flat):
                p.grad = math.sin(i + p.data)
            optimizer.step()

    named, flat, optimizer = begin()
    steps(flat, optimizer, 5)
    microgpt.save_values(tmp_path / "a.safetensors", named, optimizer)
    other, other_flat, other_optimizer = begin()
    microgpt.load_values(tmp_path / "a.safetensors", other, other_optimizer)
    assert other_optimizer.step_index == 5
    steps(flat, optimizer, 5)
    steps(other_flat, other_optimizer, 5)
    assert hexes([p.data for p in flat]) == hexes([p.data for p in other_flat])
    assert hexes([p.data for p in named["deep"][1][0]]) == hexes([p.data for p in other["deep"][1][0]])


def test_a_models_state_dict_can_be_saved(tmp_path):
    model, other = GPT(4, n_embd=4), GPT(4, n_embd=4, init_std=1.0)
    microgpt.save_values(tmp_path / "m.safetensors", model.state_dict)
    microgpt.load_values(tmp_path / "m.safetensors", other.state_dict)
    assert model.data.tobytes() == other.data.tobytes()
    from safetensors.numpy import load_file

    assert load_file(tmp_path / "m.safetensors")["wte"].shape == (4, 4)


def test_rejects_what_does_not_fit_and_changes_nothing(tmp_path):
    path = tmp_path / "a.safetensors"
    w = rows(2, 3)
    microgpt.save_values(path, {"w": w}, SGD(w[0]))
    before = path.read_bytes()
    for named, optimizer, message in [
        ({"v": w}, None, "holds no 'v'"), ({"w": w, "v": w}, None, "holds no 'v'"), ({}, None, "holds 'w'"),
        ({"w": rows(3, 2)}, None, "w is float64"), ({"w": w}, Adam(w[0]), "saved with SGD, not with Adam"),
        ({"w": w}, SGD(w[0][:1]), "optimizer.m is float64"),
    ]:  # fmt: skip
        w[0][0].data = 7.0
        with pytest.raises(CheckpointError, match=message):
            microgpt.load_values(path, named, optimizer)
        assert w[0][0].data == 7.0
    for bad, error in [({"w": 1.0}, TypeError), ({"w": [w[0], w[0][:1]]}, ValueError), ({"optimizer.m": w}, ValueError),
                       ({3: w}, TypeError)]:  # fmt: skip
        with pytest.raises(error):
            microgpt.save_values(path, bad)
    with pytest.raises(TypeError, match="must be a microgpt.Adam"):
        microgpt.save_values(path, {"w": w}, optimizer=3)
    assert path.read_bytes() == before
    microgpt.save_values(path, {"w": w})
    with pytest.raises(CheckpointError, match="without an optimizer"):
        microgpt.load_values(path, {"w": w}, SGD(w[0]))
    with pytest.raises(FileNotFoundError):
        microgpt.load_values(tmp_path / "none", {"w": w})


def test_rejects_damaged_files(tmp_path):
    path = tmp_path / "a.safetensors"
    w = rows(2, 3)
    microgpt.save_values(path, {"w": w})
    whole = path.read_bytes()
    other = json.dumps({"w": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}).encode()
    for content in [b"", b"x", whole[:-1], whole[:20], whole + b"x", b"\xff" * 100, len(other).to_bytes(8, "little") + other,
                    whole.replace(b"F64", b"F32"), whole.replace(b'\\"format\\"', b'\\"famous\\"')]:  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged|does not fit"):
            microgpt.load_values(path, {"w": w})


def test_views_keep_the_numbers():
    adam = Adam([Value(1.0)] * 2)
    m = adam.m
    assert isinstance(m, np.ndarray) and m.shape == (2,)
    assert len(adam.params) == 2
