"""A program with a part of it replaced, as its user would edit it; and a program as a module."""
import ast
import importlib.util
from pathlib import Path


def load(path):
    """Run a Python file as a module of its own, and return it."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_imports(path, names, copy):
    """Write a copy of a program that imports these classes and functions from microgpt, and return its path."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    found = [i for i, node in enumerate(tree.body) if getattr(node, "name", None) in names]
    if len(found) != len(names):
        raise SystemExit(f"{path} does not define {', '.join(names)} once each")
    tree.body[found[0]] = ast.parse(f"from microgpt import {', '.join(names)}").body[0]
    tree.body = [node for i, node in enumerate(tree.body) if i not in found[1:]]
    copy.write_text(ast.unparse(tree), encoding="utf-8")
    return copy


def replaced(path, old, new, copy):
    """Write a copy of a program with `new` wherever it has `old`, and return its path."""
    source = Path(path).read_text(encoding="utf-8")
    if old not in source:
        raise SystemExit(f"{path} has no {old!r}")
    copy.write_text(source.replace(old, new), encoding="utf-8")
    return copy
