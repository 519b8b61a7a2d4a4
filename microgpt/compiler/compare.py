"""A call as written and the same call replayed, compared bit for bit."""
import struct

from ..core.probes import leaf_values, probe, probe_replay
from ..core.replay import Program
from ..core.value import Value
from . import structure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def difference(
    program: Program, arguments: "tuple[Any, ...]", expected: "Any", found: "Any", root: "Any"
) -> "str | None":
    """Compare all that can be seen of a call, bit for bit but for those of a nan. "" where there is no memory to compare."""
    numbers = structure.pairs(expected, found)
    if numbers is None:
        return "its results are not built alike"
    wrong = [(x, y) for x, y in numbers if _differ(x, y)]
    if wrong:
        return f"{len(wrong)} of {len(numbers)} results, the first {wrong[0][1]!r} instead of {wrong[0][0]!r}"
    eager = _first_value(expected)
    if not program.with_grad or eager is None:
        return None
    expected = probe(eager, program, leaf_values(arguments))
    found = probe_replay(root, program)
    if expected is None or found is None:
        return ""  # no memory to compare
    if _bits(*expected) == _bits(*found):  # usually, and there is one for each parameter
        return None
    differing = [i for i, (x, y) in enumerate(zip(expected, found)) if _differ(x, y)]
    if differing:
        i = differing[0]
        return f"{len(differing)} of {len(expected)} gradients, the first {found[i]!r} instead of {expected[i]!r}"
    return None


def _bits(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}d", *numbers)


def _differ(x: float, y: float) -> bool:
    """Whether two numbers differ. Two nan do not: which of its operands' signs a nan has was up to the compiler of either side."""
    return _bits(x) != _bits(y) and (x == x or y == y)


def _first_value(x: "Any") -> "Value | None":
    """The first Value in a result."""
    if isinstance(x, Value):
        return x
    for item in x.values() if isinstance(x, dict) else x if isinstance(x, (list, tuple)) else ():
        found = _first_value(item)
        if found is not None:
            return found
    return None
