"""Whether a script's class Value may be replaced by ours, and whether Values may get into the user's other files."""
import _ast as ast

from .names import within
from .trees import canonical, walk, without_docstring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .modules import UserModule

__all__ = ["HIDDEN", "extra_methods", "unfit_module"]

#: Digests of the original's methods.
METHODS = {
    "__init__": "604e1852bff50186839a1206", "__add__": "a7e02d41a3134e6ff97064f8", "__mul__": "92f5b28eb1a19b95265d5f70",
    "__pow__": "f2fc60f43c1708a3bdb7d047", "log": "4dc98ddff40a1557a3ab7752", "exp": "29fb5596b013304fb25a38ed",
    "relu": "4a1d1398295b17659a907819", "__neg__": "d5f7555bd4af243fe394c286", "__radd__": "c9d22fa635c0df7af134ff0b",
    "__sub__": "6025256df5cb8ebf1380c7a5", "__rsub__": "c8498e65dcb85a6bdd630ac5", "__rmul__": "6fdbf1d1c206169911e0ca05",
    "__truediv__": "5f47d64bbdc705e81043bee1", "__rtruediv__": "4eab76039224778169977c0a",
    "backward": "1672b928510949d3f521dec9",
}  # fmt: skip
#: What could read names that are not written in the script.
HIDDEN = {"eval", "exec", "globals", "locals", "vars", "dir", "compile", "__import__"}
_SEEING = ("copy", "pickle", "gc", "weakref", "inspect", "ctypes")


def extra_methods(node: ast.ClassDef, nodes: "list[Any]") -> "tuple[list[ast.FunctionDef], str | None]":
    """Methods beyond the original's, and why the class must stay as it is, if it must. nodes: all of the script."""
    extra, found, slots = [], set(), False
    if node.bases and not (len(node.bases) == 1 and isinstance(node.bases[0], ast.Name) and node.bases[0].id == "object"):
        return [], "its Value has a base class"
    if node.keywords or node.decorator_list:
        return [], "its Value has a decorator or a metaclass"
    for item in without_docstring(node.body):
        if isinstance(item, ast.FunctionDef):
            if item.name in METHODS:
                if item.decorator_list or canonical(item)[0] != METHODS[item.name]:
                    return [], f"line {item.lineno}: its Value.{item.name} is not the original's"
                found.add(item.name)
            elif item.decorator_list or not item.args.args:
                return [], f"line {item.lineno}: Value.{item.name} is not a plain method"
            elif item.name in ("__repr__", "__str__"):
                extra.append(item)
            elif item.name.startswith("__"):
                return [], f"line {item.lineno}: Value has {item.name}, which the original has not"
            else:
                extra.append(item)
        elif (isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name)
              and item.targets[0].id == "__slots__"):  # fmt: skip
            slots = True
        elif isinstance(item, ast.Assign) and isinstance(item.value, ast.Name) and isinstance(item.targets[0], ast.Name):
            return [], f"line {item.lineno}: Value has {item.targets[0].id}, which the original has not"
        elif not isinstance(item, ast.Pass):
            return [], f"line {item.lineno}: Value has more than methods"
    if missing := METHODS.keys() - found:
        return [], f"its Value has no {min(missing)}"
    for other in nodes:
        if isinstance(other, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id == "Value" for b in other.bases):
            return [], f"line {other.lineno}: {other.name} is a subclass of its Value"
        if isinstance(other, ast.Attribute) and isinstance(other.ctx, (ast.Store, ast.Del)):
            if isinstance(other.value, ast.Name) and other.value.id == "Value":
                return [], f"line {other.lineno}: Value is changed"
            if other.attr in ("_children", "_local_grads") and not within(node, other):
                return [], f"line {other.lineno}: {other.attr} is set, which is read-only in ours"
            if not slots and other.attr not in ("data", "grad") and not (
                    isinstance(other.value, ast.Name) and other.value.id == "self"):  # fmt: skip
                return [], f"line {other.lineno}: .{other.attr} is set, perhaps of a Value, which ours has not"
        if isinstance(other, (ast.Import, ast.ImportFrom)):
            for name in [a.name for a in other.names] + [getattr(other, "module", None)]:
                if name in _SEEING:
                    return [], f"line {other.lineno}: it imports {name}, which could see another class"
        if isinstance(other, ast.Name) and other.id == "Value" and isinstance(other.ctx, ast.Store):
            return [], f"line {other.lineno}: Value is assigned"
        if isinstance(other, ast.Name) and other.id in ("setattr", "delattr", "getattr", "type"):
            return [], f"line {other.lineno}: {other.id}() could see another class"
    names = {item.name for item in extra}
    for other in nodes:
        if isinstance(other, ast.ClassDef) and other is not node and names & {getattr(i, "name", "") for i in other.body}:
            return [], f"line {other.lineno}: {other.name} has a method that Value has, too"
    return extra, None


def unfit_module(module: "UserModule", extra: "set[str]") -> "str | None":
    """Why a file of the user's may not get our Values: line and reason."""
    for node in walk(module.tree):
        line, what = getattr(node, "lineno", 1), ""
        if isinstance(node, ast.Name) and node.id in HIDDEN | {"setattr", "delattr", "getattr", "type"}:
            what = f"{node.id}() could see another class"
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            if seen := [name for name in _SEEING if name in names]:
                what = f"it imports {seen[0]}, which could see another class"
            elif "*" in names:
                what = "it imports *, so that its names are not known"
        elif isinstance(node, ast.Attribute):
            if node.attr in extra:
                what = f".{node.attr} is used there, a method that the script adds to Value"
            elif not isinstance(node.ctx, ast.Load) and node.attr not in ("data", "grad") and not (
                    isinstance(node.value, ast.Name) and node.value.id == "self"):  # fmt: skip
                what = f".{node.attr} is set there, perhaps of a Value, which ours has not"
        elif isinstance(node, ast.ClassDef) and node.name == "Value":
            what = "there is another class Value"
        if what:
            return f"{line}: {what}"
    return None
