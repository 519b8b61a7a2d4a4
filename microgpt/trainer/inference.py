"""How a trainer generates documents (`microgpt.py`, "Inference"): checks, draws, and what a failed draw means; and how it
predicts others."""
from _thread import get_ident

from ..config import c_size, check_cuts, whole_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, TypeVar

    from ..config import Config
    from ..data import Tokenizer
    from ..engines import Engine, Stream
    from ..generation import Token

    Result = TypeVar("Result")
    #: temperature, prompt, top_k, top_p, max_length
    Arguments = tuple[float, str, "int | None", "float | None", "int | None"]

__all__ = ["Inference", "is_part_of_trainer"]


class Sampler:
    """Generates documents with the model of an engine. The caller keeps others from the engine meanwhile."""

    def __init__(self, engine: "Engine", tokenizer: "Tokenizer", config: "Config") -> None:
        self.engine, self.tokenizer, self.config = engine, tokenizer, config

    def check(
        self, temperature: float, prompt: str, top_k: "int | None", top_p: "float | None", max_length: "int | None"
    ) -> "Arguments":
        """Return the arguments as plain numbers and text. Raises ValueError or TypeError for what no sample can have."""
        temperature, prompt = _temperature(temperature), _text("prompt", prompt)
        top_k, top_p = check_cuts(top_k, top_p)
        if max_length is not None:
            max_length = whole_number("max_length", max_length, 1)
            if len(prompt) > max_length:
                raise ValueError(f"the prompt has {len(prompt)} characters; max_length is {max_length}")
        self.prompt_tokens(prompt)
        return temperature, prompt, top_k, top_p, max_length

    def prompt_tokens(self, prompt: str) -> "list[int]":
        """Return BOS and the prompt's tokens. Raises ValueError for what does not fit the vocabulary or the block."""
        tokens = self.tokenizer.encode(prompt)[:-1]
        block_size = self.config.block_size
        if len(tokens) > block_size:
            raise ValueError(
                f"the prompt has {len(tokens) - 1} characters; with block_size {block_size} it may have {block_size - 1}"
            )
        return tokens

    def documents(self, n: int, rng: "Any", arguments: "Arguments") -> "list[str]":
        """Return n documents. After an exception the stream is in the state from before."""
        before = rng.copy() if hasattr(rng, "copy") else rng.getstate()  # random.Random has no faster way
        try:
            texts = self.texts(n, rng, arguments)
            get_ident()  # an interrupt that has come by now is raised here, before the caller has lost the texts to it
            return texts
        except BaseException:
            rng.setstate(before)
            raise

    def texts(self, n: int, rng: "Any", arguments: "Arguments") -> "list[str]":
        """Return n documents."""
        temperature, prompt, top_k, top_p, max_length = arguments
        try:
            tokens = self.prompt_tokens(prompt)
            if top_k is top_p is None:
                most = None if max_length is None else max_length - len(prompt)
                texts = self.engine.sample_texts(rng, n, tokens, temperature, self.tokenizer, most)
                return [prompt + text for text in texts] if prompt else texts
            from ..generation import draw_weights

            return [
                prompt + self.tokenizer.decode([token_id for token_id, _ in self.drawn(draw_weights, rng, tokens, arguments)])
                for _ in range(n)
            ]
        except (ValueError, ArithmeticError) as error:
            found = self.error_of(error, temperature)
            if found is None:
                raise
            raise found from error

    def draw(self, rng: "Any", arguments: "Arguments") -> "Iterator[Token]":
        """Return the Tokens of one document, drawn as they are asked for."""
        from ..generation import Token, draw

        text = [*self.tokenizer.uchars, ""]
        return (Token(text[found[0]], *found) for found in self.drawn(draw, rng, self.prompt_tokens(arguments[1]), arguments))

    def drawn(
        self, draw: "Callable[..., Iterator[Any]]", rng: "Any", tokens: "list[int]", arguments: "Arguments"
    ) -> "Iterator[Any]":
        """Return what draw, of `microgpt.generation`, yields for the tokens of the prompt."""
        temperature, _, top_k, top_p, max_length = arguments
        length, engine = self.config.block_size, self.engine
        length = length if max_length is None else min(length, max_length)
        return draw(engine.decoder(), lambda weights: engine.choose(rng, weights), tokens, length, temperature, top_k, top_p)

    def one_by_one(
        self, rng: "Any", arguments: "Arguments", exclusively: "Callable[..., Token | None]"
    ) -> "Iterator[Token]":
        """Yield the Tokens of `draw`; each is drawn within exclusively, which keeps others from the engine."""
        tokens: Iterator[Token] | None = None
        begun = 0

        def advance() -> "Token | None":
            nonlocal tokens, begun
            step_index = self.engine.adam.step_index
            if tokens is None:
                tokens, begun = self.draw(rng, arguments), step_index
            elif begun != step_index:
                raise RuntimeError("the model was trained while generate() was under way: begin a new one")
            try:
                return next(tokens, None)
            except (ValueError, ArithmeticError) as error:
                found = self.error_of(error, arguments[0])
                if found is None:
                    raise
                raise found from error

        while (token := exclusively(advance)) is not None:
            yield token

    def error_of(self, error: Exception, temperature: float) -> "ValueError | None":
        """Return what to raise for a draw that failed with error; None if error is not the arithmetic's."""
        from ..errors import DivergedError, advice_after_divergence, is_sampling_failure

        if not is_sampling_failure(error):
            return None
        if self.is_sound():
            return ValueError(f"temperature {temperature} is too low for this model: its logits overflow")
        adam = self.engine.adam
        return DivergedError(
            f"the model of step {adam.step_index} cannot be sampled, because the run has diverged: its probabilities are "
            f"not finite; train with {advice_after_divergence(self.config, adam.learning_rate, adam.step_index + 1)}",
            adam.step_index,
        )

    def is_sound(self) -> bool:
        """Return whether the model gives finite probabilities at temperature 1."""
        from math import isfinite

        if not all(map(isfinite, self.engine.parameters().tolist())):
            return False
        decoder = self.engine.decoder()
        decoder.feed(self.tokenizer.BOS)
        try:
            return all(map(isfinite, decoder.probabilities()))
        except (ValueError, ArithmeticError):
            return False


