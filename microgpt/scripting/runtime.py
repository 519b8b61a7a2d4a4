"""What a script's replaced parts call while it runs. Each makes sure that it may, and else leaves the work as written."""
import random

from ..core.adam import Adam
from ..core.functions import linear, rmsnorm, softmax
from ..core.guards import Guards
from ..core.value import Value
from .fused_loops import Training, Unfit, are_numbers, sample

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_shuffle = random.shuffle
_LONG = 500  # items of a list, so that it is worth to take over the random stream and give it back
_MOST_UPDATES = 64  # lists of parameters of optimizer loops


class Runtime:
    """The name `__microgpt__` in a script.

    roles: what the script calls the parts of its mapped loops.  updates: its optimizer loops (optimizer.py).  kept: (what ran
    as written after all, why).
    """

    Value, linear, softmax, rmsnorm = Value, staticmethod(linear), staticmethod(softmax), staticmethod(rmsnorm)

    def __init__(self, roles: "dict[str, dict[str, str]]", path: str, tree: "Any", updates: "Any" = ()) -> None:
        self.roles, self.path, self.tree, self.updates = roles, path, tree, updates
        self.kept: list[tuple[str, str]] = []
        self.loss: Any = None
        self.runs: dict[int, int] = {}
        self.unfit: dict[int, list[str]] = {}  # by optimizer loop: why it ran as written, each time
        self._held: dict[tuple[int, int, int], _Update] = {}  # (loop, id of the first parameter, their number)
        self._adams: dict[int, Any] = {}  # id(m) -> (Adam, params, m, v, a guard of params), which keeps m alive

    # ---- random ----

    @staticmethod
    def shuffle(shuffle: "Any", x: "Any") -> "Any":
        """`shuffle(x)`, in C if that is random's own function."""
        if shuffle != _shuffle or type(x) is not list or len(x) < _LONG:
            return shuffle(x)
        from ..core.mt19937 import MT19937

        stream: Any = MT19937(0)
        stream.setstate(random.getstate())
        stream.shuffle(x)
        random.setstate(stream.getstate())

    # ---- Adam ----

    def adam(self, params: "Any", m: "Any", v: "Any", lr_t: "Any", beta1: "Any", beta2: "Any", eps: "Any", step: "Any",
             shown: bool, keep: bool) -> "Any":  # fmt: skip
        """The script's Adam loop. None: it has to run as written; else what the loop leaves in its names (keep), or True.

        shown: the script reads m or v elsewhere.
        """
        held = self._adams.get(id(m))
        if type(step) is not int or step < 0 or not are_numbers(lr_t, beta1, beta2, eps) or m is v:
            return self._as_written(held, "Adam's loop", "its settings are not numbers")
        if held is None or held[1] is not params or held[3] is not v or not held[4].hold():
            if held is not None:
                return self._as_written(held, "Adam's loop", "its lists are others than before")
            if not (type(params) is list and params and type(m) is list and type(v) is list
                    and len(m) == len(v) == len(params) and all(type(p) is Value for p in params)
                    and all(type(x) is float for x in m) and all(type(x) is float and not x < 0 for x in v)):  # fmt: skip
                return self._as_written(None, "Adam's loop", "it is not over a list of Values with a float each in m and v")
            adam = Adam(params)
            if any(m) or any(v):
                adam.m[:], adam.v[:] = m, v
            held = self._adams[id(m)] = (adam, params, m, v, _same_items(params))
        adam = held[0]
        adam.learning_rate, adam.beta1, adam.beta2, adam.eps, adam.step_index = lr_t, beta1, beta2, eps, step
        if shown and _differs(adam, m, v):
            adam.m[:], adam.v[:] = m, v
        try:
            adam.step()
        except (ArithmeticError, ValueError):
            # The parameters before the one at fault are updated, as they are in the script.
            m[:], v[:] = adam.m.tolist(), adam.v.tolist()
            raise
        if shown or keep:
            m[:], v[:] = adam.m.tolist(), adam.v.tolist()
        if keep:
            last = len(m) - 1
            return last, params[-1], m[-1] / (1 - beta1 ** (step + 1)), v[-1] / (1 - beta2 ** (step + 1))
        return True

    # ---- other optimizers ----

    def update(self, site: int, given: "Any") -> "Any":
        """One of the script's optimizer loops. None: it has to run as written; else what the loop leaves in its names, or True.

        given() returns its parameters, its lists, its scalars, and over how many parameters it goes (None: all).
        """
        self.runs[site] = self.runs.get(site, 0) + 1
        try:
            params, lists, scalars, count = given()
        except Exception as error:  # it may not happen, or not yet, where the loop is as written
            return self._update_as_written(site, f"{type(error).__name__}: {error}")
        loop = self.updates[site]
        held = self._held.get((site, id(params[0]), len(params))) if type(params) in (list, tuple) and params else None
        if held is None or not held.fits(params, lists):
            self._release(site, held, lists)
            why = _unfit_update(loop, params, lists)
            if why is None and len(self._held) >= _MOST_UPDATES:
                why = "it is over too many lists of parameters"
            if why is not None:
                return self._update_as_written(site, why)
            held = self._held[site, id(params[0]), len(params)] = _Update(loop, params, lists)
        if count is not None and count != len(params):
            return self._update_as_written(site, "it is not over all of its list")
        if not are_numbers(*scalars) or any(type(scalars[k]) is not float for k in loop.floats):
            return self._update_as_written(site, "its settings are not floats")
        if not all([held.read(k) for k in loop.shown]):
            return self._update_as_written(site, "its lists hold more than floats")
        if not held.elementwise.step(scalars):
            return self._update_as_written(site, "Python might raise an error in it")
        for k in loop.shown:
            held.write(k)
        return tuple(held.left(operand, scalars) for operand in loop.kept) if loop.kept else True

    def _release(self, site: int, held: "Any" = None, lists: "Any" = ()) -> None:
        """Put numbers into the script's lists: those of a loop, or of one list of parameters and of who else has its lists."""
        ids = {id(x) for x in lists}
        for key, other in list(self._held.items()):
            if other is held or held is None and not ids and key[0] == site or ids & {id(x) for x in other.lists}:
                self._held.pop(key).write_all()

    def _update_as_written(self, site: int, why: str) -> None:
        self._release(site)
        self.unfit.setdefault(site, []).append(why)

    def say_kept(self) -> "list[str]":
        """What ran as written after all, and why."""
        said = [f"{what} ran as written: {why}" for what, why in self.kept]
        for site, reasons in self.unfit.items():
            said.append(f"the optimizer's loop, line {self.updates[site].line}, ran as written {len(reasons)} of {self.runs[site]} times: "
                        f"{reasons[-1]}")
        return said

    def _as_written(self, held: "Any", what: str, why: str) -> None:
        if held is not None:
            adam, _, m, v, _ = held
            m[:], v[:] = adam.m.tolist(), adam.v.tolist()
            del self._adams[id(m)]
        if (what, why) not in self.kept:
            self.kept.append((what, why))

    # ---- the loss ----

    def compiled(self, function: "Any", statics: "tuple[str, ...]") -> "Any":
        """Return the script's loss function, compiled. statics: the arguments whose values it is compiled for."""
        from ..compiler.compiled import compile
        from ..compiler.rewrite import use_tree

        use_tree(self.path, self.tree)
        self.loss = compile(function, static=statics)
        return self.loss

    # ---- the original's loops ----

    def train(self, steps: "Any", names: "dict[str, Any]") -> "Any":
        """Do the steps of the original's training loop; return those that are left to be done as written."""
        roles = self.roles["train"]
        try:
            job = Training(names, roles, steps)
        except Unfit as error:
            self.kept.append(("the training loop", str(error)))
            return steps
        return job.run()

    def sample(self, samples: "Any", names: "dict[str, Any]") -> "Any":
        """Write the samples of the original's inference loop; return those that are left to be done as written."""
        roles = self.roles["sample"]
        try:
            return sample(names, roles, samples)
        except Unfit as error:
            self.kept.append(("the sampling loop", str(error)))
            return samples


