"""The original's training and sampling loops on the fused engine, which begin with the script's objects and leave them as it would."""
import builtins
import random
import sys
from _operator import is_

from ..config import Config
from ..core.adam import Adam
from ..core.documents import step_lines
from ..core.model import GPT
from ..core.transfer import are_parameters, from_model, to_model

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Training", "Unfit", "are_numbers", "sample"]

_choices = random.choices


class Unfit(Exception):
    """Something is not as in the original; the message says what."""


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise Unfit(what)


def are_numbers(*given: "Any") -> bool:
    """Return whether all are floats, or ints that a double holds."""
    return all(type(x) is float or type(x) is int and abs(x) < 2**53 for x in given)


class _Model:
    """A GPT with the numbers of a script's state_dict, and its engine."""

    def __init__(self, names: "dict[str, Any]", roles: "dict[str, str]") -> None:
        from ..core.fused import FusedEngine

        found: list[Any] = [names.get(roles[role]) for role in ("state_dict", "n_layer", "n_head", "head_dim", "block_size",
                                                                "BOS", "uchars")]  # fmt: skip
        state, n_layer, n_head, head_dim, block_size, bos, uchars = found
        sizes = (n_layer, n_head, head_dim, block_size, bos)
        _need(all(type(x) is int for x in sizes) and n_layer >= 0 and min(n_head, head_dim, block_size, bos) > 0,
              "a size is not a whole number")
        _need(type(uchars) is list and len(uchars) == bos and len(set(uchars)) == bos
              and all(type(ch) is str and len(ch) == 1 for ch in uchars), "its vocabulary is not uchars and BOS")
        _need(type(state) is dict, "state_dict is not a dict")
        vocab = bos + 1
        try:
            config = Config(n_embd=n_head * head_dim, n_head=n_head, n_layer=n_layer, block_size=block_size)
        except ValueError as error:
            raise Unfit(str(error)) from None
        shapes = config.shapes(vocab)
        _need(state.keys() == shapes.keys(), "state_dict has other names")
        values: list[Any] = []
        for name, (nout, nin) in shapes.items():
            rows = state[name]
            _need(type(rows) is list and len(rows) == nout and all(type(r) is list and len(r) == nin for r in rows),
                  f"{name} has another shape")
            for row in rows:
                values += row
        _need(are_parameters(values), "a parameter is shared, computed, or no Value")
        for function in (random.choices, builtins.print):
            _need(function in (_choices, print), "a library's function was replaced")
        self.values, self.names, self.roles, self.uchars, self.bos = values, names, roles, uchars, bos
        self.block_size, self.n_layer = block_size, n_layer
        from ..core.mt19937 import MT19937

        rng: Any = MT19937(0)  # the fastest to draw what is replaced at once
        self.model = GPT(vocab, config.n_embd, n_head, n_layer, block_size, rng=rng)
        to_model(values, self.model)
        self.rng, self.engine = rng, FusedEngine(self.model)


class Training(_Model):
    """The original's training loop on the fused engine."""

    def __init__(self, names: "dict[str, Any]", roles: "dict[str, str]", steps: "Any") -> None:
        found: list[Any] = [names.get(roles[role]) for role in ("docs", "params", "m", "v", "num_steps")]
        docs, params, m, v, num_steps = found
        settings: list[Any] = [names.get(roles[role]) for role in ("learning_rate", "beta1", "beta2", "eps_adam")]
        _need(type(steps) is range and steps == range(0, len(steps)) and type(num_steps) is int, "its steps are not 0, 1, 2, ...")
        _need(are_numbers(*settings) and num_steps > 0, "a setting of Adam is not a number")
        _need(type(docs) is list and bool(docs), "docs is not a list of str")
        used = docs[: len(steps)]
        _need(set(map(type, used)) <= {str}, "docs is not a list of str")
        super().__init__(names, roles)
        _need(set("".join(used)) <= set(self.uchars), "a document has a character that is not in uchars")
        _need(type(params) is list and len(params) == len(self.values), "params are not all of state_dict")
        _need(all(map(is_, params, self.values)), "params are in another order than state_dict")
        _need(type(m) is list and type(v) is list and m is not v and len(m) == len(v) == len(params), "m or v has another length")
        _need({*map(type, m), *map(type, v)} == {float} and not (any(v) and any(x < 0 for x in v)), "m or v holds more than floats")
        self.touched_moments = any(m) or any(v)
        self.docs, self.m, self.v, self.num_steps, self.total = docs, m, v, num_steps, len(steps)
        rate, beta1, beta2, eps = settings
        self.adam = Adam(self.model, rate, beta1, beta2, eps, num_steps)
        if self.touched_moments:
            self.adam.m[:], self.adam.v[:] = m, v

    def run(self) -> "Any":
        ids = {ch: i for i, ch in enumerate(self.uchars)}
        work = 2.0 * (self.block_size + 1) * len(self.values)
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
        for line in step_lines(done + 1, self.num_steps, losses):
            print(line[:-1])  # in two writes, as the script does

    def _leave(self, done: int) -> None:
        """Put everything where the script's loop would have put it."""
        from_model(self.model, self.values)
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


def sample(names: "dict[str, Any]", roles: "dict[str, str]", samples: "Any") -> "Any":
    """Do the script's loop over samples; return those that are left to be done as written. Raises Unfit if none can be done.

    names: the script's globals. roles: by what names it calls what the loop needs.
    """
    _need(type(samples) is range, "its samples are not a range")
    model = _Model(names, roles)
    temperature: Any = names.get(roles["temperature"])
    vocab_size: Any = names.get(roles["vocab_size"])
    _need(are_numbers(temperature) and temperature != 0, "its temperature is not a number")
    _need(type(vocab_size) is int and vocab_size == model.bos + 1, "vocab_size is not that of state_dict")
    bos, uchars, stream = model.bos, model.uchars, model.rng
    is_alone = sys.stdout is sys.__stdout__  # otherwise what writes may draw numbers, too
    stream.setstate(random.getstate())
    try:
        for index, sample_idx in enumerate(samples):
            if not is_alone:
                stream.setstate(random.getstate())
            try:
                drawn = model.engine.sample(stream, temperature)
            except (ArithmeticError, ValueError):  # nothing was drawn
                return samples[index:]
            is_full = len(drawn) == model.block_size
            sample = [uchars[token_id] for token_id in drawn]
            left = {"sample_idx": sample_idx, "token_id": drawn[-1] if is_full else bos, "pos_id": len(drawn) - is_full, "sample": sample}
            for role, value in left.items():
                names[roles[role]] = value
            if not is_alone:
                random.setstate(stream.getstate())
            print(f"sample {sample_idx+1:2d}: {''.join(sample)}")
    finally:
        if is_alone:
            random.setstate(stream.getstate())
    return samples[len(samples) :]
