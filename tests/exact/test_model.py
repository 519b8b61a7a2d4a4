"""GPT and the layers: the graph that the script builds, node for node, and the exceptions that it raises."""
import gc
import math
import random

import pytest
from graphs import ENGINES, assert_same, assert_same_graph, bits, outcome

import microgpt
from microgpt import GPT, document_loss, reference
from microgpt.core.audit import sorted_slots, tape_state
from microgpt.core.fused import FusedEngine
from microgpt.core.mt19937 import MT19937
from microgpt.core.value import Value

CONFIGS = {
    "default": (dict(vocab_size=9), [8, 0, 3, 3, 7, 8]),
    "longer than the block": (dict(vocab_size=5, n_embd=4, n_head=2, block_size=3), [4, 0, 1, 2, 3, 0, 4]),
    "three layers": (dict(vocab_size=4, n_embd=6, n_head=3, n_layer=3, block_size=8), [3, 0, 0, 1, 2, 3]),
    "no layers": (dict(vocab_size=4, n_embd=5, n_head=1, n_layer=0, block_size=8), [3, 0, 2, 3]),
    "one of everything": (dict(vocab_size=1, n_embd=1, n_head=1, n_layer=1, block_size=1), [0, 0]),
    "odd heads": (dict(vocab_size=3, n_embd=15, n_head=5, n_layer=2, block_size=6), [2, 1, 0, 2]),
    "one head": (dict(vocab_size=3, n_embd=7, n_head=1, n_layer=1, block_size=6), [2, 1, 1, 1, 2]),
    "one token": (dict(vocab_size=3, n_embd=4, n_head=4, n_layer=1, block_size=6), [2, 2]),
}
BY_CONFIG = pytest.mark.parametrize("config", CONFIGS)
pytestmark = pytest.mark.usefixtures("collector_off")  # the reference runs in nearly all of them


def pair(config, init_std=0.3, seed=5):
    settings, tokens = CONFIGS[config]
    return (GPT(init_std=init_std, rng=random.Random(seed), **settings),
            reference.GPT(init_std=init_std, rng=random.Random(seed), **settings), tokens)


@BY_CONFIG
def test_parameters_are_drawn_as_the_script_draws_them(config):
    ours, theirs, _ = pair(config)
    assert len(ours.params) == len(theirs.params) == ours.num_params
    assert [bits(p.data) for p in ours.params] == [bits(p.data) for p in theirs.params]
    assert list(ours.state_dict) == list(theirs.state_dict)
    flat = [p for matrix in ours.state_dict.values() for row in matrix for p in row]
    assert all(a is b for a, b in zip(flat, ours.params))
    for name, matrix in theirs.state_dict.items():
        assert [len(row) for row in ours.state_dict[name]] == [len(row) for row in matrix]


def test_default_stream():
    assert [p.data for p in GPT(3).params] == [p.data for p in reference.GPT(3).params]


@BY_CONFIG
@pytest.mark.parametrize("when", ["before", "after", "twice"])
def test_document_loss(config, when):
    ours, theirs, tokens = pair(config)
    loss, expected = document_loss(tokens, ours), reference.document_loss(tokens, theirs)
    assert_same(loss.data, expected.data, "loss")
    if when == "before":
        assert_same_graph(loss, expected)
    for _ in range(2 if when == "twice" else 1):
        loss.backward()
        expected.backward()
    for k, (a, b) in enumerate(zip(ours.params, theirs.params)):
        assert_same(a.grad, b.grad, f"gradient {k}")
    assert_same_graph(loss, expected)


@BY_CONFIG
def test_the_order_known_beforehand_is_the_one_that_sorting_finds(config):
    settings, tokens = CONFIGS[config]
    m = GPT(**settings)
    rng = random.Random(config)
    for n in range(2, m.block_size + 2):
        document = [rng.randrange(m.vocab_size) for _ in range(n)]
        loss = document_loss(document, m)
        assert sorted_slots(loss) == sorted_slots(loss, cached=False)
        assert sorted_slots(loss * 2.0)[:-1] == sorted_slots(loss, cached=False)


def deep(loss):
    return loss._children[0]._children[1]._children[0]._children[0]  # the last position's probability


