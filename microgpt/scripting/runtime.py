"""What a script's replaced parts call while it runs. Each makes sure that it may, and else leaves the work as written."""
import builtins
import random

from ..core.adam import Adam
from ..core.functions import linear, rmsnorm, softmax
from ..core.model import GPT
from ..core.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_choices, _shuffle = random.choices, random.shuffle
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
        self._adams: dict[int, Any] = {}  # id(m) -> (Adam, params, m, v, how long params was), which keeps m alive

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
        if type(step) is not int or step < 0 or not _numbers(lr_t, beta1, beta2, eps) or m is v:
            return self._as_written(held, "Adam's loop", "its settings are no numbers")
        if held is None or held[1] is not params or held[3] is not v or held[4] != len(params):
            if held is not None:
                return self._as_written(held, "Adam's loop", "its lists are others than before")
            if not (type(params) is list and params and type(m) is list and type(v) is list
                    and len(m) == len(v) == len(params) and all(type(p) is Value for p in params)
                    and all(type(x) is float for x in m) and all(type(x) is float and not x < 0 for x in v)):  # fmt: skip
                return self._as_written(None, "Adam's loop", "it is not over a list of Values with a float each in m and v")
            adam = Adam(params)
            if any(m) or any(v):
                adam.m[:], adam.v[:] = m, v
            held = self._adams[id(m)] = (adam, params, m, v, len(params))
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
        if not _numbers(*scalars) or any(type(scalars[k]) is not float for k in loop.floats):
            return self._update_as_written(site, "its settings are no floats")
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
            job = _Training(names, roles, steps)
        except _Unfit as error:
            self.kept.append(("the training loop", str(error)))
            return steps
        return job.run()

    def sample(self, samples: "Any", names: "dict[str, Any]") -> "Any":
        """Write the samples of the original's inference loop; return those that are left to be done as written."""
        roles = self.roles["sample"]
        try:
            return _sample(names, roles, samples)
        except _Unfit as error:
            self.kept.append(("the sampling loop", str(error)))
            return samples


class _Update:
    """An optimizer loop over one list of parameters."""

    def __init__(self, loop: "Any", params: "Any", lists: "Any") -> None:
        from ..core.elementwise import Elementwise

        self.params, self.lists, self.loop = list(params), lists, loop
        self.elementwise = Elementwise(params, lists, len(loop.scalars), loop.code, loop.stored)

    def fits(self, params: "Any", lists: "Any") -> bool:
        return bool(self.params == list(params)) and all(x is y for x, y in zip(self.lists, lists))

    def read(self, k: int) -> bool:
        numbers = self.lists[k]
        if len(numbers) != len(self.params) or not all(type(x) is float for x in numbers):
            return False
        self.elementwise.set_list(k, numbers)
        return True

    def write(self, k: int) -> None:
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


class _Unfit(Exception):
    """Something is not as in the original; the message says what."""


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise _Unfit(what)


def _numbers(*given: "Any") -> bool:
    return all(type(x) is float or type(x) is int and abs(x) < 2**53 for x in given)


def _differs(adam: "Any", m: "list[float]", v: "list[float]") -> bool:
    return bool(adam.m.tolist() != m or adam.v.tolist() != v)


class _Model:
    """A GPT with the numbers of a script's state_dict, and its engine."""

    def __init__(self, names: "dict[str, Any]", roles: "dict[str, str]") -> None:
        from ..core.fused import FusedEngine

        found: list[Any] = [names.get(roles[role]) for role in ("state_dict", "n_layer", "n_head", "head_dim", "block_size",
                                                                "BOS", "uchars")]  # fmt: skip
        state, n_layer, n_head, head_dim, block_size, bos, uchars = found
        sizes = (n_layer, n_head, head_dim, block_size, bos)
        _need(all(type(x) is int for x in sizes) and n_layer >= 0 and min(n_head, head_dim, block_size, bos) > 0,
              "a size is no whole number")
        _need(type(uchars) is list and len(uchars) == bos and len(set(uchars)) == bos
              and all(type(ch) is str and len(ch) == 1 for ch in uchars), "its vocabulary is not uchars and BOS")
        _need(type(state) is dict, "state_dict is no dict")
        n_embd, vocab = n_head * head_dim, bos + 1
        shapes = {"wte": (vocab, n_embd), "wpe": (block_size, n_embd), "lm_head": (vocab, n_embd)}
        for i in range(n_layer):
            for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo"):
                shapes[f"layer{i}.{name}"] = (n_embd, n_embd)
            shapes[f"layer{i}.mlp_fc1"], shapes[f"layer{i}.mlp_fc2"] = (4 * n_embd, n_embd), (n_embd, 4 * n_embd)
        _need(state.keys() == shapes.keys(), "state_dict has other names")
        values: list[Any] = []
        for name, (nout, nin) in shapes.items():
            rows = state[name]
            _need(type(rows) is list and len(rows) == nout and all(type(r) is list and len(r) == nin for r in rows),
                  f"{name} has another shape")
            for row in rows:
                values += row
        _need(all(type(p) is Value for p in values) and len({id(p) for p in values}) == len(values),
              "a parameter is shared, or no Value")
        _need(not any(p._children for p in values), "a parameter is computed")
        for function in (random.choices, builtins.print):
            _need(function in (_choices, print), "a library's function was replaced")
        self.values, self.names, self.roles, self.uchars, self.bos = values, names, roles, uchars, bos
        self.block_size, self.n_layer = block_size, n_layer
        from ..core.mt19937 import MT19937

        rng: Any = MT19937(0)  # the fastest to draw what is replaced at once
        self.model = GPT(vocab, n_embd, n_head, n_layer, block_size, rng=rng)
        self.params = self.model.params
        self.fill("data", self.params, values)
        self.engine = FusedEngine(self.model)

    @staticmethod
    def fill(name: str, targets: "list[Any]", sources: "list[Any]") -> None:
        from operator import attrgetter

        from ..engines import set_each

        set_each(targets, name, list(map(attrgetter(name), sources)))


