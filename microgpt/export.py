"""`python -m microgpt.export MODEL.safetensors --c model.c`: a saved model for other programs."""
import sys

from .cli import console as cli
from .cli import parsing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def main(argv: "Sequence[str] | None" = None) -> int:
    """Run the command; return the exit status."""
    return cli.run(_export, lambda: vars(make_parser().parse_args(argv)), owns_process=argv is None)


def make_parser() -> "Any":
    """Return the argparse.ArgumentParser of the command."""
    p = parsing.parser("export", "Write a saved model for other programs.",
                       ["microgpt export names.safetensors --c names.c", "microgpt export names.safetensors --json names.json"])
    p.add_argument("model", metavar="MODEL.safetensors", help="a file written by microgpt train --save")
    p.add_argument("--c", metavar="FILE.c", help="one C file that samples with the bits of microgpt sample")
    p.add_argument("--json", metavar="FILE.json", help="sizes, characters and weights, for a web page for example")
    return p


def _export(given: "dict[str, Any]") -> None:
    from .cli.outputs import check_outputs
    from .files import write_atomically
    from .storage import checkpoint
    from .storage.export import as_c, as_json

    outputs = [(f"--{kind}", given[kind]) for kind in ("c", "json") if given[kind] is not None]
    if not outputs:
        raise cli.UsageError("export needs --c FILE.c or --json FILE.json")
    check_outputs(outputs, [("the model", given["model"])])
    state = checkpoint.load(given["model"])
    made = {"--c": lambda: as_c(state, cli.printable if cli.needs_escapes(state.uchars) else str), "--json": lambda: as_json(state)}
    for kind, path in outputs:
        write_atomically(path, made[kind]().encode("utf-8", "surrogatepass"))
        cli.say(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
