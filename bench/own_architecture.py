"""How much faster is a changed architecture on the graph engine than on plain Python?

    python bench/own_architecture.py --json bench/results/own_architecture.json

Runs examples/tied_embeddings.py as it is and with the classes of microgpt/reference.py, in turns, in processes of their
own, and compares the processor time of the same steps and the bits of the last loss.
"""
import argparse
import os
import subprocess
import sys
from pathlib import Path

from harness import machine, measure, report

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "tied_embeddings.py"
OURS = "from microgpt import GPT, Adam, Tokenizer, Value, linear, load_docs, rmsnorm, softmax\n"
PLAIN = (
    "from microgpt import Tokenizer, load_docs\n"
    "from microgpt.reference import GPT, Adam, Value, linear, rmsnorm, softmax\n"
)
#: What is put in front of the example: the loop's `range`, which notes the processor time at each step.
TIMED = """
import time
def timed(steps):
    for step in range(steps):
        times.append(time.process_time())
        yield step
    times.append(time.process_time())
times = []
"""


def program(imports):
    """The example with other imports and its loop timed, printing the last loss and the seconds per step."""
    source = EXAMPLE.read_text(encoding="utf-8")
    if OURS not in source or "for step in range(steps):" not in source:
        sys.exit(f"{EXAMPLE.name} has changed: own_architecture.py does not know its imports or its loop any more")
    source = source.replace(OURS, imports).replace("for step in range(steps):", "for step in timed(steps):")
    report_times = "print(loss.data.hex(), (times[-1] - times[1]) / (steps - 1))"  # the first step warms up
    return f"{TIMED}\n{source}\n{report_times}\n"


def run(imports, steps):
    """(the last loss as hex, seconds per step) of one run."""
    command = [sys.executable, "-c", program(imports), str(steps)]
    found = sys.modules.get("microgpt") or __import__("microgpt")
    env = {**os.environ, "PYTHONPATH": str(Path(found.__file__).parent.parent)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    loss, seconds = done.stdout.splitlines()[-1].split()
    return loss, float(seconds)


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--json", metavar="FILE")
    args = p.parse_args(argv)
    machine.find_package()
    seconds, losses = {"plain Python": [], "graph": []}, set()
    for _ in range(args.repeats):
        for name, imports in (("plain Python", PLAIN), ("graph", OURS)):
            loss, took = run(imports, args.steps)
            losses.add(loss)
            seconds[name].append(took)
    rows = [
        {
            "name": name,
            "seconds_per_document": measure.median(values),
            "times_plain": measure.median([a / b for a, b in zip(seconds["plain Python"], values)]),
            "rounds": values,
        }
        for name, values in seconds.items()
    ]
    for row in rows:
        print(f"{row['name']:14}{row['seconds_per_document'] * 1e3:10.2f} ms per step{row['times_plain']:10.1f} x")
    print("same bits" if len(losses) == 1 else "OTHER BITS")
    made = report.build("own_architecture", machine.describe(None), [], steps=args.steps, clock="cpu",
                        same_bits=len(losses) == 1, rows=rows)  # fmt: skip
    if args.json:
        report.write(args.json, made)
    return int(len(losses) != 1)


if __name__ == "__main__":
    sys.exit(main())
