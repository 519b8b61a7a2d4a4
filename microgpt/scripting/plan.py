"""What of a script like the original is replaced, and the tree that runs in its place (`microgpt run`).

Parts of the original are recognised as syntax trees. Each replacement is checked again when it runs (runtime.py),
and what does not hold then runs as written.
"""
import _ast as ast

from .flow import Flow
from .formats import other_numbers
from .loss import extract_loss
from .modules import imports_only_library, user_modules
from .names import exposed, find_place, is_fresh, may_be_seen, names_read, names_set, read_later
from .optimizer import Unfit, UpdateLoop, sets_data, sets_data_outside, update_loops
from .trees import Transformer, canonical, copied, copy_location, fix_missing_locations, parse, walk
from .value_class import HIDDEN, extra_methods, unfit_module

#: Digests of the original's parts.
FUNCTIONS = {"eeca60cb414c0e48cf5f9671": "linear", "7a565acd46233fde5b348026": "softmax", "567312ba5d44c7023417561f": "rmsnorm"}
GPT = "a02bb6b7c0149b0a3b5c2b42"
ADAM, TRAIN, SAMPLE = "bc5d524ae1406a7856a0cfa1", "6ce58260833c8aa4d3babeb3", "43c6ace9529c2259bd12d9c3"
_ADAM_ROLES = "i p params m beta1 v beta2 m_hat step v_hat lr_t eps_adam".split()
_TRAIN_ROLES = ("step num_steps doc docs tokens BOS uchars ch n block_size keys values _ n_layer losses pos_id token_id "
                "target_id logits gpt probs softmax loss_t loss lr_t learning_rate i p params m beta1 v beta2 m_hat v_hat "
                "eps_adam").split()  # fmt: skip
_SAMPLE_ROLES = ("sample_idx keys values _ n_layer token_id BOS sample pos_id block_size logits gpt probs softmax l "
                 "temperature vocab_size p uchars").split()  # fmt: skip
