"""`draw_graph(value)`: the graph below a Value as DOT text, and as a picture in a notebook that has graphviz."""
import math
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Dot", "draw_graph", "operator"]

#: How far a graph is walked to say what a drawing leaves out.
COUNTED = 1_000_000
#: The width of a picture, in points, at most.
WIDEST = 650


class Dot(str):
    """DOT text that a notebook shows as a picture; `svg()` gives the picture as text."""

    def svg(self) -> str:
        """The picture as SVG. Raises ImportError or OSError, in one line, where graphviz is not installed."""
        try:
            from graphviz import ExecutableNotFound, Source
        except ImportError:
            raise ImportError(
                "a picture needs the Python package graphviz, which is not installed: "
                "pip install 'microgpt-exact[plot]'"
            ) from None
        try:
            svg = Source(str(self)).pipe(format="svg", encoding="utf-8")
        except ExecutableNotFound:
            raise OSError("a picture needs the program dot of Graphviz, which is not on the PATH") from None
        return re.sub(r'<svg width="([\d.]+)pt" height="([\d.]+)pt"', _fitted, str(svg), count=1)

    def _repr_svg_(self) -> "str | None":
        try:
            return self.svg()
        except (ImportError, OSError):
            return None  # the text is shown instead

    def __repr__(self) -> str:
        return str(self)


def _fitted(found: "re.Match[str]") -> str:
    """The same picture no wider than a notebook: one embedded as an image would be cut off, whatever its style says."""
    width, height = map(float, found.groups())
    scale = min(1.0, WIDEST / width)
    style = "max-width:100%;height:auto"
    return f'<svg style="{style}" width="{width * scale:.0f}pt" height="{height * scale:.0f}pt"'


def operator(value: "Any") -> str:
    """How a Value was computed: '+', '*', '**2', 'log', 'exp', 'relu', or '' for one that was given.

    A Value remembers its children and its local gradients, not its operator; these follow from each other. Where
    parameters have been updated since, a name may not fit any more, and '?' says so.
    """
    children, local = value._children, value._local_grads
    if not children:
        return ""
    data, x = float(value.data), float(children[0].data)
    if len(children) == 2:
        y = float(children[1].data)
        if tuple(local) == (1, 1) and _same(data, x + y):
            return "+"
        return "*" if _same(data, x * y) and _same(local[0], y) and _same(local[1], x) else "?"
    slope = float(local[0])
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


def _try(function: "Any", *arguments: float) -> float:
    try:
        return float(function(*arguments))
    except (ArithmeticError, ValueError):
        return math.nan


def draw_graph(value: "Any", limit: int = 100, digits: int = 4) -> Dot:
    """The graph below value as DOT text: a node for each Value with its operator, data and grad.

    value: a `Value` of either kind.  limit: the most nodes drawn, those nearest to value first; a dashed node stands
    for the children left out, and the caption says how many there are in all.  digits: significant digits shown.
    Raises TypeError for what is no Value, ValueError for a limit below 1.
    """
    if not hasattr(value, "_children") or not hasattr(value, "_local_grads"):
        raise TypeError(f"draw_graph draws a Value, not {type(value).__name__}")
    if limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    # Breadth first: a dict, in whose order each node has its number.
    numbers = {value: 0}
    nodes, edges, cut = [value], [], []
    for node in nodes:
        left_out = 0
        for child, local in zip(node._children, node._local_grads):
            if child not in numbers and len(numbers) == limit:
                left_out += 1
                continue
            if child not in numbers:
                numbers[child] = len(numbers)
                nodes.append(child)
            edges.append((numbers[child], numbers[node], local))
        if left_out:
            cut.append((numbers[node], left_out))
    lines = ['digraph {', '  rankdir=LR; node [shape=plain, fontname="Helvetica", fontsize=11];',
             '  edge [fontname="Helvetica", fontsize=9, color="#7a8798", fontcolor="#7a8798"];']  # fmt: skip
    for number, node in enumerate(nodes):
        name = operator(node)
        colour = "#e4eefa" if name else "#eef5e6"
        lines.append(
            f'  n{number} [label=<<table border="0" cellborder="1" cellspacing="0" cellpadding="4" color="#9fb0c3">'
            f'<tr><td bgcolor="{colour}"><b>{_label(name)}</b></td><td>data {float(node.data):.{digits}g}</td>'
            f'<td>grad {float(node.grad):.{digits}g}</td></tr></table>>];'
        )
    for child, parent, local in edges:
        lines.append(f'  n{child} -> n{parent} [label="{float(local):.{digits}g}"];')
    for parent, left_out in cut:
        lines.append(f'  c{parent} [shape=box, style=dashed, color="#7a8798", label="{left_out} not drawn"];')
        lines.append(f"  c{parent} -> n{parent} [style=dashed];")
    if cut:
        caption = f"{limit} of {_count(value)} nodes are drawn"
        lines.append(f'  labelloc=b; fontname="Helvetica"; fontsize=11; label="{caption}";')
    return Dot("\n".join([*lines, "}"]) + "\n")


def _label(name: str) -> str:
    return name or "value"


def _count(value: "Any") -> str:
    """How many nodes there are, in words where they are too many to count."""
    seen, stack = {value}, [value]
    while stack:
        for child in stack.pop()._children:
            if child not in seen:
                seen.add(child)
                stack.append(child)
        if len(seen) > COUNTED:
            return f"more than {COUNTED:,}"
    return f"{len(seen):,}"
