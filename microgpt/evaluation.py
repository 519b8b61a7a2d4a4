"""How well a model predicts a text: the loss on documents, perplexity, bits per character.

Only probabilities are computed: no gradient, and no number of the random stream.
"""
import math

from .data import check_docs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .trainer import Trainer

__all__ = ["Evaluation", "evaluate"]


class Evaluation:
    """What `evaluate` found.

    Attributes
    ----------
    documents : int
        Number of documents.
    tokens : int
        Predictions made: one for each character within the block, and one for the end of each document that ends there.
    characters : int
        Those predictions that were of a character.
    left_out : int
        Characters beyond the block.
    loss : float
        Mean of the documents' losses, in nats: what training prints and minimises.
    token_loss : float
        Mean over all tokens, in nats.
    perplexity : float
        exp(token_loss).
    bits_per_character : float
        Bits spent on all tokens, the ends of documents included, per character.
    """

    def __init__(self, losses: "Sequence[Sequence[float]]", lengths: "Sequence[int]") -> None:
        # fsum rounds once, so the order of the documents does not matter. A document's own loss is summed as the script
        # sums it, position by position and then times 1 / n, so that it has the bits that training prints.
        self.documents = len(losses)
        self.tokens = sum(map(len, losses))
        self.characters = sum(min(len(found), length) for found, length in zip(losses, lengths))
        self.left_out = sum(lengths) - self.characters
        nats = math.fsum(loss for found in losses for loss in found)
        self.loss = math.fsum(map(_document_loss, losses)) / self.documents
        self.token_loss = nats / self.tokens
        self.perplexity = math.inf if self.token_loss >= 709 else math.exp(self.token_loss)  # nan stays nan
        self.bits_per_character = nats / math.log(2) / self.characters if self.characters else math.inf

    def __repr__(self) -> str:
        return (
            f"<Evaluation: {self.documents} documents, loss {self.loss:.4f}, perplexity {self.perplexity:.4f}, "
            f"{self.bits_per_character:.4f} bits per character>"
        )


def evaluate(trainer: "Trainer", docs: "Iterable[str]") -> Evaluation:
    """Measure how well trainer.model predicts documents, by the trainer's engine.

    The trainer's state does not change, random stream and gradients included.

    Parameters
    ----------
    trainer : Trainer
        The model and its vocabulary.
    docs : iterable of str
        The documents.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        For a character that is not in the vocabulary, or if there are no documents.
    TypeError
        If docs are not str.
    RuntimeError
        If the trainer is at work in another thread: all documents are measured by one and the same model.
    """
    docs = check_docs(docs, "evaluate")
    tokens = [trainer.tokenizer.encode(doc) for doc in docs]
    return Evaluation(trainer.position_losses(tokens), [len(doc) for doc in docs])


def _document_loss(losses: "Sequence[float]") -> float:
    """Return the script's mean of a document's losses, [n] -> float. Not sum(), which compensates from Python 3.12 on."""
    total = 0.0
    for loss in losses:
        total += loss
    return 1 / len(losses) * total
