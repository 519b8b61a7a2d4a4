"""Common command-line options, progress on stderr, and the end of each script."""
import argparse
import os
import sys
from collections import namedtuple
from datetime import date

from tqdm import tqdm

from . import report, table

#: How a contest runs: its rounds, the seconds to spend on a contender per round at least, and "wall" or "cpu".
Pace = namedtuple("Pace", "rounds least clock")


def run(main):
    """Run a script's main() and exit; Ctrl-C ends it without a traceback."""
    sys.stdout.reconfigure(errors="replace")  # a terminal without µ and × still gets the table
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)


def parser(doc, rounds):
    """Return a parser with --quick, --repeats, --json and --clock; doc: the script's docstring, whose first line it shows."""
    p = argparse.ArgumentParser(prog=f"python bench/{os.path.basename(sys.argv[0])}", description=doc.splitlines()[0])
    p.add_argument("--quick", action="store_true", help="less of everything: about half a minute")
    p.add_argument("--repeats", type=positive, metavar="N", help=f"rounds (default {rounds}; quick: 2)")
    p.add_argument("--json", metavar="FILE", help="write the report to this file")
    p.add_argument("--clock", choices=("wall", "cpu"), default="wall",
                   help="cpu: processor time, for a machine that other work shares (default: wall)")  # fmt: skip
    p.set_defaults(rounds=rounds)
    return p


def pace(args):
    """Return the Pace that the common options ask for."""
    return Pace(args.repeats or (2 if args.quick else args.rounds), 0.05 if args.quick else 0.3, args.clock)


def positive(text):
    """Convert an argument to an int greater than 0."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def pair(text):
    """Return an argument of the form NAME=VALUE as (name, value)."""
    name, equals, value = text.partition("=")
    if not name or not value:
        raise ValueError
    return name, value


def file(text):
    """Return the path of a file that exists."""
    if not os.path.isfile(text):
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return text


positive.__name__, pair.__name__ = "positive whole number", "NAME=VALUE"  # argparse reports "invalid ... value"


def progress(label, total):
    """Return a function(what) that reports one more piece of work on stderr, and closes with what=None."""
    bar = tqdm(total=total, desc=label, leave=False, disable=None)  # only on a terminal
    return lambda what: bar.close() if what is None else (bar.set_postfix_str(what, refresh=False), bar.update())


def finish(name, args, described, warnings, layouts, notes, absent=None, **content):
    """Build the report and write it to the JSON file; print its tables, the notes, what did not run, and the warnings.

    layouts: functions of the report, of tables.py; absent: {contender: why it did not run}.
    """
    new = {"benchmark": name, "command": report.command_line(), "date": date.today().isoformat(), "machine": described,
           **content, "absent": absent or {}, "warnings": warnings}  # fmt: skip
    if args.json:
        report.write(args.json, new)
    for layout in layouts:
        print(f"\n{table.text(*layout(new))}")
    print("", *notes, *(f"not run: {name}: {why}" for name, why in new["absent"].items()), report.caption(new).replace("`", ""),
          *(f"WARNING: {sentence}" for sentence in warnings), sep="\n")  # fmt: skip
