"""`python -m microgpt.report RUN.jsonl [OTHER.jsonl ...] -o PAGE.html`: show a run, or several, as one page.

The page holds everything it shows: no network, no other file. For several logs the command also says on stdout whether the
first and each other are the same to the last bit, and else at which step, and in which tensor, they first differ.
"""
import os
import sys

from .cli import console as cli
from .cli import parsing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main(argv: "list[str] | None" = None) -> int:
    """Run the command; return the exit status."""
    return cli.run(_report, lambda: vars(make_parser().parse_args(argv)), owns_process=argv is None)


def make_parser() -> "Any":
    """Return the argparse.ArgumentParser of the command."""
    p = parsing.parser("report", "Show a run, or several side by side, as one page that needs nothing else; "
                       "the first is compared with the others bit by bit as well.",
                       ["microgpt report run.jsonl", "microgpt report run.jsonl other.jsonl -o both.html"])  # fmt: skip
    p.add_argument("logs", metavar="RUN.jsonl", nargs="+", help="files written by microgpt train --log")
    p.add_argument("-o", "--output", metavar="PAGE.html", help="the page; default: the first log's name with .html, "
                   "which replaces no file but an earlier report")  # fmt: skip
    return p


def _report(given: "dict[str, Any]") -> None:
    from .cli.outputs import check_outputs
    from .files import write_atomically
    from .storage.runlog import compare, read_log
    from .web.report_page import page

    logs = given["logs"]
    output = os.path.splitext(logs[0])[0] + ".html" if given["output"] is None else given["output"]
    check_outputs([("--output", output)], [("the log", path) for path in logs])
    if not given["output"] and os.path.exists(output) and not _is_report(output):
        raise cli.UsageError(f"{output} exists and is no report; give -o {output} to replace it, or another name")
    runs = [read_log(path) for path in logs]
    comparisons = [compare(runs[0], other) for other in runs[1:]]
    html = page([os.path.basename(path) for path in logs], runs, comparisons)
    write_atomically(output, html.encode("utf-8", "backslashreplace"))
    for path, comparison in zip(logs[1:], comparisons):
        which = f"{logs[0]} and {path}: " if len(logs) > 2 else ""
        cli.write(f"{cli.printable(which + str(comparison))}\n")
    cli.say(f"wrote {output}")


def _is_report(path: str) -> bool:
    """Return whether a file begins as the pages of this command do."""
    from .errors import NamingFile
    from .web.report_page import GENERATOR

    with open(path, "rb") as file, NamingFile(path):
        return GENERATOR.encode() in file.read(500)


if __name__ == "__main__":
    sys.exit(main())
