"""Common code of the benchmarks that pyperf runs: its options, on our core and with our environment."""
import os
import sys

import pyperf

from . import cli, machine, measure


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
    made.argparser.add_argument("--quick", action="store_true", help="one short process for each measurement")
    if "--quick" in sys.argv:
        defaults |= {"processes": 1, "values": 1, "warmups": 0, "loops": 1}
    core = machine.choose_core()
    made.argparser.set_defaults(affinity=None if core is None else str(core), copy_env=True, quiet=True, **defaults)
    return made


def rows(benches, base):
    """Return a dict for each pyperf.Benchmark of {name: Benchmark}; times: its seconds over those of base."""
    values = {name: bench.get_values() for name, bench in benches.items()}
    medians = {name: measure.median(seconds) for name, seconds in values.items()}
    return [{"name": name, "seconds": seconds, "spread": measure.spread(values[name]), "times": seconds / medians[base]}
            for name, seconds in medians.items()]  # fmt: skip


def finish(name, args, layouts, notes, load, rows, spreads=None, **content):
    """Write the report and print it. spreads: {name: spread} (default: the rows')."""
    spreads = spreads or {row["name"]: row["spread"] for row in rows}
    warnings = [w for w in (load,) if w] + measure.distrust(spreads)
    described = machine.describe(int(args.affinity) if (args.affinity or "").isdigit() else args.affinity)
    described["pyperf"] = pyperf.__version__
    cli.finish(name, args, described, warnings, layouts, notes, absent={}, rows=rows, **content)
