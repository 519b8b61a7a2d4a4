"""What would show whether a number is an int or a float, or its sign: formats, and functions of math."""
import _ast as ast

from .trees import walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Functions of math that tell an int from a float, or a 0 of an int, which has no sign, from -0.0.
SHOWING = {"copysign", "atan2", "gcd", "lcm", "comb", "perm", "factorial", "isqrt"}
#: Numbers that the script's class keeps as they are. As text: what NumPy takes for a dtype.
OTHER_NUMBERS = {"float16", "float32", "longdouble", "float128", "Fraction", "Decimal"}
_DTYPES = {"float16", "float32"}


def other_numbers(nodes: "list[Any]") -> "set[str]":
    """Return which kinds of numbers other than ints and doubles a script names."""
    found = {node.id if isinstance(node, ast.Name) else node.attr for node in nodes if isinstance(node, (ast.Name, ast.Attribute))}
    found |= {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return found & OTHER_NUMBERS | texts & _DTYPES


def negates(node: ast.expr) -> bool:
    """Return whether an expression has a unary minus."""
    return any(isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.USub) and not isinstance(part.operand, ast.Constant)
               for part in walk(node))  # fmt: skip


def is_float_spec(spec: "Any") -> bool:
    """Whether a format writes ints and floats alike, such as .4f."""
    if spec is None or not spec.values or not isinstance(spec.values[-1], ast.Constant):
        return False
    return str(spec.values[-1].value)[-1:] in "eEfFgG%" and str(spec.values[-1].value) != ""


def all_floats(text: str) -> bool:
    import re

    return all(kind in "eEfFgG%" for kind in re.findall(r"%[-+ #0-9.*]*([a-zA-Z%])", text))
