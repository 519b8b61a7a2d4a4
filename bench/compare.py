"""Who trains microgpt how fast, and to the same bits? One command, all contenders in one run.

    python bench/compare.py --script microgpt.py --json bench/results/compare.json

Contenders take turns, round after round, on the same documents from the same parameters, on one core. Without
--script the readable reference replaces the original. bench/README.md explains each column.
"""
import os
import sys
import tempfile
from pathlib import Path

import tables
from harness import cli, contest, edited, field, machine, measure, task
from harness.contender import Script

machine.find_package()

STEPS, QUICK_STEPS, ROUNDS = 96, 6, 5


def main():
    p = cli.parser(__doc__, ROUNDS)
    p.add_argument("--script", metavar="PATH", type=cli.file, help="your copy of the original microgpt.py; it is run, never changed")
    p.add_argument("--input", metavar="FILE", type=cli.file, help="the text (default: the bundled names)")
    p.add_argument("--steps", type=cli.positive, metavar="N", help=f"steps per round (default {STEPS})")
    field.add_field_options(p)
    p.add_argument("--only", metavar="WORD,...", help="of our contenders, only those whose names contain one of these")
    p.add_argument("--contender", action="append", default=[], type=cli.pair, metavar="NAME=FILE.py",
                   help="a Python file with make(task), like bench/numpy_gpt.py")  # fmt: skip
    args = p.parse_args()
    from microgpt.data import BUNDLED, load_docs

    pace, steps = cli.pace(args), args.steps or (QUICK_STEPS if args.quick else STEPS)
    core, warnings = machine.choose_core(), machine.warnings_before()
    with tempfile.TemporaryDirectory() as folder:
        the_task = task.write(folder, load_docs(args.input or BUNDLED), steps + 4 * field.BATCH)
        contenders, baseline = field_of(args, folder, core)
        progress = cli.progress("compare", 1 + len(contenders) * (1 + pace.rounds))
        rows, absent, more = contest.play(contenders, contenders[0], the_task, steps, pace, progress)
        progress(None)
    seconds = {row["name"]: row["rounds"] for row in rows}
    for name in baseline:
        if name not in seconds:
            sys.exit(f"{name}: {absent[name]}")
    for row in rows:
        row["times_original"], row["times_collector_off"] = (measure.ratio(seconds[n], row["rounds"]) for n in baseline)
        row["times_other"] = {n: measure.ratio(seconds[n], row["rounds"]) for n, _ in args.other if n in seconds}
    original = "microgpt.py" if args.script else "the readable reference (no --script was given)"
    notes = [
        f"{steps} steps per round after a first one to warm up, {pace.rounds} rounds in turns, medians.",
        f"×: times faster than {original}, as shipped and with its garbage collector off.",
        f"Same bits: the losses compared and all parameters after the last step equal those of {baseline[0]}, bit for bit.",
    ]
    cli.finish("compare", args, machine.describe(core, rows), warnings + more, [tables.compare], notes, absent, rows=rows,
               original=original, text="the bundled names" if args.input is None else os.path.basename(args.input),
               steps=steps, **pace._asdict(), losses_checked_against=baseline[0])  # fmt: skip


def field_of(args, folder, core):
    """Return the contenders, the original first, and the names of the original as shipped and with its collector off."""
    contenders = [field.trainer("reference", "reference", folder, core),
                  field.trainer("reference, collector off", "reference", folder, core, collector=False)]  # fmt: skip
    if args.script:
        ours = edited.with_imports(args.script, ("Value",), Path(folder, "with_our_value.py"))
        original, swapped = ([Script(f"{name}{off}", path, folder, core, collector=not off) for off in ("", ", collector off")]
                             for name, path in (("microgpt.py", args.script), ("microgpt.py with our Value", ours)))  # fmt: skip
        contenders = [*original, *contenders, *swapped]
    base, contenders = contenders[:2], contenders[2:]
    contenders.append(field.trainer("graph", "graph", folder, core))
    contenders += [field.trainer(name, "fused", folder, core, environment=env) for name, env in fused_variants()]
    contenders.append(field.module("NumPy, explicit backward", machine.BENCH / "numpy_gpt.py", folder, core))
    batches = (1,) if args.quick else (1, field.BATCH)
    contenders += field.pytorch("PyTorch, eager, {precision}", folder, core, args.torch_python, batches)
    if args.only:
        contenders = [c for c in contenders if any(word in c.name for word in args.only.split(","))]
    contenders += field.others(args, folder, core)
    for name, path in args.contender:
        contenders.append(field.module(name, os.path.abspath(path), folder, core, precision="?"))
    names = [c.name for c in base + contenders]
    if len(set(names)) < len(names):
        sys.exit(f"two contenders have the same name: {', '.join(sorted(n for n in names if names.count(n) > 1))}")
    return base + contenders, [c.name for c in base]


def fused_variants():
    """Return [(name, environment)]: the instruction set chosen by default, then each other one, forced."""
    from microgpt import simd_info

    chosen, supported = simd_info()["in_use"], simd_info()["supported"]
    forced = [(f"fused ({isa} forced)", {"MICROGPT_SIMD": isa}) for isa in reversed(supported) if isa != chosen]
    return [(f"fused ({chosen})", {}), *forced]


if __name__ == "__main__":
    cli.run(main)
