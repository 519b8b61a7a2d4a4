"""Compiled functions: when they are traced, what their arguments may be, what makes them run as written."""
import math
import random
import types

import numpy
import pytest
from compiled_functions import both, check_gradients, leaves, replayed, warm
from conftest import hexes

import microgpt
from microgpt import Value, linear, reference, rmsnorm, softmax

pytestmark = pytest.mark.usefixtures("no_warnings")


def test_first_two_calls_run_as_written_and_the_third_is_replayed():
    calls = []
    w = leaves(3)

    def loss(x):
        calls.append(x)
        return w[0] * x + w[1]

    compiled = microgpt.compile(loss)
    assert [compiled(float(i)).data for i in range(5)] == [w[0].data * i + w[1].data for i in range(5)]
    assert "append() of a list from outside" in compiled.explain() and len(calls) == 5

    @microgpt.compile
    def quiet(x):
        return w[0] * x + w[1]

    quiet(1.0)
    assert not replayed(quiet)
    quiet(2.0)
    assert replayed(quiet)
    assert quiet(3.0).data == w[0].data * 3.0 + w[1].data


def test_decorator_takes_options_and_keeps_the_functions_name():
    @microgpt.compile(static=("n",), verify="always")
    def power(x, n):
        """Doc."""
        total = x
        for _ in range(n):
            total = total * x
        return total

    x = Value(1.5)
    for n in (2, 3, 2, 3):
        assert power(x, n).data == 1.5 ** (n + 1)
    assert power.__name__ == "power" and power.__doc__ == "Doc." and len(power.entries) == 2


def test_compile_is_not_in_all_but_is_an_attribute():
    assert "compile" not in microgpt.__all__
    assert callable(microgpt.compile)


def test_rejects_settings_that_do_not_exist():
    with pytest.raises(ValueError, match="verify='maybe'"):
        microgpt.compile(lambda: 0, verify="maybe")
    with pytest.raises(ValueError, match="fallback='none'"):
        microgpt.compile(lambda: 0, fallback="none")
    with pytest.raises(ValueError, match="no such argument"):
        microgpt.compile(lambda n: 0, static="m")
    with pytest.raises(TypeError, match="takes a function"):
        microgpt.compile(3)


@pytest.mark.parametrize("x, error", [(0.0, ValueError), (-1.0, ValueError), (1e6, OverflowError)])
def test_errors_are_the_functions_own(x, error):
    w = Value(1.0)

    @microgpt.compile
    def f(x):
        y = w * x
        return y.log() + y.exp()

    warm(f, 0.5)
    with pytest.raises(error):
        f(x)
    assert f(0.25).data == (w * 0.25).log().data + (w * 0.25).exp().data


def test_an_error_in_what_is_not_used_is_raised_too():
    w = Value(1.0)

    @microgpt.compile
    def f(x):
        (w * x).log()
        return w * 2

    warm(f, 0.5)
    with pytest.raises(ValueError):
        f(-1.0)


def test_division_by_zero_of_a_powers_local_gradient():
    w = Value(1.0)

    @microgpt.compile
    def f(x):
        return (w * x) ** 0.5

    warm(f, 0.5)
    with pytest.raises(ZeroDivisionError):
        f(0.0)


def test_indices_out_of_range_and_from_the_end():
    w = leaves(4)

    @microgpt.compile
    def f(i):
        return w[i] * 2

    warm(f, 1)
    assert f(-1).data == w[3].data * 2
    with pytest.raises(IndexError):
        f(4)
    with pytest.raises(IndexError):
        f(10**30)


def test_rebound_globals_closures_attributes_and_dict_entries_are_seen():
    class Model:
        scale = 2.0

    model, table = Model(), {"w": leaves(3)}
    model.scale = 2.0
    bias = 0.5

    @microgpt.compile
    def f(x):
        return sum(table["w"]) * model.scale + x + bias

    def expected(x):
        return (sum(table["w"]) * model.scale + x + bias).data

    def check():
        for x in (1.0, 2.0, 3.0, 4.0):
            assert f(x).data == expected(x)
        assert replayed(f)

    check()
    model.scale = 3.0
    check()
    table["w"] = leaves(3, seed=9)
    check()
    bias = 0.75
    check()