_ADAM_LINES = 6
_GPT_GLOBALS = {6: "state_dict", 11: "rmsnorm", 13: "n_layer", 16: "linear", 21: "n_head", 23: "head_dim", 32: "softmax"}
#: What the mapped loops leave behind; of their other names none may be read later.
_TRAIN_LEAVES = {"step", "doc", "tokens", "n", "lr_t", "i", "p", "ch", "_"}
_SAMPLE_LEAVES = {"sample_idx", "token_id", "pos_id", "sample", "p", "l", "_"}
_NEEDED = {"sum", "zip", "max", "min", "len", "enumerate", "range", "isinstance", "float", "print", "set", "reversed", "math"}
RUNTIME = "__microgpt__"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Plan:
    """A script's tree with replacements, and what was done.

    tree: to be run, with the runtime under the name `__microgpt__`.  done: what was replaced.  kept: (what runs as written,
    why).  roles: for each mapped loop, what the script calls its parts.  updates: its other optimizer loops.  needs_tree: whether
    the loss is compiled from the tree while the script runs.  imports_only_library: whether no file beside it was asked for.
    """

    def __init__(self, tree: ast.Module, may_compile: bool = True, folder: "str | None" = None) -> None:
        self.tree, self.may_compile = tree, may_compile
        self.modules = user_modules(tree, folder) if folder is not None else {}
        self.imports_only_library = imports_only_library(tree)
        self.done: list[str] = []
        self.kept: list[tuple[str, str]] = []
        self.roles: dict[str, dict[str, str]] = {}
        self.updates: list[UpdateLoop] = []
        self.statics: tuple[str, ...] = ()
        self.needs_tree = False
        self.functions: dict[str, str] = {}  # what is recognised -> its name in the script
        self.why = self._make()

    def _make(self) -> "str | None":
        """Replace what can be; the reason where nothing can."""
        body = self.tree.body
        nodes = self.nodes = list(walk(self.tree))  # as the script is written
        used = {node.id for node in nodes if isinstance(node, ast.Name)}
        if used & HIDDEN:
            return f"it uses {min(used & HIDDEN)}(), so that the names it reads are not known"
        sets = [names_set(node) for node in body]
        stored = self.stored = set().union(*sets)
        if shadowed := (stored & _NEEDED) - {"math"}:
            return f"it has another {min(shadowed)}"
        if any(isinstance(node, ast.ImportFrom) and any(a.name == "*" for a in node.names) for node in nodes):
            return "it imports *, so that its names are not known"
        imports = [node for node in nodes if isinstance(node, ast.Import)]
        if any((a.asname or a.name) == "math" and a.name != "math" for node in imports for a in node.names):
            return "its math is another module"
        if others := other_numbers(nodes):
            return f"it uses {min(others)}: the script's class keeps such numbers, ours makes them doubles"
        classes = [node for node in body if isinstance(node, ast.ClassDef) and node.name == "Value"]
        if len(classes) != 1:
            for module in self.modules.values() if not classes else ():
                for other in module.tree.body:
                    if isinstance(other, ast.ClassDef) and other.name == "Value":
                        return (f"its class Value is in another file, {module.file}, line {other.lineno}: only a class in the script "
                                "itself is replaced. Put it there, or import Value from microgpt")
            return "it has no class Value" if not classes else "it has two classes Value"
        node = classes[0]
        extra, why = extra_methods(node, nodes)
        if why:
            return why
        skipped: set[ast.AST] = {item for item in node.body if isinstance(item, ast.FunctionDef) and item not in extra}
        functions = self._functions(body, sets)
        skipped.update(item for item, name in functions.items() if name != "gpt")
        replaced = {node for item in skipped for node in walk(item)}
        self.defined = [node for node in nodes if isinstance(node, ast.FunctionDef) and node not in replaced]
        adams = [loop for loop in nodes if isinstance(loop, ast.For) and len(loop.body) == _ADAM_LINES and canonical(loop)[0] == ADAM]
        skipped.update(adams)
        flow = self.flow = Flow(self.tree, skipped, self.modules, nodes)
        if flow.sinks:
            file, line, text = min(flow.sinks)
            return f"{file and file + ', '}line {line}: {text}, which could show that the script's class keeps ints"
        for module in self.modules.values():
            if flow.reaches(module) and (why := unfit_module(module, {item.name for item in extra})):
                return f"Values get into {module.file}, line {why}"
        self._replace_class(node, extra)
        for item, name in functions.items():
            self.functions[name] = item.name
            if name != "gpt":
                self._replace(body, item, [_parse(f"{item.name} = {RUNTIME}.{name}", item)])
                self.done.append(name)
        mapped = self._map_loops(functions)
        if not mapped and self.may_compile:
            what, why = extract_loss(self.tree, flow, RUNTIME, self.modules.values())
            if why:
                self.kept.append(("the loss", why))
            else:
                self.statics, self.needs_tree = what or (), True
                self.done.append("the loss of the training loop (compiled)")
        inside = set(walk(mapped)) if mapped else set()
        for loop in adams:
            self._replace_adam(loop, loop in inside)
        self._replace_shuffles()
        known = {node for part in (node, *adams) for node in walk(part)}
        sets_more = any(isinstance(n, ast.Attribute) and n.attr in ("data", "grad") and not isinstance(n.ctx, ast.Load)
                        for n in nodes if n not in known)  # fmt: skip
        loops = update_loops(self.tree, {node, *adams}) if sets_more else []
        for loop in loops:
            self._replace_update(loop)
        if sets_more and (alone := sets_data_outside(self.tree, {node, *adams, *loops})):
            self.kept.append((f"what sets .data, line {alone.lineno}", "it is not in a loop over parameters"))
        for module in self.modules.values():
            for loop in update_loops(module.tree, set()):
                if sets_data(loop) and flow.reaches(module):
                    which = f"the optimizer's loop, {module.file}, line {loop.lineno}"
                    self.kept.append((which, "only the script's own file is changed"))
        return None

    # ---- the class ----

    def _replace_class(self, node: ast.ClassDef, extra: "list[ast.FunctionDef]") -> None:
        new: list[ast.stmt] = [_parse(f"Value = {RUNTIME}.Value", node)]
        names = {item.name: f"__microgpt_{item.name}__" for item in extra if not item.name.startswith("__")}
        imported = self.flow.known.imported
        calls = _MethodCalls(names, imported)
        for item in extra:
            if item.name in names:
                moved = copied(item)
                moved.name = names[item.name]
                new.append(moved)
        self._replace(self.tree.body, node, new)
        if names:
            calls.visit(self.tree)
        self.done.insert(0, f"Value (with {', '.join(sorted(names))} beside it)" if names else "Value")

    # ---- functions and loops ----

    def _functions(self, body: "list[ast.stmt]", stored: "list[set[str]]") -> "dict[ast.FunctionDef, str]":
        """Functions that are the original's -> which. stored: the names that each statement of the body sets."""
        found: dict[ast.FunctionDef, str] = {}
        for place, node in enumerate(body):
            if not isinstance(node, ast.FunctionDef) or node.decorator_list:
                continue
            if sum(isinstance(n, ast.FunctionDef) and n.name == node.name for n in body) != 1:
                continue
            if any(node.name in names for i, names in enumerate(stored) if i != place):
                continue
            digest, names = canonical(node)
            if digest in FUNCTIONS:
                if self._given_iterators(node.name):
                    self.kept.append((node.name, "it is given an iterator"))
                else:
                    found[node] = FUNCTIONS[digest]
            elif digest == GPT:
                found[node] = "gpt"
        return found

    def _given_iterators(self, name: str) -> bool:
        for call in self.nodes:
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == name:
                for argument in call.args:
                    if isinstance(argument, (ast.GeneratorExp, ast.Starred)) or (
                        isinstance(argument, ast.Call) and isinstance(argument.func, ast.Name)
                        and argument.func.id in ("zip", "map", "filter", "iter", "reversed", "enumerate")
                    ):  # fmt: skip
                        return True
        return False

    def _map_loops(self, functions: "dict[ast.FunctionDef, str]") -> "ast.For | None":
        """Let the fused engine do the original's training and sampling loops; the training loop, if that is one of them."""
        body = self.tree.body
        gpts = [node for node, name in functions.items() if name == "gpt"]
        trained: ast.For | None = None
        if not gpts or not {"linear", "softmax", "rmsnorm"} <= self.functions.keys():
            return None
        names = canonical(gpts[0])[1]
        outer = {role: names[i] for i, role in _GPT_GLOBALS.items()}
        if any(outer[name] != self.functions[name] for name in ("linear", "softmax", "rmsnorm")):
            return None
        free = set().union(set(), *(names_read(node) for node in self.defined))
        for i, node in enumerate(body):
            if not isinstance(node, ast.For):
                continue
            digest, names = canonical(_with_twenty(node))
            kind, expected = {TRAIN: ("train", _TRAIN_ROLES), SAMPLE: ("sample", _SAMPLE_ROLES)}.get(digest, ("", []))
            if not kind:
                continue
            roles = dict(zip(expected, names))
            if roles["gpt"] != gpts[0].name or roles["softmax"] != self.functions["softmax"]:
                continue
            leaves = {roles[name] for name in (_TRAIN_LEAVES if kind == "train" else _SAMPLE_LEAVES)}
            later = exposed(body[i + 1 :])[0] | (free - {outer["state_dict"], outer["n_layer"], outer["n_head"], outer["head_dim"]})
            if lost := (names_set(node) & later) - leaves:
                self.kept.append((f"the {kind} loop, line {node.lineno}", f"{min(lost)} is read after it"))
                continue
            self.roles[kind] = {**roles, **{name: outer[name] for name in ("state_dict", "n_layer", "n_head", "head_dim")}}
            reads = later | set().union(set(), *(names_read(n) for n in body[i + 1 :]))
            self.roles[kind]["moments_are_read"] = "yes" if {roles.get("m"), roles.get("v")} & reads else ""
            node.iter = _call(f"{RUNTIME}.{kind}(0, globals())", node.iter)
            self.done.append(f"the {'training' if kind == 'train' else 'sampling'} loop (fused engine)")
            if kind == "train":
                trained = node
        return trained

    def _replace_adam(self, loop: ast.For, is_spare: bool) -> None:
        """is_spare: it runs only if the fused engine cannot do the training loop, and needs no closer look."""
        names = dict(zip(_ADAM_ROLES, canonical(loop)[1]))
        place = find_place(self.tree, loop)
        if place is None or not any(isinstance(parent, ast.Module) for _, _, parent in place[:1]):
            return
        bodies, index, _ = place[-1]
        later = set() if is_spare else read_later(self.tree, place)
        function = next((p for _, _, p in reversed(place) if isinstance(p, ast.FunctionDef)), None)
        keep = is_spare or bool({names[n] for n in ("i", "p", "m_hat", "v_hat")} & later)
        # `m = [0.0] * len(params)` sets them; only reading counts.
        shown = is_spare or any(may_be_seen(name, self.tree, function, loop) for name in (names["m"], names["v"]))
        given = ", ".join(names[n] for n in ("params", "m", "v", "lr_t", "beta1", "beta2", "eps_adam", "step"))
        call = f"__microgpt_left__ = {RUNTIME}.adam({given}, {shown}, {keep})"
        targets = ", ".join(names[n] for n in ("i", "p", "m_hat", "v_hat"))
        test = _parse(f"if __microgpt_left__ is None:\n    pass\nelif True:\n    {targets + ' = __microgpt_left__' if keep else 'pass'}",
                      loop)  # fmt: skip
        assert isinstance(test, ast.If)
        test.body = [loop]
        bodies[index : index + 1] = [_parse(call, loop), test]
        self.done.append("Adam's loop")

    def _replace_shuffles(self) -> None:
        """Let `random.shuffle(x)` be done in C where x is a long list."""
        for node in self.nodes:
            if (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "shuffle"
                    and isinstance(node.func.value, ast.Name) and node.func.value.id == "random"
                    and len(node.args) == 1 and not node.keywords and not isinstance(node.args[0], ast.Starred)):  # fmt: skip
                node.args.insert(0, node.func)
                node.func = copy_location(_parse(f"{RUNTIME}.shuffle", node).value, node.func)  # type: ignore[attr-defined]  # an Expr

    def _replace_update(self, loop: ast.For) -> None:
        """Let an optimizer loop be done for all parameters at once."""
        place = find_place(self.tree, loop)
        what = f"the optimizer's loop, line {loop.lineno}"
        try:
            update = UpdateLoop(loop, self.stored)
            if place is None:
                raise Unfit(loop, "it is where it cannot be taken out")
            later, made = read_later(self.tree, place), names_set(loop)
            outside = {name for node in self.nodes if isinstance(node, (ast.Global, ast.Nonlocal)) for name in node.names}
            if lost := sorted(made & (later - update.left.keys() | outside)):
                raise Unfit(loop, f"{lost[0]} is read after it")
        except Unfit as error:
            if sets_data(loop):
                self.kept.append((what, str(error)))
            return
        assert update.over is not None
        function = next((p for _, _, p in reversed(place) if isinstance(p, ast.FunctionDef)), None)
        update.kept = [update.left[name] for name in sorted(made & later)]
        update.shown = [k for k, x in enumerate(update.lists) if self._is_shown(x, function, loop)]
        new: list[ast.stmt] = []
        if not isinstance(update.over, ast.ListComp) and any(isinstance(n, ast.Call) for n in walk(update.over)):
            new.append(_parse("__microgpt_over__ = 0", loop))
            new[0].value = update.over  # type: ignore[attr-defined]  # an Assign
            again = copy_location(ast.Name("__microgpt_over__", ast.Load()), update.over)
            loop.iter = _Exchange(update.over, again).visit(loop.iter)
            update.over = again
        given = _parse(f"__microgpt_left__ = {RUNTIME}.update({len(self.updates)}, lambda: (0, [], [], None))", loop)
        parts = given.value.args[1].body.elts  # type: ignore[attr-defined]  # an Assign of a Call with a Lambda
        parts[0], parts[1].elts, parts[2].elts = update.over, update.lists, update.scalars
        parts[3] = update.count or parts[3]
        test = _parse("if __microgpt_left__ is None:\n    pass\nelif True:\n    pass", loop)
        assert isinstance(test, ast.If)
        test.body = [loop]
        if update.kept:
            test.orelse[0].body = [_parse(f"{', '.join(sorted(made & later))}, = __microgpt_left__", loop)]  # type: ignore[attr-defined]  # an If
        bodies, index, _ = place[-1]
        bodies[index : index + 1] = [*new, fix_missing_locations(given), test]
        self.updates.append(update)
        if sets_data(loop):
            self.done.append(what)

    def _is_shown(self, numbers: ast.expr, function: "Any", loop: ast.For) -> bool:
        """Whether a loop's list may be seen by other parts of the script."""
        if isinstance(numbers, ast.Name):
            return may_be_seen(numbers.id, self.tree, function, loop)
        if not is_fresh(self.nodes, numbers):
            return True
        inside = set(walk(loop))
        return any(isinstance(n, ast.Attribute) and n.attr == numbers.attr and isinstance(n.ctx, ast.Load)  # type: ignore[attr-defined]  # an Attribute
                   and n not in inside for n in self.nodes)  # fmt: skip

    @staticmethod
    def _replace(body: "list[ast.stmt]", old: ast.stmt, new: "list[ast.stmt]") -> None:
        index = body.index(old)
        body[index : index + 1] = new


