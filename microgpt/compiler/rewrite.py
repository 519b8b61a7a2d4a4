"""A user's function with subscripts, attributes, calls and `is` going through hooks that can record them.

The function's syntax tree is changed and compiled again: the same globals, the same closure cells, the same file and line
numbers, so that tracebacks and debuggers show the user's own lines. The original function is never touched.
"""
import __future__

import ast
import builtins
import copy
import linecache
import os
import sys
import sysconfig
import types
import weakref

from ..core import hooks, outside
from ..core.recorder import TraceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any

_LEFT_ALONE = {"super", "locals", "globals", "vars", "dir", "__class__"}  # calls that need the frame they stand in
_REFUSED = {"eval": "eval()", "exec": "exec()"}
_HOOKS: "dict[str, Callable[..., Any]]" = {
    "__mg_subscript__": hooks.subscript,
    "__mg_attribute__": hooks.attribute,
    "__mg_called__": hooks.called,
    "__mg_same__": hooks.same,
    "__mg_storing__": outside.storing,
    "__mg_changing__": outside.changing,
    "__mg_augmenting__": outside.augmenting,
    "__mg_made__": outside.made,
}


class Rewriter(ast.NodeTransformer):
    """Puts the hooks into the tree of one function. mangle: the name of the class that the function was defined in."""

    def __init__(self, mangle: "str | None" = None, free: "Collection[str]" = ()) -> None:
        self.mangle = (mangle or "").lstrip("_")
        self.free = free

    def mangled(self, name: str) -> str:
        if self.mangle and name.startswith("__") and not name.endswith("__"):
            return f"_{self.mangle}{name}"
        return name

    def hook(self, name: str, arguments: "list[ast.expr]", at: ast.AST) -> ast.Call:
        call = ast.Call(ast.Name(name, ast.Load()), arguments, [])
        return ast.fix_missing_locations(ast.copy_location(call, at))

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self.mangled(node.id)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.ctx, ast.Load):
            node.value = self.hook("__mg_changing__", [node.value], node)
            return node
        if isinstance(node.slice, ast.Slice):
            return node
        if isinstance(node.slice, ast.Tuple) and any(isinstance(e, (ast.Slice, ast.Starred)) for e in node.slice.elts):
            return node
        if isinstance(node.slice, ast.Constant) and type(node.slice.value) is int:
            return node
        return self.hook("__mg_subscript__", [node.value, node.slice], node)

    def visit_Attribute(self, node: ast.Attribute, called: bool = False) -> ast.expr:
        self.generic_visit(node)
        node.attr = self.mangled(node.attr)
        if isinstance(node.ctx, (ast.Store, ast.Del)):
            node.value = self.hook("__mg_storing__", [node.value], node)
            return node
        if called or not isinstance(node.ctx, ast.Load):
            return node
        return self.hook("__mg_attribute__", [node.value, ast.Constant(node.attr)], node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id in _LEFT_ALONE:
            return self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in _REFUSED:
            raise TraceError(f"{_REFUSED[node.func.id]} in a compiled function")
        if isinstance(node.func, ast.Attribute):
            node.func = self.visit_Attribute(node.func, called=True)
        else:
            node.func = self.visit(node.func)
        node.args = [self.visit(argument) for argument in node.args]
        node.keywords = [self.visit(keyword) for keyword in node.keywords]
        node.func = self.hook("__mg_called__", [node.func], node.func)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) != 1 or not isinstance(node.ops[0], (ast.Is, ast.IsNot)):
            return node
        if isinstance(node.comparators[0], ast.Constant) and node.comparators[0].value in (None, True, False, ...):
            return node
        call = self.hook("__mg_same__", [node.left, node.comparators[0]], node)
        if isinstance(node.ops[0], ast.Is):
            return call
        return ast.copy_location(ast.UnaryOp(ast.Not(), call), node)

    def visit_AugAssign(self, node: ast.AugAssign) -> "ast.AST | list[ast.stmt]":
        if isinstance(node.target, ast.Attribute):
            raise TraceError("an attribute is changed in a compiled function, which would happen when it is traced, not in "
                             "every call: change it outside, or return the value")
        self.generic_visit(node)
        if not isinstance(node.target, ast.Name):
            return node
        before = self.hook("__mg_augmenting__", [ast.Name(node.target.id, ast.Load())], node)  # a list is changed in place
        return [ast.copy_location(ast.Expr(before), node), node]

    def made(self, node: ast.expr) -> ast.AST:
        """A list, dict or set that the function makes itself, which it may change."""
        self.generic_visit(node)
        return self.hook("__mg_made__", [node], node)

    def visit_List(self, node: ast.List) -> ast.AST:
        return self.made(node) if isinstance(node.ctx, ast.Load) else self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        return self.made(node) if isinstance(node.op, ast.BitOr) else self.generic_visit(node)  # of dicts, of sets

    visit_Dict = visit_Set = visit_ListComp = visit_DictComp = visit_SetComp = made

    def visit_Global(self, node: ast.Global) -> ast.AST:
        raise TraceError(f"`global {node.names[0]}` in a compiled function: it would be set when the function is traced, not "
                         "in every call. Return the value")

    def visit_Nonlocal(self, node: ast.Nonlocal) -> ast.AST:
        for name in node.names:
            if name in self.free:
                raise TraceError(f"`nonlocal {name}` in a compiled function: it would be set when the function is traced, not "
                                 "in every call. Return the value")
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:  # annotations are not evaluated in functions
        node.target = self.visit(node.target)
        node.value = self.visit(node.value) if node.value else None
        node.annotation = ast.copy_location(ast.Constant(None), node)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name = self.mangled(node.name)
        node.returns = None
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg):
                argument.annotation = None
                argument.arg = self.mangled(argument.arg)
        node.args.defaults = [self.visit(default) for default in node.args.defaults]
        node.args.kw_defaults = [self.visit(default) if default else None for default in node.args.kw_defaults]
        self.generic_visit(body := ast.Module(node.body, []))
        node.body = body.body
        node.decorator_list = [self.visit(decorator) for decorator in node.decorator_list]
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        raise TraceError("an async function cannot be compiled")