zero = 0.0


def test_minus_zero_is_another_number_than_zero_wherever_it_is_read(monkeypatch):
    holder, table, cell = types.SimpleNamespace(c=0.0), {"c": 0.0}, 0.0
    reads = [lambda x: x + holder.c, lambda x: x + table["c"], lambda x: x + cell, lambda x: x + zero]
    compiled = [microgpt.compile(f) for f in reads]
    for number in [0.0] * 4 + [-0.0] * 4 + [0.0, -0.0]:
        holder.c = table["c"] = cell = number = float(repr(number))  # an object of its own
        monkeypatch.setitem(globals(), "zero", number)
        for f, c in zip(reads, compiled):
            assert hexes([c(Value(-0.0)).data]) == hexes([f(Value(-0.0)).data])


def test_a_global_that_changes_in_every_call_stays_as_written():
    state = {"rate": 0.0}
    w = Value(2.0)

    @microgpt.compile
    def f(x):
        return w * state["rate"] + x

    for i in range(60):
        state["rate"] = float(i)
        assert f(1.0).data == 2.0 * i + 1.0
    assert "changes from call to call" in f.explain()


def test_a_shape_whose_first_calls_raise_is_compiled_later():
    w = leaves(3)
    f = microgpt.compile(lambda i: w[i].data and w[i] * math.sqrt(i - 1.0))
    g = microgpt.compile(lambda x: w[0] * math.sqrt(x))
    for _ in range(3):
        with pytest.raises(ValueError):
            g(-1.0)
    for _ in range(3):
        assert g(4.0).data == w[0].data * 2.0
    assert replayed(g)
    assert f(2).data == w[2].data


def test_a_global_with_the_name_of_an_attribute_may_change():
    global grad, data
    w = leaves(2)
    f = microgpt.compile(lambda x: (w[0] * x).exp() * w[1].data)
    for i in range(30):
        grad = data = i
        assert f(0.5).data == ((w[0] * 0.5).exp() * w[1].data).data
    assert replayed(f)


def test_arrays_as_arguments_are_never_constants():
    w = leaves(2)
    f = microgpt.compile(lambda xs: sum(float(x) * w[0] for x in xs) + w[1])
    xs = numpy.array([1.0, 2.0])
    for i in range(5):
        xs[0] = i
        assert f(xs).data == ((float(i) * w[0] + 0) + 2.0 * w[0] + w[1]).data
    assert "tolist()" in f.explain()


