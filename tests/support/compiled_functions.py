"""What the tests of microgpt.compile share: leaves, and a function compiled over ours beside the same over the script's."""
import random

from conftest import hexes

import microgpt
from microgpt import Value, reference


def leaves(n, cls=Value, seed=0):
    rng = random.Random(seed)
    return [cls(rng.uniform(-1, 1)) for _ in range(n)]


def warm(function, *arguments):
    """Call until replayed."""
    for _ in range(2):
        function(*arguments)
    assert replayed(function), function.explain()
    return function


def only(function):
    """Return the Entry of a compiled function that was called with one shape."""
    (entry,) = function.entries.values()
    return entry


def replayed(function):
    return any(entry.program is not None for entry in function.entries.values())


def both(make, n=6, **options):
    """make(w) -> a function over the Values w: compiled over ours, and as written over the script's."""
    ours, theirs = leaves(n), leaves(n, reference.Value)
    return ours, microgpt.compile(make(ours), **options), theirs, make(theirs)


def grads(values):
    return hexes(v.grad for v in values)


def check_gradients(compiled, plain, w, v, *arguments):
    """Compare a call of compiled, over the leaves w, and its backward pass with those of plain, over v."""
    a, b = compiled(*arguments), plain(*arguments)
    a.backward()
    b.backward()
    assert a.data == b.data and grads(w) == grads(v)