_trees: "dict[str, tuple[str, ast.Module]]" = {}  # file name -> its text, and its tree, which is not changed
_given_trees: "dict[str, tuple[str, ast.Module]]" = {}  # those that stand for what the file says


def _tree(function: types.FunctionType) -> ast.Module:
    """The syntax tree of the file of a function."""
    name = function.__code__.co_filename
    text = "".join(linecache.getlines(name, function.__globals__))
    if not text:
        raise TraceError(f"the source of {function.__qualname__} is not there to be traced ({name})")
    for trees in (_given_trees, _trees):
        if name in trees and trees[name][0] == text:
            return trees[name][1]
    if len(_trees) >= 32:
        _trees.clear()
    tree = ast.parse(text)
    _trees[name] = (text, tree)
    return tree


def _definition(function: types.FunctionType) -> "tuple[ast.FunctionDef | ast.Lambda, str | None]":
    """The tree of a function's definition, to be changed, and the name of the class around it."""
    code = function.__code__
    tree = _tree(function)
    candidates: list[tuple[ast.FunctionDef | ast.Lambda, str | None]] = []

    def search(node: ast.AST, within: "str | None") -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef) and child.name == code.co_name:
                if code.co_firstlineno == min([child.lineno, *(d.lineno for d in child.decorator_list)]):
                    candidates.append((child, within))
            elif isinstance(child, ast.Lambda) and code.co_name == "<lambda>" and child.lineno == code.co_firstlineno:
                if [a.arg for a in ast.walk(child.args) if isinstance(a, ast.arg)] and _matches(child, code):
                    candidates.append((child, within))
                elif not code.co_varnames[:code.co_argcount] and not child.args.args and _matches(child, code):
                    candidates.append((child, within))
            search(child, child.name if isinstance(child, ast.ClassDef) else within)

    search(tree, None)
    if not candidates:
        raise TraceError(f"the source of {function.__qualname__} has changed since it was defined")
    if len(candidates) > 1:
        raise TraceError(f"there are two functions like {function.__qualname__} on line {code.co_firstlineno}: put each on a "
                         "line of its own")
    node, within = candidates[0]
    return copy.deepcopy(node), within


