"""MT19937 against random.Random: the same numbers, in the same order, whatever is drawn and whatever the seed."""
import copy
import math
import pickle
import random
import subprocess
import sys

import pytest
from conftest import hexes
from hypothesis import given
from hypothesis import strategies as st
from lying_lists import Lying

from microgpt.core.mt19937 import MT19937

SEEDS = [0, 1, 42, -1, -42, 2**31, 2**32 - 1, 2**32, -(2**32), 2**63, 2**64 - 1, 10**50, -(10**50), 7**9000, True]
SEEDS += [2 ** (32 * 624) - 1, 2 ** (32 * 625), 3 ** (32 * 700)]  # as many digits as the state has words, and more


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"{seed.bit_length()}-bit{'-' if seed < 0 else ''}")
def test_seed(seed):
    expected = random.Random(seed)
    stream = MT19937(seed)
    assert stream.getstate() == expected.getstate()
    assert hexes(stream.random() for _ in range(1500)) == hexes(expected.random() for _ in range(1500))


def test_many_seeds():
    for seed in range(-1000, 3000):
        assert MT19937(seed).random() == random.Random(seed).random(), seed


def test_a_seed_is_an_integer():
    for seed in (None, 1.0, "1", b"1"):
        with pytest.raises(TypeError, match="a seed is an integer"):
            MT19937(seed)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 255, 256, 257, 1000, 32033])
@pytest.mark.parametrize("seed", [0, 42, -7])
def test_shuffle(n, seed):
    expected, stream = random.Random(seed), MT19937(seed)
    a, b = list(range(n)), list(range(n))
    expected.shuffle(a)
    assert stream.shuffle(b) is None
    assert a == b
    assert stream.getstate() == expected.getstate()


def test_shuffle_takes_a_list():
    for x in (None, (1, 2), "ab"):
        with pytest.raises(TypeError):
            MT19937(1).shuffle(x)


@pytest.mark.parametrize("mu, sigma", [(0.0, 0.08), (0, 1), (3.5, 2.0), (-1e300, 1e300), (0.0, 0.0), (0.0, -1.0),
                                       (math.inf, 1.0)])
def test_gauss(mu, sigma):
    expected, stream = random.Random(42), MT19937(42)
    drawn = hexes(stream.gauss(mu, sigma) for _ in range(10001))
    assert drawn == hexes(expected.gauss(mu, sigma) for _ in range(10001))
    assert stream.getstate() == expected.getstate()  # an odd number of draws: the spare one is there
    assert stream.getstate()[2] is not None


def test_choice_index():
    weights_of = random.Random(5)
    for n in (1, 2, 3, 7, 27, 28, 100, 1000):
        expected, stream = random.Random(n), MT19937(n)
        for _ in range(300):
            weights = [weights_of.random() ** 8 * (weights_of.random() < 0.7) for _ in range(n - 1)] + [1e-300]
            assert [stream.choice_index(weights)] == expected.choices(range(n), weights=weights)
        assert stream.getstate() == expected.getstate()


@pytest.mark.parametrize("weights", [[0.0], [-0.0, 0.0], [1.0, -2.0], [math.inf], [math.nan], [1.0, math.nan, 1.0],
                                     [-math.inf, 3.0], [math.inf, -math.inf], [1e308, 1e308], [0, 0], [3, 4],
                                     [1, -1, 2], [5e-324], [True, False], [2.0, -1.5, -0.25]])
def test_choice_index_of_odd_weights(weights):
    expected, stream = random.Random(9), MT19937(9)
    for _ in range(20):
        try:
            answer = expected.choices(range(len(weights)), weights=weights)[0]
        except ValueError as error:
            with pytest.raises(ValueError) as caught:
                stream.choice_index(weights)
            assert str(caught.value) == str(error)
        else:
            assert stream.choice_index(weights) == answer
    assert stream.getstate() == expected.getstate()


def test_choice_index_of_nothing():
    with pytest.raises(IndexError):
        MT19937(1).choice_index([])
    with pytest.raises(TypeError):
        MT19937(1).choice_index(["a"])


@given(st.integers(), st.lists(st.one_of(
    st.tuples(st.just("random")),
    st.tuples(st.just("gauss"), st.floats(-10, 10), st.floats(0, 3)),
    st.tuples(st.just("shuffle"), st.integers(0, 50)),
    st.tuples(st.just("choice"), st.lists(st.floats(0.001, 9), min_size=1, max_size=40)),
    st.tuples(st.just("to python")),
    st.tuples(st.just("from python")),
), max_size=60))
def test_anything_in_turn(seed, actions):
    expected, stream = random.Random(seed), MT19937(seed)
    for action, *args in actions:
        if action == "random":
            assert stream.random() == expected.random()
        elif action == "gauss":
            assert stream.gauss(*args).hex() == expected.gauss(*args).hex()
        elif action == "shuffle":
            a, b = list(range(args[0])), list(range(args[0]))
            expected.shuffle(a)
            stream.shuffle(b)
            assert a == b
        elif action == "choice":
            assert [stream.choice_index(args[0])] == expected.choices(range(len(args[0])), weights=args[0])
        elif action == "to python":
            expected = random.Random()
            expected.setstate(stream.getstate())
        else:
            stream = MT19937()
            stream.setstate(expected.getstate())
        assert stream.getstate() == expected.getstate()


