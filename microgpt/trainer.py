"""The training loop as an object (`microgpt.py`, from the shuffle to the samples), for any of the three engines.

One random stream serves the whole run, in the script's order: it shuffles the documents, draws every parameter, and
then one number for each sampled token. An engine is three things behind one interface: train on documents, give the
probabilities of the next token, and hold a model; what it computes is the same to the last bit.
"""
from _thread import allocate_lock

from .data import Tokenizer
from .engines import ENGINE_CLASSES

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence
    from typing import Any

    from .lines import Lines
    from .sampling import Token

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


def check_settings(num_steps: int, seed: int, engine: str, settings: "dict[str, Any]") -> None:
    """Raise TypeError or ValueError, in one line, for a setting that no run can have."""
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, not {engine!r}")
    for name in settings:
        if name not in SETTINGS:
            raise TypeError(f"there is no setting {name!r}; there are {', '.join(SETTINGS)}")
    for name, value in {"num_steps": num_steps, "seed": seed, **settings}.items():
        if isinstance(SETTINGS.get(name, 0), int):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be a whole number, not {value!r}")
            least = 0 if name in ("num_steps", "n_layer") else 1
            if name != "seed" and value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
            if name != "seed" and value >= 2**63:
                raise ValueError(f"{name} must be less than 2**63")
        else:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number, not {value!r}")
            if not abs(value) <= 1.7976931348623157e308:  # false for nan, too, and for an int beyond all doubles
                raise ValueError(f"{name} must be finite, not {value}")
            if name in ("beta1", "beta2") and not 0 <= value < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1, not {value}")
            if name == "eps_adam" and not value > 0:
                raise ValueError(f"eps_adam must be greater than 0, not {value}")
    n_embd, n_head = settings["n_embd"], settings["n_head"]
    if n_embd % n_head:
        raise ValueError(f"n_embd ({n_embd}) must be a multiple of n_head ({n_head})")


class _Alone:
    """One thread at a time: whoever comes while another is at work is told so, and does not wait."""

    def __init__(self):
        self._lock = allocate_lock()

    def __enter__(self):
        if not self._lock.acquire(False):
            raise RuntimeError("this trainer is at work in another thread")

    def __exit__(self, *error):
        self._lock.release()


