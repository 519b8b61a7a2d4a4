"""One call of a function, recorded: what is computed, what comes out of it, and what it read."""
import sys

from ..core import hooks, outside
from ..core.recorder import TraceError
from ..core.strays import Watch
from ..core.symbols import SymFloat
from ..core.traced import Traced
from . import structure, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any, TypeAlias

    from ..core.recorder import Guard
    from ..core.tracing import Trace
    from .structure import Structure

    #: The structure of a result, those of what is appended to each list argument, and which results are Values.
    Shape: TypeAlias = tuple[Structure, list[Structure], list[bool]]
    #: The trace, its results in order, their nodes, how they are put together (None: one Value), and what it read.
    Recording: TypeAlias = tuple[Trace, list[Any], list[int], "Shape | None", tuple[Guard, ...]]


def record(
    trace: "Trace", function: "Callable[..., Any]", arguments: "tuple[Any, ...]", with_grad: bool, static: "Collection[int]"
) -> "Recording":
    """Call function with symbols in place of its arguments, within trace. static: the positions of arguments that stay as they are.

    Raises TraceError, or what the function raises, if the call cannot be compiled.
    """
    names = words.names(function, len(arguments))
    random_state = sys.modules["random"].getstate() if "random" in sys.modules else None
    errors = TraceError.raised
    with trace:
        trace.outside.append(getattr(function, "__self__", function))
        given = [structure.symbolic(trace, x, name, with_grad, i in static)
                 for i, (x, name) in enumerate(zip(arguments, names))]
        lists = [structure.lists_in(x, []) for x in given]
        lengths = [[(inner, list(inner)) for inner in found] for found in lists]
        try:
            with Watch():
                result = hooks.called(function)(*given)
        finally:
            if random_state is not None and sys.modules["random"].getstate() != random_state:
                sys.modules["random"].setstate(random_state)
                raise TraceError("random numbers are drawn in a compiled function: every call would see those of the "
                                 "trace. Draw them outside and pass them in")
        leaves: list[Any] = []
        shape = structure.flatten(result, leaves)
        appended = [_appended(now, then, with_grad) for found in lengths for now, then in found]
        grown = [] if with_grad else [structure.flatten(items, leaves) for items in appended]
        if with_grad and not leaves:
            raise TraceError("a compiled function returns a Value, or lists, tuples or dicts of Values")
        roots = [trace.root(leaf) for leaf in leaves]
        guards = tuple([guard for guard in trace.guards.values() if type(guard[3]) is not Traced]) + outside.contents(trace)
    if TraceError.raised != errors:
        raise TraceError("the function catches an error that says why it cannot be compiled")
    are_values = [type(leaf) is not SymFloat for leaf in leaves]
    alone = with_grad and shape == ("leaf", 0) and are_values[0]
    return trace, leaves, roots, None if alone else (shape, grown, are_values), guards


def _appended(now: "list[Any]", then: "list[Any]", with_grad: bool) -> "list[Any]":
    """What was added at the end of a list argument; any other change is refused, and with gradients every change."""
    if len(now) < len(then) or any(x is not y for x, y in zip(now, then)):
        raise TraceError("a list argument is changed other than by appending" if not with_grad else
                         "a list argument is changed: change a copy of it")
    if with_grad and len(now) > len(then):
        raise TraceError("a list argument is appended to: return what is new, or compile(grad=False)")
    return now[len(then):]
