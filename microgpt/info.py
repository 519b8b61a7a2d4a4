"""`python -m microgpt.info`: say what was built and what runs here."""
import sys

from .cli import console as cli
from .cli import parsing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["main", "show_versions"]


def main(argv: "list[str] | None" = None) -> int:
    """Run the command; return the exit status."""
    return cli.run(lambda _: show_versions(), lambda: vars(make_parser().parse_args(argv)), owns_process=argv is None)


def make_parser() -> "Any":
    """Return the argparse.ArgumentParser of the command."""
    return parsing.parser("info", "Say what was built and what runs here: worth adding to a report.",
                          ["microgpt info", "MICROGPT_SIMD=scalar microgpt info"])  # fmt: skip


def show_versions() -> None:
    """Print what was built and what runs here: versions, platform, compiler, instruction sets. Worth adding to a report."""
    from .storage.runlog import machine

    for name, value in machine().items():
        cli.write(f"{name + ':':18}{cli.printable(value)}\n")


if __name__ == "__main__":
    sys.exit(main())
