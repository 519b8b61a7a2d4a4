"""Common code of the benchmarks that pyperf runs: its options, on our core and with our environment."""
import os
import sys

import pyperf

from . import cli, machine, measure, report


def runner(passed_on=(), **defaults):
    """Return a pyperf.Runner with --json; workers also get the options that `passed_on` names."""

    def add_arguments(command, args):
        for option in passed_on:
            found = getattr(args, option)
            for value in found if isinstance(found, list) else [found] if found else []:
                command.append(f"--{option}={value}")

    os.environ.update(machine.child_environment())
    made = pyperf.Runner(program_args=(os.path.abspath(sys.argv[0]),), add_cmdline_args=add_arguments)
    made.argparser.add_argument("--json", metavar="FILE", help="write the report to this file")
    core = machine.choose_core()
    made.argparser.set_defaults(affinity=None if core is None else str(core), copy_env=True, quiet=True, **defaults)
    return made


def finish(name, args, tables, notes, load, rows, spreads=None, **content):
    """Write the report and print it. tables: functions of the report; spreads: {name: spread} (default: the rows')."""
    spreads = spreads or {row["name"]: row["spread"] for row in rows}
    warnings = [w for w in (load,) if w] + measure.distrust(spreads)
    described = machine.describe(int(args.affinity) if (args.affinity or "").isdigit() else args.affinity)
    described["pyperf"] = pyperf.__version__
    new = report.build(name, described, warnings, absent={}, rows=rows, **content)
    cli.finish(new, args, [layout(new) for layout in tables], notes)