@pytest.mark.parametrize("inside", [lambda loss: loss._children[0], deep], ids=["sum of losses", "probability"])
def test_the_known_order_is_not_used_once_somebody_has_looked_inside(inside):
    """The nodes below that one are visited before the loss, and once."""
    ours, theirs, tokens = pair("three layers")
    for f, m in ((document_loss, ours), (reference.document_loss, theirs)):
        loss = f(tokens, m)
        ((inside(loss) * m.params[40]).exp() + loss).backward()
    assert [bits(p.grad) for p in ours.params] == [bits(p.grad) for p in theirs.params]


def test_a_document_below_a_chain_that_shares_its_parameters():
    """Nodes of the document send to operands of the folded sum above it, which must give way."""
    ours, theirs, tokens = pair("default")
    for f, m, layers in ((document_loss, ours, microgpt), (reference.document_loss, theirs, reference)):
        p = m.params
        (root,) = layers.linear([*p[1000:1100], f(tokens, m), *p[1300:1400]], [p[1500:1701]])
        root.backward()
    assert [bits(p.grad) for p in ours.params] == [bits(p.grad) for p in theirs.params]


@BY_CONFIG
def test_training_steps(config):
    """The reference's own optimizer on both, to the last bit of every parameter."""
    ours, theirs, tokens = pair(config, init_std=0.08)
    optimizers = [reference.Adam(m, num_steps=5) for m in (ours, theirs)]
    for _ in range(5):
        losses = [f(tokens, m) for f, m in ((document_loss, ours), (reference.document_loss, theirs))]
        assert_same(losses[0].data, losses[1].data)
        for loss, optimizer in zip(losses, optimizers):
            loss.backward()
            optimizer.step()
    assert [bits(p.data) for p in ours.params] == [bits(p.data) for p in theirs.params]


@BY_CONFIG
def test_gpt_position_by_position(config):
    ours, theirs, tokens = pair(config)
    losses = []
    for m, which in ((ours, "graph"), (theirs, "reference")):
        engine = ENGINES[which]
        keys, values = [[] for _ in range(m.n_layer)], [[] for _ in range(m.n_layer)]
        n = min(m.block_size, len(tokens) - 1)
        parts = []
        for pos_id in range(n):
            logits = engine.gpt(tokens[pos_id], pos_id, keys, values, m)
            assert len(logits) == m.vocab_size
            probs = engine.softmax([logit / 0.5 for logit in logits])
            parts.append(-probs[tokens[pos_id + 1]].log())
        assert [len(k) for k in keys] == [n] * m.n_layer == [len(v) for v in values]
        losses.append(sum(parts) / n)
        losses[-1].backward()
    assert [bits(p.grad) for p in ours.params] == [bits(p.grad) for p in theirs.params]
    assert_same_graph(*losses)


def test_gpt_with_keys_and_values_of_the_users_own():
    ours, theirs, _ = pair("three layers")
    results = []
    for m, which in ((ours, "graph"), (theirs, "reference")):
        V = ENGINES[which].Value
        rng = random.Random(3)
        keys, values = ([[[V(rng.gauss(0, 1)) for _ in range(6)]] for _ in range(3)] for _ in range(2))
        shared = keys[0][0][0] * values[1][0][2]
        values[2][0] = (*values[2][0][:5], shared)
        root = sum(ENGINES[which].gpt(-1, 1, keys, values, m))
        root.backward()
        results.append(root)
    assert_same_graph(*results)


def test_a_batch_in_one_graph_and_gradients_over_several():
    ours, theirs, tokens = pair("three layers")
    batch = [tokens, [3, 2, 3], tokens[:3]]
    for f, m in ((document_loss, ours), (reference.document_loss, theirs)):
        losses = [f(t, m) for t in batch]
        (sum(losses) / len(losses) + m.params[3] * m.params[3]).backward()
        f(tokens, m).backward()
        losses[1].backward()
    assert [bits(p.grad) for p in ours.params] == [bits(p.grad) for p in theirs.params]


