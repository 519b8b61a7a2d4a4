"""What every benchmark's command line has, and what each does at its end."""
import os
import sys

from . import machine, measure, report, table
from .progress import say


def run(main):
    """Carry out a script's main() and exit; Ctrl-C, or a reader of stdout that has gone, end it in one line or none."""
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        say("\ninterrupted")
        status = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)


def add_options(p, repeats, plot=True):
    """--quick, --repeats, --core, --json and --plot."""
    p.add_argument("--quick", action="store_true", help="less of everything: done within half a minute")
    p.add_argument("--repeats", type=positive, metavar="N", help=f"rounds (default {repeats})")
    p.add_argument("--core", type=int, metavar="N", help="the core to run on (default: the last one)")
    p.add_argument("--json", metavar="FILE", help="write everything to this file")
    if plot:
        p.add_argument("--plot", metavar="FILE", help="draw a picture (needs matplotlib)")


def positive(text):
    """An argparse type: a whole number above 0."""
    if int(text) < 1:
        raise ValueError
    return int(text)


positive.__name__ = "positive whole number"  # argparse says "invalid ... value"


def add_clock(p):
    """--clock, for contenders that compute all the time and do not wait for anything."""
    p.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: the processor's time, where other work shares the core (default: wall)",
    )


def check_files(p, *paths):
    """End with a usage error if one of these files does not exist; None is left out."""
    for path in paths:
        if path is not None and not os.path.isfile(path):
            p.error(f"there is no file {path}")


def choose_core(args):
    """(the core for all contenders, sentences of doubt that stand before anything is measured)"""
    core = machine.choose_core(args.core)
    warnings = [machine.load_warning()]
    if core is None:
        warnings.append("this system does not let a program choose its core: contenders were not pinned")
    return core, [w for w in warnings if w]


def finish(new, args, columns_and_rows, notes="", draw=None):
    """Write the JSON file and the picture; print the table, what to know about it and what to doubt."""
    if args.json:
        report.write(args.json, new)
    if draw and args.plot:
        draw(new, args.plot)
    print()
    table.show(*columns_and_rows)
    print()
    if notes:
        print(table.plain(notes))
    print(table.plain(report.caption(new).replace("`", "")))
    for sentence in new["warnings"]:
        print(table.plain(f"WARNING: {sentence}"))


def compared_with_before(path, new, ratios, same):
    """Sentences where the ratios of the report at `path`, which `new` replaces, are not the new ones; [] if none is
    there.

    ratios: report -> {name: number}; same: the keys that must agree for the two to be comparable.
    """
    before = report.read(path) if path else None
    if not before or any(before.get(key) != new.get(key) for key in ("benchmark", *same)):
        return []
    worst, sentences = measure.agreement(ratios(before), ratios(new))
    if not sentences:
        print(f"\nratios agree with those of the run before, of {before['date']}, within {worst:.0%}")
    return sentences
