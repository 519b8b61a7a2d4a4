"""`draw_graph(value)`: the graph below a Value as DOT text, and as a picture in a notebook that has graphviz."""
import math
import re
from html import escape

from ..errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from .._types import AnyValue

__all__ = ["Dot", "draw_graph", "operator"]

#: How far a graph is walked to say what a drawing leaves out.
COUNTED = 1_000_000
#: The width of a picture, in points, at most.
WIDEST = 650


class Dot(str):
    """DOT text that a notebook shows as a picture; `svg()` gives the picture as text."""

    def svg(self) -> str:
        """Return the picture as SVG.

        Raises
        ------
        ImportError, OSError
            Without the Python package or the program graphviz.
        ValueError
            For a text that is not DOT.
        """
        try:
            from graphviz import CalledProcessError, ExecutableNotFound, Source
        except ImportError:
            raise ModuleNotFoundError(
                "a picture needs the Python package graphviz, which is not installed: "
                "pip install 'microgpt-exact[plot]'", name="graphviz"
            ) from None  # fmt: skip
        try:
            svg = Source(str(self)).pipe(format="svg", encoding="utf-8")
        except ExecutableNotFound:
            raise OSError("a picture needs the program dot of Graphviz, which is not on the PATH") from None
        except CalledProcessError as error:
            said = str(error.stderr).strip().partition("\n")[0]
            raise ValueError(f"dot cannot draw this graph: {said}") from None
        return re.sub(r'<svg width="([\d.]+)pt" height="([\d.]+)pt"', _fitted, str(svg), count=1)

    def _repr_svg_(self) -> "str | None":
        try:
            return self.svg()
        except (ImportError, OSError, ValueError):
            return None  # the text is shown instead

    def __repr__(self) -> str:
        return str(self)


def _fitted(found: "re.Match[str]") -> str:
    """Return the same picture no wider than a notebook: one embedded as an image would be cut off, whatever its style."""
    width, height = map(float, found.groups())
    scale = min(1.0, WIDEST / width)
    style = "max-width:100%;height:auto"
    return f'<svg style="{style}" width="{width * scale:.0f}pt" height="{height * scale:.0f}pt"'


def operator(value: "AnyValue") -> str:
    """Return how a Value was computed: '+', '*', '**2', 'log', 'exp', 'relu', or '' for one that was given.

    A Value remembers its children and its local gradients, not its operator; these follow from each other. Where
    parameters have been updated since, a name may not fit any more, and '?' says so; so it does for children and local
    gradients that no operator makes.
    """
    children: list[AnyValue] = list(value._children)
    local = list(value._local_grads)
    if not children:
        return ""
    try:
        data, operands = float(value.data), [float(child.data) for child in children]
        slopes = [float(slope) for slope in local]
    except (TypeError, ValueError, OverflowError):  # the script's class keeps whatever it is given
        return "?"
    if len(slopes) != len(operands) or len(operands) > 2:
        return "?"
    x, slope = operands[0], slopes[0]
    if len(operands) == 2:
        y = operands[1]
        if slopes == [1, 1] and _same(data, x + y):
            return "+"
        return "*" if _same(data, x * y) and _same(slope, y) and _same(slopes[1], x) else "?"
    if _same(data, max(0, x)) and slope == (x > 0):
        return "relu"
    if _same(data, slope) and _same(data, _try(math.exp, x)):
        return "exp"
    if x > 0 and _same(slope, 1 / x) and _same(data, math.log(x)):
        return "log"
    # d(x**n)/dx is n * x**(n - 1): the exponent is the slope times x over data, but for rounding.
    guess = slope * x / data if data else math.nan
    for digits in (0, 1, 3, 6, 9, 12, 15):
        exponent: float = round(guess, digits) if math.isfinite(guess) else math.nan
        if _same(data, _try(math.pow, x, exponent)) and _same(slope, exponent * _try(math.pow, x, exponent - 1)):
            return f"**{exponent:g}"
    return "?"


def _same(a: float, b: float) -> bool:
    return a == b or (a != a and b != b)


def _try(function: "Callable[..., float]", *arguments: float) -> float:
    try:
        return float(function(*arguments))
    except (ArithmeticError, ValueError):
        return math.nan


def edges_of(value: "AnyValue") -> "Iterator[tuple[AnyValue, float | None]]":
    """Yield each child with its local gradient, or with None if there are fewer of those than children."""
    local_grads = iter(value._local_grads)
    for child in value._children:
        yield child, next(local_grads, None)


def number(x: object, digits: int) -> str:
    """Return x with this many significant digits, or as it is if it is not a float."""
    try:
        return f"{float(x):.{digits}g}"  # type: ignore[arg-type]  # the script's class keeps whatever it is given
    except (TypeError, ValueError, OverflowError):
        text = str(x) if not isinstance(x, int) else "an int beyond all floats"  # which str may refuse to write
        return text if len(text) <= 24 else text[:21] + "..."