class _Training(_Model):
    """The original's training loop on the fused engine."""

    def __init__(self, names: "dict[str, Any]", roles: "dict[str, str]", steps: "Any") -> None:
        found: list[Any] = [names.get(roles[role]) for role in ("docs", "params", "m", "v", "num_steps")]
        docs, params, m, v, num_steps = found
        settings: list[Any] = [names.get(roles[role]) for role in ("learning_rate", "beta1", "beta2", "eps_adam")]
        _need(type(steps) is range and steps == range(0, len(steps)) and type(num_steps) is int, "its steps are not 0, 1, 2, ...")
        _need(_numbers(*settings) and num_steps > 0, "a setting of Adam is no number")
        _need(type(docs) is list and bool(docs), "docs is no list of str")
        used = docs[: len(steps)]
        _need(set(map(type, used)) <= {str}, "docs is no list of str")
        super().__init__(names, roles)
        _need(set("".join(used)) <= set(self.uchars), "a document has a character that is not in uchars")
        _need(type(params) is list and len(params) == len(self.values), "params are not all of state_dict")
        order = {id(p): i for i, p in enumerate(self.values)}
        _need(all(order.get(id(p)) == i for i, p in enumerate(params)), "params are in another order than state_dict")
        _need(type(m) is list and type(v) is list and m is not v and len(m) == len(v) == len(params), "m or v has another length")
        _need(all(type(x) is float for x in m) and all(type(x) is float and not x < 0 for x in v), "m or v holds more than floats")
        self.docs, self.m, self.v, self.num_steps, self.total = docs, m, v, num_steps, len(steps)
        if any(p.grad for p in self.values):
            self.fill("grad", self.params, self.values)
        rate, beta1, beta2, eps = settings
        self.adam = Adam(self.model, rate, beta1, beta2, eps, num_steps)
        self.touched_moments = bool(any(m) or any(v))
        if self.touched_moments:
            self.adam.m[:], self.adam.v[:] = m, v

    def run(self) -> "Any":
        ids = {ch: i for i, ch in enumerate(self.uchars)}
        work = 2.0 * (self.block_size + 1) * len(self.params)
        chunk = max(1, min(64, int(2e8 / work)))
        done = 0
        try:
            while done < self.total:
                losses: list[float] = []
                docs = [self.docs[step % len(self.docs)] for step in range(done, min(done + chunk, self.total))]
                try:
                    self.engine.train(docs, self.adam, losses, ids)
                except (ArithmeticError, ValueError):
                    self._write(done, losses)
                    done += len(losses)
                    break  # the step that failed runs as written, and raises what the script raises
                except BaseException:
                    self._write(done, losses)
                    done += len(losses)
                    raise
                self._write(done, losses)
                done += len(losses)
        finally:
            self._leave(done)
        return range(done, self.total)

    def _write(self, done: int, losses: "list[float]") -> None:
        for step, loss in enumerate(losses, done + 1):
            print(f"step {step:4d} / {self.num_steps:4d} | loss {loss:.4f}")

    def _leave(self, done: int) -> None:
        """Put everything where the script's loop would have put it."""
        self.fill("data", self.values, self.params)
        self.fill("grad", self.values, self.params)
        names, roles = self.names, self.roles
        if done < self.total or roles["moments_are_read"] or self.touched_moments:
            self.m[:], self.v[:] = self.adam.m.tolist(), self.adam.v.tolist()
        if done == 0:
            return
        step = done - 1
        doc = self.docs[step % len(self.docs)]
        tokens = [self.bos] + [self.uchars.index(ch) for ch in doc] + [self.bos]
        left = {"step": step, "doc": doc, "tokens": tokens, "n": min(self.block_size, len(tokens) - 1),
                "lr_t": names[roles["learning_rate"]] * (1 - step / self.num_steps), "i": len(self.values) - 1,
                "p": self.values[-1]}  # fmt: skip
        for role, value in left.items():
            names[roles[role]] = value


def _sample(names: "dict[str, Any]", roles: "dict[str, str]", samples: "Any") -> "Any":
    _need(type(samples) is range, "its samples are no range")
    model = _Model(names, roles)
    temperature: Any = names.get(roles["temperature"])
    vocab_size: Any = names.get(roles["vocab_size"])
    _need(_numbers(temperature) and temperature != 0, "its temperature is no number")
    _need(type(vocab_size) is int and vocab_size == model.bos + 1, "vocab_size is not that of state_dict")
    bos, uchars, block_size = model.bos, model.uchars, model.block_size
    for index, sample_idx in enumerate(samples):
        before = random.getstate()
        try:
            tokens, sample, token_id = [bos], [], bos
            while len(tokens) <= block_size:
                weights = model.engine.probabilities(tokens, temperature)
                token_id = random.choices(range(vocab_size), weights=weights)[0]
                if token_id == bos:
                    break
                tokens.append(token_id)
                sample.append(uchars[token_id])
        except (ArithmeticError, ValueError):
            random.setstate(before)
            return samples[index:]
        left = {"sample_idx": sample_idx, "token_id": token_id, "pos_id": min(len(tokens), block_size) - 1, "sample": sample}
        for role, value in left.items():
            names[roles[role]] = value
        print(f"sample {sample_idx+1:2d}: {''.join(sample)}")
    return samples[len(samples) :]
