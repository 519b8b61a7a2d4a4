"""Syntax trees of scripts in a form that can be compared: the original's parts are known by their digests.

Local names, comments, docstrings, annotations and line breaks make no difference. Names of builtins, attributes and
constants do.
"""
import ast
import builtins

try:  # without OpenSSL, which hashlib loads
    from _sha2 import sha256  # type: ignore[import-not-found]  # CPython's own, from 3.12 on
except ImportError:
    try:
        from _sha256 import sha256  # type: ignore[import-not-found]  # CPython's own, before
    except ImportError:
        from hashlib import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

#: Names that keep their meaning: every other is numbered in the order of its first occurrence.
_KEPT = {*dir(builtins), "math", "random", "Value"}
_SKIPPED = {"ctx", "returns", "annotation", "type_comment", "type_params", "kind", "decorator_list"}


def canonical(node: "ast.AST | list[Any]") -> "tuple[str, list[str]]":
    """Return a digest of a tree, and the names in it that were numbered, in order."""
    names: dict[str, int] = {}

    def number(name: str) -> str:
        return name if name in _KEPT else f"#{names.setdefault(name, len(names))}"

    def walk(x: "Any") -> str:
        if isinstance(x, list):
            return f"[{','.join(map(walk, x))}]"
        if isinstance(x, ast.Name):
            return number(x.id)
        if isinstance(x, ast.Constant):
            return f"{type(x.value).__name__}:{x.value!r}"
        if not isinstance(x, ast.AST):
            return repr(x)
        parts = []
        for field, value in ast.iter_fields(x):
            if field in _SKIPPED or value is None or value == []:
                continue
            if field == "body" and isinstance(x, (ast.FunctionDef, ast.ClassDef)):
                value = without_docstring(value)
            if isinstance(value, str) and (isinstance(x, ast.arg) or isinstance(x, ast.FunctionDef)):
                parts.append(f"{field}={number(value)}")
            else:
                parts.append(f"{field}={walk(value)}")
        return f"{type(x).__name__}({','.join(parts)})"

    return sha256(walk(node).encode()).hexdigest()[:24], list(names)


#: By class of node: its fields that may hold nodes, but for contexts and operators, which no analysis needs.
_fields: "dict[type, tuple[str, ...]]" = {}
_LEAVES = {"ctx", "op", "ops", "id", "attr", "kind", "type_comment"}


def children(node: ast.AST) -> "Iterator[ast.AST]":
    """Yield the nodes right below one: `ast.iter_child_nodes` without contexts and operators, in half the time."""
    fields = _fields.get(type(node))
    if fields is None:
        fields = _fields[type(node)] = tuple(name for name in node._fields if name not in _LEAVES)
    for name in fields:
        value = getattr(node, name, None)
        if isinstance(value, ast.AST):
            yield value
        elif type(value) is list:
            for item in value:
                if isinstance(item, ast.AST):
                    yield item


def walk(node: ast.AST) -> "Iterator[Any]":
    """Yield a node and all below it, in no particular order: `ast.walk` without contexts and operators."""
    waiting = [node]
    while waiting:
        found = waiting.pop()
        yield found
        fields = _fields.get(type(found))
        if fields is None:
            fields = _fields[type(found)] = tuple(name for name in found._fields if name not in _LEAVES)
        for name in fields:
            value = getattr(found, name, None)
            if type(value) is list:
                waiting += [item for item in value if isinstance(item, ast.AST)]
            elif value is not None and isinstance(value, ast.AST):
                waiting.append(value)


def without_docstring(body: "list[ast.stmt]") -> "list[ast.stmt]":
    first = body[0] if body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return body[1:]
    return body