class _Update:
    """An optimizer loop over one list of parameters, and over the script's lists of as many numbers, such as Adam's moments."""

    def __init__(self, loop: "Any", params: "Any", lists: "Any") -> None:
        from ..core.elementwise import Elementwise

        self.params, self.lists, self.loop, self.given, self.same = list(params), lists, loop, params, _same_items(params)
        self.elementwise = Elementwise(params, lists, len(loop.scalars), loop.code, loop.stored)

    def fits(self, params: "Any", lists: "Any") -> bool:
        """Return whether these are still the parameters and the lists."""
        same = self.same.hold() if params is self.given else self.params == list(params)
        return same and all(x is y for x, y in zip(self.lists, lists))

    def read(self, k: int) -> bool:
        """Take over the numbers of list k; return False if they are not as many floats as there are parameters."""
        numbers = self.lists[k]
        if len(numbers) != len(self.params) or not all(type(x) is float for x in numbers):
            return False
        self.elementwise.set_list(k, numbers)
        return True

    def write(self, k: int) -> None:
        """Put the numbers back into list k, if the loop changes them."""
        if ("list", k) in self.loop.stored:
            self.lists[k][:] = self.elementwise.get_list(k)

    def write_all(self) -> None:
        for k in range(len(self.lists)):
            if k not in self.loop.shown:  # the script's list is up to date, and may have been changed
                self.write(k)

    def left(self, operand: "Any", scalars: "Any") -> "Any":
        """What a name holds after the loop."""
        kind, k = operand
        if kind == "index":
            return len(self.params) - 1
        if kind == "parameter":
            return self.params[-1]
        return scalars[k] if kind == "scalar" else self.elementwise.last(operand)


def _same_items(params: "Any") -> Guards:
    """What holds as long as a list has the same items."""
    return Guards((("list", params, "params", tuple(params)),) if type(params) is list else ())


def _unfit_update(loop: "Any", params: "Any", lists: "Any") -> "str | None":
    """Why a loop cannot be done for all parameters at once."""
    if type(params) not in (list, tuple) or not params or not all(type(p) is Value for p in params):
        return "it is not over a list of Values"
    if len({id(p) for p in params}) != len(params):
        return "a Value is updated twice"
    if any(p._children for p in params):
        return "a parameter is computed"
    if len({id(x) for x in lists}) != len(lists) or not all(type(x) is list and len(x) == len(params) for x in lists):
        return "its lists are not one for each, with one float for each parameter"
    if not all(type(x) is float for numbers in lists for x in numbers):
        return "its lists hold more than floats"
    return None


def _differs(adam: "Any", m: "list[float]", v: "list[float]") -> bool:
    return bool(adam.m.tolist() != m or adam.v.tolist() != v)