class _MethodCalls(Transformer):
    """x.tanh(...) becomes __microgpt_tanh__(x, ...), where tanh is a method that the script adds to Value."""

    def __init__(self, names: "dict[str, str]", imported: "set[str]") -> None:
        self.names, self.imported = names, imported

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        function = node.func
        if not isinstance(function, ast.Attribute) or function.attr not in self.names:
            return node
        if isinstance(function.value, ast.Name) and function.value.id in self.imported:
            return node
        node.func = copy_location(ast.Name(self.names[function.attr], ast.Load()), function)
        node.args.insert(0, function.value)
        return node


def _parse(text: str, at: ast.AST) -> ast.stmt:
    """The statement, on the line of another."""
    node = parse(text).body[0]
    for child in walk(node):
        if "lineno" in child._attributes:
            copy_location(child, at)
    return node


def _call(text: str, inner: ast.expr) -> ast.expr:
    """The call, with inner as its first argument."""
    statement = _parse(text, inner)
    assert isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
    statement.value.args[0] = inner
    return statement.value


def _with_twenty(node: ast.For) -> ast.For:
    """A loop over range(N), N written out, as one over the original's 20 samples."""
    call = node.iter
    if isinstance(call, ast.Call) and len(call.args) == 1 and not call.keywords and isinstance(call.args[0], ast.Constant):
        if type(call.args[0].value) is int:
            node = copied(node)
            node.iter = ast.Call(call.func, [ast.Constant(20)], [])
    return node


class _Exchange(Transformer):
    """Puts one node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> "Any":
        return self.new if node is self.old else self.generic_visit(node)
