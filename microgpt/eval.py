"""`python -m microgpt.eval MODEL.safetensors --input FILE`: how well a saved model predicts a text.

`evaluate` is the same from Python. Only probabilities are computed: no gradient, and no number of the random stream.
"""
import math
import sys
import time

from .cli import console as cli

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .generation import Decoder
    from .trainer import Trainer

__all__ = ["Evaluation", "evaluate", "position_losses"]


class Evaluation:
    """What `evaluate` found.

    documents: how many.  tokens: the predictions made, one for each character within the block and one for the end of
    each document that ends there.  characters: those predictions that were of a character.  left_out: the characters
    beyond the block.  loss: the mean of the documents' losses, which is what training prints and minimises; in nats.
    token_loss: the mean over all tokens, in nats.  perplexity: exp(token_loss).  bits_per_character: all that was
    spent, on the ends of documents too, in bits, for each character.
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
            f"{self.bits_per_character:.4f} bits a character>"
        )


def evaluate(trainer: "Trainer", docs: "Iterable[str]") -> Evaluation:
    """How well trainer.model predicts docs, by the trainer's engine: see `Evaluation`.

    The trainer stands afterwards where it stood before, its random stream and gradients included.
    Raises ValueError for a character that is not in the vocabulary or for no documents, TypeError for docs of no str,
    RuntimeError if the trainer is at work in another thread: all documents are measured by one and the same model.
    """
    if isinstance(docs, str):
        raise TypeError("docs must be a sequence of str, not one str")
    docs = list(docs)
    if not docs:
        raise ValueError("there are no documents to evaluate")
    for doc in docs:
        if not isinstance(doc, str):
            raise TypeError(f"docs must hold str, not {type(doc).__name__}")
    tokens = [trainer.tokenizer.encode(doc) for doc in docs]
    losses = trainer._exclusively(lambda: [trainer._engine.position_losses(ids) for ids in tokens])
    return Evaluation(losses, [len(doc) for doc in docs])


def _document_loss(losses):
    """The script's mean of a document's losses, [n] -> float. Not sum(), which compensates from Python 3.12 on."""
    total = 0.0
    for loss in losses:
        total += loss
    return 1 / len(losses) * total


def position_losses(tokens: "Sequence[int]", decoder: "Decoder", block_size: int) -> "list[float]":
    """-log of the probability of each next token within the block, in nats, [n]; 0 costs infinity."""
    losses = []
    for pos_id in range(min(block_size, len(tokens) - 1)):
        decoder.feed(tokens[pos_id])
        p = decoder.probabilities()[tokens[pos_id + 1]]
        losses.append(math.inf if p == 0 else -math.log(p))
    return losses


def main(argv: "Sequence[str] | None" = None) -> int:
    """Run the command; returns the exit status."""
    return cli.run(_eval, lambda: _arguments(argv))


def _arguments(argv: "Sequence[str] | None") -> "dict[str, str]":
    from .trainer import ENGINES

    p = cli.parser("eval", "Measure how well a saved model predicts the documents of a text.")
    p.add_argument("model", metavar="MODEL.safetensors", help="a file written by microgpt.train --save")
    p.add_argument("--input", metavar="FILE", help="UTF-8 text, one document a line "
                   "(default: ./input.txt if it exists, else the names bundled in the package)")  # fmt: skip
    p.add_argument("--engine", choices=ENGINES, default="fused", help="default: fused")
    p.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return vars(p.parse_args(argv))


def _eval(given: "dict[str, str]") -> None:
    from .trainer import Trainer

    cli.import_arrays()
    trainer = Trainer.load(given["model"], engine=given["engine"])
    docs, source = cli.read_docs(given["input"])
    cli.say(f"{trainer.engine} engine, step {trainer.step_index} of {given['model']}, {source}")
    cli.check_characters(docs, trainer.tokenizer, given["input"], f"the vocabulary of {given['model']}")
    cli.say_beyond_block(docs, trainer.settings["block_size"], "not measured")
    started = time.perf_counter()
    found = evaluate(trainer, docs)
    rate = found.documents / (time.perf_counter() - started)
    if given["json"]:
        import json

        numbers = {name: value if math.isfinite(value) else None for name, value in vars(found).items()}
        cli.write(json.dumps({**numbers, "loss_hex": found.loss.hex(), "documents_per_second": rate}) + "\n")
        return
    left_out = f"; {found.left_out} characters beyond the block of {trainer.settings['block_size']} are left out"
    for name, shown in (
        ("documents", f"{found.documents}"),
        ("tokens", f"{found.tokens} (characters and ends of documents{left_out if found.left_out else ''})"),
        ("loss", f"{found.loss:.4f} (mean of the documents' losses, as in training)"),
        ("nats a token", f"{found.token_loss:.4f}"),
        ("perplexity", f"{found.perplexity:.4f} (exp of the nats a token)"),
        ("bits a character", f"{found.bits_per_character:.4f}"),
        ("documents a second", f"{rate:.0f}"),
    ):
        cli.write(f"{name + ':':20}{shown}\n")


if __name__ == "__main__":
    sys.exit(main())
