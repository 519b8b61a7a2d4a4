"""Run the first steps of an unedited microgpt.py, and time all but the first.

    python run_script.py SCRIPT {collector,no-collector} CORE|- STEPS

The file is executed in this process, in the current folder, with one difference to `python SCRIPT`: sys.stdout is an
object that reads the clock when a line that begins with "step" is printed, takes the loss from the script's variable
`loss`, and ends the run after a first step and STEPS more.

Little is imported before the script runs: the objects of a process decide how long the garbage collector takes.
"""
import gc
import os
import sys
import time

clock = time.perf_counter


class Enough(BaseException):  # so that the script's handlers do not catch it
    """Enough lines have been printed."""


class Stopwatch:
    """Replaces sys.stdout."""

    encoding = "utf-8"

    def __init__(self, steps, variables):
        self.steps, self.variables = steps, variables
        self.times, self.losses, self.cpu = [], [], []

    def write(self, text):
        now = clock()
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


def main(path, collector, core, steps):
    if core != "-":
        os.sched_setaffinity(0, {int(core)})
    with open(path, encoding="utf-8") as file:
        code = compile(file.read(), path, "exec")
    variables = {"__name__": "__main__", "__file__": path}
    real, stopwatch = sys.stdout, Stopwatch(int(steps) + 1, variables)
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
    if len(watch.times) < watch.steps:
        raise SystemExit(f"the script printed {len(watch.times)} lines that begin with 'step', not {watch.steps}")
    import json

    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from harness import machine, measure

    params = watch.variables.get("params") or getattr(watch.variables.get("model"), "params", None)
    print(json.dumps({"seconds": watch.times[-1] - watch.times[0], "cpu": watch.cpu[-1] - watch.cpu[0], "losses": watch.losses,
                      "peak": machine.peak_memory(), "digest": params and measure.digest([p.data for p in params])}))  # fmt: skip
    sys.stdout.flush()
    os._exit(0)  # skip freeing a million nodes
