"""Random functions have the script's bits when they are compiled; tools/fuzz_compile.py runs many more of them."""
import warnings

import pytest
import random_programs


@pytest.mark.parametrize("first", range(0, 120, 20))
def test_random_functions(first):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a program that is not the function warns
        kinds = [random_programs.run(seed) for seed in range(first, first + 20)]
    assert "static" in kinds


def test_random_functions_on_every_instruction_set(isa):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(1000, 1020):
            random_programs.run(seed)


@pytest.mark.parametrize("seed", [3109681])
def test_programs_that_were_wrong_once(seed):
    """A lookup below another one by the same index, met before any node had finished."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        random_programs.run(seed, calls=40)
