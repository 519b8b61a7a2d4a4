"""Compiled functions: when they are traced, what their results are, what makes them run as written."""
import gc
import math
import random
import sys
import warnings
import weakref

import architectures
import numpy
import pytest
from conftest import hexes, in_threads

import microgpt
from microgpt import Value, linear, reference, rmsnorm, softmax


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def leaves(n, cls=Value, seed=0):
    rng = random.Random(seed)
    return [cls(rng.uniform(-1, 1)) for _ in range(n)]


def warm(function, *arguments):
    """Call until replayed."""
    for _ in range(2):
        function(*arguments)
    assert replayed(function), function.explain()
    return function


def replayed(function):
    return any(entry.program is not None for entry in function.entries.values())


def both(make, n=6, **options):
    """make(w) -> a function over the Values w: compiled over ours, and as written over the script's."""
    ours, theirs = leaves(n), leaves(n, reference.Value)
    return ours, microgpt.compile(make(ours), **options), theirs, make(theirs)


def grads(values):
    return hexes(v.grad for v in values)


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


def test_result_is_a_value_with_children_and_local_grads():
    w, compiled, v, plain = both(lambda w: lambda x: (w[0] * x + w[1]).exp() * w[2])
    warm(compiled, 0.5)
    result, expected = compiled(0.25), plain(0.25)
    assert type(result) is Value

    def compare(a, b):
        assert a.data == b.data and len(a._children) == len(b._children)
        assert hexes(a._local_grads) == hexes(b._local_grads)
        for x, y in zip(a._children, b._children):
            compare(x, y)

    compare(result, expected)
    result.backward()
    expected.backward()
    assert grads(w) == grads(v)


def test_second_backward_adds_to_the_grads_inside_as_the_script_does():
    w, compiled, v, plain = both(lambda w: lambda x: ((w[0] * w[1] + x) * w[2] + w[0]) * (w[1] * w[2]))
    warm(compiled, 0.5)
    result, expected = compiled(0.3), plain(0.3)
    for _ in range(3):
        result.backward()
        expected.backward()
        assert grads(w) == grads(v)
    inside, expected_inside = result._children[0], expected._children[0]
    assert inside.grad == expected_inside.grad


def test_result_in_a_larger_graph():
    w, compiled, v, plain = both(lambda w: lambda x: w[0] * x + w[1] * w[1])
    warm(compiled, 0.5)
    total, expected = Value(0.0), reference.Value(0.0)
    for x in (0.1, 0.2, 0.3):
        total = total + compiled(x) * w[0] + w[1]
        expected = expected + plain(x) * v[0] + v[1]
    a, b = total * total, expected * expected
    a.backward()
    b.backward()
    assert a.data == b.data and grads(w) == grads(v)


def test_result_under_the_packages_layers():
    """Folded sums watch their operands while the graph is sorted: a program's leaves are among them."""
    w, compiled, v, plain = both(lambda w: lambda x: w[0] * x + w[1] * w[2])
    warm(compiled, 0.5)

    def graph(w, call, linear, softmax):
        row = [w[0], call(0.3), w[1], call(0.2) * w[2]]
        probs = softmax(linear(row, [row, row[::-1], w[2:6]]))
        return probs[0].log() + probs[1] * w[0]

    a, b = graph(w, compiled, linear, softmax), graph(v, plain, reference.linear, reference.softmax)
    a.backward()
    b.backward()
    assert a.data == b.data and grads(w) == grads(v)


def test_parameters_may_change_before_backward():
    w, compiled, v, plain = both(lambda w: lambda x: w[0] * w[1] * x + w[2] ** 2)
    warm(compiled, 0.5)
    result, expected = compiled(0.7), plain(0.7)
    for p, q in zip(w, v):
        p.data = q.data = 100.0
    result.backward()
    expected.backward()
    assert grads(w) == grads(v)


def test_several_results_may_be_alive():
    w, compiled, v, plain = both(lambda w: lambda x: w[0] * w[1] * x + w[2])
    warm(compiled, 0.5)
    results, expected = [compiled(x / 8) for x in range(12)], [plain(x / 8) for x in range(12)]
    for a, b in zip(results[::-1], expected[::-1]):
        a.backward()
        b.backward()
        assert grads(w) == grads(v)
    assert [r.data for r in results] == [e.data for e in expected]


def test_a_leaf_that_is_initialised_again_with_children():
    w, compiled, v, plain = both(lambda w: lambda x: w[0] * w[1] * x)
    warm(compiled, 0.5)
    result, expected = compiled(0.7), plain(0.7)
    w[0].__init__(2.0, (w[3],), (3.0,))
    v[0].__init__(2.0, (v[3],), (3.0,))
    result.backward()
    expected.backward()
    assert grads(w) == grads(v)
    assert compiled(0.7).data == plain(0.7).data


