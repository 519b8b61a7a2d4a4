"""Common command-line options, progress on stderr, and the end of each script."""
import os
import sys
from collections import namedtuple

from . import machine, report, table

#: How a contest runs: its rounds, the seconds to spend on a contender per round at least, and "wall" or "cpu".
Pace = namedtuple("Pace", "rounds least clock")


def run(main):
    """Run a script's main() and exit; Ctrl-C ends it without a traceback."""
    sys.stdout.reconfigure(errors="replace")  # a terminal without µ and × still gets the table
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)


def add_options(p, rounds):
    """Add --quick, --repeats, --json and --clock."""
    p.add_argument("--quick", action="store_true", help="less of everything: about half a minute")
    p.add_argument("--repeats", type=positive, metavar="N", help=f"rounds (default {rounds}; quick: 2)")
    p.add_argument("--json", metavar="FILE", help="write the report to this file")
    p.add_argument("--clock", choices=("wall", "cpu"), default="wall",
                   help="cpu: processor time, for a machine that other work shares (default: wall)")  # fmt: skip


def pace(args, rounds):
    """Return the Pace of a contest that takes `rounds` rounds by default."""
    return Pace(args.repeats or (2 if args.quick else rounds), 0.05 if args.quick else 0.3, args.clock)


def positive(text):
    """Convert an argument to an int greater than 0."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def check_files(p, *paths):
    """End with a usage error if a file does not exist; None is skipped."""
    for path in paths:
        if path is not None and not os.path.isfile(path):
            p.error(f"there is no file {path}")


def pair(text):
    """Return an argument of the form NAME=VALUE as (name, value)."""
    name, equals, value = text.partition("=")
    if not name or not value:
        raise ValueError
    return name, value


positive.__name__, pair.__name__ = "positive whole number", "NAME=VALUE"  # argparse reports "invalid ... value"


def choose_core():
    """Return the core for all contenders, and warnings that are known before anything is measured."""
    core = machine.choose_core()
    warnings = [machine.load_warning()]
    if core is None:
        warnings.append("this system does not let a process choose its core: contenders were not pinned")
    return core, [w for w in warnings if w]


def progress(label, total):
    """Return a function(what) that reports one more piece of work on stderr, and closes with what=None."""
    from tqdm import tqdm

    bar = tqdm(total=total, desc=label, leave=False, disable=None)  # only on a terminal

    def at(what):
        if what is None:
            return bar.close()
        bar.set_postfix_str(what, refresh=False)
        bar.update()

    return at


def finish(name, args, described, warnings, layouts, notes, absent, **content):
    """Build the report and write it to the JSON file; print its tables, the notes, what did not run, and the warnings.

    layouts: functions of the report, of tables.py.
    """
    new = report.build(name, described, warnings, absent=absent, **content)
    if args.json:
        report.write(args.json, new)
    for layout in layouts:
        print(f"\n{table.text(*layout(new))}")
    print()
    for line in (*notes, *(f"not run: {name}: {why}" for name, why in absent.items())):
        print(line)
    print(report.caption(new).replace("`", ""))
    for sentence in warnings:
        print(f"WARNING: {sentence}")