def _matches(node: ast.Lambda, code: types.CodeType) -> bool:
    """Whether a lambda may be this code: what it is compiled to says so."""
    probe = ast.fix_missing_locations(ast.Expression(copy.deepcopy(node)))
    compiled = builtins.compile(probe, code.co_filename, "eval")
    mine = next(c for c in compiled.co_consts if isinstance(c, types.CodeType))
    return (mine.co_varnames == code.co_varnames and set(mine.co_names) <= set(code.co_names) | set(code.co_freevars)
            and _constants(mine) == _constants(code))


def _constants(code: types.CodeType) -> "list[Any]":
    """The constants of code; of the qualified names that Python 3.10 keeps among them, what does not depend on the place."""
    return [_constants(c) if isinstance(c, types.CodeType) else repr(c).rpartition("<locals>.")[2] for c in code.co_consts]


def use_tree(name: str, tree: ast.Module) -> None:
    """Take this tree for the source of a file from now on: what runs is not what the file says (`microgpt run`)."""
    _given_trees[name] = ("".join(linecache.getlines(name)), tree)


# Original code -> rewritten code, as long as the original lives: a notebook defines its functions again and again.
_codes: "weakref.WeakKeyDictionary[types.CodeType, types.CodeType]" = weakref.WeakKeyDictionary()


def _rewritten_code(function: types.FunctionType) -> types.CodeType:
    code = function.__code__
    if code in _codes:
        return _codes[code]
    node, within = _definition(function)
    if isinstance(node, ast.Lambda):
        body = ast.copy_location(ast.Return(node.body), node.body)
        node = ast.copy_location(ast.FunctionDef("__mg_lambda__", node.args, [body], []), node)
        node.name = "__mg_lambda__"
    node.decorator_list = []
    node = Rewriter(within, code.co_freevars).visit(node)
    free = [*code.co_freevars, *_HOOKS]
    arguments = ast.arguments([], [ast.arg(name) for name in free], None, [], [], None, [])
    outer = ast.FunctionDef("__mg_factory__", arguments, [node, ast.Return(ast.Name(node.name, ast.Load()))], [])
    if sys.version_info >= (3, 12):
        outer.type_params = []
        node.type_params = getattr(node, "type_params", [])
    module = ast.fix_missing_locations(ast.Module([outer], []))
    compiled = builtins.compile(module, code.co_filename, "exec", dont_inherit=True,
                                flags=code.co_flags & __future__.annotations.compiler_flag)
    factory = next(c for c in compiled.co_consts if isinstance(c, types.CodeType))
    inner = next(c for c in factory.co_consts if isinstance(c, types.CodeType) and c.co_name == node.name)
    _codes[code] = inner
    _remember(inner)
    return inner


_rewritten_codes: "weakref.WeakSet[types.CodeType]" = weakref.WeakSet()


def _remember(code: types.CodeType) -> None:
    """Functions made while rewritten code runs are rewritten already."""
    _rewritten_codes.add(code)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            _remember(constant)


def rewritten(function: types.FunctionType) -> types.FunctionType:
    """The twin of a function that records. Its cells are the function's own."""
    if function.__code__ in _rewritten_codes:
        return function
    inner = _rewritten_code(function)
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or ()))
    for name, hook in _HOOKS.items():
        cells[name] = types.CellType(hook)
    twin = types.FunctionType(inner, function.__globals__, function.__name__, function.__defaults__,
                              tuple(cells[name] for name in inner.co_freevars))
    twin.__kwdefaults__ = function.__kwdefaults__
    twin.__qualname__ = function.__qualname__
    return twin


_LIBRARIES = tuple(os.path.join(os.path.realpath(path), "") for key, path in sysconfig.get_paths().items()
                   if key in ("stdlib", "platstdlib", "purelib", "platlib"))
_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")


def is_user_code(function: types.FunctionType) -> bool:
    """Whether a function is the user's: not of the standard library, of installed packages, or of this one."""
    code = function.__code__
    if code in _rewritten_codes:
        return False
    path = os.path.realpath(code.co_filename)
    if path.startswith(_PACKAGE) or code.co_filename.startswith("<frozen"):
        return False
    return not path.startswith(_LIBRARIES)


hooks.rewrite = rewritten
hooks.is_user_code = is_user_code
