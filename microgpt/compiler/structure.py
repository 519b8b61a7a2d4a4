"""Arguments and results, taken apart and put together: lists within lists."""
from ..core.outside import add_root
from ..core.recorder import TraceError
from ..core.symbols import SymFloat, SymInt
from ..core.traced import Traced
from ..core.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeAlias

    from ..core.tracing import Trace

    #: ("leaf", its index), ("constant", what it is), or a kind of container with the structures of its items.
    Structure: TypeAlias = tuple[str, Any]

_CONSTANT = (bool, str, bytes, complex, range, frozenset)


def symbolic(trace: "Trace", x: "Any", name: str, with_grad: bool, static: bool = False) -> "Any":
    """What stands for an argument in the trace, in the order in which a call's numbers are passed."""
    kind = type(x)
    if static or kind is bool:
        trace.outside.append(x)
        add_root(name, x)
        return x
    if kind is int:
        return trace.int_input(name)
    if kind is float:
        return trace.float_input()
    if kind is list or kind is tuple:
        items = [symbolic(trace, item, f"{name}[{i}]", with_grad) for i, item in enumerate(x)]
        trace.created.add(id(items))
        trace.keep.append(items)
        return items if kind is list else tuple(items)
    if isinstance(x, Value):
        return trace.leaf_input() if with_grad else trace.number_input()
    trace.outside.append(x)
    add_root(name, x)
    of_library = x is not None and kind not in _CONSTANT and not hasattr(x, "__dict__")
    if not isinstance(x, dict) and (isinstance(x, (list, tuple, set)) or of_library):
        raise TraceError(f"the argument {name} is a {kind.__name__}, whose content may be another one in each call: pass a list "
                         "of its numbers (tolist())")
    return x


def odd_argument(x: "Any") -> "str | None":
    """Why no program can be for an argument, if that can be seen of it alone."""
    if isinstance(x, (list, tuple)):
        return next((why for why in map(odd_argument, x) if why is not None), None)
    if type(x) is int:
        return None if abs(x) < 1 << 31 else "an int beyond 32 bits as argument"
    if x is None or isinstance(x, (bool, str, Value)) or type(x) is float or hasattr(x, "__dict__"):
        return None
    if not hasattr(type(x), "__float__") and not hasattr(type(x), "__index__"):
        return None
    return f"an argument is a {type(x).__name__}: pass plain numbers and lists of them (int(x), float(x), x.tolist())"


def flatten(x: "Any", leaves: "list[Any]") -> "Structure":
    """The structure of a result: leaves get its Values and unknown numbers, the rest is a constant of the structure."""
    kind = type(x)
    if kind is Traced or kind is SymFloat or (isinstance(x, Value) and kind is not SymInt):
        for i, leaf in enumerate(leaves):
            if leaf is x:
                return ("leaf", i)
        leaves.append(x)
        return ("leaf", len(leaves) - 1)
    if kind is list or kind is tuple:
        return (kind.__name__, [flatten(item, leaves) for item in x])
    if kind is dict:
        return ("dict", {key: flatten(item, leaves) for key, item in x.items()})
    if x is None or kind in (bool, int, float, str):
        return ("constant", x)
    raise TraceError(f"a compiled function returns {kind.__name__!r}: return Values, or lists, tuples or dicts of them")


def build(structure: "Structure", results: "Sequence[Any]") -> "Any":
    """The result of a call, from its Values and numbers."""
    kind, what = structure
    if kind == "leaf":
        return results[what]
    if kind == "list":
        return [build(item, results) for item in what]
    if kind == "tuple":
        return tuple([build(item, results) for item in what])
    if kind == "dict":
        return {key: build(item, results) for key, item in what.items()}
    return what


def pairs(x: "Any", y: "Any") -> "list[tuple[float, float]] | None":
    """The numbers of two results side by side, or None where they are not built alike."""
    if isinstance(x, Value) or isinstance(y, Value):
        return [(x.data, y.data)] if isinstance(x, Value) and isinstance(y, Value) else None
    if isinstance(x, dict) and isinstance(y, dict) and list(x) == list(y):
        x, y = list(x.values()), list(y.values())
    if isinstance(x, (list, tuple)) and type(x) is type(y) and len(x) == len(y):
        found = []
        for a, b in zip(x, y):
            inner = pairs(a, b)
            if inner is None:
                return None
            found += inner
        return found
    if type(x) is float and type(y) is float:
        return [(x, y)]
    return [] if type(x) is type(y) and x == y else None


def lists_in(x: "Any", found: "list[list[Any]]") -> "list[list[Any]]":
    """The lists in nested lists, outer ones first."""
    if isinstance(x, list):
        found.append(x)
    if isinstance(x, (list, tuple)):
        for item in x:
            lists_in(item, found)
    return found
