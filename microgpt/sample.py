"""`python -m microgpt.sample MODEL.safetensors`: let a saved model write."""
import sys

from .cli import console as cli
from .cli import parsing
from .engines import ENGINES
from .trainer import Trainer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULTS = {"temperature": 0.5, "samples": 20, "engine": "fused", "prompt": ""}
CUTS = ("top_k", "top_p", "max_length")


def main(argv: "list[str] | None" = None) -> int:
    """Run the command; return the exit status."""
    return cli.run(_sample, lambda: vars(make_parser().parse_args(argv)), owns_process=argv is None)


def make_parser() -> "Any":
    """Return the argparse.ArgumentParser of the command."""
    p = parsing.parser("sample", "Let a saved model write new documents, drawn as the script draws them.",
                       ["microgpt sample names.safetensors --samples 5 --prompt em",
                        "microgpt sample names.safetensors --temperature 0.8 --top-k 5 --seed 1 --logprobs"], sparse=True)  # fmt: skip
    p.add_argument("model", metavar="MODEL.safetensors", help="a file written by microgpt train --save")
    parsing.add_sampling(p, DEFAULTS)
    p.add_argument("--seed", type=int, metavar="N", help="of the draws (default: continue the saved run's stream, "
                   "which gives the samples that the training command printed)")  # fmt: skip
    p.add_argument("--prompt", metavar="TEXT", help="how each document begins (default: nothing)")
    p.add_argument("--top-k", type=int, metavar="K", help="draw from the K most probable tokens only")
    p.add_argument("--top-p", type=float, metavar="P", help="draw from the fewest most probable tokens "
                   "that together have the probability P")  # fmt: skip
    p.add_argument("--max-length", type=int, metavar="N", help="end after N characters, those of the prompt included "
                   "(default: the model's block_size)")  # fmt: skip
    p.add_argument("--logprobs", action="store_true", help="below each sample: the natural logarithm of the "
                   "probability that the model gives each token (at temperature 1, with nothing cut), and the "
                   "perplexity of the sample")  # fmt: skip
    p.add_argument("--engine", choices=ENGINES, help=f"engine, all with the same bits; default: {DEFAULTS['engine']}")
    return p


def _sample(given: "dict[str, Any]") -> None:
    options = {**DEFAULTS, **given}
    cli.check_sampling(options)
    trainer = Trainer.load(options["model"], engine=options["engine"])
    try:
        trainer.tokenizer.encode(options["prompt"])
    except ValueError as error:
        raise cli.UsageError(f"--prompt: {error} of {options['model']}") from None
    if "seed" in given:
        trainer.rng = trainer.stream(given["seed"])
    if "logprobs" in given:
        _write_logprobs(trainer, options)
    else:
        cli.write_samples(trainer, options)


def _write_logprobs(trainer: Trainer, options: "dict[str, Any]") -> None:
    """Write each sample's line, and below it a table of its tokens."""
    from math import log

    from .generation import perplexity

    cuts, out = {name: options.get(name) for name in CUTS}, cli.Output()
    for i in range(options["samples"]):
        tokens = list(trainer.generate(options["prompt"], options["temperature"], **cuts))
        out.write(f"sample {i + 1:2d}: {cli.printable(options['prompt'] + ''.join(tokens))}\n")
        for token in tokens:
            p = token.model_probability
            out.write(f"    {cli.printable(token) or '(end)':5} logprob {log(p) if p > 0 else -float('inf'):8.4f}  probability {p:.4f}  "
                      f"drawn with {token.probability:.4f}\n")  # fmt: skip
        out.write(f"    perplexity {perplexity([token.model_probability for token in tokens]):.4f}\n")


if __name__ == "__main__":
    sys.exit(main())