def test_parameters_changed_between_forward_and_backward():
    ours, theirs, tokens = pair("default")
    for f, m in ((document_loss, ours), (reference.document_loss, theirs)):
        loss = f(tokens, m)
        for p in m.params:
            p.data = 0.5
        loss.backward()
    assert [bits(p.grad) for p in ours.params] == [bits(p.grad) for p in theirs.params]


# ---- layers on Values ----

def layer_cases():
    def numbers(V, n):
        return [V(0.1 * k - 0.25) for k in range(n)]

    return {
        "linear, tuples": lambda m, V: m.linear(tuple(numbers(V, 3)), (tuple(numbers(V, 3)), numbers(V, 3))),
        "linear, x too long": lambda m, V: m.linear(numbers(V, 5), [numbers(V, 3), numbers(V, 3)]),
        "linear, w too long": lambda m, V: m.linear(numbers(V, 2), [numbers(V, 3), numbers(V, 4)]),
        "linear, ragged": lambda m, V: m.linear(numbers(V, 3), [numbers(V, 3), numbers(V, 2), numbers(V, 1)]),
        "linear, ragged the other way": lambda m, V: m.linear(numbers(V, 3), [numbers(V, 1), numbers(V, 3)]),
        "linear, numbers for x": lambda m, V: m.linear([1.0, 2, -0.5], [numbers(V, 3)]),
        "linear, numbers for w": lambda m, V: m.linear(numbers(V, 3), [[1.0, 2, -0.5]]),
        "linear, an empty row": lambda m, V: m.linear(numbers(V, 2), [numbers(V, 2), []]),
        "linear, no rows": lambda m, V: m.linear(numbers(V, 2), []),
        "linear, nothing": lambda m, V: m.linear([], [[], []]),
        "linear, all numbers": lambda m, V: m.linear([1.0], [[2.0]]),
        "linear, text": lambda m, V: m.linear(["a"], [numbers(V, 1)]),
        "linear, none": lambda m, V: m.linear(None, [numbers(V, 1)]),
        "softmax, equal": lambda m, V: m.softmax([V(1.0), V(1.0)]),
        "softmax, nan first": lambda m, V: m.softmax([V(float("nan")), V(1.0)]),
        "softmax, nan last": lambda m, V: m.softmax([V(1.0), V(float("nan"))]),
        "softmax, inf": lambda m, V: m.softmax([V(1.0), V(float("inf"))]),
        "softmax, -inf": lambda m, V: m.softmax([V(1.0), V(float("-inf"))]),
        "softmax, zeros": lambda m, V: m.softmax([V(-0.0), V(0.0), V(-0.0)]),
        "softmax, far apart": lambda m, V: m.softmax([V(1e5), V(-1e5)]),
        "softmax, nothing": lambda m, V: m.softmax([]),
        "softmax, numbers": lambda m, V: m.softmax([1.0, 2.0]),
        "rmsnorm, zeros": lambda m, V: m.rmsnorm([V(0.0), V(-0.0)]),
        "rmsnorm, huge": lambda m, V: m.rmsnorm([V(1e200), V(1.0)]),
        "rmsnorm, inf": lambda m, V: m.rmsnorm([V(float("inf")), V(1.0)]),
        "rmsnorm, nan": lambda m, V: m.rmsnorm([V(float("nan")), V(1.0)]),
        "rmsnorm, nothing": lambda m, V: m.rmsnorm([]),
        "rmsnorm, numbers": lambda m, V: m.rmsnorm([1.0, 2.0]),
        "rmsnorm, mixed": lambda m, V: m.rmsnorm([V(1.0), 2.0]),
    }


@pytest.mark.parametrize("case", layer_cases())
def test_layer(case):
    ours, error = outcome(lambda: layer_cases()[case](microgpt, Value))
    theirs, expected = outcome(lambda: layer_cases()[case](reference, reference.Value))
    assert error == expected
    if theirs is None:
        return
    assert type(ours) is list and len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        if isinstance(b, reference.Value):
            assert_same_graph(a, b)
            a.backward()
            b.backward()
            assert_same_graph(a, b)
        else:
            assert type(a) is type(b) and bits(a) == bits(b)


