"""What does one `Value` cost? Nanoseconds and bytes a node, by operator, and the script with its class swapped.

    python bench/bench_value.py --script microgpt.py --json bench/results/value.json

Each class runs in a process of its own. --engine module:Class adds any other that behaves like the script's.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

from harness import bits, cli, machine, measure, report, task, value_probe
from harness.contender import Script, Unavailable
from harness.progress import Progress

machine.find_package()

QUICK = {"n": 3000, "repeats": 3, "bytes": 20_000, "graph": 10_000, "graphs": 3, "steps": 3}
FULL = {"n": 50_000, "repeats": 5, "bytes": 200_000, "graph": 60_000, "graphs": 20, "steps": 30}
OFF = ", collector off"
BYTES_QUICK = ("a + b", "a * b")


def main(argv=None):
    args = _arguments(argv)
    size = QUICK if args.quick else FULL
    repeats = args.repeats or size["repeats"]
    core, warnings = cli.choose_core(args)
    classes, absent = _classes(args)
    operators = BYTES_QUICK if args.quick else tuple(value_probe.OPERATORS)
    script_runs = [] if args.script is None else _script_runs(args, classes, core)
    total = len(classes) * (1 + len(operators) + 2 * repeats) + len(script_runs) * repeats
    rows, times, graph_times = {}, {}, {}
    with Progress(total, "value") as progress:
        for name, value in list(classes.items()):
            try:
                rows[name] = _one(name, value, size, repeats, operators, core, progress)
            except Unavailable as why:
                absent[name] = str(why)
                del classes[name]
        graph_times = _graphs(classes, size, repeats, core, progress)
        if script_runs:
            times, results = _script(script_runs, size, repeats, progress, absent)
    for name, row in rows.items():
        row["graph_shipped"] = measure.median(graph_times[name])
        row["graph_collector_off"] = measure.median(graph_times[name + OFF])
    warnings += measure.distrust({f"graphs of {name}": values for name, values in graph_times.items()} | times)
    new = report.build("value", machine.describe(core), warnings, rows=list(rows.values()), absent=absent,
                       nodes=dict(value_probe.OPERATORS))  # fmt: skip
    if script_runs:
        new["script"] = _script_rows(times, results)
        new["script_steps"] = size["steps"]
    if args.whole:
        new["whole"] = _whole(script_runs, absent)
    _finish(new, args)
    return 0


def _arguments(argv):
    p = argparse.ArgumentParser(prog="python bench/bench_value.py", description=__doc__.splitlines()[0])
    p.add_argument("--script", metavar="PATH", help="your copy of the original microgpt.py: its class is measured "
                   "too, and the script is run with each class in the place of its own")  # fmt: skip
    p.add_argument("--engine", action="append", default=[], metavar="MODULE:CLASS", help="another class to measure")
    p.add_argument("--only", metavar="WORD", help="only the classes whose names contain this word")
    p.add_argument("--whole", action="store_true", help="with --script: run it to its end with each class, compare "
                   "what it prints (minutes)")  # fmt: skip
    cli.add_options(p, FULL["repeats"], plot=False)
    args = p.parse_args(argv)
    cli.check_files(p, args.script)
    if args.whole and not args.script:
        p.error("--whole needs --script")
    for engine in args.engine:
        if not all(engine.partition(":")):
            p.error(f"--engine {engine!r} is not of the form MODULE:CLASS")
    return args


def _classes(args):
    """({name: "module:Class" or a script's path}, an empty dict for those that turn out not to run)"""
    classes = {} if args.script is None else {"microgpt.py": os.path.abspath(args.script)}
    classes |= {"reference": "microgpt.reference:Value", "microgpt.Value": "microgpt:Value"}
    classes |= {engine: engine for engine in args.engine}
    return {
        name: value for name, value in classes.items() if not args.only or args.only in name or name == "microgpt.py"
    }, {}


def _probe(value, core, **specification):
    done = subprocess.run(
        [
            sys.executable,
            str(machine.HARNESS / "value_probe.py"),
            json.dumps({"value": value, "core": core, **specification}),
        ],
        env=machine.child_environment(),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Unavailable((done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1])
    return json.loads(done.stdout)


def _one(name, value, size, repeats, operators, core, progress):
    progress.at(f"{name}: operators")
    row = {"name": name, "operators": _probe(value, core, task="operators", n=size["n"], repeats=repeats)}
    progress.advance()
    total = None
    for operator in operators:
        if operator in row["operators"]:
            progress.at(f"{name}: bytes of {operator}")
            if total is None:  # the addition that each of the others is followed by
                total = _probe(value, core, task="bytes", operator="a", n=size["bytes"])
            both = _probe(value, core, task="bytes", operator=operator, n=size["bytes"])
            row["operators"][operator]["bytes"] = both - total
        progress.advance()
    return row


def _graphs(classes, size, repeats, core, progress):
    """{name, or name + OFF: [seconds a node of each round]}, in turns."""

    def runner(value, collector):
        return lambda: measure.median(
            _probe(value, core, task="graph", n=size["graph"], repeats=size["graphs"], collector=collector)
        )

    runners = {}
    for name, value in classes.items():
        runners[name] = runner(value, True)
        runners[name + OFF] = runner(value, False)
    return measure.interleave(runners, repeats, progress)


def _script_runs(args, classes, core):
    folder, path = tempfile.mkdtemp(prefix="microgpt-bench-"), os.path.abspath(args.script)
    from microgpt.data import BUNDLED, load_docs

    task.write(folder, load_docs(BUNDLED), 1)
    runs = []
    for name, value in classes.items():
        swapped = None if value == path else value
        for collector in (True, False):
            label = f"microgpt.py with {name}" if swapped else "microgpt.py"
            runs.append(Script(label + ("" if collector else OFF), path, folder, core, collector, swapped))
    return runs


def _script(runs, size, repeats, progress, absent):
    results = {}

    def runner(script):
        def once():
            try:
                result = script.run(size["steps"])
            except Unavailable as why:
                absent[script.name] = str(why)
                return None
            results[script.name] = result
            return result.seconds / result.steps

        return once

    return measure.interleave({script.name: runner(script) for script in runs}, repeats, progress), results


def _script_rows(times, results):
    original = results["microgpt.py"]
    return [
        {
            "name": name,
            "seconds_per_step": measure.median(values),
            "spread": measure.spread(values),
            "times_original": measure.ratio(times["microgpt.py"], values),
            "times_collector_off": measure.ratio(times["microgpt.py" + OFF], values),
            **bits.verdict(results[name].losses, original.losses, results[name].digest == original.digest),
            "peak_bytes": results[name].peak,
        }
        for name, values in times.items()
    ]


def _whole(runs, absent):
    """The script from start to end, a process each: seconds, peak memory, and whether it printed the same."""
    rows, printed = [], None
    for script in runs:
        if script.name.endswith(OFF):
            continue  # it would take 14 GB
        started = time.perf_counter()
        try:
            answer = script.answer()
        except Unavailable as why:
            absent[f"{script.name}, whole"] = str(why)
            continue
        seconds = time.perf_counter() - started
        printed = printed or answer["stdout"]
        rows.append({
            "name": script.name,
            "seconds": seconds,
            "times_original": rows[0]["seconds"] / seconds if rows else 1.0,
            "same_output": answer["stdout"] == printed,
            "peak_bytes": answer["peak"],
        })  # fmt: skip
    return rows


def _finish(new, args):
    from harness import table
    from tables import value_graph, value_operators, value_script, value_whole

    print()
    table.show(*value_operators(new))
    for key, columns_and_rows in (("script", value_script), ("whole", value_whole)):
        if key in new:
            print()
            table.show(*columns_and_rows(new))
    notes = ["ns a node over build, backward and freeing of graphs like the script's, in turns, medians."]
    notes += [f"not run: {name}: {why}" for name, why in new["absent"].items()]
    cli.finish(new, args, value_graph(new), "\n".join(notes))


if __name__ == "__main__":
    cli.run(main)