class Trainer:
    """A run of the script: its documents, its model, its optimizer and its random stream.

    docs: the documents, a sequence of str; they are copied and shuffled. num_steps: the length of the whole run, to
    which the learning rate decays. seed: any int. engine: "fused", "graph" or "reference". settings: those of
    `SETTINGS`, by name.

    Attributes: `model`, `tokenizer`, `docs` (as shuffled), `adam`, `step_index` (the steps done so far), `last_losses`
    (of the last `run`), `notes` (a dict of what can be JSON, saved with the run).
    Raises ValueError or TypeError, in one line, for settings or documents that no run can have.
    """

    def __init__(
        self, docs: "Sequence[str]", num_steps: int = 1000, seed: int = 42, engine: str = "fused", **settings: "Any"
    ) -> None:
        settings = {**SETTINGS, **settings}
        check_settings(num_steps, seed, engine, settings)
        self._set_up(_check_docs(docs), None, num_steps, seed, engine, settings)

    @classmethod
    def _of_lines(cls, lines: "Lines", num_steps: int, seed: int, engine: str, settings: "dict[str, Any]") -> "Trainer":
        """Trainer(lines, ...) for the command's own defaults: the lines stay lines, and are not copied."""
        self = cls.__new__(cls)
        self._set_up(lines, Tokenizer.of_lines(lines), num_steps, seed, engine, settings)
        return self

    def _set_up(
        self,
        docs: "list[str] | Lines | None",
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
        self._alone = _Alone()
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

    def step(self) -> float:
        """Train on the next document; returns its loss, a float."""
        if self.step_index >= self.num_steps:
            raise ValueError(f"all {self.num_steps} steps of this run are done")
        return self.run(1)[0]

    def run(self, n: "int | None" = None) -> "list[float]":
        """Train on the next n documents, or on all that remain; returns their losses, a list of float.

        n beyond what remains of num_steps is cut to it. After an exception (KeyboardInterrupt among them) the
        trainer stands as it stood after the last whole step, and may go on; the losses up to there are in
        `last_losses`.
        """
        if self.docs is None:
            raise ValueError("this trainer was loaded without documents, so it can sample but not train")
        with self._alone:
            left = self.num_steps - self.step_index
            n = left if n is None else min(n, left)
            losses: list[float] = []
            self.last_losses = losses
            docs, start = self.docs, self.step_index
            steps = (docs[step % len(docs)] for step in range(start, start + n))
            self._engine.train(steps, self.tokenizer, losses)
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
        top_p cut what is unlikely: see `microgpt.sampling.keep_likely`.
        """
        rng = self.rng if seed is None else self._engine.seeded(seed)
        return [self.sample_one(temperature, prompt, top_k, top_p, max_length, rng) for _ in range(n)]

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
        if top_k is None and top_p is None and max_length is None:
            tokens = self._prompt_tokens(prompt, temperature)
            with self._alone:
                return prompt + self.tokenizer.decode(self._engine.sample(rng, tokens, temperature))
        return prompt + "".join(self._generate(prompt, temperature, top_k, top_p, max_length, rng))

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
        """One document as it is written: an iterator over the `microgpt.sampling.Token`s that follow prompt.

        A Token is a str, its character, with the attributes `id`, `probability` and `model_probability`; the end of
        the document is the Token ''. The arguments are those of `sample`, and so are the draws.
        """
        rng = self.rng if seed is None else self._engine.seeded(seed)
        return self._generate(prompt, temperature, top_k, top_p, max_length, rng)

    def _generate(self, prompt, temperature, top_k, top_p, max_length, rng):
        from . import sampling

        sampling.check(temperature, top_k, top_p, max_length)
        tokens, length = self._prompt_tokens(prompt, temperature), self.settings["block_size"]
        if max_length is not None:
            if len(prompt) > max_length:
                raise ValueError(f"the prompt has {len(prompt)} characters; max_length is {max_length}")
            length = min(length, max_length)
        engine, text = self._engine, [*self.tokenizer.uchars, ""]
        drawn = sampling.draw(
            engine.decoder(), lambda weights: engine.choose(rng, weights), tokens, length, temperature, top_k, top_p
        )
        return (sampling.Token(text[found[0]], *found) for found in drawn)

    def _prompt_tokens(self, prompt, temperature):
        """BOS and the prompt; raises ValueError, in one line, for a prompt or a temperature that cannot be."""
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature must be a number greater than 0, not {temperature}")
        tokens = self.tokenizer.encode(prompt)[:-1]
        if len(tokens) > self.settings["block_size"]:
            raise ValueError(
                f"the prompt has {len(tokens) - 1} characters; with block_size {self.settings['block_size']} "
                f"it may have {self.settings['block_size'] - 1}"
            )
        return tokens

    def save(self, path: "str | os.PathLike[str]") -> None:
        """Write the whole run to a .safetensors file: see `microgpt.checkpoint.save`."""
        from .checkpoint import save

        with self._alone:
            save(self, path)

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
        from .display import trainer_html

        return trainer_html(self)


def _check_docs(docs):
    if isinstance(docs, str):
        raise TypeError("docs must be a sequence of str, not one str")
    docs = list(docs)
    if not docs:
        raise ValueError("there are no documents to train on")
    try:
        "".join(docs)  # four times faster than looking at each
    except TypeError:
        wrong = next(doc for doc in docs if not isinstance(doc, str))
        raise TypeError(f"docs must hold str, not {type(wrong).__name__}") from None
    return docs