def test_division_by_the_length_is_the_librarys_pow():
    """At the least n for which pow(n, -1.0) is not 1.0 / n (any will do where there is none)."""
    n = next((n for n in range(1, 3000) if float(n) ** -1.0 != 1.0 / n), 3)
    ours, theirs = ([V(0.1 * k - 0.25) for k in range(n)] for V in (Value, reference.Value))
    assert_same_graph(microgpt.rmsnorm(ours)[0], reference.rmsnorm(theirs)[0])


@pytest.mark.parametrize("tokens", [[], [2], [0, 3], [0, -3], [0, -4], [3, 0], [0, 1.5], [0, "a"], "ab", None])
def test_document_loss_of_odd_tokens(tokens):
    settings = dict(vocab_size=3, n_embd=4, block_size=4)
    ours, error = outcome(lambda: document_loss(tokens, GPT(**settings)))
    theirs, expected = outcome(lambda: reference.document_loss(tokens, reference.GPT(**settings)))
    assert error == expected
    if theirs is not None:
        assert_same(getattr(ours, "data", ours), getattr(theirs, "data", theirs))


def test_probability_that_underflows_is_the_scripts_error():
    errors = []
    for m in (microgpt, reference):
        gpt = m.GPT(2, n_embd=2, n_head=1, n_layer=0, block_size=2)
        for p, number in zip(gpt.params, [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1e3, 1e3, -1e3, -1e3]):
            p.data = number
        errors.append(outcome(m.document_loss, [0, 1], gpt)[1])
    assert errors[0] == errors[1] and errors[0][0] is ValueError


@pytest.mark.parametrize("arguments", [(3, 0), (-4, 0), (0, 4), (0, -5), (1.0, 0), (0, None)])
def test_gpt_of_odd_indices(arguments):
    settings = dict(vocab_size=3, n_embd=4, block_size=4)
    _, error = outcome(lambda: microgpt.gpt(*arguments, [[]], [[]], GPT(**settings)))
    _, expected = outcome(lambda: reference.gpt(*arguments, [[]], [[]], reference.GPT(**settings)))
    assert error == expected is not None


def test_gpt_refuses_what_it_cannot_use():
    m = GPT(3, n_embd=4)
    row = [Value(0.0) for _ in range(4)]
    for keys, values in (([[row]], [[]]), ([[row[:3]]], [[row]]), ([[row]], [[[0.0] * 4]])):
        with pytest.raises(ValueError):
            microgpt.gpt(0, 1, keys, values, m)
    with pytest.raises(TypeError):
        microgpt.gpt(0, 0, [[]], [[]], reference.GPT(3, n_embd=4))
    with pytest.raises(IndexError):
        microgpt.gpt(0, 0, [], [], m)


# ---- the object ----

@pytest.mark.parametrize(
    "settings, said",
    [
        (dict(vocab_size=0), "vocab_size (0) must be at least 1"),
        (dict(vocab_size=3, n_embd=0), "n_embd (0) must be at least 1"),
        (dict(vocab_size=3, n_head=0), "n_head (0) must be at least 1"),
        (dict(vocab_size=3, block_size=-1), "block_size (-1) must be at least 1"),
        (dict(vocab_size=3, n_layer=-1), "n_layer (-1) must not be negative"),
        (dict(vocab_size=3, n_embd=16, n_head=3), "n_embd (16) must be a multiple of n_head (3)"),
        (dict(vocab_size=10**6, n_embd=10**5), "parameters are more than the graph can hold"),
    ],
)
def test_impossible_settings(settings, said):
    with pytest.raises(ValueError) as caught:
        GPT(**settings)
    assert said in str(caught.value)


def test_views():
    import numpy as np

    m = GPT(5, n_embd=4)
    assert m.data.dtype == m.grad.dtype == np.float64 and m.data.shape == (m.num_params,) == m.grad.shape
    m.data[3], m.grad[4] = 7.5, -2.0
    assert m.params[3].data == 7.5 and m.params[4].grad == -2.0
    m.params[5].data = 9.0
    assert m.data[5] == 9.0 and m.data.flags["C_CONTIGUOUS"] and not m.data.flags["OWNDATA"]