def test_dicts_as_arguments_are_looked_into():
    w = leaves(2)
    f = microgpt.compile(lambda batch: sum(v * w[0] for v in batch.values()) + batch["x"] * w[1])
    batch = {"x": 1.0, "y": 2.0}
    for i in range(12):
        batch["y"] = float(i // 4)
        assert f(batch).data == (sum([v * w[0] for v in batch.values()]) + batch["x"] * w[1]).data
    assert replayed(f)


def test_functions_methods_callables_and_defaults_are_traced():
    w = leaves(4)
    v = leaves(4, reference.Value)

    def make(w):
        class Layer:
            def __init__(self, rows):
                self.rows = rows

            def __call__(self, x, *, scale=2.0):
                return [sum(a * b for a, b in zip(row, x)) * scale for row in self.rows]

            def pick(self, x, i):
                return x[i]

            @staticmethod
            def largest(x):
                return max(v.data for v in x)

        layer = Layer([w[:2], w[2:]])

        def scaled(*xs, by=3.0, **options):
            return [x * by * options.get("extra", 1.0) for x in xs]

        def f(i, x):
            h = layer([Value_(x), Value_(1.0)])
            h = scaled(*h, extra=0.5)
            return layer.pick(h, i) * layer.largest(h) + Layer([w]).pick(w, i)

        Value_ = type(w[0])
        return f

    compiled, plain = microgpt.compile(make(w)), make(v)
    warm(compiled, 0, 0.5)
    for i in (0, 1):
        check_gradients(compiled, plain, w, v, i, 0.3)


def test_comprehensions_generators_lambdas_and_nested_functions():
    w, compiled, v, plain = both(lambda w: lambda tokens: sum(
        (lambda y: y * y)(w[t] * w[s]) for t in tokens for s in tokens if True) + [w[t] for t in tokens][0])
    warm(compiled, [0, 1])
    for tokens in ([1, 2], [3, 3], [5, 0]):
        check_gradients(compiled, plain, w, v, tokens)


def test_the_packages_own_functions_in_traced_code():
    model = microgpt.GPT(vocab_size=5, n_embd=4, n_head=2, n_layer=1, block_size=4, rng=random.Random(1))
    twin = reference.GPT(vocab_size=5, n_embd=4, n_head=2, n_layer=1, block_size=4, rng=random.Random(1))

    def make(model, gpt, softmax):
        def loss(tokens):
            keys, values, losses = [[]], [[]], []
            for position in range(len(tokens) - 1):
                logits = gpt(tokens[position], position, keys, values, model)
                losses.append(-softmax(logits)[tokens[position + 1]].log())
            return sum(losses) / len(losses)

        return loss

    compiled = microgpt.compile(make(model, microgpt.gpt, softmax))
    plain = make(twin, reference.gpt, reference.softmax)
    warm(compiled, [0, 1, 2])
    for tokens in ([0, 3, 1], [4, 4, 4]):
        a, b = compiled(tokens), plain(tokens)
        a.backward()
        b.backward()
        assert a.data == b.data and hexes(model.grad) == hexes(p.grad for p in twin.params)


def test_linear_and_rmsnorm_of_leaves_in_traced_code():
    w = leaves(6)
    v = leaves(6, reference.Value)
    compiled = microgpt.compile(lambda x: sum(rmsnorm(linear(w[:3], [w[3:], w[:3]]))) * x)
    plain = lambda x: sum(reference.rmsnorm(reference.linear(v[:3], [v[3:], v[:3]]))) * x  # noqa: E731
    warm(compiled, 1.0)
    check_gradients(compiled, plain, w, v, 0.5)


def test_leaves_methods_and_unary_operators_of_leaves():
    w, compiled, v, plain = both(lambda w: lambda x: -w[0] + w[1].exp() * (w[2] * w[2] + 1).log() - w[3].relu() / w[4]
                                 + 2 / w[4] + w[5] ** 2 + w[0].data * w[1] + (1 - w[1]))
    warm(compiled, 1.0)
    check_gradients(compiled, plain, w, v, 0.5)


def test_at_most_64_shapes_are_kept():
    w = leaves(80)

    @microgpt.compile(verify=False)
    def f(xs):
        return sum(a * x for a, x in zip(w, xs))

    for n in range(1, 80):
        f([0.5] * n)
    assert len(f.entries) == 64
    assert f([0.5] * 3).data == sum(a.data * 0.5 for a in w[:3])


def test_one_compiled_function_may_call_another():
    w = leaves(3)

    @microgpt.compile
    def inner(x):
        return w[0] * x

    @microgpt.compile
    def outer(x):
        return inner(x) + inner(2 * x) * w[1]

    warm(outer, 0.5)
    assert outer(3.0).data == w[0].data * 3.0 + (w[0].data * 6.0) * w[1].data


def test_methods_can_be_compiled():
    class Model:
        def __init__(self, seed):
            self.w = leaves(3, seed=seed)

        @microgpt.compile
        def loss(self, i):
            return self.w[i] * 2

    a, b = Model(1), Model(2)
    for _ in range(4):
        assert a.loss(1).data == a.w[1].data * 2 and b.loss(2).data == b.w[2].data * 2
    assert replayed(Model.loss)


def test_random_state_of_the_caller_is_not_moved_by_tracing():
    w = Value(1.0)
    f = microgpt.compile(lambda x: w * random.random() * x)
    random.seed(5)
    got = [f(1.0).data for _ in range(4)]
    random.seed(5)
    assert got == [random.random() for _ in range(4)]
    assert "random numbers" in f.explain()
