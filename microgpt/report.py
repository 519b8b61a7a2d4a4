"""`python -m microgpt.report RUN.jsonl [OTHER.jsonl] -o PAGE.html`: a run, or two side by side, as one page.

The page holds everything it shows: no network, no other file. For two logs the command also says on stdout whether the
runs are the same to the last bit, and else at which step, and in which tensor, they first differ.
"""
import os
import sys

from .cli import console as cli
from .files import check_writable, find_overlap, write_atomically
from .runlog import read_log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Comparison", "compare"]


class Comparison:
    """Where two runs first differ.

    common: the number of steps that both logs have.  first_loss: the first of them whose losses differ in any bit, or
    None.  first_digest: the first, of those for which both logs have digests, after which a tensor differs, or None.
    tensors: the names of those tensors, in the script's order.  digests: how many steps have digests in both.
    settings: name -> (one, other) where they differ.
    """

    def __init__(self) -> None:
        self.common = self.digests = 0
        self.first_loss: int | None = None
        self.first_digest: int | None = None
        self.tensors: list[str] = []
        self.settings: dict[str, tuple[str, str]] = {}

    @property
    def same(self) -> bool:
        """Whether nothing that both logs have differs; false if they have no step in common."""
        return self.common > 0 and self.first_loss is None and self.first_digest is None

    def __str__(self) -> str:
        if not self.common:
            return "the two logs have no step in common"
        if self.same:
            what = "losses and tensors" if self.digests == self.common else "losses"
            if 0 < self.digests < self.common:
                what = f"losses and, after {self.digests} of them, tensors"
            return f"the same run: all {self.common} common steps have the same {what}, bit for bit"
        parts = []
        if self.first_digest is not None:
            more = f" and {len(self.tensors) - 1} more" if len(self.tensors) > 1 else ""
            parts.append(f"after step {self.first_digest} in the tensor {self.tensors[0]}{more}")
        if self.first_loss is not None:
            parts.append(f"at step {self.first_loss} in the loss")
        if self.first_loss is not None and (self.first_digest is None or self.first_loss <= self.first_digest):
            parts.reverse()
        return f"the runs differ first {parts[0]}" + (f"; then {parts[1]}" if parts[1:] else "")


def compare(one: "list[dict[str, Any]]", other: "list[dict[str, Any]]") -> Comparison:
    """Compare two logs, each as `microgpt.runlog.read_log` gives it."""
    found, others = Comparison(), {record["step"]: record for record in other}
    for record in one:
        twin = others.get(record["step"])
        if twin is None:
            continue
        found.common += 1
        if found.first_loss is None and record["loss_hex"] != twin["loss_hex"]:
            found.first_loss = record["step"]
        a, b = record.get("digests"), twin.get("digests")
        if isinstance(a, dict) and isinstance(b, dict):
            found.digests += 1
            names = [name for name in {**a, **b} if a.get(name) != b.get(name)]
            if names and found.first_digest is None:
                found.first_digest, found.tensors = record["step"], names
    a, b = facts(one), facts(other)
    found.settings = {name: (a.get(name, ""), b.get(name, "")) for name in {**a, **b} if a.get(name) != b.get(name)}
    return found


def facts(records: "list[dict[str, Any]]") -> "dict[str, str]":
    """The settings and the machine of a log, as name -> text; of a resumed run, those it was begun with."""
    run = records[0]["run"]
    settings, machine = run.get("settings"), run.get("machine")
    names = ("engine", "num_steps", "seed", "text", "docs", "docs_sha256", "vocab_size", "num_params", "began")
    return {
        **{name: str(run[name]) for name in names if name in run},
        **{name: str(value) for name, value in (settings.items() if isinstance(settings, dict) else ())},
        **{f"machine: {name}": str(value) for name, value in (machine.items() if isinstance(machine, dict) else ())},
    }


def main(argv: "list[str] | None" = None) -> int:
    """Run the command; returns the exit status."""
    p = cli.parser("report", "Show a run, or two side by side, as one page that needs nothing else; "
                   "two runs are compared bit by bit as well.")  # fmt: skip
    p.add_argument("logs", metavar="RUN.jsonl", nargs="+", help="one or two files written by microgpt.train --log")
    p.add_argument("-o", "--output", metavar="PAGE.html", help="default: the first log's name with .html, "
                   "which is written over no file but an earlier report")  # fmt: skip
    return cli.run(_report, lambda: vars(p.parse_args(argv)))


def _report(given: "dict[str, Any]") -> None:
    from .web.report_page import page

    logs = given["logs"]
    if len(logs) > 2:
        raise cli.UsageError(f"a report shows one log or compares two, not {len(logs)}")
    output = given["output"] or os.path.splitext(logs[0])[0] + ".html"
    if given["output"] == "":
        raise cli.UsageError("--output needs the name of a file, not ''")
    if find_overlap([("", output)], [("", path) for path in logs]):
        raise cli.UsageError(f"{output} is the log itself; give another --output")
    check_writable(output)
    if not given["output"] and os.path.exists(output) and not _is_report(output):
        raise cli.UsageError(f"{output} exists and is no report; give -o {output} to replace it, or another name")
    runs = [read_log(path) for path in logs]
    comparison = compare(*runs) if len(runs) == 2 else None
    html = page([os.path.basename(path) for path in logs], runs, comparison)
    write_atomically(output, html.encode("utf-8", "backslashreplace"))
    if comparison:
        cli.write(f"{cli.printable(str(comparison))}\n")
    cli.say(f"wrote {output}")


def _is_report(path):
    """Whether a file begins as the pages of this command do."""
    from .web.report_page import GENERATOR

    with open(path, "rb") as file:
        return GENERATOR.encode() in file.read(500)


if __name__ == "__main__":
    sys.exit(main())