def test_a_view_keeps_the_model_alive():
    m = GPT(5, n_embd=4)
    data, grad = m.data, m.grad
    first, expected = m.params[0], m.data.tolist()
    del m
    gc.collect()
    others = [GPT(5, n_embd=4, rng=random.Random(k)) for k in range(20)]
    assert data.tolist() == expected and not grad.any() and first.data == expected[0]
    del others


def test_a_graph_and_a_parameter_outlive_the_model():
    ours, theirs, tokens = pair("default")
    p, q = ours.params[0], theirs.params[0]
    loss, expected = document_loss(tokens, ours), reference.document_loss(tokens, theirs)
    del ours, theirs
    gc.collect()
    others = [GPT(9, rng=random.Random(k)) for k in range(5)]
    loss.backward()
    expected.backward()
    assert_same(p.grad, q.grad)
    assert_same_graph(loss, expected)
    del others


def test_part_of_a_graph_outlives_the_rest():
    x = [Value(0.5), Value(2.0)]
    out = microgpt.linear(x, [[Value(3.0), Value(4.0)], [Value(5.0), Value(6.0)]])
    second = out[1]
    del out
    churn = [microgpt.linear(x, [x, x]) for _ in range(50)]
    second.backward()
    assert (x[0].grad, x[1].grad) == (5.0, 6.0)
    assert [c.data for c in second._children[1]._children] == [6.0, 2.0]
    del churn


def test_iterators_are_read_once():
    x = [Value(1.0), Value(2.0)]
    out = microgpt.linear(iter(x), iter([x, (v for v in x)]))
    assert [v.data for v in out] == [5.0, 5.0] and out[1]._children[1]._children == (x[1], x[1])


def test_state_dict_is_read_only():
    m = GPT(3, n_embd=4)
    with pytest.raises(TypeError):
        m.state_dict["wte"] = m.state_dict["lm_head"]
    with pytest.raises(TypeError):
        m.state_dict["wte"][0][0] = Value(1.0)


# ---- numbers of other types ----


class Wrong(int):
    """An int whose own operators are of no use to anybody."""

    def __index__(self):
        return 1

    __int__ = __mul__ = __rmul__ = __add__ = __radd__ = __floordiv__ = __mod__ = __rmod__ = __index__
    __lt__ = __gt__ = __le__ = __ge__ = lambda self, other: False


class Index:
    def __init__(self, number):
        self.number = number

    def __index__(self):
        return self.number


NARROW = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


def whole_types():
    import numpy as np
    return [*(getattr(np, name) for name in NARROW), Wrong, Index, np.array]


SIZES = dict(vocab_size=27, n_embd=16, n_head=4, n_layer=2, block_size=100)


@pytest.mark.parametrize("which", range(len(NARROW) + 3))
def test_sizes_of_any_whole_type_are_computed_with_exactly(which):
    """Where sizes wrapped around, engines wrote beyond the parameters."""
    as_type = whole_types()[which]
    expected = GPT(**SIZES)
    for given in (SIZES, *([name] for name in SIZES)):
        m = GPT(**{name: as_type(size) if name in given else size for name, size in SIZES.items()})
        assert repr(m) == repr(expected) and (m.num_params, m.head_dim) == (expected.num_params, 4)
        assert len(m.params) == m.num_params == len(m.data)
        assert type(m.n_embd) is type(m.num_params) is int
        others = [Value(1.0) for _ in range(1000)]
        FusedEngine(m).loss_and_grad([26, 1, 2, 26])
        assert all((v.data, v.grad) == (1.0, 0.0) for v in others)
        theirs = reference.GPT(**{name: as_type(size) if name in given else size for name, size in SIZES.items()})
        assert repr(theirs) == repr(m) and theirs.num_params == m.num_params


@pytest.mark.parametrize("size", [2**k + d for k in (26, 28, 31, 32, 33, 62, 63, 64, 100) for d in (-1, 0, 1)] + [10**400])
@pytest.mark.parametrize("name", SIZES)
def test_sizes_whose_products_overflow_are_refused(name, size):
    settings = {"n_head": 1, **SIZES, name: size}
    if name == "n_embd":
        settings["n_head"] = 1
    with pytest.raises(ValueError, match="more than the graph can hold|must be a multiple of n_head"):
        GPT(**settings)


