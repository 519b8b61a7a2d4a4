"""A script's optimizer loop as arithmetic on all parameters at once: SGD, AdamW, RMSprop, or an Adam with a changed line.

A loop is taken where each step of it does the same arithmetic with one parameter's numbers and with its element of some lists,
and nothing that a later step reads. Then the order of the steps makes no difference, and each operation can be done for
many parameters at once, with the same bits.
"""
import _ast as ast

from .trees import children, copied, copy_location, dump, iter_fields, walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet
    from typing import Any, TypeAlias

    #: A number in the loop: of each parameter ("data", 0), ("grad", 0), ("list", k), ("result", k), or ("scalar", k).
    Operand: TypeAlias = tuple[str, int]

_OPERATIONS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}
_MATH = {"sqrt", "exp", "log", "tanh", "fabs"}
_OF_NUMBERS = {"abs", "float", "int", "len", "max", "min", "pow", "round"}


class Unfit(Exception):
    """A loop that cannot be taken; the message says why."""

    def __init__(self, node: "Any", why: str) -> None:
        super().__init__(f"line {node.lineno}: {why}")


class UpdateLoop:
    """One loop, understood.

    over: the expression of its parameters.  count: that of a `range()` it is over, or None.  lists, scalars: the expressions
    of its lists, and of numbers that are the same for every parameter.  code: (operation, operand, operand), each defines the
    next ("result", k).  stored: what data, grad and the lists are at the end.  left: what its names are then.
    """

    def __init__(self, loop: ast.For, stored: "AbstractSet[str]" = frozenset()) -> None:
        self.line = loop.lineno
        self.own = {n for n in ("abs", "pow", *_OF_NUMBERS) if n in stored}  # functions that are not Python's
        self.set_in_loop = {n.id for n in walk(loop) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
        self.over: ast.expr | None = None
        self.count: ast.expr | None = None
        self.lists: list[ast.expr] = []
        self.scalars: list[ast.expr] = []
        self.floats: set[int] = set()  # scalars that may not be ints
        self.code: list[tuple[str, Operand, Operand]] = []
        self.stored: dict[Operand, Operand] = {}
        self.left: dict[str, Operand] = {}
        self.kept: list[Operand] = []  # what of `left` is read later
        self.shown: list[int] = []  # lists that other parts of the script may see
        self._index: str | None = None
        self._elements: dict[str, ast.expr] = {}  # names of one item of a list, or of one parameter
        self._invariant: dict[str, ast.expr] = {}  # names of numbers that are the same for every parameter
        if loop.orelse:
            raise Unfit(loop, "it has an else")
        body = self._header(loop)
        for statement in body:
            self._statement(statement)
        if self.over is None or not self.stored:
            raise Unfit(loop, "it sets no numbers of a Value")
        known = {dump(x) for x in self.lists}
        if dump(self.over) in known:
            raise Unfit(loop, "a list of Values is used as one of numbers")
        for scalar in self.scalars:
            if any(isinstance(n, ast.Subscript) and dump(n.value) in known for n in walk(scalar)):
                raise Unfit(loop, "one element of a list is used for all parameters")
        if isinstance(self.over, ast.ListComp) and any(
                isinstance(n, ast.Call) and not (isinstance(n.func, ast.Attribute) and n.func.attr == "values" and not n.args)
                for n in walk(self.over)):  # fmt: skip
            raise Unfit(loop, "what its loops are over is computed")
        for name in self._elements:
            if self._is_over(self._elements[name]):
                self.left[name] = ("parameter", 0)
            elif dump(self._elements[name]) in known:
                self.left[name] = self._list(self._elements[name])  # as it was before the step
        if self._index:
            self.left[self._index] = ("index", 0)

    # ---- the loop's head ----

    def _header(self, loop: ast.For) -> "list[ast.stmt]":
        inner = loop.body[0]
        if len(loop.body) == 1 and isinstance(inner, ast.For):
            return self._nested(loop)
        self._iterate(loop.target, loop.iter)
        return loop.body

    def _nested(self, loop: ast.For) -> "list[ast.stmt]":
        """Loops within loops, over matrices and their rows: all their parameters, side by side."""
        generators, node = [], loop
        while True:
            if not isinstance(node.target, ast.Name) or node.orelse:
                raise Unfit(node, "its loops are not over matrices and rows")
            from copy import deepcopy

            generators.append(ast.comprehension(deepcopy(node.target), deepcopy(node.iter), [], 0))
            inner = node.body[0]
            if len(node.body) != 1 or not isinstance(inner, ast.For):
                break
            node = inner
        name = node.target.id
        self._elements[name] = self.over = ast.ListComp(ast.Name(name, ast.Load()), generators)
        self.outer = {g.target.id for g in generators[:-1]}  # type: ignore[attr-defined]  # Names
        return node.body

    outer: "set[str]" = set()

    def _iterate(self, target: "Any", over: ast.expr) -> None:
        call = over.func.id if isinstance(over, ast.Call) and isinstance(over.func, ast.Name) else None
        given: list[ast.expr] = []  # its arguments, if they are plain
        if isinstance(over, ast.Call) and not over.keywords and not any(isinstance(x, ast.Starred) for x in over.args):
            given = over.args
        parts = target.elts if isinstance(target, ast.Tuple) else []
        if call == "enumerate" and len(given) == 1 and len(parts) == 2:
            self._index = self._name(parts[0])
            self._iterate(parts[1], given[0])
        elif call == "zip" and parts and len(parts) == len(given):
            for part, argument in zip(parts, given):
                self._elements[self._name(part)] = argument
        elif call == "range" and len(given) == 1:
            self._index = self._name(target)
            self.count = given[0]
        elif call in ("enumerate", "zip", "range", "reversed", "map", "filter"):
            raise Unfit(over, f"{call}() is used in another way than over parameters and lists")
        else:
            self._elements[self._name(target)] = over

    def _name(self, target: "Any") -> str:
        if not isinstance(target, ast.Name) or target.id in self._elements or target.id == self._index:
            raise Unfit(target, "its targets are not names")
        return target.id

    # ---- statements ----

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Pass) or isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return
        if isinstance(node, ast.AugAssign):
            given = self._binary(node, self._number(_loaded(node.target)), self._number(node.value))
            self._store(node.target, given)
        elif isinstance(node, ast.Assign):
            if len(node.targets) == 1 and isinstance(node.targets[0], ast.Name) and self._alias(node.targets[0].id, node.value):
                return
            if len(node.targets) == 1 and isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple) and (
                    len(node.targets[0].elts) == len(node.value.elts)):  # fmt: skip
                for target, value in zip(node.targets[0].elts, [self._number(x) for x in node.value.elts]):
                    self._store(target, value)
                return
            value = self._number(node.value)
            for target in node.targets:
                self._store(target, value)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            self._store(node.target, self._number(node.value))
        else:
            kind = {"If": "an if", "For": "a loop", "While": "a loop"}.get(type(node).__name__, "a statement that sets nothing")
            raise Unfit(node, f"there is {kind} in it")

    def _alias(self, name: str, value: ast.expr) -> bool:
        """`p = params[i]`, where p is used as a Value."""
        if not (isinstance(value, ast.Subscript) and isinstance(value.slice, ast.Name) and value.slice.id == self._index):
            return False
        if self._index is None or not self._is_over(value.value) and (self.over is not None or self.count is None):
            return False
        if name in self._elements or any(dump(value.value) == dump(x) for x in self.lists):
            return False
        self.over = self.over or self._plain_list(value.value)
        self._elements[name] = self.over
        return True

    def _store(self, target: ast.expr, value: "Operand | ast.expr") -> None:
        if isinstance(target, ast.Name):
            if target.id in self._elements or target.id == self._index or target.id in self.outer:
                raise Unfit(target, f"{target.id} is set in it")
            self._invariant.pop(target.id, None)
            if isinstance(value, ast.expr):
                self._invariant[target.id] = value
                self.left[target.id] = self._scalar(value)
            else:
                self.left[target.id] = value
            return
        place = self._place(target)
        if place is None:
            raise Unfit(target, "something else than a Value's number, a list's element or a name is set in it")
        if isinstance(value, ast.expr):
            value = self._scalar(value)
            if place[0] == "list":
                self.floats.add(value[1])
        self.stored[place] = value

    # ---- numbers ----

    def _is_over(self, node: ast.expr) -> bool:
        return self.over is not None and dump(_loaded(node)) == dump(self.over)

    def _plain_list(self, node: ast.expr) -> ast.expr:
        inner = node
        while isinstance(inner, ast.Attribute):
            inner = inner.value
        if not isinstance(inner, ast.Name) or inner.id in self.set_in_loop:
            raise Unfit(node, "a list in it is computed")
        return _loaded(node)

    def _place(self, node: ast.expr) -> "Operand | None":
        """Where a number of the present parameter is kept."""
        if isinstance(node, ast.Attribute) and node.attr in ("data", "grad"):
            of = node.value
            if isinstance(of, ast.Name) and of.id in self._elements:
                over = self._elements[of.id]
            elif isinstance(of, ast.Subscript) and isinstance(of.slice, ast.Name) and of.slice.id == self._index:
                over = self._plain_list(of.value)
            else:
                return None
            if self.over is None:
                self.over = over
            if not self._is_over(over):
                raise Unfit(node, "it is over two lists of Values")
            return node.attr, 0
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Name) and node.slice.id == self._index:
            return self._list(self._plain_list(node.value))
        return None

    def _list(self, node: ast.expr) -> "Operand":
        for k, known in enumerate(self.lists):
            if dump(known) == dump(node):
                return "list", k
        self.lists.append(node)
        return "list", len(self.lists) - 1

    def _scalar(self, node: ast.expr) -> "Operand":
        for k, known in enumerate(self.scalars):
            if dump(known) == dump(node):
                return "scalar", k
        self.scalars.append(node)
        return "scalar", len(self.scalars) - 1

    def _same_for_all(self, node: "Any") -> "ast.expr | None":
        """An expression that is the same for every parameter, with the loop's own names written out; None: it is not."""
        if isinstance(node, ast.Constant):
            return node if type(node.value) in (int, float) else None
        if isinstance(node, ast.Name):
            if node.id in self._invariant:
                return self._invariant[node.id]
            return None if node.id in self.set_in_loop else node
        if isinstance(node, ast.Attribute):
            return node if node.attr not in ("data", "grad") and self._same_for_all(node.value) is not None else None
        if isinstance(node, ast.Call):
            function = node.func
            builtin = isinstance(function, ast.Name) and function.id in _OF_NUMBERS - self.own - self.set_in_loop
            if node.keywords or not builtin and not _is_math(function):
                return None
        elif not isinstance(node, (ast.BinOp, ast.UnaryOp, ast.Subscript)):
            return None
        made = copied(node)
        for field, value in iter_fields(node):
            if isinstance(value, list):
                items = [self._same_for_all(x) for x in value]
                if any(x is None for x in items):
                    return None
                setattr(made, field, items)
            elif isinstance(value, ast.expr) and not (isinstance(node, ast.Call) and field == "func"):
                inner = self._same_for_all(value) if not (isinstance(value, ast.Constant) and field == "slice") else value
                if inner is None:
                    return None
                setattr(made, field, inner)
        return made  # type: ignore[no-any-return]  # of node's type

    def _number(self, node: ast.expr) -> "Operand | ast.expr":
        """An expression's operand, or the expression, where it is the same for every parameter."""
        same = self._same_for_all(node)
        if same is not None:
            return same
        if isinstance(node, ast.Name):
            if node.id in self.left:
                return self.left[node.id]
            if node.id in self._elements:
                return self._present(self._list(self._plain_list(self._elements[node.id])))
            if node.id == self._index:
                raise Unfit(node, f"{node.id} is used as a number")
            raise Unfit(node, f"{node.id} goes from one parameter to the next")
        place = self._place(node)
        if place is not None:
            return self._present(place)
        if isinstance(node, ast.BinOp):
            return self._binary(node, self._number(node.left), self._number(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
            given = self._operand(self._number(node.operand))
            return given if isinstance(node.op, ast.UAdd) else self._emit("neg", given, given)
        if isinstance(node, ast.Call) and not node.keywords and getattr(node.func, "id", "") not in self.own:
            name = self._function(node.func)
            if name is not None and len(node.args) == 1:
                given = self._operand(self._number(node.args[0]))
                return self._emit(name, given, given)
            if isinstance(node.func, ast.Name) and node.func.id == "pow" and len(node.args) == 2:
                power = copy_location(ast.BinOp(node.args[0], ast.Pow(), node.args[1]), node)
                return self._binary(power, self._number(node.args[0]), self._number(node.args[1]))
        if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
            raise Unfit(node, f"{node.func.id if isinstance(node.func, ast.Name) else node.func.attr}() is called in it")
        kind = "a condition" if isinstance(node, (ast.IfExp, ast.Compare, ast.BoolOp)) else "something that is not arithmetic"
        raise Unfit(node, f"there is {kind} in it")

    @staticmethod
    def _function(node: ast.expr) -> "str | None":
        if isinstance(node, ast.Name):
            return "fabs" if node.id == "abs" else None
        return node.attr if _is_math(node) and node.attr in _MATH else None  # type: ignore[attr-defined]  # an Attribute

    def _present(self, place: "Operand") -> "Operand":
        return self.stored.get(place, place)

    def _operand(self, given: "Operand | ast.expr") -> "Operand":
        return self._scalar(given) if isinstance(given, ast.expr) else given

    def _emit(self, name: str, a: "Operand", b: "Operand") -> "Operand":
        self.code.append((name, a, b))
        return "result", len(self.code) - 1

    def _binary(self, node: "Any", left: "Operand | ast.expr", right: "Operand | ast.expr") -> "Operand | ast.expr":
        name = _OPERATIONS.get(type(node.op))
        if name is None:
            raise Unfit(node, "there is another operation than + - * / ** in it")
        if isinstance(left, ast.expr) and isinstance(right, ast.expr):
            return copy_location(ast.BinOp(left, node.op, right), node)
        a, b = self._operand(left), self._operand(right)
        if name == "**" and (b[0] != "scalar" or a[0] == "scalar"):
            raise Unfit(node, "a power has another exponent for each parameter")
        return self._emit(name, a, b)


def _is_math(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "math"


def _loaded(node: ast.expr) -> ast.expr:
    """The expression that reads a target."""
    if isinstance(getattr(node, "ctx", None), ast.Load):
        return node
    node = copied(node)
    node.ctx = ast.Load()  # type: ignore[attr-defined]  # a target has one
    return node


def update_loops(tree: ast.AST, skipped: "set[ast.AST]") -> "list[ast.For]":
    """The outermost loops that set numbers of Values and have no other part."""
    found: list[ast.For] = []

    def sets(node: ast.AST) -> bool:
        return any(isinstance(n, ast.Attribute) and n.attr in ("data", "grad") and not isinstance(n.ctx, ast.Load)
                   for n in walk(node))  # fmt: skip

    def calls_backward(node: ast.AST) -> bool:
        return any(isinstance(n, ast.Attribute) and n.attr == "backward" for n in walk(node))

    def visit(node: ast.AST) -> None:
        for child in children(node):
            if child in skipped:
                continue
            if isinstance(child, ast.ClassDef) and child.name == "Value":
                continue
            if isinstance(child, ast.For) and sets(child) and not calls_backward(child) and (
                    not any(isinstance(n, (ast.For, ast.While)) and sets(n) for s in child.body for n in walk(s))
                    or _is_nest(child)):  # fmt: skip
                found.append(child)
                continue
            visit(child)

    visit(tree)
    return found


def _is_nest(loop: ast.For) -> bool:
    while len(loop.body) == 1 and isinstance(loop.body[0], ast.For):
        loop = loop.body[0]
    return not any(isinstance(n, (ast.For, ast.While)) for s in loop.body for n in walk(s))


def sets_data(node: ast.AST) -> bool:
    """Whether more than gradients is set in it."""
    return any(isinstance(n, ast.Attribute) and n.attr == "data" and not isinstance(n.ctx, ast.Load) for n in walk(node))


def sets_data_outside(tree: ast.AST, loops: "set[ast.AST]", repeated: bool = False) -> "ast.stmt | None":
    """The first statement outside of these loops, but within another one or a function, that sets numbers of Values."""
    for child in children(tree):
        if child in loops:
            continue
        inside = repeated or isinstance(child, (ast.For, ast.While, ast.FunctionDef))
        if inside and isinstance(child, (ast.Assign, ast.AugAssign, ast.AnnAssign)) and sets_data(child):
            return child
        if (found := sets_data_outside(child, loops, inside)) is not None:
            return found
    return None
