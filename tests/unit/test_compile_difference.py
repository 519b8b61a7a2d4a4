"""What a compiled program is held to: every number of its first call, and every gradient, has the bits of the function as written."""
import math

import pytest

import microgpt
from microgpt import Value
from microgpt.compiler import compare

W = [Value(0.5), Value(-1.5), Value(2.0)]


def loss(x):
    return W[0] * x + W[1] * W[2] * 0.0


@pytest.mark.parametrize("index, wrong", [(0, lambda g: math.nextafter(g, 9.0)), (1, lambda g: -g), (2, lambda g: math.nan)],
                         ids=["one bit", "the sign of a zero", "nan"])  # fmt: skip
def test_a_gradient_with_other_bits_is_never_replayed(monkeypatch, index, wrong):
    honest = compare.probe_replay

    def probe_replay(*given):
        found = honest(*given)
        found[index] = wrong(found[index])
        return found

    monkeypatch.setattr(compare, "probe_replay", probe_replay)
    compiled = microgpt.compile(loss)
    assert compiled(3.0).data == loss(3.0).data
    with pytest.warns(RuntimeWarning, match="differs from the function as written: 1 of 3 gradients, the first "):
        assert compiled(3.0).data == loss(3.0).data
    assert compiled(4.0).data == loss(4.0).data


def test_a_result_with_other_bits_is_never_replayed(monkeypatch):
    monkeypatch.setattr(compare.structure, "pairs", lambda expected, found: [(0.0, -0.0)])
    compiled = microgpt.compile(loss)
    compiled(3.0)
    with pytest.warns(RuntimeWarning, match="1 of 1 results, the first -0.0 instead of 0.0"):
        compiled(3.0)


def test_the_same_bits_are_replayed(no_warnings):
    compiled = microgpt.compile(loss)
    assert [compiled(3.0).data for _ in range(3)] == [loss(3.0).data] * 3
    assert "traced in" in compiled.explain()


def product(x):
    return W[0] * x


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_nan_of_another_sign_is_no_difference(no_warnings, sign):
    nan = math.copysign(math.nan, sign)
    compiled = microgpt.compile(product, verify="always")
    for W[0].grad in (nan, -nan, 0.0):
        for _ in range(3):
            assert math.isnan(compiled(nan).data)
    W[0].grad = 0.0
    assert "compiled: " in compiled.explain()