def _named(labels: "Mapping[str, Any]") -> "dict[AnyValue, str]":
    """Return the name of each Value; of one within lists it has the indices, of one with two names the first."""
    found: dict[AnyValue, str] = {}
    stack = [(name, value) for name, value in labels.items() if not name.startswith("_")][::-1]
    while stack:
        name, value = stack.pop()
        if hasattr(value, "_children"):
            found.setdefault(value, name)
        elif isinstance(value, (list, tuple)):
            stack += [(f"{name}[{i}]", entry) for i, entry in enumerate(value)][::-1]
    return found


def draw_graph(
    value: "AnyValue", limit: int = 100, digits: int = 4, labels: "Mapping[str, Any] | None" = None
) -> Dot:
    """Return the graph below value as DOT text: a node for each Value with its operator, data and grad.

    An edge has the local gradient as its label, or none where the Value was made with fewer of those than children.

    Parameters
    ----------
    value : Value
        Of either kind.
    limit : int
        The most nodes drawn, those nearest to value first. A dashed node stands for the children left out, and the caption
        says how many there are in all.
    digits : int
        Significant digits shown.
    labels : mapping of str, optional
        Names of Values, which their nodes show: `{"a": a, "b": b}`, or `model.state_dict`, whose Values get their
        indices (`wte[3][0]`), or `globals()`. What is neither a Value nor a list of them has no node; neither has a name
        that begins with an underscore.

    Returns
    -------
    Dot
        A str that a notebook shows as a picture.

    Raises
    ------
    TypeError
        For what is not a Value.
    ValueError
        For a limit below 1.
    """
    from ..config import whole_number

    if not hasattr(value, "_children") or not hasattr(value, "_local_grads"):
        raise TypeError(f"draw_graph draws a Value, not {type(value).__name__}")
    limit, digits = whole_number("limit", limit), whole_number("digits", digits)
    if limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    # Breadth first: a dict, in whose order each node has its number.
    numbers = {value: 0}
    nodes = [value]
    edges: list[tuple[int, int, float | None]] = []
    cut: list[tuple[int, int]] = []
    for node in nodes:
        left_out = 0
        for child, local in edges_of(node):
            if child not in numbers and len(numbers) == limit:
                left_out += 1
                continue
            if child not in numbers:
                numbers[child] = len(numbers)
                nodes.append(child)
            edges.append((numbers[child], numbers[node], local))
        if left_out:
            cut.append((numbers[node], left_out))
    names = _named(labels or {})
    lines = ['digraph {', '  rankdir=LR; node [shape=plain, fontname="Helvetica", fontsize=11];',
             '  edge [fontname="Helvetica", fontsize=9, color="#7a8798", fontcolor="#7a8798"];']  # fmt: skip
    for i, node in enumerate(nodes):
        name = operator(node)
        colour = "#e4eefa" if name else "#eef5e6"
        lines.append(
            f'  n{i} [label=<<table border="0" cellborder="1" cellspacing="0" cellpadding="4" color="#9fb0c3">'
            f'<tr><td bgcolor="{colour}"><b>{_label(name, names.get(node))}</b></td><td>data {escape(number(node.data, digits))}</td>'
            f'<td>grad {escape(number(node.grad, digits))}</td></tr></table>>];'
        )
    for source, target, local in edges:
        label = "" if local is None else f' [label="{escape(number(local, digits))}"]'
        lines.append(f"  n{source} -> n{target}{label};")
    for parent, left_out in cut:
        lines.append(f'  c{parent} [shape=box, style=dashed, color="#7a8798", label="{left_out} not drawn"];')
        lines.append(f"  c{parent} -> n{parent} [style=dashed];")
    if cut:
        caption = f"{limit} of {_count(value)} nodes are drawn"
        lines.append(f'  labelloc=b; fontname="Helvetica"; fontsize=11; label="{caption}";')
    return Dot("\n".join([*lines, "}"]) + "\n")


def _label(operator: str, name: "str | None") -> str:
    """Return what the first cell of a node says: its name, its operator, or both."""
    if name is None:
        return operator or "value"
    return escape(printable(f"{name}: {operator}" if operator else name, 40))


def _count(value: "AnyValue") -> str:
    """Return the number of nodes, in words if they are too many to count."""
    seen, stack = {value}, [value]
    while stack:
        for child in stack.pop()._children:
            if child not in seen:
                seen.add(child)
                stack.append(child)
        if len(seen) > COUNTED:
            return f"more than {COUNTED:,}"
    return f"{len(seen):,}"
