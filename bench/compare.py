"""Who trains microgpt how fast, and to the same bits? One command, all contenders in one run.

    python bench/compare.py --script microgpt.py --json bench/results/compare.json

Contenders take turns, round after round, on the same documents from the same parameters, on one core. Without
--script the readable reference replaces the original. bench/README.md explains each column.
"""
import os
import sys

import tables
from harness import cli, edited, machine, measure, task
from harness.contender import BATCH, Script
from harness.contest import Contest

STEPS, QUICK_STEPS, ROUNDS = 96, 6, 5


def main():
    p = cli.parser(__doc__, ROUNDS)
    p.add_argument("--script", metavar="PATH", type=cli.file, help="your copy of the original microgpt.py; it is run, never changed")
    p.add_argument("--input", metavar="FILE", type=cli.file, help="the text (default: the bundled names)")
    p.add_argument("--steps", type=cli.positive, metavar="N", help=f"steps per round (default {STEPS})")
    cli.add_field_options(p)
    p.add_argument("--only", metavar="WORD,...", default="", help="of our contenders, only those whose names contain one of these")
    p.add_argument("--contender", action="append", default=[], type=cli.pair, metavar="NAME=FILE.py",
                   help="a Python file with make(task), like bench/numpy_gpt.py")  # fmt: skip
    args = cli.parse(p)
    from microgpt.data import BUNDLED, load_docs

    contest, steps = Contest(args, machine.choose_core()), args.steps or (QUICK_STEPS if args.quick else STEPS)

    def play(_, field):
        the_task = task.write(field.folder, load_docs(args.input or BUNDLED), steps + 4 * BATCH)
        contenders = contenders_of(args, field)
        return contest.play(contenders, contenders[0], the_task, steps)

    rows = contest.each([""], play)
    original = "microgpt.py" if args.script else "reference"
    baseline = [original, f"{original}, collector off"]
    seconds = {row["name"]: row["rounds"] for row in rows}
    if baseline[1] not in seconds:
        sys.exit(f"{baseline[1]}: {contest.absent[baseline[1]]}")
    for row in rows:
        row["times_original"], row["times_collector_off"] = (measure.ratio(seconds[n], row["rounds"]) for n in baseline)
        row["times_other"] = {n: measure.ratio(seconds[n], row["rounds"]) for n, _ in args.other if n in seconds}
    original = original if args.script else "the readable reference (no --script was given)"
    notes = [
        f"{steps} steps per round after a first one to warm up, {args.rounds} rounds in turns, medians.",
        f"×: times faster than {original}, as shipped and with its garbage collector off.",
        f"Same bits: the losses compared and all parameters after the last step equal those of {baseline[0]}, bit for bit.",
    ]
    contest.finish("compare", [tables.compare], notes, rows=rows, original=original, steps=steps, clock=args.clock,
                   text="the bundled names" if args.input is None else os.path.basename(args.input),
                   rounds=args.rounds, least=args.least, losses_checked_against=baseline[0])  # fmt: skip


def contenders_of(args, field):
    """Return the contenders: the original, as shipped and with its collector off, first."""
    from microgpt import simd_info

    chosen = simd_info()["in_use"]
    others = [isa for isa in reversed(simd_info()["supported"]) if isa != chosen]
    collectors = (("", True), (", collector off", False))
    contenders = [field.trainer(f"reference{off}", "reference", collector=on) for off, on in collectors]
    if args.script:
        ours = edited.with_imports(args.script, ("Value",), field.folder / "with_our_value.py")
        original, swapped = ([Script(f"{name}{off}", path, field, on) for off, on in collectors]
                             for name, path in (("microgpt.py", args.script), ("microgpt.py with our Value", ours)))  # fmt: skip
        contenders = [*original, *contenders, *swapped]
    contenders.append(field.trainer("graph", "graph"))
    contenders.append(field.trainer(f"fused ({chosen})", "fused"))
    contenders += [field.trainer(f"fused ({isa} forced)", "fused", environment={"MICROGPT_SIMD": isa}) for isa in others]
    contenders.append(field.module("NumPy, explicit backward", machine.BENCH / "numpy_gpt.py"))
    contenders += field.pytorch("PyTorch, eager, {precision}", args.torch_python, (1,) if args.quick else (1, BATCH))
    contenders[2:] = [c for c in contenders[2:] if any(word in c.name for word in args.only.split(","))]
    contenders += field.others(args.other)
    contenders += [field.module(name, os.path.abspath(path), precision="?") for name, path in args.contender]
    names = [c.name for c in contenders]
    if len(set(names)) < len(names):
        sys.exit(f"two contenders have the same name: {', '.join(sorted(n for n in names if names.count(n) > 1))}")
    return contenders


if __name__ == "__main__":
    cli.run(main)
