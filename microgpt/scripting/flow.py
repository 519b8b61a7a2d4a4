"""What flows where in a script: Values, numbers that the script's class may keep as ints, names that are read later.

Everything here errs to the safe side: what is not understood counts as seen.
"""
import _ast as ast
import builtins
from types import MappingProxyType

from .definitions import Definitions
from .formats import SHOWING, all_floats, is_float_spec, negates
from .names import FUNCTIONS, bound_names
from .trees import children, walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from .modules import UserModule

    Key = tuple[int, str]

_BUILTINS = {*dir(builtins)}
NUMBER, VALUE = 1, 2  # a number read from a Value, perhaps an int; a Value
_PASSED_ON = {"max", "min", "sum", "abs", "sorted", "list", "tuple", "zip", "enumerate", "reversed", "map", "iter", "next",
              "set", "dict", "filter"}  # fmt: skip
_HARMLESS = {"len", "isinstance", "bool", "float", "int", "id", "type", "callable", "hasattr", "any", "all"}
_MUTATORS = {"append", "extend", "insert", "add", "appendleft", "update", "setdefault"}
_OPERATIONS = {"log", "exp", "relu", "backward"}


class Flow:
    """Which names hold Values or numbers read from them, found by going through the tree until nothing changes.

    sinks: (file, "" for the script, line, why) for each place where it could be seen whether a number is an int or a float, or
    that a Value is of another class.
    """

    def __init__(self, tree: ast.Module, skipped: "set[ast.AST]", modules: "Mapping[str, UserModule]" = MappingProxyType({}),
                 nodes: "list[Any] | None" = None) -> None:  # fmt: skip
        self.tree, self.skipped, self.modules = tree, skipped, modules
        self.file = ""  # the one that is gone through, if it is not the script
        self.held: dict[Key, int] = {}
        self.attributes: dict[str, int] = {}
        self.returned: dict[int, int] = {id(node): VALUE for node in skipped}  # ours return Values
        self.locals: dict[int, set[str]] = {}
        self.sinks: dict[tuple[str, int, str], None] = {}
        self.known = Definitions(tree, modules, nodes)
        for _ in range(40):
            before = (dict(self.held), dict(self.attributes), dict(self.returned), len(self.sinks))
            for module in modules.values():
                self.file = module.file
                self.block(module.tree.body, ())
            self.file = ""
            self.block(tree.body, ())
            if before == (self.held, self.attributes, self.returned, len(self.sinks)):
                break
        else:
            self.sink(tree, "too much flows from name to name")

    def sink(self, node: "Any", why: str) -> None:
        self.sinks[(self.file, getattr(node, "lineno", 1), why)] = None

    def reaches(self, module: "UserModule") -> bool:
        """Whether a Value, or a number of one, may get into a file."""
        scopes = {id(node) for node in walk(module.tree)}
        return any(mask and scope in scopes for (scope, _), mask in self.held.items())

    # ---- names ----

    def names_of(self, scope: "Any") -> "set[str]":
        found = self.locals.get(id(scope))
        if found is None:
            found = self.locals[id(scope)] = bound_names(scope)
        return found

    def key(self, name: str, scopes: "tuple[Any, ...]") -> "Key":
        for scope in reversed(scopes):
            if name in self.names_of(scope):
                return id(scope), name
        return 0, self.known.renamed.get(name, name)

    def hold(self, target: "Any", mask: int, scopes: "Any") -> None:
        """Let the target of an assignment hold what mask says, besides what it holds."""
        if isinstance(target, ast.Name):
            key = self.key(target.id, scopes)
            self.held[key] = self.held.get(key, 0) | mask
        elif isinstance(target, (ast.Tuple, ast.List)):
            for item in target.elts:
                self.hold(item, mask, scopes)
        elif isinstance(target, ast.Starred):
            self.hold(target.value, mask, scopes)
        elif isinstance(target, ast.Attribute):
            self.mask(target.value, scopes)
            if target.attr not in ("data", "grad"):
                self.attributes[target.attr] = self.attributes.get(target.attr, 0) | mask
        elif isinstance(target, ast.Subscript):
            if self.mask(target.slice, scopes):
                self.sink(target, "a Value's number is an index")
            self.hold(target.value, mask, scopes) if mask else self.mask(target.value, scopes)

    def iterate(self, target: "Any", over: "Any", scopes: "Any") -> None:
        """`for target in over`: what enumerate counts and items() names is not a number of a Value; zip goes side by side."""
        if isinstance(target, ast.Tuple) and isinstance(over, ast.Call) and not over.keywords:
            name = over.func.id if isinstance(over.func, ast.Name) else None
            if name == "zip" and len(over.args) == len(target.elts) and not any(isinstance(x, ast.Starred) for x in over.args):
                for part, given in zip(target.elts, over.args):
                    self.hold(part, self.mask(given, scopes), scopes)
                return
            if name == "enumerate" and len(over.args) == 1 and len(target.elts) == 2:
                self.hold(target.elts[0], 0, scopes)
                self.iterate(target.elts[1], over.args[0], scopes)
                return
            if isinstance(over.func, ast.Attribute) and over.func.attr == "items" and len(target.elts) == 2 and not over.args:
                # A Value as a key is found where the dict is filled.
                self.hold(target.elts[0], 0, scopes)
                self.hold(target.elts[1], self.mask(over.func.value, scopes), scopes)
                return
        self.hold(target, self.mask(over, scopes), scopes)

    # ---- statements ----

    def block(self, body: "Iterable[Any]", scopes: "Any") -> None:
        for statement in body:
            if statement not in self.skipped:
                self.statement(statement, scopes)

    def statement(self, node: "Any", scopes: "Any") -> None:
        if isinstance(node, FUNCTIONS):
            self.function(node, scopes)
        elif isinstance(node, ast.ClassDef):
            for item in node.body:
                if item not in self.skipped and not (node.name == "Value" and getattr(item, "name", "") in ("__repr__", "__str__")):
                    self.statement(item, scopes)
            if node.name == "Value":
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and method.args.args:
                        self.held[(id(method), method.args.args[0].arg)] = VALUE
        elif isinstance(node, ast.Assign):
            mask = self.mask(node.value, scopes)
            for target in node.targets:
                self.hold(target, mask, scopes)
        elif isinstance(node, ast.AnnAssign):
            if node.value:
                self.hold(node.target, self.mask(node.value, scopes), scopes)
        elif isinstance(node, ast.AugAssign):
            self.hold(node.target, self.mask(node.value, scopes), scopes)
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            self.iterate(node.target, node.iter, scopes)
            self.block(node.body, scopes)
            self.block(node.orelse, scopes)
        elif isinstance(node, ast.Return):
            if node.value:
                mask = self.mask(node.value, scopes)
                function = next((s for s in reversed(scopes) if isinstance(s, FUNCTIONS)), None)
                self.returned[id(function)] = self.returned.get(id(function), 0) | mask
        else:
            for child in children(node):
                if isinstance(child, ast.stmt):
                    if child not in self.skipped:
                        self.statement(child, scopes)
                elif isinstance(child, ast.expr):
                    self.mask(child, scopes)
                elif isinstance(child, ast.withitem):
                    mask = self.mask(child.context_expr, scopes)
                    if child.optional_vars is not None:
                        self.hold(child.optional_vars, mask, scopes)
                elif not isinstance(child, (ast.alias, ast.operator, ast.expr_context)):
                    for inner in children(child):
                        if isinstance(inner, ast.stmt):
                            self.block([inner], scopes)
                        elif isinstance(inner, ast.expr):
                            self.mask(inner, scopes)

    def function(self, node: "Any", scopes: "Any") -> None:
        for default in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
            self.mask(default, scopes)
        for decorator in getattr(node, "decorator_list", []):
            self.mask(decorator, scopes)
        if isinstance(node, ast.Lambda):
            self.returned[id(node)] = self.returned.get(id(node), 0) | self.mask(node.body, (*scopes, node))
        else:
            self.block(node.body, (*scopes, node))

    # ---- expressions ----

    def mask(self, node: "Any", scopes: "Any") -> int:
        """Return what an expression may be: NUMBER, VALUE, both or, as 0, neither."""
        method = getattr(self, f"mask_{type(node).__name__}", None)
        if method is not None:
            return method(node, scopes)  # type: ignore[no-any-return]  # getattr
        found = 0
        for child in children(node):
            if isinstance(child, ast.expr):
                found |= self.mask(child, scopes)
        return found

    def mask_Name(self, node: "Any", scopes: "Any") -> int:
        return self.held.get(self.key(node.id, scopes), 0)

    def mask_Constant(self, node: "Any", scopes: "Any") -> int:
        return 0

    def mask_Attribute(self, node: "Any", scopes: "Any") -> int:
        inner = self.mask(node.value, scopes)
        if self.known.is_module(node.value):
            return self.held.get((0, node.attr), 0)
        if node.attr in ("data", "grad", "_local_grads"):
            return NUMBER
        if node.attr == "_children":
            return VALUE
        return self.attributes.get(node.attr, 0) | (inner & VALUE)

    def mask_Dict(self, node: "Any", scopes: "Any") -> int:
        if any(key is not None and self.mask(key, scopes) for key in node.keys):
            self.sink(node, "a Value, or its number, is a key")
        found = 0
        for value in node.values:
            found |= self.mask(value, scopes)
        return found

    def mask_Subscript(self, node: "Any", scopes: "Any") -> int:
        if self.mask(node.slice, scopes):
            self.sink(node, "a Value, or its number, is an index or a key")
        return self.mask(node.value, scopes)

    def mask_BinOp(self, node: "Any", scopes: "Any") -> int:
        left, right = self.mask(node.left, scopes), self.mask(node.right, scopes)
        if isinstance(node.op, ast.Mod) and isinstance(node.left, (ast.Constant, ast.JoinedStr)):
            text = node.left.value if isinstance(node.left, ast.Constant) else None
            if isinstance(text, str) and right and not all_floats(text):
                self.sink(node, "% writes a Value's number")
            if not isinstance(text, str) and right and text is None:
                self.sink(node, "% writes a Value's number")
            if isinstance(text, str):
                return 0
        both = left | right
        if both & VALUE:
            return both
        if isinstance(node.op, ast.Div) or any(isinstance(x, ast.Constant) and type(x.value) is float
                                               for x in (node.left, node.right)):
            return 0  # a float in either case
        return both

    def mask_Compare(self, node: "Any", scopes: "Any") -> int:
        for part in (node.left, *node.comparators):
            self.mask(part, scopes)
        return 0

    def mask_IfExp(self, node: "Any", scopes: "Any") -> int:
        self.mask(node.test, scopes)
        return self.mask(node.body, scopes) | self.mask(node.orelse, scopes)

    def mask_FormattedValue(self, node: "Any", scopes: "Any") -> int:
        shown = self.mask(node.value, scopes)
        if shown and not (node.conversion == -1 and is_float_spec(node.format_spec)):
            self.sink(node.value, "an f-string writes a Value, or its number, without a format such as :.4f")
        elif shown and negates(node.value):
            self.sink(node.value, "an f-string writes the negative of a Value's number")
        if node.format_spec is not None:
            self.mask(node.format_spec, scopes)
        return 0

    def mask_JoinedStr(self, node: "Any", scopes: "Any") -> int:
        for part in node.values:
            self.mask(part, scopes)
        return 0

    def mask_Lambda(self, node: "Any", scopes: "Any") -> int:
        self.function(node, scopes)
        return self.returned.get(id(node), 0)

    def _comprehension(self, node: "Any", scopes: "Any", results: "list[Any]") -> int:
        inner = (*scopes, node)
        for generator in node.generators:
            self.iterate(generator.target, generator.iter, inner)
            for condition in generator.ifs:
                self.mask(condition, inner)
        found = 0
        for result in results:
            found |= self.mask(result, inner)
        return found

    def mask_ListComp(self, node: "Any", scopes: "Any") -> int:
        return self._comprehension(node, scopes, [node.elt])

    mask_SetComp = mask_GeneratorExp = mask_ListComp

    def mask_DictComp(self, node: "Any", scopes: "Any") -> int:
        if self._comprehension(node, scopes, [node.key]):
            self.sink(node, "a Value, or its number, is a key")
        return self._comprehension(node, scopes, [node.value])

    def mask_Call(self, node: "Any", scopes: "Any") -> int:
        arguments = [self.mask(x.value if isinstance(x, ast.Starred) else x, scopes) for x in node.args]
        named = {keyword.arg: self.mask(keyword.value, scopes) for keyword in node.keywords}
        every = 0
        for m in [*arguments, *named.values()]:
            every |= m
        function = node.func
        if isinstance(function, ast.Name):
            name = function.id
            if name == "Value":
                return VALUE
            if name in self.known.functions:
                return self.call(self.known.functions[name], node, arguments, named, scopes, 0)
            if self.key(name, scopes)[0] or name not in _BUILTINS:
                if not every:
                    return every
                if name not in self.known.imported and not self.known.hands_on_more:
                    return every | self.call(self.known.handed_on, node, arguments, named, scopes, 1)
                self.sink(node, f"{name}() gets a Value or its number")
                return every
            if name in _HARMLESS:
                return 0
            if name == "round" and len(node.args) == 1:
                return 0
            if name == "range" and every & NUMBER:
                self.sink(node, "range() gets a Value's number")
                return 0
            if name in _PASSED_ON or name in ("round", "range", "pow", "divmod"):
                if name in ("map", "filter") and node.args and isinstance(node.args[0], ast.Name):
                    for called in self.known.functions.get(node.args[0].id, ()):
                        self.bind(called, arguments[1:], named, 0)
                        every |= self.returned.get(id(called), 0)
                return every
            if every:
                self.sink(node, f"{name}() gets a Value or its number")
            return every
        if isinstance(function, ast.Attribute):
            base, name = self.mask(function.value, scopes), function.attr
            module = function.value.id if isinstance(function.value, ast.Name) else None
            if self.known.is_module(function.value) and name in self.known.functions:
                return self.call(self.known.functions[name], node, arguments, named, scopes, 0)
            if module in self.known.imported:
                if every and module == "math" and name in SHOWING:
                    self.sink(node, f"math.{name}() gets a Value's number")
                if module == "math" or (module == "random" and name in ("choices", "choice", "seed")):
                    return every & VALUE
                if module == "random":
                    return every
                if every:
                    self.sink(node, f"{module}.{name}() gets a Value or its number")
                return every
            if name in _OPERATIONS:
                return base | VALUE if base & VALUE else VALUE
            if name in _MUTATORS:
                self.hold(function.value, every, scopes)
                return base
            if name in ("pop", "popleft", "copy", "items", "values", "keys", "get", "index", "count", "clear", "sort", "reverse"):
                return base | every
            if name in self.known.functions:
                return self.call(self.known.functions[name], node, arguments, named, scopes, 1, base)
            if every and name in self.known.attributes_set and not self.known.hands_on_more:
                return every | self.call(self.known.handed_on, node, arguments, named, scopes, 1)
            if every or (base and name in ("join", "format")):
                self.sink(node, f".{name}() gets a Value or its number")
            return base | every
        self.mask(function, scopes)
        if every and not self.known.hands_on_more:
            return every | self.call(self.known.handed_on, node, arguments, named, scopes, 1)
        if every:
            self.sink(node, "a call of something computed gets a Value or its number")
        return every | VALUE

    def call(self, functions: "list[Any]", node: "Any", arguments: "list[int]", named: "Any", scopes: "Any", skip: int,
             base: int = 0) -> int:  # fmt: skip
        found = 0
        for function in functions:
            first = function.args.args[0].arg if function.args.args else None
            method = id(function) in self.known.methods if skip else first == "self"
            self.bind(function, arguments, named, 1 if method else 0)
            if method and first is not None and base:
                key = (id(function), first)
                self.held[key] = self.held.get(key, 0) | base
            found |= self.returned.get(id(function), 0)
            # A list that the function fills is filled for the caller, too.
            parameters = [a.arg for a in function.args.args][1 if method else 0 :]
            for given, parameter in zip(node.args, parameters):
                mask = self.held.get((id(function), parameter), 0)
                if mask and isinstance(given, ast.Name):
                    self.hold(given, mask, scopes)
        return found

    def bind(self, function: "Any", arguments: "list[int]", named: "dict[str | None, int]", skip: int) -> None:
        parameters = [a.arg for a in [*function.args.posonlyargs, *function.args.args]][skip:]
        for i, mask in enumerate(arguments):
            name = parameters[i] if i < len(parameters) else function.args.vararg.arg if function.args.vararg else None
            if name is not None:
                self.held[(id(function), name)] = self.held.get((id(function), name), 0) | mask
        for keyword, mask in named.items():
            key = (id(function), keyword or "")
            self.held[key] = self.held.get(key, 0) | mask
