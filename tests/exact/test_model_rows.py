"""Keys and values that are not what they seem: counted, not believed, and no error keeps the tape."""
import math
import random

import pytest
from graphs import bits
from lying_lists import Lying

import microgpt
from microgpt import GPT, document_loss, reference
from microgpt.core.audit import tape_state
from microgpt.core.value import Value


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
