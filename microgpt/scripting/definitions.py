"""What a script and the user's files that it imports define, and which of their functions something else may call."""
import _ast as ast

from .modules import aliases
from .trees import walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .modules import UserModule

__all__ = ["Definitions"]

_SHOWING = {"print", "str", "repr", "format", "ascii", "hash", "type", "getattr", "setattr", "vars", "dict", "set", "frozenset", "range",
            "hex", "bin", "oct", "slice", "object", "super", "bytes", "memoryview"}  # fmt: skip


class Definitions:
    """Functions, methods and imported names of a script and its files.

    nodes: those of the tree, if they are known.
    """

    def __init__(self, tree: ast.Module, modules: "Mapping[str, UserModule]", nodes: "list[Any] | None") -> None:
        self.functions: dict[str, list[Any]] = {}  # by name, wherever they are defined
        self.methods: set[int] = set()  # ids of functions that are defined in a class
        trees = [tree, *(module.tree for module in modules.values())]
        self.renamed, self.module_names = aliases(trees, modules) if modules else ({}, set())
        every = [*(walk(tree) if nodes is None else nodes), *(n for module in modules.values() for n in walk(module.tree))]
        self.imported = {name.asname or name.name.split(".")[0] for node in every
                         if isinstance(node, (ast.Import, ast.ImportFrom)) for name in node.names}  # fmt: skip
        for node in every:
            if isinstance(node, ast.FunctionDef):
                self.functions.setdefault(node.name, []).append(node)
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        self.functions.setdefault(target.id, []).append(node.value)
            elif isinstance(node, ast.ClassDef):  # a call of the class calls these
                for item in node.body:
                    self.methods.add(id(item))
                    if isinstance(item, ast.FunctionDef) and item.name in ("__init__", "__call__"):
                        self.functions.setdefault(node.name, []).append(item)
        self._find_handed_on(every)
        for short, name in self.renamed.items():
            self.functions.setdefault(short, []).extend(self.functions.get(name, ()))

    def _find_handed_on(self, every: "list[Any]") -> None:
        """handed_on: functions that something else than their name may call: `__call__` methods, and those used as values.
        hands_on_more: whether another function than those of the user's, one that could show a Value, is used as a value.
        """
        called = {id(node.func) for node in every if isinstance(node, ast.Call)}
        self.handed_on = [f for functions in self.functions.values() for f in functions if getattr(f, "name", "") == "__call__"]
        self.hands_on_more, self.attributes_set = False, set()
        seen = set(map(id, self.handed_on))
        named = {id(node.value) for node in every if isinstance(node, ast.Assign)}
        for node in every:
            if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
                self.attributes_set.add(node.attr)
            if isinstance(node, ast.Lambda) and id(node) not in named:
                functions: list[Any] = [node]
            elif isinstance(node, (ast.Name, ast.Attribute)) and id(node) not in called and isinstance(node.ctx, ast.Load):
                name = node.id if isinstance(node, ast.Name) else node.attr
                functions = self.functions.get(name, [])
                if isinstance(node, ast.Name):
                    self.hands_on_more |= name in _SHOWING and not functions
                elif isinstance(node.value, ast.Name) and node.value.id in self.imported and not self.is_module(node.value):
                    self.hands_on_more |= node.value.id not in ("math", "random", "os", "sys")
            else:
                continue
            for function in functions:
                if id(function) not in seen:
                    seen.add(id(function))
                    self.handed_on.append(function)

    def is_module(self, node: "Any") -> bool:
        """Whether an expression names a file of the user's that is imported."""
        while isinstance(node, ast.Attribute):
            node = node.value
        return isinstance(node, ast.Name) and node.id in self.module_names
