"""Names in syntax trees: which a statement reads, which it sets, and which of these are read later."""
import _ast as ast

from .trees import children, iter_fields, walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_SCOPES = (ast.Lambda, *COMPREHENSIONS)


def bound_names(scope: "Any") -> "set[str]":
    """The local names of a function, a lambda or a comprehension."""
    found: set[str] = set()
    if isinstance(scope, COMPREHENSIONS):
        for generator in scope.generators:
            found |= {n.id for n in walk(generator.target) if isinstance(n, ast.Name)}
        return found
    for argument in walk(scope.args):
        if isinstance(argument, ast.arg):
            found.add(argument.arg)
    if isinstance(scope, ast.Lambda):
        return found
    declared: set[str] = set()

    def visit(node: "Any") -> None:
        for child in children(node):
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                found.add(child.name)
                continue
            if isinstance(child, (ast.Lambda, *COMPREHENSIONS)):
                continue
            if isinstance(child, (ast.Global, ast.Nonlocal)):
                declared.update(child.names)
            if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                found.add(child.id)
            visit(child)

    visit(ast.Module(scope.body, []))
    return found - declared


# ---- what is read before it is set ----

def names_read(node: "Any") -> "set[str]":
    """Names of the surrounding scope that an expression or a statement reads, those within functions it defines included."""
    if isinstance(node, COMPREHENSIONS):
        inner: set[str] = set()
        for child in children(node):
            inner |= names_read(child)
        return inner - bound_names(node)
    if isinstance(node, FUNCTIONS):
        inner = set()
        for child in children(node):
            inner |= names_read(child)
        return inner - bound_names(node)
    if isinstance(node, ast.Name):
        return set() if isinstance(node.ctx, ast.Store) else {node.id}
    found: set[str] = set()
    for child in children(node):
        found |= names_read(child)
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        found.add(node.target.id)
    return found


def names_set(node: "Any") -> "set[str]":
    """Names of the surrounding scope that a statement may set."""
    found: set[str] = set()
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                found.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif not isinstance(node, _SCOPES):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                found.update(a.asname or a.name.split(".")[0] for a in node.names)
            waiting += children(node)
    return found


def exposed(body: "Iterable[Any]") -> "tuple[set[str], set[str]]":
    """(names that statements may read before they set them, names that they certainly set)."""
    reads: set[str] = set()
    certain: set[str] = set()
    for node in body:
        if isinstance(node, (ast.For, ast.While)):
            head = node.iter if isinstance(node, ast.For) else node.test
            reads |= names_read(head) - certain
            targets = names_set(node.target) if isinstance(node, ast.For) else set()
            inner, _ = exposed(node.body)
            reads |= inner - certain - targets
            reads |= exposed(node.orelse)[0] - certain
        elif isinstance(node, ast.If):
            reads |= names_read(node.test) - certain
            first, second = exposed(node.body), exposed(node.orelse)
            reads |= (first[0] | second[0]) - certain
            certain |= first[1] & second[1]
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.Expr, ast.AugAssign, ast.Import, ast.ImportFrom)):
            reads |= names_read(node) - certain
            certain |= names_set(node)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            reads |= names_read(node) - certain
            certain.add(node.name)
        else:
            reads |= names_read(node) - certain
    return reads, certain


def find_place(tree: "Any", wanted: ast.stmt) -> "list[tuple[list[ast.stmt], int, Any]] | None":
    """The way from a tree to a statement: (list of statements, index in it, what the list belongs to), outermost first."""
    for field in ("body", "orelse", "finalbody"):
        body = getattr(tree, field, None)
        if not isinstance(body, list):
            continue
        for i, node in enumerate(body):
            if node is wanted:
                return [(body, i, tree)]
            inner = find_place(node, wanted)
            if inner is not None:
                return [(body, i, tree), *inner]
    return None


def read_later(tree: ast.Module, place: "list[tuple[list[ast.stmt], int, Any]]") -> "set[str]":
    """Names that may be read after a statement has run before they are set again."""
    found: set[str] = set()
    for body, index, parent in place:
        found |= exposed(body[index + 1 :])[0]
        if isinstance(parent, (ast.For, ast.While)):
            found |= exposed([*body[index + 1 :], *body[: index]])[0] | exposed(body[:index])[0]
            if isinstance(parent, ast.While):
                found |= names_read(parent.test)
    for node in walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            found |= names_read(node)
    return found


def read_outside(body: "list[ast.stmt]", loop: ast.stmt) -> "set[str]":
    """Names that statements read, those of one loop within them aside."""
    found: set[str] = set()
    for node in body:
        if node is loop:
            continue
        if not within(node, loop):
            found |= names_read(node)
            continue
        for field, value in iter_fields(node):
            if field in ("body", "orelse", "finalbody", "handlers"):
                found |= read_outside(value, loop)
            elif isinstance(value, ast.AST):
                found |= names_read(value)
    return found


def is_fresh(nodes: "Iterable[Any]", wanted: ast.expr) -> bool:
    """Whether a name, or an attribute, is only ever set to lists that are made there, which no other name has."""
    nodes = list(nodes)
    found, fresh = False, _fresh_targets(nodes)
    for node in nodes:
        if isinstance(wanted, ast.Attribute):
            same = isinstance(node, ast.Attribute) and node.attr == wanted.attr
        else:
            same = isinstance(node, ast.Name) and node.id == wanted.id  # type: ignore[attr-defined]  # a Name
        if same and not isinstance(node.ctx, ast.Load):
            found = True
            if node not in fresh:
                return False
    return found


def may_be_seen(name: str, tree: ast.Module, function: "Any", loop: ast.stmt) -> bool:
    """Whether a list that a loop uses, in a function or None, may be read by other statements: by its name or another one."""
    scope: Any = function if function is not None and name in bound_names(function) else tree
    if scope is not tree and any(isinstance(x, ast.arg) and x.arg == name for x in walk(scope.args)):
        return True  # it is the caller's
    if any(isinstance(x, (ast.Global, ast.Nonlocal)) and name in x.names for x in walk(tree)):
        return True
    return not is_fresh(_own_nodes(scope), ast.Name(name, ast.Load())) or name in read_outside(scope.body, loop)


def _own_nodes(scope: "Any") -> "Iterator[Any]":
    """The nodes of a function or a module without those of the scopes in it."""
    waiting: list[Any] = list(scope.body)
    while waiting:
        node = waiting.pop()
        if not isinstance(node, (*FUNCTIONS, *COMPREHENSIONS, ast.ClassDef)):
            yield node
            waiting += children(node)
        elif isinstance(node, COMPREHENSIONS):
            yield node  # what is set may be one


def _fresh_targets(nodes: "Iterable[Any]") -> "set[ast.AST]":
    """Targets of assignments of new lists: `m = [0.0] * n`, `m, v = [...], [...]`."""
    found: set[ast.AST] = set()
    for node in nodes:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
                pairs = list(zip(target.elts, value.elts))
            for x, made in pairs:
                if isinstance(made, (ast.List, ast.ListComp)) or isinstance(made, ast.BinOp) and isinstance(made.op, ast.Mult) and (
                        isinstance(made.left, ast.List) or isinstance(made.right, ast.List)):  # fmt: skip
                    found.add(x)
    return found


def within(outer: ast.AST, node: ast.AST) -> bool:
    """Return whether node is outer or a part of it."""
    return any(child is node for child in walk(outer))
