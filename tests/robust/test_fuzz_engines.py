"""Random documents and training runs (tools/fuzz_engines.py), some of each kind here and many more in the campaign."""
import random
import sys

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples

sys.path.insert(0, str(ROOT / "tools"))

import fuzz_engines  # noqa: E402

SEEDS = st.integers(0, 2**64 - 1)


@settings(max_examples=examples(40))
@given(SEEDS)
def test_document_has_the_same_loss_and_gradients_on_every_engine(seed):
    fuzz_engines.check("document", seed, 0)


@settings(max_examples=examples(40))
@given(SEEDS)
def test_training_has_the_same_bits_on_every_engine(seed):
    fuzz_engines.check("training", seed, 0)


@pytest.mark.slow
@settings(max_examples=examples(10))
@given(SEEDS)
def test_step_whose_square_overflows_is_undone_on_every_engine(seed):
    fuzz_engines.check("overflow", seed, 0)


@pytest.mark.parametrize("kind", fuzz_engines.KINDS)
def test_one_bit_is_seen(kind, monkeypatch):
    """In one number of one array, of whatever the fused engine made; a number that is nan has no bits to compare."""
    draw, graph, fused = fuzz_engines.KINDS[kind]

    def one_bit_off(case):
        arrays, error = fused(case)
        name = sorted(arrays)[0]
        wrong = np.array(arrays[name])
        wrong[0] = np.nextafter(wrong[0], 9.0) if wrong[0] == wrong[0] else 0.0
        return {**arrays, name: wrong}, error

    monkeypatch.setitem(fuzz_engines.KINDS, kind, (draw, graph, one_bit_off))
    for number in range(5):
        with pytest.raises(AssertionError, match="is .*, not "):
            fuzz_engines.check(kind, 1, number)


def test_error_of_another_type_or_at_another_step_is_seen():
    compare, stood = fuzz_engines.compare, {"losses": np.array([1.0])}
    compare((stood, ValueError), (stood, ValueError), "x")
    with pytest.raises(AssertionError, match="x: raised <class 'OverflowError'>, not <class 'ValueError'>"):
        compare((stood, ValueError), (stood, OverflowError), "x")
    with pytest.raises(AssertionError, match="x: 0 losses, not 1"):
        compare((stood, ValueError), ({"losses": np.array([])}, ValueError), "x")


def test_cases_cover_what_they_are_for():
    """Neither only errors nor none, every state of the moments, every size of block below and above a vector's width."""
    cases = [fuzz_engines.training_case(random.Random(n)) for n in range(300)]
    assert {case.moments for case in cases} == {"zero", "usual", "tiny", "mixed", "negative", "one huge"}
    assert {case.shape["n_layer"] for case in cases} == {0, 1, 2} and {1, 7, 8, 9, 17} <= {case.shape["block_size"] for case in cases}
    raised = [fuzz_engines.check("training", 2, number) for number in range(30)]
    assert None in raised and set(raised) - {None}
