"""Syntax trees of scripts in a form that can be compared: the original's parts are known by their digests.

Local names, comments, docstrings, annotations and line breaks make no difference. Names of builtins, attributes and
constants do. And what the analysis needs of `ast`: that module imports more than a script takes to be analysed.
"""
import _ast as ast
import builtins
import sys

try:  # CPython's own, without OpenSSL, which hashlib loads
    if sys.version_info >= (3, 12):
        from _sha2 import sha256  # type: ignore[import-not-found]  # not in typeshed
    else:
        from _sha256 import sha256  # type: ignore[import-not-found]  # not in typeshed
except ImportError:
    from hashlib import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TypeVar

    _Node = TypeVar("_Node", bound=ast.AST)

#: Names that keep their meaning: every other is numbered in the order of its first occurrence.
_KEPT = {*dir(builtins), "math", "random", "Value"}
_SKIPPED = {"ctx", "returns", "annotation", "type_comment", "type_params", "kind", "decorator_list"}


def canonical(node: "ast.AST | list[Any]") -> "tuple[str, list[str]]":
    """Return a digest of a tree, and the names in it that were numbered, in order."""
    names: dict[str, int] = {}

    def number(name: str) -> str:
        return name if name in _KEPT else f"#{names.setdefault(name, len(names))}"

    def text(x: "Any") -> str:
        kind = type(x)
        if kind is list:
            return f"[{','.join(map(text, x))}]"
        if kind is ast.Name:
            return number(x.id)
        if kind is ast.Constant:
            return f"{type(x.value).__name__}:{x.value!r}"
        if not isinstance(x, ast.AST):
            return repr(x)
        parts = []
        has_body, has_name = kind in (ast.FunctionDef, ast.ClassDef), kind in (ast.arg, ast.FunctionDef)
        for field in kind._fields:
            value = getattr(x, field, None)
            if value is None or field in _SKIPPED or value == []:
                continue
            if has_body and field == "body":
                value = without_docstring(value)
            parts.append(f"{field}={number(value) if has_name and isinstance(value, str) else text(value)}")
        return f"{kind.__name__}({','.join(parts)})"

    return sha256(text(node).encode()).hexdigest()[:24], list(names)


#: By class of node: its fields that may hold nodes, but for contexts and operators, which no analysis needs.
_fields: "dict[type, tuple[str, ...]]" = {}
_LEAVES = {"ctx", "op", "ops", "id", "attr", "kind", "type_comment", "arg", "asname", "module", "level", "is_async", "conversion"}


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
    waiting: list[Any] = [node]
    while waiting:
        found = waiting.pop()
        fields = _fields.get(type(found))
        if fields is None:
            if not isinstance(found, ast.AST):  # a name, or a None in a list
                continue
            fields = _fields[type(found)] = tuple(name for name in found._fields if name not in _LEAVES)
        yield found
        for name in fields:
            value = getattr(found, name, None)
            if type(value) is list:
                waiting += value
            elif value is not None:
                waiting.append(value)


def without_docstring(body: "list[ast.stmt]") -> "list[ast.stmt]":
    """Return the statements of a module, class or function, without the first if that is its docstring."""
    first = body[0] if body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return body[1:]
    return body


def parse(source: "str | bytes", path: str = "<unknown>") -> ast.Module:
    """Return the tree of a file: `ast.parse`."""
    tree = compile(source, path, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    assert isinstance(tree, ast.Module)
    return tree


def iter_fields(node: ast.AST) -> "Iterator[tuple[str, Any]]":
    """Yield the name and the value of each field that a node has."""
    for name in node._fields:
        if hasattr(node, name):
            yield name, getattr(node, name)


def copied(node: "_Node") -> "_Node":
    """Return a copy of a node that has the same nodes below it."""
    made = type(node).__new__(type(node))
    made.__dict__.update(node.__dict__)
    return made


def copy_location(new: "_Node", old: ast.AST) -> "_Node":
    """Set where a node is to where another is; return it."""
    for name in ("lineno", "col_offset", "end_lineno", "end_col_offset"):
        if name in old._attributes and name in new._attributes:
            value = getattr(old, name, None)
            if value is not None or (hasattr(old, name) and name.startswith("end_")):
                setattr(new, name, value)
    return new


def fix_missing_locations(node: "_Node") -> "_Node":
    """Set where the nodes below one are, of which it is not known, to where those above them are."""

    def fix(node: ast.AST, places: "dict[str, Any]") -> None:
        for name in node._attributes:
            if getattr(node, name, None) is None:
                setattr(node, name, places[name])
            else:
                places = {**places, name: getattr(node, name)}
        for child in children(node):
            fix(child, places)

    fix(node, {"lineno": 1, "col_offset": 0, "end_lineno": 1, "end_col_offset": 0})
    return node


def dump(node: ast.AST) -> str:
    """Return a tree as text: `ast.dump`."""
    from ast import dump as of_library

    return of_library(node)


class Transformer:
    """Goes through a tree, and puts what a method `visit_<class>` returns in the place of a node: `ast.NodeTransformer`."""

    def visit(self, node: ast.AST) -> "Any":
        method = getattr(self, f"visit_{type(node).__name__}", None)
        return self.generic_visit(node) if method is None else method(node)

    def generic_visit(self, node: ast.AST) -> "Any":
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, list):
                found: list[Any] = []
                for item in value:
                    item = self.visit(item) if isinstance(item, ast.AST) else item
                    if isinstance(item, list):
                        found += item
                    elif item is not None:
                        found.append(item)
                value[:] = found
            elif isinstance(value, ast.AST):
                new = self.visit(value)
                if new is None:
                    delattr(node, name)
                else:
                    setattr(node, name, new)
        return node
