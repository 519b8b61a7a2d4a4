"""Common code of the benchmarks that pyperf runs: its options, on our core and with our environment."""
import os
import sys

import pyperf

from . import machine, measure, report


def runner(passed_on=(), **defaults):
    """Return a pyperf.Runner with --json and --quick; workers also get the options that `passed_on` names."""

    def add_arguments(command, args):
        for option in passed_on:
            found = getattr(args, option)
            for value in found if isinstance(found, list) else [found] if found else []:
                command.append(f"--{option}={value}")

    os.environ.update(machine.child_environment())
    made = pyperf.Runner(program_args=(os.path.abspath(sys.argv[0]),), add_cmdline_args=add_arguments)
    made.argparser.add_argument("--json", metavar="FILE", type=os.path.abspath, help="write the report to this file")
    made.argparser.add_argument("--quick", action="store_true", help="one short process for each measurement")
    if "--quick" in sys.argv:
        defaults |= {"processes": 1, "values": 1, "warmups": 0, "loops": 1}
    core = machine.choose_core()
    made.argparser.set_defaults(affinity=None if core is None else str(core), copy_env=True, quiet=True, **defaults)
    return made


def rows(benches, base):
    """Return a dict for each pyperf.Benchmark of {name: Benchmark}; times: its seconds over those of base."""
    return [{"name": name, "seconds": bench.median(), "spread": measure.spread(bench.get_values()),
             "times": bench.median() / benches[base].median()} for name, bench in benches.items()]  # fmt: skip


def finish(name, args, layouts, notes, before, rows, spreads=None, **content):
    """Write and print the report. before: warnings from before the first measurement; spreads: {name: spread} (default: the rows')."""
    warnings = before + measure.distrust(spreads or {row["name"]: row["spread"] for row in rows})
    described = machine.describe(int(args.affinity) if (args.affinity or "").isdigit() else args.affinity)
    report.finish(name, args, {**described, "pyperf": pyperf.__version__}, warnings, layouts, notes, rows=rows, **content)
