"""The training loop as an object (`microgpt.py`, from the shuffle to the samples), for any of the three engines.

One random stream serves the whole run, in the script's order: it shuffles the documents, draws every parameter, and
then one number for each sampled token. An engine is three things behind one interface: train on documents, give the
probabilities of the next token, and hold a model; what it computes is the same to the last bit.
"""
from _operator import index as _index
from _thread import get_ident

from .data import Tokenizer
from .engines import ENGINE_CLASSES

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from .core.text_lines import TextLines
    from .generation import Token

__all__ = ["ENGINES", "SETTINGS", "Trainer"]

ENGINES = ("fused", "graph", "reference")

#: The script's settings beside num_steps and seed, with its own values.
SETTINGS = {
    "n_embd": 16,
    "n_head": 4,
    "n_layer": 1,
    "block_size": 16,
    "learning_rate": 0.01,
    "beta1": 0.85,
    "beta2": 0.99,
    "eps_adam": 1e-8,
    "init_std": 0.08,
}


def clean_settings(
    num_steps: "Any", seed: "Any", engine: str, settings: "dict[str, Any]"
) -> "tuple[int, int, dict[str, Any]]":
    """(num_steps, seed, settings) as plain int and float, so that every engine and every file sees the same numbers.

    Integers and floats of NumPy, and whatever else has `__index__` or `__float__`, are converted.
    Raises TypeError or ValueError, in one line, for a setting that no run can have.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, not {engine!r}")
    for name in settings:
        if name not in SETTINGS:
            raise TypeError(f"there is no setting {name!r}; there are {', '.join(SETTINGS)}")
    clean: dict[str, Any] = {}
    for name, value in {"num_steps": num_steps, "seed": seed, **settings}.items():
        if isinstance(SETTINGS.get(name, 0), int):
            least = None if name == "seed" else 0 if name in ("num_steps", "n_layer") else 1
            clean[name] = whole_number(name, value, least)
            if name != "seed" and clean[name] >= 2**63:
                raise ValueError(f"{name} must be less than 2**63")
        else:
            x = clean[name] = _number(name, value)
            if name in ("beta1", "beta2") and not 0 <= x < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1, not {value}")
            if name == "eps_adam" and not x > 0:
                raise ValueError(f"eps_adam must be greater than 0, not {value}")
            if name == "learning_rate" and x < 0:
                raise ValueError(f"learning_rate must be at least 0, not {value}")
    n_embd, n_head = clean["n_embd"], clean["n_head"]
    if n_embd % n_head:
        raise ValueError(f"n_embd ({n_embd}) must be a multiple of n_head ({n_head})")
    return clean.pop("num_steps"), clean.pop("seed"), clean


def check_settings(num_steps: int, seed: int, engine: str, settings: "dict[str, Any]") -> None:
    """Raise TypeError or ValueError, in one line, for a setting that no run can have."""
    clean_settings(num_steps, seed, engine, settings)


def whole_number(name: str, value: "Any", least: "int | None" = None) -> int:
    """value as a plain int. Raises TypeError if it is no integer, ValueError if it is less than least."""
    try:
        if isinstance(value, bool):
            raise TypeError
        found = _index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {value!r}") from None
    if least is not None and found < least:
        raise ValueError(f"{name} must be at least {least}, not {found}")
    return found


def _number(name, value):
    """value as a plain, finite float."""
    found = _real(name, value)
    if not abs(found) <= 1.7976931348623157e308:  # false for nan, too
        raise ValueError(f"{name} must be finite, not {value}")
    return found


def _real(name, value):
    """value as a plain float."""
    kind = type(value)
    if (
        not (hasattr(kind, "__float__") or hasattr(kind, "__index__"))
        or kind.__name__ in ("bool", "bool_")  # Python's and both names of NumPy's
        or getattr(value, "ndim", 0)
    ):
        raise TypeError(f"{name} must be a number, not {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} must be finite, not beyond the largest double") from None


def _text(name, value):
    """value as a plain str, whatever subclass of it (numpy.str_) it is."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    return str.__str__(value)


