"""Drawing text token by token: a prompt, a temperature, top-k, top-p, a maximum length, and each token's chances.

Without top-k and top-p each token is drawn exactly as the script draws it (`microgpt.py`, "Inference"). Both cut the
tail of the probabilities after the temperature has shaped them: what is cut gets the weight 0, the rest keep theirs,
and the draw is the script's own `random.choices` over all tokens, one number of the stream a token.
"""
import math

from .config import check_cuts, real_number, whole_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from random import Random
    from typing import Any

    from ._types import AnyGPT, AnyValue, Cache
    from .core.fused import FusedEngine
    from .core.mt19937 import MT19937

__all__ = ["Decoder", "FusedDecoder", "Token", "decoder_of", "draw", "generate", "keep_likely", "perplexity",
           "position_losses"]  # fmt: skip


class Token(str):
    """One drawn token: its character, and '' for the end of the document; `print(token, end='')` writes it.

    Attributes
    ----------
    id : int
        The token id.
    probability : float
        The probability with which it was drawn, after temperature, top-k and top-p.
    model_probability : float
        The probability that the model gives it, at temperature 1 with nothing cut.
    """

    id: int
    probability: float
    model_probability: float

    def __new__(cls, text: str, id: int, probability: float, model_probability: float) -> "Token":
        self = super().__new__(cls, text)
        self.id, self.probability, self.model_probability = id, probability, model_probability
        return self

    def __getnewargs__(self) -> "tuple[str, int, float, float]":  # type: ignore[override]  # str's own gives one
        """Return the arguments with which copy and pickle call the class."""
        return str(self), self.id, self.probability, self.model_probability


class Decoder:
    """The forward pass over the script's `gpt`, one token at a time; keeps keys and values of the positions so far."""

    def __init__(self, model: "AnyGPT") -> None:
        self.gpt: Any
        self.softmax: Any
        if _is_compiled(model):
            from .core import functions, gpt

            self.gpt, self.softmax = gpt.gpt, functions.softmax
        else:
            from . import reference

            self.gpt, self.softmax = reference.gpt, reference.softmax
        self.model = model
        self.keys: Cache = [[] for _ in range(model.n_layer)]
        self.values: Cache = [[] for _ in range(model.n_layer)]
        self.logits: list[AnyValue] = []
        self.pos_id = 0

    def feed(self, token_id: int) -> None:
        """Append a token at the next position, of which there are block_size."""
        self.logits = self.gpt(token_id, self.pos_id, self.keys, self.values, self.model)
        self.pos_id += 1

    def probabilities(self, temperature: float = 1.0) -> "list[float]":
        """Return the probabilities of the next token, [vocab_size]."""
        return [p.data for p in self.softmax([logit / temperature for logit in self.logits])]


class FusedDecoder:
    """The same over compiled kernels, without a graph. fused: a `microgpt.core.fused.FusedEngine`."""

    def __init__(self, fused: "FusedEngine") -> None:
        self.fused = fused
        self.tokens: list[int] = []

    def feed(self, token_id: int) -> None:
        self.tokens.append(token_id)

    def probabilities(self, temperature: float = 1.0) -> "list[float]":
        return self.fused.probabilities(self.tokens, temperature)


def _is_compiled(model: "AnyGPT") -> bool:
    """Return whether model is a `microgpt.GPT` rather than a `microgpt.reference.GPT`; derived classes too."""
    for kind in type(model).__mro__:
        if kind.__module__ in ("microgpt.core.model", "microgpt.reference"):
            return kind.__module__ == "microgpt.core.model"
    raise TypeError(f"model must be a GPT, not {type(model).__name__}")


def decoder_of(model: "AnyGPT") -> "Decoder | FusedDecoder":
    """Return the fastest decoder for a bare model. Raises TypeError for what is not a GPT."""
    if _is_compiled(model):
        from .core.fused import FusedEngine

        return FusedDecoder(FusedEngine(model))  # type: ignore[arg-type]  # a microgpt.GPT, by the line above
    return Decoder(model)


def check(
    temperature: float, top_k: "int | None", top_p: "float | None", max_length: "int | None"
) -> "tuple[float, int | None, float | None, int | None]":
    """Return the options as plain int and float. Raises TypeError or ValueError for one outside its limits."""
    warmth = real_number("temperature", temperature)
    if not 0 < warmth < math.inf:
        raise ValueError(f"temperature must be a number greater than 0, not {temperature}")
    if max_length is not None:
        max_length = whole_number("max_length", max_length, 1)
    return warmth, *check_cuts(top_k, top_p), max_length


def keep_likely(probs: "Iterable[float]", top_k: "int | None" = None, top_p: "float | None" = None) -> "list[float]":
    """Return probabilities with the unlikely ones set to 0.0, [n] -> [n]; the others are not rescaled.

    Of two equally probable tokens the one with the lower id counts as more probable.

    Parameters
    ----------
    probs : iterable of float
        Probabilities, [n].
    top_k : int, optional
        Keep the k most probable.
    top_p : float, optional
        Of those, keep the fewest, the most probable first, whose sum is at least top_p of the sum of all.

    Raises
    ------
    TypeError, ValueError
        For a top_k below 1 or a top_p outside (0, 1].

    Examples
    --------
    >>> keep_likely([0.5, 0.25, 0.25], top_k=2)
    [0.5, 0.25, 0.0]
    """
    return _keep_likely(list(map(float, probs)), *check_cuts(top_k, top_p))


