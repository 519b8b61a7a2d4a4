"""Common command-line options, progress on stderr, and the end of each script."""
import os
import sys

from . import machine, report, table


def run(main):
    """Run a script's main() and exit. Ctrl-C and a closed stdout end it without a traceback."""
    sys.stdout.reconfigure(errors="replace")  # a terminal without µ and × still gets the table
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)


def add_options(p, rounds, clock=True):
    """Add --quick, --repeats, --core, --json and, if wanted, --clock."""
    p.add_argument("--quick", action="store_true", help="less of everything: about half a minute")
    p.add_argument("--repeats", type=positive, metavar="N", help=f"rounds (default {rounds}; quick: 2)")
    p.add_argument("--core", type=int, metavar="N", help="the core to run on (default: the last one)")
    p.add_argument("--json", metavar="FILE", help="write the report to this file")
    if clock:
        p.add_argument("--clock", choices=("wall", "cpu"), default="wall",
                       help="cpu: processor time, for a machine that other work shares (default: wall)")  # fmt: skip


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


def choose_core(args):
    """Return the core for all contenders, and warnings that are known before anything is measured."""
    core = machine.choose_core(args.core)
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


def finish(new, args, tables, notes=()):
    """Write the JSON file; print the tables, the notes, what did not run, and the warnings."""
    if args.json:
        report.write(args.json, new)
    for columns_and_rows in tables:
        print(f"\n{table.text(*columns_and_rows)}")
    print()
    for line in (*notes, *(f"not run: {name}: {why}" for name, why in new["absent"].items())):
        print(line)
    print(report.caption(new).replace("`", ""))
    for sentence in new["warnings"]:
        print(f"WARNING: {sentence}")
