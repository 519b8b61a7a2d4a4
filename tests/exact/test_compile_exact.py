"""Compiled functions have the script's bits: losses, gradients and parameters of training loops, on every instruction set."""
import functools
import warnings

import architectures
import oracle
import pytest
from conftest import hexes

import microgpt
from microgpt import Value, reference


class AdamLoop:
    """The script's loop over parameters."""

    def __init__(self, params):
        self.params, self.m, self.v = params, [0.0] * len(params), [0.0] * len(params)

    def step(self, step):
        lr_t = 0.01 * (1 - step / 1000)
        for i, p in enumerate(self.params):
            self.m[i] = 0.85 * self.m[i] + (1 - 0.85) * p.grad
            self.v[i] = 0.99 * self.v[i] + (1 - 0.99) * p.grad**2
            m_hat = self.m[i] / (1 - 0.85 ** (step + 1))
            v_hat = self.v[i] / (1 - 0.99 ** (step + 1))
            p.data -= lr_t * m_hat / (v_hat**0.5 + 1e-8)
            p.grad = 0


def uncompiled(function):
    return function


def assert_trains_alike(build, optimizer, steps, **options):
    compiled = []

    def compile(function):
        compiled.append(microgpt.compile(function, **options))
        return compiled[-1]

    params, loss, arguments = build(Value, compile)
    ours = optimizer(params)
    for step, expected in enumerate(expected_run(build, optimizer, steps)):
        result = loss(*arguments(step))
        result.backward()
        assert hexes([result.data]) == expected[0], f"loss of step {step}"
        assert hexes(p.grad for p in params) == expected[1], f"gradients of step {step}"
        ours.step(step)
        assert hexes(p.data for p in params) == expected[2], f"parameters after step {step}"
    return compiled[0]


@functools.cache
@oracle.collector_off()
def expected_run(build, optimizer, steps):
    """Return (loss, gradients, parameters) of each step by the original's class, once per session."""
    params, loss, arguments = build(reference.Value, uncompiled)
    theirs, found = optimizer(params), []
    for step in range(steps):
        result = loss(*arguments(step))
        result.backward()
        gradients = hexes(p.grad for p in params)
        theirs.step(step)
        found.append((hexes([result.data]), gradients, hexes(p.data for p in params)))
    return found


QUICK = ("plain", "rope", "mixture_of_experts", "gru", "two_heads", "custom_operations")


@pytest.mark.parametrize("build", [pytest.param(build, id=build.__name__, marks=() if build.__name__ in QUICK else pytest.mark.slow)
                                   for build in architectures.ALL])  # fmt: skip
def test_architecture_trains_like_the_script(build, isa):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a program that is not the function warns and is not replayed
        compiled = assert_trains_alike(build, AdamLoop, 14)
    programs = [entry.program for entry in compiled.entries.values() if entry.program is not None]
    assert programs, compiled.explain()
    assert all(program.dynamic is None for program in programs), compiled.explain()


@pytest.mark.parametrize("verify", ["always", False])
def test_each_kind_of_verification_trains_like_the_script(verify):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled = assert_trains_alike(architectures.plain, AdamLoop, 10, verify=verify, fallback="error")
    assert any(entry.program is not None for entry in compiled.entries.values())