def _keep_likely(probs: "list[float]", top_k: "int | None", top_p: "float | None") -> "list[float]":
    order = sorted(range(len(probs)), key=lambda i: -probs[i])[:top_k]
    if top_p is not None:
        enough, total = top_p * math.fsum(probs), 0.0
        for kept, i in enumerate(order, 1):
            total += probs[i]
            if total >= enough:
                del order[kept:]
                break
    weights = [0.0] * len(probs)
    for i in order:
        weights[i] = probs[i]
    return weights


def draw(
    decoder: "Decoder | FusedDecoder",
    choose: "Callable[[Sequence[float]], int]",
    tokens: "Sequence[int]",
    length: int,
    temperature: float = 0.5,
    top_k: "int | None" = None,
    top_p: "float | None" = None,
) -> "Iterator[tuple[int, float, float]]":
    """Yield (token id, probability as drawn, probability by the model) for each token that `draw_weights` draws."""
    for token_id, weights in draw_weights(decoder, choose, tokens, length, temperature, top_k, top_p):
        yield token_id, weights[token_id] / math.fsum(weights), decoder.probabilities()[token_id]


def draw_weights(
    decoder: "Decoder | FusedDecoder",
    choose: "Callable[[Sequence[float]], int]",
    tokens: "Sequence[int]",
    length: int,
    temperature: float = 0.5,
    top_k: "int | None" = None,
    top_p: "float | None" = None,
) -> "Iterator[tuple[int, list[float]]]":
    """Yield (token id, weights that it was drawn by) for each token that follows tokens.

    Ends after BOS, which is yielded too, or at length. tokens: BOS and the prompt. length: most tokens of the document,
    those of the prompt included, BOS not. choose: draws an index from weights.
    """
    temperature, top_k, top_p, _ = check(temperature, top_k, top_p, None)
    bos = tokens[0]
    for token_id in tokens[:-1]:
        decoder.feed(token_id)
    token_id = tokens[-1]
    for _ in range(len(tokens) - 1, length):
        decoder.feed(token_id)
        weights = decoder.probabilities(temperature)
        if top_k is not None or top_p is not None:
            weights = _keep_likely(weights, top_k, top_p)
        token_id = choose(weights)
        yield token_id, weights
        if token_id == bos:
            return


def position_losses(tokens: "Sequence[int]", decoder: "Decoder | FusedDecoder", block_size: int) -> "list[float]":
    """Return -log p of each next token within the block, in nats, [n]; a p of 0 costs infinity."""
    losses = []
    for pos_id in range(min(block_size, len(tokens) - 1)):
        decoder.feed(tokens[pos_id])
        p = decoder.probabilities()[tokens[pos_id + 1]]
        losses.append(math.inf if p == 0 else -math.log(p))
    return losses


def perplexity(probabilities: "Iterable[float]") -> float:
    """Return exp of the mean of -log(p): how many equally likely tokens the model chose from, on average.

    nan for no probabilities, or if one is nan; else inf if one is 0, or if the result is beyond all floats.

    Examples
    --------
    >>> perplexity([0.25, 0.25])
    4.0
    """
    found = list(map(float, probabilities))
    if not found or any(map(math.isnan, found)):
        return math.nan
    if not min(found) > 0:
        return math.inf
    try:
        return math.exp(-math.fsum(map(math.log, found)) / len(found))
    except OverflowError:
        return math.inf


def generate(
    model: "AnyGPT",
    prompt: "Iterable[int]" = (),
    temperature: float = 0.5,
    top_k: "int | None" = None,
    top_p: "float | None" = None,
    max_length: "int | None" = None,
    rng: "Random | MT19937 | None" = None,
) -> "Iterator[int]":
    """Generate the token ids that follow prompt, as they are drawn, up to BOS or the end of the block.

    `Trainer.generate` does the same with text.

    Parameters
    ----------
    model : GPT
        A `microgpt.GPT` or a `microgpt.reference.GPT`; its BOS is the last id, vocab_size - 1.
    prompt : iterable of int
        Token ids without BOS.
    temperature : float
        Greater than 0; logits are divided by it.
    top_k, top_p : int, float, optional
        See `keep_likely`.
    max_length : int, optional
        Most tokens, those of the prompt included.
    rng : random.Random, optional
        By default a new one.

    Raises
    ------
    ValueError, TypeError
        In one line, before anything is drawn.
    """
    _is_compiled(model)  # raises TypeError for what is no GPT
    temperature, top_k, top_p, max_length = check(temperature, top_k, top_p, max_length)
    if rng is not None and not hasattr(rng, "choice_index") and not hasattr(rng, "choices"):
        raise TypeError(f"rng must be a random.Random, not {type(rng).__name__}")
    tokens = [model.vocab_size - 1, *(whole_number("a token id", i) for i in prompt)]
    for i in tokens:
        if not 0 <= i < model.vocab_size:
            raise ValueError(f"token id {i} is not in the vocabulary (0 to {model.vocab_size - 1})")
    if len(tokens) > model.block_size:
        raise ValueError(f"the prompt has {len(tokens) - 1} tokens; it may have {model.block_size - 1}")
    return _ids(model, tokens, temperature, top_k, top_p, max_length, rng)


def _ids(
    model: "AnyGPT",
    tokens: "list[int]",
    temperature: float,
    top_k: "int | None",
    top_p: "float | None",
    max_length: "int | None",
    rng: "Random | MT19937 | None",
) -> "Iterator[int]":
    from random import Random

    random = Random() if rng is None else rng

    def choose(weights: "Sequence[float]") -> int:
        if hasattr(random, "choices"):
            return random.choices(range(len(weights)), weights=weights)[0]
        return random.choice_index(weights)

    length = model.block_size if max_length is None else min(max_length, model.block_size)
    for token_id, _ in draw_weights(decoder_of(model), choose, tokens, length, temperature, top_k, top_p):
        if token_id != tokens[0]:
            yield token_id