class Trainer:
    """A run of the script: its documents, its model, its optimizer and its random stream.

    docs: the documents, a sequence of str; they are copied and shuffled. num_steps: the length of the whole run, to
    which the learning rate decays. seed: any int. engine: "fused", "graph" or "reference". settings: those of
    `SETTINGS`, by name. Numbers and strings of NumPy are converted to Python's.

    Attributes: `model`, `tokenizer`, `docs` (as shuffled), `adam`, `step_index` (the steps done so far), `last_losses`
    (of the last `run`), `notes` (a dict of what can be JSON, saved with the run).
    Raises ValueError or TypeError, in one line, for settings or documents that no run can have.
    """

    def __init__(
        self, docs: "Sequence[str]", num_steps: int = 1000, seed: int = 42, engine: str = "fused", **settings: "Any"
    ) -> None:
        settings = {**SETTINGS, **settings}
        num_steps, seed, settings = clean_settings(num_steps, seed, engine, settings)
        self._set_up(_check_docs(docs), None, num_steps, seed, str.__str__(engine), settings)

    @classmethod
    def _of_lines(cls, lines: "TextLines", num_steps: int, seed: int, engine: str, settings: "dict[str, Any]") -> "Trainer":
        """Trainer(lines, ...) for the command's own defaults: the lines stay lines, and are not copied."""
        self = cls.__new__(cls)
        self._set_up(lines, Tokenizer.of_lines(lines), num_steps, seed, engine, settings)
        return self

    def _set_up(
        self,
        docs: "list[str] | TextLines | None",
        tokenizer: "Tokenizer | None",
        num_steps: int,
        seed: int,
        engine: str,
        settings: "dict[str, Any]",
    ) -> None:
        """Seed, shuffle, build the vocabulary and draw the parameters, in the script's order."""
        self.num_steps, self.seed, self.engine, self.settings = num_steps, seed, engine, settings
        self.notes: dict[str, Any] = {}
        self.last_losses: list[float] = []
        self._docs_sha256: str | None = None
        self._claims: dict[object, int] = {}  # see _exclusively
        engine_class = ENGINE_CLASSES[engine]
        self.rng = engine_class.seeded(seed)
        self.docs: Any = docs  # list[str], or None where it only samples
        if docs is not None:
            self.rng.shuffle(docs)
        self.tokenizer = tokenizer or Tokenizer(self.docs or [])
        self._engine = engine_class(self.tokenizer.vocab_size, num_steps, settings, self.rng)

    @property
    def model(self) -> "Any":
        """The GPT that trains."""
        return self._engine.model

    @property
    def adam(self) -> "Any":
        """The optimizer that trains; its settings may be changed, and are saved as they are."""
        return self._engine.adam

    @property
    def step_index(self) -> int:
        """The number of steps done so far."""
        return self.adam.step_index

    def _exclusively(self, work: "Callable[..., Any]", *arguments: "Any") -> "Any":
        """work(*arguments), unless another call on this trainer is under way: then RuntimeError.

        The first claim in `_claims` owns the trainer. An interrupt may come after any call, so the claim is made within
        the `try`, and one call of C withdraws it, which does nothing where there is none: no interrupt can leave it.
        """
        claims, claim = self._claims, object()
        try:
            claims[claim] = get_ident()
            owner = [*claims.items()][0]
            if owner[0] is not claim:
                if owner[1] == get_ident():
                    raise RuntimeError(
                        "this trainer is at work in this thread: a callback or a signal handler cannot use it before "
                        "that call has returned (let the handler set a flag, or raise an exception)"
                    )
                raise RuntimeError("this trainer is at work in another thread")
            self._engine.recover()
            return work(*arguments)
        finally:
            claims.pop(claim, None)

    def step(self) -> float:
        """Train on the next document; returns its loss, a float. Raises what `run` raises."""
        if self.step_index >= self.num_steps:
            raise ValueError(f"all {self.num_steps} steps of this run are done")
        return self.run(1)[0]

    def run(self, n: "int | None" = None) -> "list[float]":
        """Train on the next n documents, or on all that remain; returns their losses, a list of float.

        n beyond what remains of num_steps is cut to it. After an exception (KeyboardInterrupt among them) the
        trainer stands as it stood after the last whole step, and may go on; the losses up to there are in
        `last_losses`. Raises `microgpt.DivergedError`, a ValueError, where the script's own arithmetic fails.
        """
        if self.docs is None:
            raise ValueError("this trainer was loaded without documents, so it can sample but not train")
        return self._exclusively(self._run, n if n is None else whole_number("n", n, 0))

    def _run(self, n: "int | None") -> "list[float]":
        left = self.num_steps - self.step_index
        n = left if n is None else min(n, left)
        losses: list[float] = []
        self.last_losses = losses
        docs, start = self.docs, self.step_index
        steps = (docs[step % len(docs)] for step in range(start, start + n))
        try:
            self._engine.train(steps, self.tokenizer, losses)
        except (ValueError, ArithmeticError) as error:
            from .errors import of_step

            found = of_step(self, error)
            if found is None:
                raise
            raise found from error
        return losses

    def sample(
        self,
        n: int = 20,
        temperature: float = 0.5,
        prompt: str = "",
        *,
        top_k: "int | None" = None,
        top_p: "float | None" = None,
        max_length: "int | None" = None,
        seed: "int | None" = None,
    ) -> "list[str]":
        """Let the model write n documents; returns them, a list of str that begin with prompt.

        Each ends where the model says so, at block_size tokens, or at max_length characters (the prompt's included).
        Draws from the run's own stream, as the script does, or from a stream of its own with this seed. top_k and
        top_p cut what is unlikely: see `microgpt.generation.keep_likely`. After an exception the stream stands where it
        stood before. Raises `microgpt.DivergedError` for a model whose probabilities are not finite.
        """
        rng = self._stream(seed)
        arguments = self._check_sampling(temperature, prompt, top_k, top_p, max_length)
        return self._exclusively(self._sample, whole_number("n", n, 0), rng, arguments)

    def sample_one(
        self,
        temperature: float = 0.5,
        prompt: str = "",
        top_k: "int | None" = None,
        top_p: "float | None" = None,
        max_length: "int | None" = None,
        rng: "Any" = None,
    ) -> str:
        """One document, a str, drawn as `sample` does; rng: the stream to draw from, by default the run's own."""
        rng = self.rng if rng is None else rng
        arguments = self._check_sampling(temperature, prompt, top_k, top_p, max_length)
        if self._engine.draws_all_or_nothing and arguments[2:] == (None, None, None):
            return self._exclusively(self._sample_one, rng, *arguments)
        return self._exclusively(self._sample, 1, rng, arguments)[0]

    def generate(
        self,
        prompt: str = "",
        temperature: float = 0.5,
        *,
        top_k: "int | None" = None,
        top_p: "float | None" = None,
        max_length: "int | None" = None,
        seed: "int | None" = None,
    ) -> "Iterator[Token]":
        """One document as it is written: an iterator over the `microgpt.generation.Token`s that follow prompt.

        A Token is a str, its character, with the attributes `id`, `probability` and `model_probability`; the end of
        the document is the Token ''. The arguments are those of `sample`, and so are the draws.
        Between two tokens the trainer is free for other calls. After a training step the next token would not be of
        the model that wrote those before it: asking for it raises RuntimeError.
        """
        rng = self._stream(seed)
        arguments = self._check_sampling(temperature, prompt, top_k, top_p, max_length)
        return self._one_by_one(rng, arguments)

    def _stream(self, seed):
        return self.rng if seed is None else self._engine.seeded(whole_number("seed", seed))

    def _check_sampling(self, temperature, prompt, top_k, top_p, max_length):
        """The arguments as plain numbers and text; raises ValueError or TypeError for what no sample can have."""
        temperature, prompt = _temperature(temperature), _text("prompt", prompt)
        if top_k is not None:
            top_k = whole_number("top_k", top_k, 1)
        if top_p is not None:
            given, top_p = top_p, _real("top_p", top_p)
            if not 0 < top_p <= 1:  # nor nan
                raise ValueError(f"top_p must be greater than 0 and at most 1, not {given}")
        if max_length is not None:
            max_length = whole_number("max_length", max_length, 1)
            if len(prompt) > max_length:
                raise ValueError(f"the prompt has {len(prompt)} characters; max_length is {max_length}")
        self._prompt_tokens(prompt)
        return temperature, prompt, top_k, top_p, max_length

    def _prompt_tokens(self, prompt):
        """BOS and the prompt; raises ValueError for a prompt that does not fit the vocabulary or the block."""
        tokens = self.tokenizer.encode(prompt)[:-1]
        if len(tokens) > self.settings["block_size"]:
            raise ValueError(
                f"the prompt has {len(tokens) - 1} characters; with block_size {self.settings['block_size']} "
                f"it may have {self.settings['block_size'] - 1}"
            )
        return tokens

    def _sample(self, n, rng, arguments):
        before = rng.getstate()
        try:
            return [self._sample_one(rng, *arguments) for _ in range(n)]
        except BaseException:
            rng.setstate(before)
            raise

    def _sample_one(self, rng, temperature, prompt, top_k, top_p, max_length):
        try:
            if top_k is None and top_p is None and max_length is None:
                tokens = self._prompt_tokens(prompt)
                return prompt + self.tokenizer.decode(self._engine.sample(rng, tokens, temperature))
            return prompt + "".join(self._draw(rng, temperature, prompt, top_k, top_p, max_length))
        except (ValueError, ArithmeticError) as error:
            from .errors import of_sample

            found = of_sample(self, error, temperature)
            if found is None:
                raise
            raise found from error

    def _draw(self, rng, temperature, prompt, top_k, top_p, max_length):
        """The Tokens of one document, drawn as they are asked for."""
        from . import generation as sampling

        tokens, length = self._prompt_tokens(prompt), self.settings["block_size"]
        length = length if max_length is None else min(length, max_length)
        engine, text = self._engine, [*self.tokenizer.uchars, ""]
        drawn = sampling.draw(
            engine.decoder(), lambda weights: engine.choose(rng, weights), tokens, length, temperature, top_k, top_p
        )
        return (sampling.Token(text[found[0]], *found) for found in drawn)

    def _one_by_one(self, rng, arguments):
        """The Tokens of `_draw`, with the trainer taken for each token only."""
        tokens = begun = None

        def advance():
            nonlocal tokens, begun
            if tokens is None:
                tokens, begun = self._draw(rng, *arguments), self.step_index
            elif begun != self.step_index:
                raise RuntimeError("the model was trained while generate() was under way: begin a new one")
            try:
                return next(tokens, None)
            except (ValueError, ArithmeticError) as error:
                from .errors import of_sample

                found = of_sample(self, error, arguments[0])
                if found is None:
                    raise
                raise found from error

        while (token := self._exclusively(advance)) is not None:
            yield token

    def save(self, path: "str | os.PathLike[str]") -> None:
        """Write the whole run to a .safetensors file: see `microgpt.checkpoint.save`."""
        from .cli.console import import_arrays

        import_arrays()
        from .checkpoint import save

        self._exclusively(save, self, path)

    @classmethod
    def load(
        cls,
        path: "str | os.PathLike[str]",
        docs: "Sequence[str] | None" = None,
        engine: str = "fused",
        allow_other_text: bool = False,
    ) -> "Trainer":
        """Continue a saved run, to the bits of one that was never interrupted: see `microgpt.checkpoint.load`."""
        from .checkpoint import load

        return load(cls, path, docs, engine, allow_other_text)

    def __reduce_ex__(self, protocol):
        raise TypeError("a Trainer cannot be copied or pickled: use save() and Trainer.load()")

    def __repr__(self) -> str:
        s = self.settings
        return (
            f"<Trainer: {self.engine} engine, step {self.step_index} of {self.num_steps}, vocabulary of "
            f"{self.tokenizer.vocab_size}, n_embd {s['n_embd']}, n_head {s['n_head']}, n_layer {s['n_layer']}, "
            f"block_size {s['block_size']}>"
        )

    def _repr_html_(self) -> str:
        from .viz.notebook import trainer_html

        return trainer_html(self)


def _check_docs(docs):
    if isinstance(docs, str):
        raise TypeError("docs must be a sequence of str, not one str")
    docs = list(docs)
    if not docs:
        raise ValueError("there are no documents to train on")
    try:
        return list(map(str.__str__, docs))  # a plain str is itself, one of a subclass (numpy.str_) becomes plain
    except TypeError:
        wrong = next(doc for doc in docs if not isinstance(doc, str))
        raise TypeError(f"docs must hold str, not {type(wrong).__name__}") from None


def _temperature(value):
    """value as a plain float by which logits can be divided."""
    try:
        found = float(value)
    except (TypeError, OverflowError):
        raise ValueError(f"temperature must be a number greater than 0, not {value!r}") from None
    if isinstance(value, (str, bytes)) or not 0 < found < float("inf"):
        raise ValueError(f"temperature must be a number greater than 0, not {value}")
    if not 1 / found < float("inf"):
        raise ValueError(f"temperature {found} is too low: no double holds its inverse")
    return found