@pytest.mark.parametrize("size", [16.0, 1.5, "16", None, float("nan"), 1j, [16]])
@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_whole_numbers(name, size):
    with pytest.raises(TypeError, match=f"^{name} must be a whole number, not "):
        GPT(**{**SIZES, name: size})
    import numpy as np
    for number in (np.float32(16), np.float64(16), np.bool_(True), np.array([16])):
        with pytest.raises(TypeError):
            GPT(**{**SIZES, name: number})


def test_init_std_of_any_type_is_a_float():
    import numpy as np
    for std in (np.float32(0.1), np.float16(0.1), np.int8(2), True, 2, "0.1"):
        ours, error = outcome(lambda: GPT(3, n_embd=4, init_std=std, rng=random.Random(1)))
        if ours is None:
            assert error[0] is TypeError and isinstance(std, str)
            continue
        theirs = reference.GPT(3, n_embd=4, init_std=std, rng=random.Random(1))
        assert [bits(p.data) for p in ours.params] == [bits(p.data) for p in theirs.params]
        assert all(type(p.data) is float for p in theirs.params)
        assert ours.data.tolist() == GPT(3, n_embd=4, init_std=float(std), rng=MT19937(1)).data.tolist()


@pytest.mark.parametrize("which", range(len(NARROW) + 3))
def test_token_ids_of_any_whole_type(which):
    as_type = whole_types()[which]
    if as_type is Wrong:  # what it is used for as a list index, which the script does, is Python's to say
        return
    tokens = [200, 0, 130, 200]
    m = GPT(201, n_embd=4, block_size=4)
    try:
        given = [as_type(i) for i in tokens]
    except OverflowError:  # int8
        tokens = [100, 0, 3, 100]
        given = [as_type(i) for i in tokens]
    expected = document_loss(tokens, m).data
    assert document_loss(given, m).data == expected == FusedEngine(m).loss_and_grad(given)
    assert document_loss(tuple(given), m).data == expected
    (a, *_), (b, *_) = (microgpt.gpt(i, p, [[]], [[]], m) for i, p in ((tokens[0], 1), (given[0], as_type(1))))
    assert a.data == b.data


# ---- keys and values that are not what they seem ----


class Lying(list):
    """A list that gives another number of rows than it says."""

    def __init__(self, rows, length, given=None):
        super().__init__(rows)
        self.length, self.given = length, given

    def __len__(self):
        return self.length

    def __iter__(self):
        return list.__iter__(self) if self.given is None else iter(list.__getitem__(self, slice(None)) * self.given)


def cache_of(m, n, V=Value):
    rng = random.Random(n)
    return [[[V(rng.gauss(0, 1)) for _ in range(m.n_embd)] for _ in range(n)] for _ in range(m.n_layer)]


def tape_is_free():
    """Whether other threads could go on: it would hang where the tape is taken."""
    assert not tape_state()[0]
    x = Value(2.0)
    (x * x).backward()
    microgpt.softmax([x, x])[0].backward()
    return True


@pytest.mark.parametrize("length", [0, 1, 2, 3, 5, 2**40])
@pytest.mark.parametrize("n_layer", [1, 2])
def test_rows_are_counted_and_not_believed(length, n_layer):
    settings = dict(vocab_size=5, n_embd=4, n_head=2, n_layer=n_layer, block_size=8)
    logits = []
    for m, module, V in ((GPT(**settings), microgpt, Value), (reference.GPT(**settings), reference, reference.Value)):
        keys, values = cache_of(m, 2, V), cache_of(m, 2, V)
        keys, values = [Lying(rows, length) for rows in keys], [Lying(rows, length) for rows in values]
        logits.append(module.gpt(1, 1, keys, values, m))
        assert all(list.__len__(rows) == 3 for rows in keys + values)
    assert [bits(v.data) for v in logits[0]] == [bits(v.data) for v in logits[1]]
    assert tape_is_free()


