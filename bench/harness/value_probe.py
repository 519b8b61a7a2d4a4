"""What one `Value` class costs, measured in a process of its own: python value_probe.py SPECIFICATION -> one line of
JSON.

Specification (JSON): {"value": "module:Class" or a script's path, "core", "task": "operators" | "bytes" | "graph", ...}

operators  ns for each operator: to apply it to held Values, its share of a backward pass, and to free it
bytes      bytes for each operator, once only what comes after it needs it
graph      ns a node over build, backward and freeing of graphs like the script's, with the collector on or off
"""
import ast
import gc
import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from harness import machine  # noqa: E402

clock = time.perf_counter

#: Operator -> the nodes that the script's class makes of it: a constant is a node, a difference is a + (b * -1).
OPERATORS = {
    "Value(1.5)": 1,
    "a + b": 1,
    "a + 1.5": 2,
    "a * b": 1,
    "a * 1.5": 2,
    "-a": 2,
    "a - b": 3,
    "a / b": 2,
    "a ** 2": 1,
    "a ** -0.5": 1,
    "a.exp()": 1,
    "a.log()": 1,
    "a.relu()": 1,
}


def load(value):
    """The class: "module:Class", or a script's Value: its imports, functions and classes, and nothing that it does."""
    if not os.path.isfile(value):
        module, _, name = value.partition(":")
        return getattr(__import__(module, fromlist=[name]), name)
    with open(value, encoding="utf-8") as file:
        tree = ast.parse(file.read(), value)
    tree.body = [
        node
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef))
    ]
    variables = {}
    exec(compile(tree, value, "exec"), variables)
    return variables["Value"]


def summed(values):
    """Their sum as a balanced tree, so that classes that recurse can walk it."""
    while len(values) > 1:
        pairs = [a + b for a, b in zip(values[::2], values[1::2])]
        values = pairs + values[len(values) // 2 * 2 :]
    return values[0]


def operators(Value, n, repeats):
    """{operator: {"forward", "backward", "free"}}, median seconds each, with Python's own loop, some 10 ns, in it."""
    gc.disable()
    built = {name: eval(f"lambda a, b, Value, n: [{name} for _ in range(n)]") for name in OPERATORS}
    times = {name: [] for name in OPERATORS}
    for _ in range(repeats):
        # Backward through the additions alone that join the results: to be subtracted.
        bare = passes(Value, n, lambda a, b, Value, n: [a] * n)[1]
        for name in list(times):
            try:
                forward, backward, free = passes(Value, n, built[name])
            except (AttributeError, TypeError, NotImplementedError):
                del times[name]  # this class does not have the operator
                continue
            times[name].append((forward / n, max(0.0, backward - bare) / n, free / n))
    middle = lambda values: sorted(values)[len(values) // 2]  # noqa: E731
    phases = ("forward", "backward", "free")
    return {name: dict(zip(phases, map(middle, zip(*values)))) for name, values in times.items()}


def passes(Value, n, build):
    """(forward, backward, free): seconds to make n results, to go back through them, and to let n others go."""
    a, b = Value(1.5), Value(0.75)
    gc.collect()
    started = clock()
    held = build(a, b, Value, n)
    forward = clock() - started
    root = summed(held)
    started = clock()
    root.backward()
    backward = clock() - started
    del held, root
    gc.collect()  # a backward pass may have tied the graph into a cycle
    held = build(a, b, Value, n)
    started = clock()
    del held
    return forward, backward, clock() - started


def bytes_of(Value, name, n):
    """Bytes of an operator's result and of the addition that follows it, when only the end of such a chain is held."""
    gc.disable()
    a, b = Value(1.5), Value(0.75)
    step = eval(f"lambda total, a, b, Value: total + ({name})")
    total = step(Value(0.0), a, b, Value)
    before = machine.memory()
    for _ in range(n):
        total = step(total, a, b, Value)
    return (machine.memory() - before) / n


def graph(Value, nodes, repeats, collector):
    """Seconds a node to build, differentiate and drop a graph like the script's: sums of products of parameters."""
    (gc.enable if collector else gc.disable)()
    width = 16
    weights = [[Value(0.01 * (i - j)) for j in range(width)] for i in range(width)]
    layers = nodes // (2 * width * width)
    times, made = [], 0
    for _ in range(repeats):
        started = clock()
        made, x = 0, [Value(0.1) for _ in range(width)]
        for _ in range(layers):
            rows = []
            for row in weights:
                products = [w * xi for w, xi in zip(row, x)]
                while len(products) > 1:
                    products = [a + b for a, b in zip(products[::2], products[1::2])]
                rows.append(products[0])
            x = rows
            made += width * (2 * width - 1)
        root = summed(x)
        root.backward()
        del root, x, rows, products
        times.append((clock() - started) / made)
    return times


def main():
    specification = json.loads(sys.argv[1])
    machine.pin(specification["core"])
    Value, task = load(specification["value"]), specification["task"]
    if task == "operators":
        answer = operators(Value, specification["n"], specification["repeats"])
    elif task == "bytes":
        answer = bytes_of(Value, specification["operator"], specification["n"])
    else:
        answer = graph(Value, specification["n"], specification["repeats"], specification["collector"])
    print(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
