"""The child process of one contender: `python worker.py SPECIFICATION`, then requests on stdin, answers on stdout.

Specification, requests and answers are JSON, one line each. A request {"steps": n, "repeat": k} asks for k runs, each
of a new contender: a first step to warm up, then n steps, which alone are timed. The answer holds the mean wall and
processor seconds of a run, the n + 1 losses of the last run, and a digest of its final parameters.

A contender is a Python file with make(task, **options), whose result has step(), which returns a loss, or run(n), which
returns n of them, and parameters(). Its output is discarded: stdout belongs to the answers.
"""
import gc
import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from harness import edited, machine, measure, task  # noqa: E402


def main():
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def answer(**content):
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    try:
        given = json.loads(sys.argv[1])
        machine.pin(given["core"])
        if not given["collector"]:
            gc.disable()
        the_task, module = task.Task(given["task"]), edited.load(given["file"])
        module.make(the_task, **given["options"])
        answer(versions={name: sys.modules[name].__version__ for name in ("microgpt", "torch") if name in sys.modules})
        for line in sys.stdin:
            answer(**train(lambda: module.make(the_task, **given["options"]), **json.loads(line)))
    except Exception as error:
        answer(error=f"{type(error).__name__}: {error}")


def train(make, steps, repeat):
    seconds = cpu = 0.0
    for _ in range(repeat):
        contender = make()
        run = contender.run if hasattr(contender, "run") else lambda n, step=contender.step: [step() for _ in range(n)]
        losses = run(1)
        cpu_started, started = time.process_time(), time.perf_counter()
        losses += run(steps)
        seconds += time.perf_counter() - started
        cpu += time.process_time() - cpu_started
        if len(losses) != steps + 1:
            raise RuntimeError(f"{len(losses)} losses for {steps + 1} steps")
    # A Trainer of any version has a model with nodes; other contenders have a function.
    parameters = [p.data for p in contender.model.params] if hasattr(contender, "model") else contender.parameters()
    return {"seconds": seconds / repeat, "cpu": cpu / repeat, "losses": [float(x).hex() for x in losses],
            "peak": machine.peak_memory(), "digest": measure.digest(parameters)}  # fmt: skip


if __name__ == "__main__":
    main()
