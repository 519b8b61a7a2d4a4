"""Run the first steps of a microgpt.py that nobody has edited, and say how long they took, the first apart.

    python run_script.py SCRIPT STEPS|all {collector,no-collector} -|MODULE:CLASS CORE|-

The file is compiled as it stands and executed in this process, in the current folder, with one difference to
`python SCRIPT`: sys.stdout is an object that looks at the clock whenever a line that begins with "step" is printed,
reads the loss from the script's own variable `loss`, and ends the run after a first step and STEPS more. With
MODULE:CLASS, say microgpt:Value, the class Value is left out of the compiled syntax tree and the import of another
stands in its place: the drop-in.

Little is imported before the script runs, since what a process holds decides how long the garbage collector takes.
"""
import gc
import sys
import time

clock = time.perf_counter


class Enough(BaseException):
    """Enough lines have been printed. Not an Exception, so that a script's own handlers leave it alone."""


class Stopwatch:
    """Stands in for sys.stdout."""

    encoding = "utf-8"

    def __init__(self, steps, variables):
        self.steps, self.variables = steps, variables
        self.times, self.losses, self.text = [], [], []
        self.cpu = []

    def write(self, text):
        now = clock()
        self.text.append(text)
        if text.lstrip().startswith("step "):
            self.times.append(now)
            loss = getattr(self.variables.get("loss"), "data", None)
            if loss is None:
                raise SystemExit("the script has no variable `loss` with a number in .data when it prints a step")
            self.losses.append(float(loss).hex())
            self.cpu.append(time.process_time())
            if len(self.times) == self.steps:
                raise Enough
        return len(text)

    def flush(self):
        pass

    def isatty(self):
        return False


def compiled(path, value):
    with open(path, encoding="utf-8") as file:
        source = file.read()
    if value == "-":
        return compile(source, path, "exec")
    import ast

    module, _, name = value.partition(":")

    tree = ast.parse(source, path)
    classes = [i for i, node in enumerate(tree.body) if isinstance(node, ast.ClassDef) and node.name == "Value"]
    if len(classes) != 1:
        raise SystemExit(f"{path} has no class Value that could be replaced")
    new = ast.parse(f"from {module} import {name} as Value").body[0]
    tree.body[classes[0]] = ast.copy_location(new, tree.body[classes[0]])
    return compile(ast.fix_missing_locations(tree), path, "exec")


def main(path, steps, collector, value, core):
    if core != "-":
        import os

        os.sched_setaffinity(0, {int(core)})
    code = compiled(path, value)
    variables = {"__name__": "__main__", "__file__": path}
    real, stopwatch = sys.stdout, Stopwatch(None if steps == "all" else int(steps) + 1, variables)
    if collector == "no-collector":
        gc.disable()
    sys.stdout = stopwatch
    try:
        exec(code, variables)
    except Enough:
        pass
    finally:
        sys.stdout = real
    return stopwatch


if __name__ == "__main__":
    watch = main(*sys.argv[1:])
    if len(watch.times) < (watch.steps or 2):
        raise SystemExit(f"the script printed {len(watch.times)} lines that begin with 'step', not {watch.steps}")
    import json
    import os

    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from harness import bits, machine

    params = watch.variables.get("params")
    print(json.dumps({
        "seconds": [watch.times[-1] - watch.times[0]],
        "cpu": [watch.cpu[-1] - watch.cpu[0]],
        "losses": watch.losses,
        "digest": None if params is None else bits.digest([p.data for p in params]),
        "stdout": "".join(watch.text),
        "peak": machine.peak_memory(),
    }))  # fmt: skip
    sys.stdout.flush()
    os._exit(0)  # a million dead nodes need not be freed one by one
