"""A training loop of a compiled function and the package's optimizer beside the same loop of the reference's."""
import functools

import microgpt
from microgpt import Value, reference

_SETTINGS = {"learning_rate": 0.0002, "momentum": 0.9, "weight_decay": 1e-3}
#: What makes our optimizer of a list of Values, and the reference's.
ADAM = functools.partial(microgpt.Adam, learning_rate=0.01), functools.partial(reference.Adam, learning_rate=0.01)
SGD = functools.partial(microgpt.SGD, **_SETTINGS), functools.partial(reference.SGD, **_SETTINGS)


def _hexes(numbers):
    return [float(x).hex() for x in numbers]


def assert_same_runs(build, optimizers, steps, chosen=lambda params: params, before_step=lambda params: None, **options):
    """build(Value, compile) -> params, loss, arguments; chosen: what of params is optimized -> the compiled function."""
    compiled = []

    def compile(function):
        compiled.append(microgpt.compile(function, **options))
        return compiled[-1]

    params, loss, arguments = build(Value, compile)
    others, other_loss, _ = build(reference.Value, lambda function: function)
    ours, theirs = (optimizer(chosen(values)) for optimizer, values in zip(optimizers, (params, others)))
    for step in range(steps):
        given = arguments(step)
        result, expected = loss(*given), other_loss(*given)
        result.backward()
        expected.backward()
        assert _hexes([result.data]) == _hexes([expected.data]), f"loss of step {step}"
        assert _hexes(p.grad for p in params) == _hexes(p.grad for p in others), f"gradients of step {step}"
        for values, optimizer in ((params, ours), (others, theirs)):
            before_step(values)
            optimizer.step()
        assert _hexes(p.data for p in params) == _hexes(p.data for p in others), f"parameters after step {step}"
        assert _hexes(p.grad for p in params) == _hexes(p.grad for p in others), f"gradients after step {step}"
    assert all(entry.program or entry.calls < 2 for entry in compiled[0].entries.values()), compiled[0].explain()
    assert sum(entry.replays for entry in compiled[0].entries.values()) > 0, compiled[0].explain()
    return compiled[0]
