"""`python -m microgpt.eval MODEL.safetensors --input FILE`: measure how well a saved model predicts a text."""
import sys
import time

from .cli import console as cli
from .cli import parsing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def main(argv: "Sequence[str] | None" = None) -> int:
    """Run the command; return the exit status."""
    return cli.run(_eval, lambda: vars(make_parser().parse_args(argv)), owns_process=argv is None)


def make_parser() -> "Any":
    """Return the argparse.ArgumentParser of the command."""
    from .cli import texts
    from .engines import ENGINES

    p = parsing.parser("eval", "Measure how well a saved model predicts the documents of a text.",
                       ["microgpt eval names.safetensors --input other.txt",
                        "microgpt eval novel.safetensors --input other.csv --csv-column text --json"])  # fmt: skip
    p.add_argument("model", metavar="MODEL.safetensors", help="a file written by microgpt train --save")
    texts.add_flags(p, several=False)
    p.add_argument("--engine", choices=ENGINES, default="fused", help="engine, all with the same bits; default: fused")
    p.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return p


def _eval(given: "dict[str, Any]") -> None:
    from .cli import texts
    from .trainer import Trainer

    trainer = Trainer.load(given["model"], engine=given["engine"])
    saved = {"split": texts.saved_form(given["model"], trainer.extra)["split"]}  # a column has another name elsewhere
    text = texts.Text(given["input"], texts.form_of(given, saved), trainer.config.block_size)
    cli.say(f"{trainer.engine} engine, step {trainer.step_index} of {given['model']}, {text.source}")
    text.check_characters(trainer, f"the vocabulary of {given['model']}")
    cli.say_beyond_block(text.docs, trainer.config.block_size, "not measured")
    started = time.perf_counter()
    found = trainer.evaluate(text.docs)
    rate = found.documents / (time.perf_counter() - started)
    if given["json"]:
        import json
        import math

        numbers = {name: value if math.isfinite(value) else None for name, value in vars(found).items()}
        cli.write(json.dumps({**numbers, "loss_hex": found.loss.hex(), "documents_per_second": rate}) + "\n")
        return
    left_out = f"; {found.left_out} characters beyond the block of {trainer.config.block_size} are left out"
    for name, shown in (
        ("documents", f"{found.documents}"),
        ("tokens", f"{found.tokens} (characters and ends of documents{left_out if found.left_out else ''})"),
        ("loss", f"{found.loss:.4f} (mean of the documents' losses, as in training)"),
        ("nats per token", f"{found.token_loss:.4f}"),
        ("perplexity", f"{found.perplexity:.4f} (exp of the nats per token)"),
        ("bits per character", f"{found.bits_per_character:.4f}"),
        ("documents per second", f"{rate:.0f}"),
    ):
        cli.write(f"{name + ':':22}{shown}\n")


if __name__ == "__main__":
    sys.exit(main())