def test_grad_of_minus_zero():
    w, compiled, v, plain = both(lambda w: lambda x: (w[0] + w[1]) * 1.0)
    warm(compiled, 0.5)
    result, expected = compiled(0.1), plain(0.1)
    for p in (w[0], w[1], result):
        p.grad = -0.0
    for p in (v[0], v[1], expected):
        p.grad = -0.0
    a, b = result * 0.0, expected * 0.0
    (a * -1.0).backward()
    (b * -1.0).backward()
    assert grads(w) == grads(v) and hexes([result.grad]) == hexes([expected.grad])


def test_lists_and_tuples_of_results():
    w = leaves(4)
    v = leaves(4, reference.Value)

    def make(w):
        def f(x):
            a = w[0] * x
            b = a.exp() + w[1]
            return a * b, {"b": b, "again": b, "w": w[2]}, [a.data, 3, None]

        return f

    compiled, plain = microgpt.compile(make(w)), make(v)
    warm(compiled, 0.5)
    (first, named, rest), (e_first, e_named, e_rest) = compiled(0.3), plain(0.3)
    assert first.data == e_first.data and named["b"].data == e_named["b"].data and rest == e_rest
    assert named["again"] is named["b"] and named["w"] is w[2]
    for a, b in ((first, e_first), (named["b"], e_named["b"]), (first * named["b"], e_first * e_named["b"])):
        a.backward()
        b.backward()
        assert grads(w) == grads(v)


def test_value_arguments_are_leaves_of_their_own():
    w, compiled, v, plain = both(lambda w: lambda x, y: x[0] * w[0] + x[1] * y)
    a, b = leaves(3, seed=5), leaves(3, reference.Value, seed=5)
    warm(compiled, a[:2], a[2])
    compiled(a[:2], a[2]).backward()
    plain(b[:2], b[2]).backward()
    assert grads(a) == grads(b) and grads(w) == grads(v)
    other, e_other = leaves(3, seed=6), leaves(3, reference.Value, seed=6)
    compiled(other[:2], other[2]).backward()
    plain(e_other[:2], e_other[2]).backward()
    assert grads(other) == grads(e_other) and grads(w) == grads(v)
    # The same Value twice, or one that the function reads anyway: as written.
    compiled([a[0], a[0]], w[0]).backward()
    plain([b[0], b[0]], v[0]).backward()
    assert grads(a) == grads(b) and grads(w) == grads(v)
    # One that is computed from others.
    compiled([a[0] * a[1], a[0]], a[2]).backward()
    plain([b[0] * b[1], b[0]], b[2]).backward()
    assert grads(a) == grads(b) and grads(w) == grads(v)


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
        a, b = compiled(i, 0.3), plain(i, 0.3)
        a.backward()
        b.backward()
        assert a.data == b.data and grads(w) == grads(v)


def test_comprehensions_generators_lambdas_and_nested_functions():
    w, compiled, v, plain = both(lambda w: lambda tokens: sum(
        (lambda y: y * y)(w[t] * w[s]) for t in tokens for s in tokens if True) + [w[t] for t in tokens][0])
    warm(compiled, [0, 1])
    for tokens in ([1, 2], [3, 3], [5, 0]):
        a, b = compiled(tokens), plain(tokens)
        a.backward()
        b.backward()
        assert a.data == b.data and grads(w) == grads(v)


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
    a, b = compiled(0.5), plain(0.5)
    a.backward()
    b.backward()
    assert a.data == b.data and grads(w) == grads(v)


def test_leaves_methods_and_unary_operators_of_leaves():
    w, compiled, v, plain = both(lambda w: lambda x: -w[0] + w[1].exp() * (w[2] * w[2] + 1).log() - w[3].relu() / w[4]
                                 + 2 / w[4] + w[5] ** 2 + w[0].data * w[1] + (1 - w[1]))
    warm(compiled, 1.0)
    a, b = compiled(0.5), plain(0.5)
    a.backward()
    b.backward()
    assert a.data == b.data and grads(w) == grads(v)


def test_inference_appends_to_lists_that_it_is_given():
    model = microgpt.GPT(vocab_size=5, n_embd=4, n_head=2, n_layer=1, block_size=8, rng=random.Random(1))
    step = microgpt.compile(lambda token, position, keys, values: [p / 1.0 for p in softmax(
        microgpt.gpt(token, position, keys, values, model))], grad=False)
    for _ in range(4):
        keys, values, e_keys, e_values = [[]], [[]], [[]], [[]]
        for position, token in enumerate([0, 3, 1, 4, 2]):
            probs = step(token, position, keys, values)
            expected = softmax(microgpt.gpt(token, position, e_keys, e_values, model))
            assert hexes(p.data for p in probs) == hexes((p / 1.0).data for p in expected)
        assert hexes(v.data for row in keys[0] for v in row) == hexes(v.data for row in e_keys[0] for v in row)
        assert len(keys[0]) == len(values[0]) == 5
    assert replayed(step), step.explain()
    assert probs[0]._children == ()


