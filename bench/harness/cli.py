"""Common command-line options, and how each script begins."""
import argparse
import os
import sys

from . import machine


def run(main):
    """Run a script's main() on the measured package and exit; Ctrl-C ends it without a traceback."""
    machine.find_package()
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
    p.add_argument("--json", type=output, metavar="FILE", help="write the report to this file")
    p.add_argument("--clock", choices=("wall", "cpu"), default="wall",
                   help="cpu: processor time, for a machine that other work shares (default: wall)")  # fmt: skip
    p.set_defaults(rounds=rounds)
    return p


def parse(p):
    """Return the arguments, with rounds, and least: the seconds to spend on a contender per round at least."""
    args = p.parse_args()
    args.rounds, args.least = args.repeats or (2 if args.quick else args.rounds), 0.05 if args.quick else 0.3
    return args


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


def output(text):
    """Return the path of a file that can be written: known now, rather than after the measurements."""
    from microgpt.files import check_writable

    try:
        check_writable(text)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{error.filename}: {error.strerror}") from None
    return text


def picture(text):
    """Return the path of a picture that can be written."""
    if not text.endswith((".png", ".svg", ".pdf")):
        raise argparse.ArgumentTypeError("pictures are .png, .svg or .pdf")
    return output(text)


positive.__name__, pair.__name__ = "positive whole number", "NAME=VALUE"  # argparse reports "invalid ... value"


def add_torch_option(p):
    """Add --torch-python."""
    p.add_argument("--torch-python", metavar="PYTHON", default=sys.executable, help="the Python that has PyTorch")


def add_field_options(p):
    """Add --torch-python and --other."""
    add_torch_option(p)
    p.add_argument("--other", action="append", default=[], type=pair, metavar="NAME=PATH", help="another version's fused "
                   "engine: a checkout that was built in place, a wheel, or the Python of an environment")  # fmt: skip
