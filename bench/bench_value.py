"""What does one `Value` cost? Nanoseconds per node, by operator and in graphs like the script's.

    python bench/bench_value.py --script microgpt.py --json bench/results/value.json

pyperf runs each measurement in processes of its own; all its options work, --fast and --rigorous among them. The script
with its class swapped is a contender of compare.py.
"""
import ast
import gc
import os
import pkgutil
from pathlib import Path
from time import perf_counter

import tables
from harness import cli, machine, measure, micro

#: Operator -> the nodes that the script's class creates: a constant is a node, a difference is a + (b * -1).
OPERATORS = {
    "Value(1.5)": 1, "a + b": 1, "a + 1.5": 2, "a * b": 1, "a * 1.5": 2, "-a": 2, "a - b": 3, "a / b": 2, "a ** 2": 1,
    "a ** -0.5": 1, "a.exp()": 1, "a.log()": 1, "a.relu()": 1,
}  # fmt: skip
PHASES = ("forward", "backward", "free")
GRAPHS = {"graph_shipped": True, "graph_collector_off": False}
WIDTH, LAYERS = 16, 120
NODES = LAYERS * WIDTH * (2 * WIDTH - 1)


def main():
    runner = micro.runner(("script", "value", "operator"), processes=5, min_time=0.01)
    p = runner.argparser
    p.add_argument("--script", metavar="PATH", type=cli.file, help="your microgpt.py, for its class (default: the reference's)")
    p.add_argument("--value", action="append", default=[], metavar="MODULE:CLASS", help="another class to measure")
    p.add_argument("--operator", action="append", default=[], metavar="WORD", help="only operators that contain this")
    args, before = runner.parse_args(), machine.warnings_before()
    first = {"microgpt.py": os.path.abspath(args.script)} if args.script else {"reference": "microgpt.reference:Value"}
    classes = {**first, "microgpt.Value": "microgpt:Value", **{value: value for value in args.value}}
    names = [name for name in OPERATORS if not args.operator or any(word in name for word in args.operator)]
    made, work = {}, [("nothing", "backward"), *((name, phase) for name in names for phase in PHASES)]
    for name, value in classes.items():
        Value = load_class(value)
        for what, phase in work:
            timed = timer(Value, "a" if what == "nothing" else what, phase)
            made[name, what, phase] = runner.bench_time_func(f"{name}: {what}, {phase}", timed)
        for what, collector in GRAPHS.items():
            made[name, what] = runner.bench_time_func(f"{name}: {what}", graphs, Value, collector, inner_loops=NODES)
    if args.worker:
        return
    rows, median = [], {key: bench.median() for key, bench in made.items()}
    for name in classes:
        times = {op: {phase: median[name, op, phase] for phase in PHASES} for op in names}
        for phases in times.values():
            phases["backward"] = max(0.0, phases["backward"] - median[name, "nothing", "backward"])
        rows.append({"name": name, "operators": times, **{what: median[name, what] for what in GRAPHS}})
    notes = ["Medians per node; operators with the garbage collector off. Graphs: built, differentiated and freed."]
    spreads = {": ".join(key): measure.spread(bench.get_values()) for key, bench in made.items()}
    micro.finish("value", args, [tables.value_operators, tables.value_graph], notes, before, rows, spreads,
                 nodes={name: OPERATORS[name] for name in names})  # fmt: skip


def load_class(value):
    """Return the class of "module:Class", or of a script: only its imports, functions and classes are executed."""
    if not os.path.isfile(value):
        return pkgutil.resolve_name(value)
    tree, variables = ast.parse(Path(value).read_text(encoding="utf-8"), value), {}
    kept = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    tree.body = [node for node in tree.body if isinstance(node, kept)]
    exec(compile(tree, value, "exec"), variables)
    return variables["Value"]


def timer(Value, operator, phase):
    """Return a function(n) -> seconds to create n results, to run backward through them, or to free them.

    Python's loop, some 10 ns per node, is included; so is backward through the additions that join the results.
    """
    build = eval(f"lambda a, b, Value, n: [{operator} for _ in range(n)]")

    def timed(n):
        gc.disable()
        a, b = Value(1.5), Value(0.75)
        started = perf_counter()
        held = build(a, b, Value, n)
        if phase == "backward":
            root = summed(held)
            started = perf_counter()
            root.backward()
        elif phase == "free":
            started = perf_counter()
            del held
        return perf_counter() - started

    return timed


def summed(values):
    """Return their sum as a balanced tree, so that classes that recurse can traverse it."""
    while len(values) > 1:
        values = [a + b for a, b in zip(values[::2], values[1::2])] + values[len(values) // 2 * 2 :]
    return values[0]


def graphs(n, Value, collector):
    """Return the seconds to build, differentiate and free n graphs like the script's: sums of products of parameters."""
    gc.collect()
    gc.freeze()  # pyperf's objects cost the collector nothing
    (gc.enable if collector else gc.disable)()
    weights = [[Value(0.01 * (i - j)) for j in range(WIDTH)] for i in range(WIDTH)]
    started = perf_counter()
    for _ in range(n):
        x = [Value(0.1) for _ in range(WIDTH)]
        for _ in range(LAYERS):
            x = [summed([w * xi for w, xi in zip(row, x)]) for row in weights]
        summed(x).backward()
        del x
    return perf_counter() - started


if __name__ == "__main__":
    cli.run(main)