def test_at_most_64_shapes_are_kept():
    w = leaves(80)

    @microgpt.compile(verify=False)
    def f(xs):
        return sum(a * x for a, x in zip(w, xs))

    for n in range(1, 80):
        f([0.5] * n)
    assert len(f.entries) == 64
    assert f([0.5] * 3).data == sum(a.data * 0.5 for a in w[:3])


def test_results_outlive_the_compiled_function():
    w = leaves(3)
    f = microgpt.compile(lambda x: w[0] * w[1] * x + w[2])
    warm(f, 0.5)
    result = f(2.0)
    del f
    result.backward()
    assert w[0].grad == 2.0 * w[1].data and result._children


def test_a_wrong_program_is_caught_and_not_used():
    params, loss, arguments = architectures.plain(Value, lambda f: microgpt.compile(f))
    caught = 0
    for which in range(6):
        loss.entries.clear()
        tokens = arguments(3)
        loss(*tokens)

        class Damaged(type(loss)):
            pass

        before = loss._compile

        def damaged(entry, signature, args, before=before, which=which):
            done = before(entry, signature, args)
            done.program._damage(which)
            return done

        loss._compile = damaged
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            loss(*tokens)
        del loss._compile
        if seen:
            caught += 1
            assert "differs from the function as written" in str(seen[0].message)
            assert not replayed(loss) and "differs" in loss.explain()
    assert caught >= 5


def test_threads_share_a_compiled_function():
    w = leaves(8)
    f = microgpt.compile(lambda i, x: w[i] * x + w[0] * w[1])
    warm(f, 1, 0.5)
    expected = [[(w[i] * x + w[0] * w[1]).data for i in range(8)] for x in (0.5, 1.5)]

    def work():
        for _ in range(300):
            for k, x in enumerate((0.5, 1.5)):
                assert [f(i, x).data for i in range(8)] == expected[k]

    assert in_threads(work, work, work) == []


def test_other_threads_wait_while_a_function_is_traced():
    w = leaves(300)
    v = leaves(20, seed=3)
    expected = (v[0] * v[1] + v[2]).data

    def trace():
        for n in range(2, 30):
            f = microgpt.compile(lambda x: sum(a * b for a in w[:n] for b in w[:n]) * x)
            warm(f, 0.5)

    def compute():
        for _ in range(20000):
            assert (v[0] * v[1] + v[2]).data == expected

    assert in_threads(trace, compute) == []


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="this system does not fork")
def test_a_forked_child_replays():
    import os

    w = leaves(3)
    f = microgpt.compile(lambda x: w[0] * x + w[1])
    warm(f, 0.5)
    before = f(2.0)
    child = os.fork()
    if child == 0:
        try:
            before.backward()
            ok = f(2.0).data == w[0].data * 2.0 + w[1].data and w[0].grad == 2.0
        finally:
            os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_pickling_is_by_name_like_a_functions():
    import pickle

    assert pickle.loads(pickle.dumps(compiled_at_top_level)) is compiled_at_top_level
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(microgpt.compile(lambda x: x))


@microgpt.compile
def compiled_at_top_level(x):
    return Value(x) * 2


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


def test_compilations_leave_nothing_behind():
    class Model:
        def __init__(self):
            self.w = leaves(4)

    def once():
        model = Model()
        f = microgpt.compile(lambda i, x: model.w[i] * x + model.w[0].exp())
        for _ in range(3):
            f(1, 0.5).backward()
        assert replayed(f)
        return weakref.ref(model)

    models = [once() for _ in range(5)]
    gc.collect()
    assert [model() for model in models] == [None] * 5
    for _ in range(500):
        once()
    before = resident()
    for _ in range(1500):
        once()
    assert resident() - before < 400


def resident():
    """The most memory that this process has held, KiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)


def test_threads_replay_while_another_changes_what_the_function_reads():
    """A program that is being replayed is kept until then; a comparison that such a change disturbs is no difference."""
    class Settings:
        scale = 1.0

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(4):
            settings, w = Settings(), leaves(40)
            settings.scale = 1.0

            @microgpt.compile
            def f(x):
                total = x * w[0]
                for _ in range(30):
                    total = linear([total * a for a in w], [w])[0] * settings.scale
                return total

            for _ in range(4):
                f(0.5)
            stop = []

            def replay():
                while not stop:
                    f(0.5)

            def change():
                try:
                    for step in range(12):
                        settings.scale = 1.0 + step / 64
                        f(0.5)
                finally:
                    stop.append(True)

            assert in_threads(change, replay, replay) == []
            assert f(0.5).data == f.__wrapped__(0.5).data
    finally:
        sys.setswitchinterval(interval)
