"""The loss part of a training loop as a function of its own, to be compiled: from where Values begin to `.backward()`."""
import _ast as ast
import builtins

from .flow import VALUE
from .names import bound_names, exposed, find_place, names_read, names_set, read_later
from .trees import children, copy_location, parse, walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    from .flow import Flow
    from .modules import UserModule

NAME = "__microgpt_loss__"
_REFUSED = (ast.Return, ast.Yield, ast.YieldFrom, ast.Global, ast.Nonlocal, ast.Delete, ast.Import, ast.ImportFrom, ast.Try,
            ast.With, ast.AsyncFor, ast.AsyncWith, ast.Await, ast.ClassDef, ast.FunctionDef, ast.NamedExpr)  # fmt: skip
_EFFECTS = {"print", "input", "open", "setattr", "exit", "quit", "next"}
_MUTATORS = {"append", "extend", "insert", "add", "appendleft", "update", "setdefault", "pop", "popleft", "clear", "remove",
             "sort", "reverse", "write", "popitem"}  # fmt: skip


def extract_loss(tree: ast.Module, flow: "Flow", runtime: str,
                 modules: "Collection[UserModule]" = ()) -> "tuple[tuple[str, ...] | None, str | None]":
    """Move the loss into a function, in place. (the arguments each value of which makes a shape, None), or (None, why not)."""
    loop, at, loss = _training_loop(tree)
    if loop is None:
        return None, "there is no loop with `loss.backward()`"
    place = find_place(tree, loop)
    if place is None or any(isinstance(parent, (ast.ClassDef, ast.Try, ast.With)) for _, _, parent in place):
        return None, f"line {loop.lineno}: the training loop is where it cannot be taken apart"
    functions = [parent for _, _, parent in place if isinstance(parent, ast.FunctionDef)]
    # What comes between the loss and its backward() runs as written.
    ends = [i + 1 for i in range(at) if loss in names_set(loop.body[i])]
    if not ends:
        return None, f"line {loop.body[at].lineno}: {loss} is not computed in the statements before its backward()"
    first = at = ends[-1]
    for i in range(at - 1, -1, -1):
        if _impure(loop.body[i]):
            break
        if _touches(loop.body[i], flow, functions):
            first = i
    region = loop.body[first:at]
    if loss not in set().union(set(), *map(names_set, region)):
        return None, f"line {loop.body[at].lineno}: {loss} is not computed in the statements before its backward()"
    whole = ast.Module([*tree.body, *(node for module in modules for node in module.tree.body)], [])
    why = _effects(region, whole, flow, modules, names=set().union(*map(names_set, region)))
    if why:
        return None, why
    inner_place = [*place, (loop.body, at - 1, loop)]
    made = set().union(*map(names_set, region))
    free: set[str] = set()
    if not functions:
        for node in walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.Lambda)):
                free |= names_read(node)
        if made & free:
            return None, f"a function reads {min(made & free)}, which the loop sets"
    later = read_later(tree, inner_place) | exposed(loop.body[at:])[0] | exposed(loop.body[:first])[0]
    outputs = [loss, *sorted((made & later) - {loss})]
    changing: set[str] = set()
    for body, index, _ in place:
        statement = body[index]
        if isinstance(statement, (ast.For, ast.While)):
            changing |= names_set(statement)
    reads = exposed(region)[0]
    inputs = sorted(reads & changing)
    bound = set().union(set(), *(names_set(node) for body, index, _ in place for node in body[:index]))
    bound |= exposed(loop.body[:first])[1] | set().union(set(), *map(bound_names, functions[-1:]))
    for body, index, _ in [*place, (loop.body, first, loop)]:
        if index < len(body) and isinstance(body[index], ast.For):
            bound |= names_set(body[index].target)
    if unset := [name for name in inputs if name in made or name not in bound]:
        return None, f"{unset[0]} comes from the step before"
    statics = tuple(name for name in inputs if name in _steering(region, whole, flow))
    _rewrite(place, loop, first, at, inputs, outputs, statics, runtime)
    return statics, None


def _training_loop(tree: ast.Module) -> "tuple[Any, int, str]":
    for node in walk(tree):
        if isinstance(node, (ast.For, ast.While)):
            for i, statement in enumerate(node.body):
                if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
                    function = statement.value.func
                    if isinstance(function, ast.Attribute) and function.attr == "backward" and isinstance(function.value, ast.Name):
                        return node, i, function.value.id
    return None, 0, ""


def _impure(statement: ast.stmt) -> bool:
    """Whether a statement does more than to compute."""
    for node in walk(statement):
        if isinstance(node, _REFUSED):
            return True
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _EFFECTS:
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("backward", "step", "zero_grad"):
            return True
    return any(isinstance(node, (ast.Break, ast.Continue)) for node in _not_in_loops(statement))


def _not_in_loops(node: ast.AST) -> "list[ast.AST]":
    found = [node]
    if not isinstance(node, (ast.For, ast.While)):
        for child in children(node):
            found += _not_in_loops(child)
    return found


def _touches(statement: ast.stmt, flow: "Flow", functions: "list[Any]") -> bool:
    for node in walk(statement):
        if isinstance(node, ast.Name) and (node.id == "Value" or flow.held.get(flow.key(node.id, tuple(functions)), 0) & VALUE):
            return True
    return False


