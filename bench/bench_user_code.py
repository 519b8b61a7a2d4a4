"""What does an architecture of your own cost, beside the engines that know the script's?

    python bench/bench_user_code.py --script microgpt.py --json bench/results/user_code.json
    python bench/bench_user_code.py --changes

The script's architecture written as user code (user_gpt.py): eager, with the package's functions, and compiled; in
turns with the graph and the fused engine and with the original, at n_embd 16 and 64. The time to compile is not
included: each length of document has been compiled before the first step.
"""
import argparse
import tempfile
from pathlib import Path

from harness import cli, contest, edited, field, machine, measure, report, task
from harness.contender import Script

machine.find_package()

import user_gpt  # noqa: E402

from microgpt.data import BUNDLED, load_docs  # noqa: E402

SIZES, STEPS, ROUNDS = (16, 64), 12, 3
WAYS = {
    "eager": "user code: Value",
    "functions": "user code: Value, linear, softmax, rmsnorm, Adam",
    "compiled": "user code: @microgpt.compile, Adam",
}


def main():
    p = argparse.ArgumentParser(prog="python bench/bench_user_code.py", description=__doc__.splitlines()[0])
    p.add_argument("--changes", action="store_true", help="typical changes of the architecture instead, n_embd 16")
    p.add_argument("--script", metavar="PATH", help="your copy of the original microgpt.py (default: the readable reference)")
    cli.add_options(p, ROUNDS)
    args = p.parse_args()
    cli.check_files(p, args.script)
    core, warnings = cli.choose_core(args)
    if args.changes:
        return changes(args, core)
    sizes, rounds = SIZES[: 1 if args.quick else None], args.repeats or (2 if args.quick else ROUNDS)
    progress, rows, absent = cli.progress("user code", len(sizes) * (1 + 6 * (1 + rounds))), [], {}
    for n_embd in sizes:
        with tempfile.TemporaryDirectory() as folder:
            found, missing, more = play(n_embd, args, Path(folder), core, rounds, progress)
        rows += found
        absent |= {f"{name}, n_embd {n_embd}": why for name, why in missing.items()}
        warnings += [f"n_embd {n_embd}: {sentence}" for sentence in more]
    progress(None)
    new = report.build("user_code", machine.describe(core), warnings, sizes=sizes, steps=STEPS, rounds=rounds,
                       rows=rows, absent=absent)  # fmt: skip
    from tables import user_code

    notes = [f"{STEPS} steps per round after a first one, {rounds} rounds in turns, medians. Bits: against the first row's."]
    cli.finish(new, args, [user_code(new)], notes)


def changes(args, core):
    """Print how many times faster than as it is written each changed program is, and whether its bits are the same."""
    ways, rounds = {"as written": "as written", **WAYS}, args.repeats or (1 if args.quick else ROUNDS)
    names = list(user_gpt.CHANGES)[: 1 if args.quick else None]
    progress = cli.progress("changes", len(names) * len(ways) * (1 + rounds))
    print(f"{'change':16} {'as written':>12}", *(f"{name:>12}" for name in WAYS), "same bits")
    for change in names:
        with tempfile.TemporaryDirectory() as folder:
            the_task = task.write(Path(folder), load_docs(BUNDLED), STEPS + 1)
            users = [field.module(name, machine.BENCH / "user_gpt.py", Path(folder), core, {"way": way, "change": change})
                     for way, name in ways.items()]  # fmt: skip
            rows, absent, _ = contest.play(users, users[0], the_task, STEPS, rounds, 0.05 if args.quick else 0.3, args.clock, progress)
        if absent:
            raise SystemExit(f"{change}: {absent}")
        times = [f"{measure.ratio(rows[0]['rounds'], row['rounds']):11.0f}×" for row in rows[1:]]
        print(f"{change:16} {1e3 * rows[0]['seconds_per_document']:9.1f} ms", *times, all(row["bits"] for row in rows[1:]), flush=True)
    progress(None)
    return None


def play(n_embd, args, folder, core, rounds, progress):
    """Return the rows of one size, {name: why it was not run}, and warnings."""
    the_task = task.write(folder, load_docs(BUNDLED), STEPS + 1, n_embd=n_embd)
    if args.script:
        original = Script("microgpt.py", edited.with_n_embd(args.script, n_embd, folder / "script.py"), folder, core)
    else:
        original = field.trainer("reference", "reference", folder, core)
    users = [field.module(name, machine.BENCH / "user_gpt.py", folder, core, {"way": way}) for way, name in WAYS.items()]
    engines = [field.trainer(engine, engine, folder, core) for engine in ("graph", "fused")]
    contenders, least = [original, *users, *engines], 0.05 if args.quick else 0.3
    rows, absent, warnings = contest.play(contenders, original, the_task, STEPS, rounds, least, args.clock, progress)
    for row in rows:
        row["n_embd"], row["times_original"] = n_embd, measure.ratio(rows[0]["rounds"], row["rounds"])
    return rows, absent, warnings


if __name__ == "__main__":
    cli.run(main)
