"""GPT and the layers: the graph that the script builds, node for node, and the exceptions that it raises."""
import gc
import random

import pytest
from graphs import ENGINES, assert_same, assert_same_graph, bits

import microgpt
from microgpt import GPT, document_loss, reference
from microgpt.core.audit import sorted_slots

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
