"""The layers on Values, and the model's functions on what is none of theirs: the script's results and exceptions."""
import pytest
from graphs import assert_same, assert_same_graph, bits, outcome

import microgpt
from microgpt import GPT, document_loss, reference
from microgpt.core.value import Value


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
