"""The child process of one contender: `python worker.py SPECIFICATION`, then requests on stdin, answers on stdout.

Specification, requests and answers are JSON, one line each. A request {"steps": n, "repeat": k} asks for k runs, each
of a fresh contender: a first step to warm up and then n steps, which alone are timed. The answer holds the seconds of
each run by the clock and of the processor, the n + 1 losses of the last one and a digest of the parameters after it.

Whatever a contender prints goes nowhere: stdout belongs to the answers.
"""
import gc
import importlib.util
import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from harness import bits, machine, task  # noqa: E402


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
        before = machine.memory()
        prepare()
        answer(ready=True, versions=versions, before=before)
    except Exception as error:
        return answer(error=f"{type(error).__name__}: {error}")
    for line in sys.stdin:
        try:
            request = json.loads(line)
            answer(**(write if "samples" in request else carry_out)(prepare, **request))
        except Exception as error:
            answer(error=f"{type(error).__name__}: {error}")


def carry_out(prepare, steps, repeat):
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
    return {
        "seconds": seconds,
        "cpu": cpu,
        "losses": [float(x).hex() for x in losses],
        "peak": machine.peak_memory(),
        "digest": bits.digest(parameters(contender)),
    }


def parameters(contender):
    """All parameters, in the script's order."""
    if hasattr(contender, "parameters"):
        return contender.parameters()
    return [p.data for p in contender.model.params]


def write(prepare, samples):
    """Sample from a fresh contender: seconds, the tokens drawn, and the first texts."""
    contender = prepare()
    started = time.perf_counter()
    texts = contender.sample(samples)
    seconds = time.perf_counter() - started
    # A text shorter than the block ended because the end was drawn, a token as well.
    block_size = contender.settings["block_size"]
    return {"seconds": seconds, "tokens": sum(min(len(t) + 1, block_size) for t in texts), "texts": texts[:100]}


def prepare_trainer(specification):
    """An engine of microgpt, through its public Trainer."""
    from microgpt import Trainer
    from microgpt.data import load_docs

    the = task.Task(specification["task"])
    docs = load_docs(the.folder / "input.txt")
    versions = {}
    if specification["engine"] == "fused":
        from microgpt import simd_info

        versions["simd"] = simd_info()["in_use"]

    def prepare():
        return Trainer(docs, the.num_steps, the.seed, specification["engine"], **the.settings)

    return prepare, versions


def prepare_module(specification):
    """A Python file with a function make(task, **options), whose result has run(n) -> n losses and parameters()."""
    the, path = task.Task(specification["task"]), specification["file"]
    spec = importlib.util.spec_from_file_location("contender_module", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    versions = module.versions() if hasattr(module, "versions") else {}
    return lambda: module.make(the, **specification.get("options", {})), versions


def prepare_sampler(specification):
    """A saved model, loaded by an engine; each time the stream stands where training left it."""
    from microgpt import Trainer

    return lambda: Trainer.load(specification["model"], engine=specification["engine"]), {}


PREPARE = {"trainer": prepare_trainer, "module": prepare_module, "sampler": prepare_sampler}


if __name__ == "__main__":
    main()
