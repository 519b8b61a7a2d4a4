"""How much faster is a changed architecture on the graph engine than in plain Python?

    python bench/own_architecture.py --json bench/results/own_architecture.json

Runs examples/tied_embeddings.py as it is and with the classes of microgpt/reference.py, as compare.py runs the original.
"""
import argparse
import sys
import tempfile
from pathlib import Path

from harness import cli, contest, machine, measure, report, task
from harness.contender import Script

machine.find_package()

EXAMPLE = machine.ROOT / "examples" / "tied_embeddings.py"
OURS = "from microgpt import GPT, Adam, Tokenizer, Value, linear, load_docs, rmsnorm, softmax\n"
PLAIN = (
    "from microgpt import Tokenizer, load_docs\n"
    "from microgpt.reference import GPT, Adam, Value, linear, rmsnorm, softmax\n"
)
ARGUMENTS = 'import sys\nsys.argv = ["tied_embeddings.py", "19"]\n'  # it prints every step of a run of at most 19
STEPS, ROUNDS = 8, 3


def main():
    p = argparse.ArgumentParser(prog="python bench/own_architecture.py", description=__doc__.splitlines()[0])
    cli.add_options(p, ROUNDS)
    args = p.parse_args()
    from microgpt.data import BUNDLED, load_docs

    core, warnings = cli.choose_core(args)
    source, rounds = EXAMPLE.read_text(encoding="utf-8"), args.repeats or (2 if args.quick else ROUNDS)
    steps = 2 if args.quick else STEPS
    if OURS not in source:
        sys.exit(f"own_architecture.py does not know the imports of {EXAMPLE.name}")
    with tempfile.TemporaryDirectory() as folder:
        the_task, contenders = task.write(folder, load_docs(BUNDLED), steps + 1), []
        for name, imports in (("plain Python", PLAIN), ("graph", OURS)):
            program = Path(folder, f"{name}.py")
            program.write_text(ARGUMENTS + source.replace(OURS, imports), encoding="utf-8")
            contenders.append(Script(name, program, folder, core))
        progress = cli.progress("own_architecture", 3 + 2 * rounds)
        rows, absent, more = contest.play(contenders, contenders[0], the_task, steps, rounds, 0, args.clock, progress)
        progress(None)
    for row in rows:
        row["times_plain"] = measure.ratio(rows[0]["rounds"], row["rounds"])
    new = report.build("own_architecture", machine.describe(core), warnings + more, steps=steps, rows=rows, absent=absent)
    from tables import own_architecture

    cli.finish(new, args, [own_architecture(new)], [f"{steps} steps per round after a first one, medians."])


if __name__ == "__main__":
    cli.run(main)
