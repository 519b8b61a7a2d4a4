"""Sizes, settings and token ids of other types than int and float: computed with exactly, or refused."""
import random

import pytest
from graphs import bits, outcome

import microgpt
from microgpt import GPT, document_loss, reference
from microgpt.core.fused import FusedEngine
from microgpt.core.mt19937 import MT19937
from microgpt.core.value import Value


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
        with pytest.raises((TypeError, DeprecationWarning)):  # NumPy 2.2, the last for Python 3.10, warns of np.bool_ in an index
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
