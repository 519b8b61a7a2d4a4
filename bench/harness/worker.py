"""The child process of one contender: `python worker.py SPECIFICATION`, then requests on stdin, answers on stdout.

Specification, requests and answers are JSON, one line each. A request {"steps": n, "repeat": k} asks for k runs, each
of a new contender: a first step to warm up, then n steps, which alone are timed. The answer holds the wall and
processor seconds of each run, the n + 1 losses of the last run, and a digest of its final parameters.

Output of a contender is discarded: stdout belongs to the answers. Only the public API of microgpt is used, so that
another version of it may run here.
"""
import gc
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from harness import bits, edited, machine, task  # noqa: E402


def main():
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def answer(**content):
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    try:
        specification = json.loads(sys.argv[1])
        machine.pin(specification.get("core"))
        if not specification.get("collector", True):
            gc.disable()
        prepare, versions = PREPARE[specification["kind"]](specification)
        prepare()
        answer(versions=versions)
    except Exception as error:
        return answer(error=f"{type(error).__name__}: {error}")
    for line in sys.stdin:
        try:
            answer(**train(prepare, **json.loads(line)))
        except Exception as error:
            answer(error=f"{type(error).__name__}: {error}")


def train(prepare, steps, repeat):
    seconds, cpu = [], []
    for _ in range(repeat):
        contender = prepare()
        losses = contender.run(1)
        cpu_started, started = time.process_time(), time.perf_counter()
        losses += contender.run(steps)
        seconds.append(time.perf_counter() - started)
        cpu.append(time.process_time() - cpu_started)
        if len(losses) != steps + 1:
            raise RuntimeError(f"{len(losses)} losses for {steps + 1} steps")
    # A Trainer of any version has a model with nodes; a module's contender has a function.
    parameters = [p.data for p in contender.model.params] if hasattr(contender, "model") else contender.parameters()
    return {
        "seconds": seconds,
        "cpu": cpu,
        "losses": [float(x).hex() for x in losses],
        "peak": machine.memory("VmHWM"),
        "digest": bits.digest(parameters),
    }


def prepare_trainer(specification):
    """An engine of microgpt, behind its public Trainer."""
    import microgpt
    from microgpt import Trainer, load_docs

    wanted, found = specification.get("package"), Path(microgpt.__file__).resolve()
    if wanted and Path(wanted).resolve() not in found.parents:
        raise ImportError(f"{wanted} has no microgpt that was built in place")
    the = task.Task(specification["task"])
    docs, versions = load_docs(the.folder / "input.txt"), {"microgpt": microgpt.__version__}
    if specification["engine"] == "fused":
        versions["simd"] = microgpt.simd_info()["in_use"]

    def prepare():
        return Trainer(docs, num_steps=the.num_steps, seed=the.seed, engine=specification["engine"], **the.settings)

    return prepare, versions


def prepare_module(specification):
    """A Python file with a function make(task, **options); its result has run(n) -> n losses, and parameters()."""
    the, module = task.Task(specification["task"]), edited.load(specification["file"])
    versions = module.versions() if hasattr(module, "versions") else {}
    return lambda: module.make(the, **specification["options"]), versions


PREPARE = {"trainer": prepare_trainer, "module": prepare_module}


if __name__ == "__main__":
    main()