@pytest.mark.parametrize("which", ["keys", "values"])
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("given", [0, 2])
def test_layers_of_different_numbers_of_rows_are_refused(which, layer, given):
    """Another layer's rows were taken for what was missing."""
    m = GPT(5, 4, 2, 2, 8)
    keys, values = cache_of(m, 2), cache_of(m, 2)
    cache = keys if which == "keys" else values
    cache[layer] = Lying(cache[layer], 2, given)
    with pytest.raises(ValueError, match="as many positions as each other"):
        microgpt.gpt(1, 1, keys, values, m)
    assert tape_is_free()


@pytest.mark.parametrize("bad", [
    lambda row: row[:-1], lambda row: [*row[:-1], 1.0], lambda row: [*row[:-1], Value.__new__(Value)], lambda row: [],
    lambda row: [*row[:-1], None], lambda row: (v.data for v in row), lambda row: 3, lambda row: Raising(row),
])  # fmt: skip
@pytest.mark.parametrize("position", [0, 1])
def test_bad_rows_leave_the_tape_free(bad, position):
    m = GPT(5, 4, 2, 1, 8)
    for which in (0, 1):
        caches = cache_of(m, 2), cache_of(m, 2)
        caches[which][0][position] = bad(caches[which][0][position])
        with pytest.raises((ValueError, TypeError, ZeroDivisionError)):
            microgpt.gpt(1, 1, *caches, m)
        assert len(caches[0][0]) == len(caches[1][0]) == 2
        assert tape_is_free()


class Raising(list):
    def __iter__(self):
        yield self[0]
        raise ZeroDivisionError


class Shrinking(list):
    """Rows that empty the list they come from."""

    def __iter__(self):
        for row in list(list.__iter__(self)):
            self.clear()
            row.clear()
            yield row


def test_rows_that_change_while_they_are_read():
    m = GPT(5, 4, 2, 1, 8)
    keys, values = cache_of(m, 2), cache_of(m, 2)
    with pytest.raises(ValueError):
        microgpt.gpt(1, 1, [Shrinking(keys[0])], values, m)
    assert tape_is_free()


@pytest.mark.parametrize("function", [
    lambda x: microgpt.softmax(x), lambda x: microgpt.rmsnorm(x), lambda x: microgpt.linear(x, [[Value(1.0)] * 2]),
    lambda x: microgpt.linear([Value(1.0)] * 2, [[Value(1.0)] * 2, x]), lambda x: microgpt.linear([Value(1.0)], x),
])  # fmt: skip
@pytest.mark.parametrize("bad", [
    lambda: Lying([Value(1.0), Value(2.0)], 5), lambda: Lying([Value(1.0)], 0), lambda: [Value.__new__(Value)] * 2,
    lambda: [Value(1.0), None], lambda: Raising([Value(1.0)]), lambda: [[Value(1e308)], "ab"], lambda: [Value("1")],
])  # fmt: skip
def test_layers_of_odd_sequences_leave_the_tape_free(function, bad):
    try:
        function(bad())
    except Exception:
        pass
    assert tape_is_free()


def test_legal_errors_leave_the_graph_whole():
    """A debug build walks the tape after each of these; nodes that were never filled in would end the process."""
    huge, nan, inf = Value(1e308), Value(math.nan), Value(math.inf)
    m = GPT(3, n_embd=4, n_head=1, n_layer=1, block_size=4)
    m.data[:] = 0.1
    m.data[28:32], m.data[32:36] = 1e4, -1e4  # lm_head: no probability is left for token 1
    for _ in range(3):
        with pytest.raises(ValueError, match="math domain error|positive"):
            document_loss([2, 1, 2], m)
        assert math.isnan(microgpt.softmax([huge, inf])[0].data)
        microgpt.softmax([nan, huge])
        microgpt.rmsnorm([huge, nan])
        microgpt.linear([huge, inf], [[inf, huge]])
        with pytest.raises(IndexError):
            document_loss([2, 7, 2], m)
    for number in (math.nan, math.inf, -1e308):
        m.data[:] = number
        keys, values = [[]], [[]]
        for pos_id in range(3):
            microgpt.gpt(1, pos_id, keys, values, m)
        try:
            document_loss([2, 1, 2], m)
        except ValueError:
            pass
    assert tape_is_free()
