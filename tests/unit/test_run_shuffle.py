"""`random.shuffle` in a script under `microgpt run`: the same order and the same random stream afterwards."""
import random

import pytest

from microgpt.scripting.runtime import Runtime


@pytest.mark.parametrize("n", [0, 2, 499, 500, 5000])
@pytest.mark.parametrize("drawn", [0, 3])
def test_shuffles_as_random_does_and_leaves_the_same_stream(n, drawn):
    random.seed(42 + n)
    random.gauss(0, 1)  # leaves the second of two numbers in the state
    for _ in range(drawn):
        random.random()
    state, expected, found = random.getstate(), list(range(n)), list(range(n))
    assert random.shuffle(expected) is None
    after = random.getstate()
    random.setstate(state)
    assert Runtime.shuffle(random.shuffle, found) is None
    assert found == expected and random.getstate() == after


def test_another_shuffle_than_randoms_is_called():
    own, given = random.Random(1), list(range(1000))
    expected = list(given)
    random.Random(1).shuffle(expected)
    state = random.getstate()
    Runtime.shuffle(own.shuffle, given)
    assert given == expected and random.getstate() == state


def test_what_cannot_be_shuffled_raises_as_with_random():
    with pytest.raises(TypeError):
        Runtime.shuffle(random.shuffle, tuple(range(1000)))