def test_state_is_checked():
    stream = MT19937(1)
    before = stream.getstate()
    version, internal, spare = before
    for bad in [(2, internal, spare), (3, internal[:-1], spare), (3, (*internal[:-1], 625), spare),
                (3, (*internal[:-1], -1), spare)]:
        with pytest.raises(ValueError):
            stream.setstate(bad)
    for bad in [(3, ("x", *internal[1:]), spare), (3, internal, "x"), 3, None]:
        with pytest.raises(TypeError):
            stream.setstate(bad)
    for bad in [(3, (-1, *internal[1:]), spare), (3, (2**32, *internal[1:]), spare)]:
        with pytest.raises(OverflowError):
            stream.setstate(bad)
    assert stream.getstate() == before


def test_copies():
    stream = MT19937(3)
    stream.gauss()
    for twin in (copy.copy(stream), copy.deepcopy(stream), pickle.loads(pickle.dumps(stream)), stream.copy()):
        assert twin.getstate() == stream.getstate()
        twin.random()
        assert twin.getstate() != stream.getstate()
        twin.setstate(stream)
        assert twin.getstate() == stream.getstate()
    with pytest.raises(RuntimeError, match="__init__ has not been called"):
        stream.setstate(MT19937.__new__(MT19937))


def test_random_is_not_imported():
    code = f"import sys; sys.path[:0] = {sys.path!r}; import microgpt.core.mt19937; sys.exit('random' in sys.modules)"
    assert subprocess.run([sys.executable, "-I", "-c", code]).returncode == 0


@pytest.mark.parametrize("length", [0, 3, 5, 6, 10**7, sys.maxsize])
def test_shuffle_of_a_list_with_its_own_len_is_randoms(length):
    ours, theirs, stream, expected = Lying(range(5), length), Lying(range(5), length), MT19937(3), random.Random(3)
    errors = []
    for x, rng in ((ours, stream), (theirs, expected)):
        try:
            rng.shuffle(x)
        except IndexError as error:
            errors.append(str(error))
    assert list.copy(ours) == list.copy(theirs) and len(errors) in (0, 2)
    assert stream.getstate() == expected.getstate()


def test_shuffle_uses_the_methods_of_a_subclass():
    class Logged(list):
        def __init__(self, items):
            super().__init__(items)
            self.log = []

        def __getitem__(self, index):
            self.log.append(index)
            return super().__getitem__(index)

        def __setitem__(self, index, item):
            self.log.append((index, item))
            super().__setitem__(index, item)

    ours, theirs = Logged("abcdefg"), Logged("abcdefg")
    MT19937(3).shuffle(ours)
    random.Random(3).shuffle(theirs)
    assert ours == theirs and ours.log == theirs.log and len(ours.log) == 24


@pytest.mark.parametrize("length", [0, 1, 2, 4, 10**6, 2**61, sys.maxsize])
def test_choice_index_counts_the_weights_themselves(length):
    """2**61 weights are 2**64 bytes: none at all, in 64 bits."""
    weights = [0.0, 0.0, 1.0]
    try:
        assert MT19937(3).choice_index(Lying(weights, length)) == 2
    except MemoryError:  # tuple() may believe it
        assert length > 10**6


def test_choice_index_of_weights_that_change_while_they_are_read():
    weights = []

    class Weight:
        def __float__(self):
            weights.clear()
            return 1.0

    weights[:] = [Weight() for _ in range(100)]
    assert 0 <= MT19937(3).choice_index(weights) < 100


def test_seed_of_any_whole_type():
    import numpy as np

    class Seed(int):
        def __index__(self):
            return 7

        __int__ = __abs__ = __index__

    for seed in (np.int8(-5), np.uint8(5), np.int64(5), np.uint64(5), Seed(5)):
        assert MT19937(seed).getstate() == random.Random(5).getstate()
    for seed in (np.float64(5.0), np.float32(5.0), 5.0):
        with pytest.raises(TypeError, match="a seed is an integer"):
            MT19937(seed)


def test_state_is_whole_numbers():
    """Cython alone cuts a float to an integer."""
    import numpy as np
    version, internal, spare = MT19937(1).getstate()
    for wrong in (1.5, np.float64(2.0), "1"):
        for bad in ((wrong, *internal[1:]), (*internal[:-1], wrong)):
            with pytest.raises(TypeError):
                MT19937(2).setstate((version, bad, spare))
    stream = MT19937(2)
    stream.setstate((version, np.array(internal, np.uint32), spare))
    assert stream.getstate() == (version, internal, spare)
