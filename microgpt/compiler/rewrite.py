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

from ..core import hooks, operators, outside, strays, twins
from ..core.recorder import TraceError
from .codes import remember, rewritten_codes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any

_LEFT_ALONE = {"super", "locals", "vars", "dir", "__class__"}  # calls that need the frame they stand in; vars(x) does not
_REFUSED = {"eval": "eval()", "exec": "exec()"}
_HOOKS: "dict[str, Callable[..., Any]]" = {
    "__mg_subscript__": hooks.subscript,
    "__mg_attribute__": hooks.attribute,
    "__mg_called__": hooks.called,
    "__mg_method__": hooks.method,
    "__mg_read__": hooks.read_whole,
    "__mg_iterated__": operators.iterated,
    "__mg_binary__": operators.binary,
    "__mg_inplace__": operators.inplace,
    "__mg_set__": operators.set_item,
    "__mg_unary__": operators.unary,
    "__mg_compared__": operators.compared,
    "__mg_contained__": operators.contained,
    "__mg_same__": hooks.same,
    "__mg_storing__": outside.storing,
    "__mg_changing__": outside.changing,
    "__mg_augmenting__": outside.augmenting,
    "__mg_made__": outside.made,
}


class Rewriter(ast.NodeTransformer):
    """Puts the hooks into the tree of one function. mangle: the name of the class that the function was defined in.

    operators: also those of operators, which only objects of users' classes need.
    """

    def __init__(self, mangle: "str | None" = None, free: "Collection[str]" = (), operators: bool = False) -> None:
        self.mangle = (mangle or "").lstrip("_")
        self.free, self.operators = free, operators

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
        return self.hook("__mg_subscript__", [node.value, node.slice], node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        self.generic_visit(node)
        node.attr = self.mangled(node.attr)
        if isinstance(node.ctx, (ast.Store, ast.Del)):
            node.value = self.hook("__mg_storing__", [node.value], node)
            return node
        if not isinstance(node.ctx, ast.Load):
            return node
        return self.hook("__mg_attribute__", [node.value, ast.Constant(node.attr)], node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id in _LEFT_ALONE and not (node.func.id == "vars" and node.args):
            return self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in _REFUSED:
            raise TraceError(f"{_REFUSED[node.func.id]} in a compiled function")
        if isinstance(node.func, ast.Attribute):
            owner, name = self.visit(node.func.value), ast.Constant(self.mangled(node.func.attr))
            node.func = self.hook("__mg_method__", [owner, name], node.func)
        else:
            node.func = self.hook("__mg_called__", [self.visit(node.func)], node.func)
        node.args = [self.visit(argument) for argument in node.args]
        for keyword in node.keywords:
            keyword.value = self.visit(keyword.value)
            if keyword.arg is None:  # **x
                keyword.value = self.hook("__mg_read__", [keyword.value], keyword.value)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) != 1:
            return node
        kind = type(node.ops[0]).__name__
        if isinstance(node.ops[0], (ast.In, ast.NotIn)) and self.operators:
            found: ast.expr = self.hook("__mg_contained__", [node.left, node.comparators[0]], node)
            return found if kind == "In" else ast.copy_location(ast.UnaryOp(ast.Not(), found), node)
        if kind in operators.COMPARE:
            if self.operators:
                return self.hook("__mg_compared__", [ast.Constant(operators.COMPARE[kind]), node.left, node.comparators[0]], node)
            node.left, node.comparators = self.read(node.left), [self.read(node.comparators[0])]
        if not isinstance(node.ops[0], (ast.Is, ast.IsNot)):
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
        kind = operators.BINARY.get(type(node.op).__name__)
        if self.operators and kind:
            arguments: list[ast.expr] = [ast.Constant(kind), ast.Name(node.target.id, ast.Load()), node.value]
            changed = ast.Assign([node.target], self.hook("__mg_inplace__", arguments, node))
            return [ast.copy_location(ast.Expr(before), node), ast.fix_missing_locations(ast.copy_location(changed, node))]
        return [ast.copy_location(ast.Expr(before), node), node]

    def read(self, node: ast.expr) -> ast.expr:
        """A dict that is read as a whole."""
        if isinstance(node, (ast.Constant, ast.BinOp)):
            return node
        return self.hook("__mg_read__", [node], node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        self.generic_visit(node)
        target = node.targets[0]
        if not self.operators or len(node.targets) > 1 or not isinstance(target, ast.Subscript) or isinstance(target.slice, ast.Slice):
            return node
        call = self.hook("__mg_set__", [node.value, target.value, target.slice], node)
        return ast.copy_location(ast.Expr(call), node)

    def visit_For(self, node: ast.For) -> ast.AST:
        self.generic_visit(node)
        node.iter = self.hook("__mg_iterated__", [node.iter], node.iter)
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        self.generic_visit(node)
        node.iter = self.hook("__mg_iterated__", [node.iter], node.iter)
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        kind = operators.UNARY.get(type(node.op).__name__)
        if self.operators and kind and not isinstance(node.operand, ast.Constant):
            return self.hook("__mg_unary__", [ast.Constant(kind), node.operand], node)
        return node

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.AST:
        self.generic_visit(node)
        node.value = self.read(node.value)
        return node

    def visit_Match(self, node: ast.AST) -> ast.AST:
        if any(isinstance(inner, (ast.MatchMapping, ast.MatchClass)) for inner in ast.walk(node)):
            raise TraceError("a match statement with patterns of dicts or classes in a compiled function: use if and subscripts")
        return self.generic_visit(node)

    def made(self, node: ast.expr) -> ast.AST:
        """A list, dict or set that the function makes itself, which it may change."""
        self.generic_visit(node)
        return self.hook("__mg_made__", [node], node)

    def visit_List(self, node: ast.List) -> ast.AST:
        return self.made(node) if isinstance(node.ctx, ast.Load) else self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, (ast.BitOr, ast.Mod)):  # of dicts, of sets; text
            node.left, node.right = self.read(node.left), self.read(node.right)
        result: ast.expr = node
        if self.operators and not isinstance(node.left, ast.Constant):
            kind = ast.Constant(operators.BINARY[type(node.op).__name__])
            result = self.hook("__mg_binary__", [kind, node.left, node.right], node)
        return self.hook("__mg_made__", [result], node) if isinstance(node.op, ast.BitOr) else result

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        self.generic_visit(node)
        node.values = [self.read(value) if key is None else value for key, value in zip(node.keys, node.values)]
        return self.hook("__mg_made__", [node], node)

    visit_Set = visit_ListComp = visit_DictComp = visit_SetComp = made

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
        if code.co_filename == "<string>":  # since Python 3.13 there is a source of this name: what followed -c
            raise TraceError(f"the source of {function.__qualname__} is not there to be traced (<string>)")
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
# The second are those with the hooks of operators.
_codes: "tuple[weakref.WeakKeyDictionary[types.CodeType, types.CodeType], ...]" = (
    weakref.WeakKeyDictionary(), weakref.WeakKeyDictionary())


def _rewritten_code(function: types.FunctionType, with_operators: bool) -> types.CodeType:
    code, known = function.__code__, _codes[with_operators]
    if code in known:
        return known[code]
    node, within = _definition(function)
    if isinstance(node, ast.Lambda):
        body = ast.copy_location(ast.Return(node.body), node.body)
        node = ast.copy_location(ast.FunctionDef("<lambda>", node.args, [body], []), node)
    node.decorator_list = []
    node = Rewriter(within, code.co_freevars, with_operators).visit(node)
    node.name = "__mg_function__"  # its own name is a global in it, or in a cell
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
    inner = inner.replace(co_name=code.co_name)
    known[code] = inner
    remember(inner)
    return inner


def rewritten(function: types.FunctionType, with_operators: bool = False) -> types.FunctionType:
    """The twin of a function that records. Its cells are the function's own."""
    if function.__code__ in rewritten_codes:
        return function
    inner = _rewritten_code(function, with_operators)
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
    return is_users_code(function.__code__)


def is_users_code(code: types.CodeType) -> bool:
    """Whether code is the user's and has not been rewritten."""
    if code in rewritten_codes or code.co_filename.startswith("<frozen"):
        return False
    if code.co_filename == "<string>" and code.co_name in _GENERATED:
        return False
    return is_users_file(os.path.realpath(code.co_filename))


def is_users_file(path: str) -> bool:
    """Whether a file, by its path without links, is neither of this package nor of an installed one or Python's own."""
    return not path.startswith(_PACKAGE) and not path.startswith(_LIBRARIES)


_GENERATED = ("__init__", "__new__", "<lambda>", "_make")  # of dataclasses and named tuples: they read their arguments alone

twins.rewrite = rewritten
twins.rewritten_codes = rewritten_codes
twins.is_user_code = is_user_code
strays.is_users_code = is_users_code