def is_part_of_trainer(cls: "type[Any]") -> "type[Any]":
    """Let Python's messages name the methods of cls, a base of Trainer, as users call them: Trainer.sample()."""
    for method in [x for x in vars(cls).values() if callable(x)]:
        method.__qualname__, method.__module__ = f"Trainer.{method.__name__}", __package__
    return cls


@is_part_of_trainer
class Inference:
    """What a model is for: documents that it generates, and others that it predicts. One call at a time.

    rng: the random stream from which documents are drawn.
    """

    def __init__(self, engine: "Engine", tokenizer: "Tokenizer", config: "Config", rng: "Any") -> None:
        self.tokenizer, self.rng = tokenizer, rng
        self._sampler = Sampler(engine, tokenizer, config)
        self._claims: dict[object, int] = {}  # see exclusively

    @property
    def config(self) -> "Config":
        """The settings. `settings`, `num_steps` and `seed` are views of it."""
        return self._sampler.config

    def exclusively(self, work: "Callable[..., Result]", *arguments: "Any") -> "Result":
        """Return work(*arguments), during which no other call can use this trainer.

        Raises RuntimeError if another call is under way, in this thread (from a callback or a signal handler) or another.
        """
        # The first claim in _claims owns the trainer. An interrupt may come after any call, so the claim is made within
        # the `try`, and one call of C withdraws it, which does nothing if there is none: no interrupt can leave it.
        claims, claim = self._claims, object()
        try:
            claims[claim] = get_ident()
            owner = [*claims][0]  # makes no object between two keys, so that no collection lets another thread in
            if owner is not claim:
                if claims.get(owner) == get_ident():
                    raise RuntimeError(
                        "this trainer is at work in this thread: a callback or a signal handler cannot use it before "
                        "that call has returned (let the handler set a flag, or raise an exception)"
                    )
                raise RuntimeError("this trainer is at work in another thread")
            self._sampler.engine.recover()
            return work(*arguments)
        finally:
            claims.pop(claim, None)

    def position_losses(self, docs: "Iterable[Sequence[int]]") -> "list[list[float]]":
        """Return -log p of each next token of each document, in nats; a document's mean is the loss that training prints.

        docs: token ids, BOS on both sides. A probability of 0 costs infinity, where training would raise.
        """
        return self.exclusively(lambda: self._sampler.engine.position_losses_of([list(tokens) for tokens in docs]))

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
        """Generate n documents (`microgpt.py`, "Inference").

        A document ends where the model says so, at block_size tokens, or at max_length characters. After an exception
        the stream is in the state from before.

        Parameters
        ----------
        n : int
            Number of documents.
        temperature : float
            Greater than 0; logits are divided by it.
        prompt : str
            How each document begins; part of what is returned.
        top_k, top_p : int, float, optional
            Draw from the likely tokens only: see `microgpt.generation.keep_likely`.
        max_length : int, optional
            Most characters of a document, those of the prompt included.
        seed : int, optional
            Draw from a new stream with this seed; by default from the run's own, as the script does.

        Raises
        ------
        DivergedError
            If the model's probabilities are not finite.
        """
        rng = self.stream(seed)
        arguments = self._sampler.check(temperature, prompt, top_k, top_p, max_length)
        return self.exclusively(self._sampler.documents, c_size("n", n, 0), rng, arguments)

    def sample_one(
        self,
        temperature: float = 0.5,
        prompt: str = "",
        top_k: "int | None" = None,
        top_p: "float | None" = None,
        max_length: "int | None" = None,
        rng: "Any" = None,
    ) -> str:
        """Generate one document as `sample` does. rng: the stream to draw from, by default the run's."""
        rng = self.rng if rng is None else rng
        arguments = self._sampler.check(temperature, prompt, top_k, top_p, max_length)
        return self.exclusively(self._sampler.documents, 1, rng, arguments)[0]

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
        """Generate one document, and return its tokens one at a time, as they are drawn.

        A `microgpt.generation.Token` is a str, its character, with the attributes `id`, `probability` and
        `model_probability`; the end of the document is the Token ''. Arguments and draws are those of `sample`.
        Between two tokens the trainer is free for other calls; but after a training step the next token would not be of
        the model that wrote those before it, so asking for it raises RuntimeError.
        """
        rng = self.stream(seed)
        arguments = self._sampler.check(temperature, prompt, top_k, top_p, max_length)
        return self._sampler.one_by_one(rng, arguments, self.exclusively)

    def stream(self, seed: "int | None" = None) -> "Stream":
        """Return a new random stream of this engine with this seed; without one the run's own."""
        return self.rng if seed is None else self._sampler.engine.seeded(whole_number("seed", seed))


def _text(name: str, value: str) -> str:
    """Return value as a plain str, whatever subclass of it (numpy.str_) it is."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    return str.__str__(value)


def _temperature(value: float) -> float:
    """Return value as a plain float by which logits can be divided."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"temperature must be a number greater than 0, not {value!r}") from None
    if isinstance(value, (str, bytes)) or not 0 < found < float("inf"):
        raise ValueError(f"temperature must be a number greater than 0, not {value}")
    if not 1 / found < float("inf"):
        raise ValueError(f"temperature {found} is too low: no double holds its inverse")
    return found
