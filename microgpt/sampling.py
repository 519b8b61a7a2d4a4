"""Drawing text token by token: a prompt, a temperature, top-k, top-p, a maximum length, and each token's chances.

Without top-k and top-p each token is drawn exactly as the script draws it (`microgpt.py`, "Inference"). Both cut the
tail of the probabilities after the temperature has shaped them: what is cut gets the weight 0, the rest keep theirs,
and the draw is the script's own `random.choices` over all tokens, one number of the stream a token.
"""
import math
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

__all__ = ["Decoder", "FusedDecoder", "Token", "decoder_of", "draw", "generate", "keep_likely", "perplexity"]


class Token(str):
    """One drawn token: its character, and '' for the end of the document; `print(token, end='')` writes it.

    id: the token id.  probability: with which it was drawn, after temperature, top-k and top-p.  model_probability:
    what the model itself gives it, at temperature 1 with nothing cut.
    """

    id: int
    probability: float
    model_probability: float

    def __new__(cls, text: str, id: int, probability: float, model_probability: float) -> "Token":
        self = super().__new__(cls, text)
        self.id, self.probability, self.model_probability = id, probability, model_probability
        return self


class Decoder:
    """The forward pass over the script's `gpt`, a token at a time; keys and values of the positions so far are kept."""

    def __init__(self, model: "Any") -> None:
        home = sys.modules[type(model).__module__]  # microgpt.model, or the reference
        self.model, self.gpt, self.softmax = model, home.gpt, home.softmax
        self.keys: list[list[Any]] = [[] for _ in range(model.n_layer)]
        self.values: list[list[Any]] = [[] for _ in range(model.n_layer)]
        self.logits: list[Any] = []
        self.pos_id = 0

    def feed(self, token_id: int) -> None:
        """Append a token at the next position, of which there are block_size."""
        self.logits = self.gpt(token_id, self.pos_id, self.keys, self.values, self.model)
        self.pos_id += 1

    def probabilities(self, temperature: float = 1.0) -> "list[float]":
        """Those of the token after the last that was fed, [vocab_size]."""
        return [p.data for p in self.softmax([logit / temperature for logit in self.logits])]


class FusedDecoder:
    """The same over explicit kernels, without a graph: `fused` is a `microgpt.fused.FusedEngine`."""

    def __init__(self, fused: "Any") -> None:
        self.fused = fused
        self.tokens: list[int] = []

    def feed(self, token_id: int) -> None:
        self.tokens.append(token_id)

    def probabilities(self, temperature: float = 1.0) -> "list[float]":
        found: list[float] = self.fused.probabilities(self.tokens, temperature)
        return found


def decoder_of(model: "Any") -> "Decoder | FusedDecoder":
    """The quickest decoder for a bare model."""
    if type(model).__module__ == "microgpt.model":
        from .fused import FusedEngine

        return FusedDecoder(FusedEngine(model))
    return Decoder(model)


def check(temperature: float, top_k: "int | None", top_p: "float | None", max_length: "int | None") -> None:
    """Raise TypeError or ValueError, in one line, for what no draw can have."""
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be a number greater than 0, not {temperature}")
    for name, value in (("top_k", top_k), ("max_length", max_length)):
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be a whole number, not {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be greater than 0 and at most 1, not {top_p}")


def keep_likely(probs: "Sequence[float]", top_k: "int | None" = None, top_p: "float | None" = None) -> "list[float]":
    """The probabilities with the unlikely ones set to 0.0, [n] -> [n]; what is kept is not rescaled.

    top_k keeps the k most probable; top_p then keeps the fewest of those, the most probable first, whose sum is at
    least top_p of the whole. Of two equally probable tokens the one with the lower id counts as more probable.
    """
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
    """(token id, its probability as drawn, its probability by the model) for each token that follows `tokens`.

    tokens: BOS and the prompt.  length: the most tokens the document may have, the prompt's included and BOS not.
    choose: draws an index from weights.  Ends after BOS, which is yielded too, or at length.
    """
    bos = tokens[0]
    for token_id in tokens[:-1]:
        decoder.feed(token_id)
    token_id = tokens[-1]
    for _ in range(len(tokens) - 1, length):
        decoder.feed(token_id)
        weights = decoder.probabilities(temperature)
        if top_k is not None or top_p is not None:
            weights = keep_likely(weights, top_k, top_p)
        token_id = choose(weights)
        yield token_id, weights[token_id] / math.fsum(weights), decoder.probabilities()[token_id]
        if token_id == bos:
            return


def perplexity(probabilities: "Sequence[float]") -> float:
    """exp of the mean of -log(p): how many equally likely tokens the model chose from, on average; nan for none."""
    if not probabilities:
        return float("nan")
    if not min(probabilities) > 0:
        return float("inf")
    return math.exp(-math.fsum(map(math.log, probabilities)) / len(probabilities))


def generate(
    model: "Any",
    prompt: "Sequence[int]" = (),
    temperature: float = 0.5,
    top_k: "int | None" = None,
    top_p: "float | None" = None,
    max_length: "int | None" = None,
    rng: "Any" = None,
) -> "Iterator[int]":
    """The token ids that a bare GPT writes after `prompt`, as they are drawn, up to BOS or the end of the block.

    model: a `microgpt.GPT` or a `microgpt.reference.GPT`; its BOS is the last id, vocab_size - 1. prompt: token ids
    without BOS. rng: a `random.Random`, by default a new one. `Trainer.generate` does the same with text.
    Raises ValueError or TypeError, in one line, before anything is drawn.
    """
    check(temperature, top_k, top_p, max_length)
    tokens = [model.vocab_size - 1, *prompt]
    for i in tokens:
        if not 0 <= i < model.vocab_size:
            raise ValueError(f"token id {i} is not in the vocabulary (0 to {model.vocab_size - 1})")
    if len(tokens) > model.block_size:
        raise ValueError(f"the prompt has {len(tokens) - 1} tokens; it may have {model.block_size - 1}")
    return _ids(model, tokens, temperature, top_k, top_p, max_length, rng)


def _ids(
    model: "Any",
    tokens: "list[int]",
    temperature: float,
    top_k: "int | None",
    top_p: "float | None",
    max_length: "int | None",
    rng: "Any",
) -> "Iterator[int]":
    from random import Random

    random = Random() if rng is None else rng

    def choose(weights: "Sequence[float]") -> int:
        if hasattr(random, "choice_index"):
            return int(random.choice_index(weights))
        return int(random.choices(range(len(weights)), weights=weights)[0])

    length = model.block_size if max_length is None else min(max_length, model.block_size)
    drawn = draw(decoder_of(model), choose, tokens, length, temperature, top_k, top_p)
    for token_id, _, _ in drawn:
        if token_id != tokens[0]:
            yield token_id
