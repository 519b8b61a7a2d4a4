"""A GPT as an object: what may be written to, and what outlives what."""
import gc
import random

import pytest

import microgpt
from microgpt import GPT
from microgpt.core.value import Value


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