def _called(nodes: "list[Any]", tree: ast.Module, flow: "Flow") -> "list[Any]":
    """The script's functions that statements may call, directly or not."""
    defined: dict[str, list[Any]] = {}
    for node in walk(tree):
        if isinstance(node, ast.FunctionDef):
            defined.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda) and isinstance(node.targets[0], ast.Name):
            defined.setdefault(node.targets[0].id, []).append(node.value)
        elif isinstance(node, ast.ClassDef):
            defined.setdefault(node.name, []).extend(n for n in node.body if isinstance(n, ast.FunctionDef))
    found: list[Any] = []
    waiting = list(nodes)
    while waiting:
        for node in walk(waiting.pop()):
            if isinstance(node, ast.Call) and _calls_a_value(node.func, defined, flow):
                new = [function for function in flow.known.handed_on if function not in found]
                found += new
                waiting += new
            names = [node.id] if isinstance(node, ast.Name) else [node.attr] if isinstance(node, ast.Attribute) else []
            for name in names:
                for function in defined.get(name, ()):
                    if function not in found:
                        found.append(function)
                        waiting.append(function)
    return found


def _calls_a_value(function: ast.expr, defined: "dict[str, list[Any]]", flow: "Flow") -> bool:
    """Whether a call is of a function, or an object, that a name, an attribute or an element holds."""
    if isinstance(function, ast.Name):
        known = ({"Value"}, defined, flow.known.functions, flow.known.imported)
        return not any(function.id in names for names in known) and not hasattr(builtins, function.id)
    return not isinstance(function, ast.Attribute) or function.attr in flow.known.attributes_set


def _effects(region: "list[ast.stmt]", tree: ast.Module, flow: "Flow", modules: "Collection[UserModule]",
             names: "set[str]") -> "str | None":  # fmt: skip
    """What would happen once, when the loss is traced, and not in every call; None: nothing."""
    files = {id(node): f"{module.file}, " for module in modules for node in walk(module.tree)}
    for body, own in [(region, names), *((None, f) for f in _called(list(region), tree, flow))]:
        scope = set(own) if isinstance(own, set) else bound_names(own)
        nodes: Any = walk(ast.Module(body, []) if body is not None else own)
        for node in nodes:
            root: Any = None
            if isinstance(node, (ast.Global, ast.Nonlocal)):
                return f"{files.get(id(node), '')}line {node.lineno}: {node.names[0]} is set from within a function"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _EFFECTS:
                return f"{files.get(id(node), '')}line {node.lineno}: {node.func.id}() is called in it"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _MUTATORS:
                root = node.func.value
            if isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
                root = node.value
            while isinstance(root, (ast.Attribute, ast.Subscript)):
                root = root.value
            if isinstance(root, ast.Name) and root.id not in scope:
                return f"{files.get(id(node), '')}line {node.lineno}: {root.id} is changed in it"
            if isinstance(node, ast.Name) and node.id == "random":
                return f"{files.get(id(node), '')}line {node.lineno}: random numbers are drawn in it"
    return None


def _steering(region: "list[ast.stmt]", tree: ast.Module, flow: "Flow") -> "set[str]":
    """Names in the region that decide what is done: in range(), conditions, comparisons, slices, directly or in functions."""
    functions = _called(list(region), tree, flow)
    steers: dict[int, set[str]] = {}

    def names_in(node: "Any") -> "set[str]":
        return {n.id for n in walk(node) if isinstance(n, ast.Name)}

    def find(body: "list[Any]") -> "set[str]":
        found: set[str] = set()
        for node in (n for statement in body for n in walk(statement)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id in ("range", "int", "round", "str", "float"):
                    found |= set().union(set(), *map(names_in, node.args))
                for function in flow.known.functions.get(node.func.id, ()):
                    parameters = [a.arg for a in function.args.args]
                    for argument, parameter in zip(node.args, parameters):
                        if parameter in steers.get(id(function), ()):
                            found |= names_in(argument)
            elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
                found |= names_in(node.test)
            elif isinstance(node, (ast.Compare, ast.Slice)):
                found |= names_in(node)
            elif isinstance(node, ast.comprehension):
                found |= set().union(set(), *map(names_in, node.ifs))
        # A number from which a deciding number is computed decides, too.
        for _ in range(3):
            for node in (n for statement in body for n in walk(statement)):
                if isinstance(node, ast.Assign) and found & set().union(set(), *map(names_in, node.targets)):
                    found |= names_in(node.value)
        return found

    for _ in range(4):
        for function in functions:
            steers[id(function)] = find(function.body if isinstance(function.body, list) else [ast.Expr(function.body)])
    return find(list(region))


def _rewrite(place: "Any", loop: "Any", first: int, at: int, inputs: "list[str]", outputs: "list[str]",
             statics: "tuple[str, ...]", runtime: str) -> None:  # fmt: skip
    region = loop.body[first:at]
    start = region[0]
    function = parse(f"def {NAME}({', '.join(inputs)}):\n    pass").body[0]
    assert isinstance(function, ast.FunctionDef)
    result = ", ".join(outputs)
    end = parse(f"def f():\n    return {result}").body[0].body[0]  # type: ignore[attr-defined]  # a FunctionDef
    made = parse(f"{NAME} = {runtime}.compiled({NAME}, {statics!r})").body[0]
    call = parse(f"{result} = {NAME}({', '.join(inputs)})").body[0]
    for node, where in ((function, start), (end, region[-1]), (made, start), (call, start)):
        for child in walk(node):
            if "lineno" in child._attributes:
                copy_location(child, where)
    function.body = [*region, end]
    loop.body[first:at] = [call]
    bodies, index, _ = place[-1]
    bodies[index:index] = [function, made]
