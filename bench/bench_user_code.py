"""What does an architecture of your own cost, beside the engines that know the script's?

    python bench/bench_user_code.py --script microgpt.py --json bench/results/user_code.json
    python bench/bench_user_code.py --changes

The script's architecture written as user code (user_gpt.py): eager, with the package's functions, and compiled; in
turns with the graph and the fused engine and with the original, at n_embd 16 and 64. The time to compile is not
included: each length of document has been compiled before the first step.
"""
import argparse

import tables
from harness import cli, contest, edited, field, machine, measure, task
from harness.contender import Script

machine.find_package()

SIZES, STEPS, ROUNDS = {"n_embd 16": 16, "n_embd 64": 64}, 12, 3
QUICK_STEPS = 3


def main():
    p = argparse.ArgumentParser(prog="python bench/bench_user_code.py", description=__doc__.splitlines()[0])
    p.add_argument("--changes", action="store_true", help="typical changes of the architecture instead, at n_embd 16")
    p.add_argument("--script", metavar="PATH", help="your copy of the original microgpt.py (default: the readable reference)")
    cli.add_options(p, ROUNDS)
    args = p.parse_args()
    cli.check_files(p, args.script)
    core, warnings = cli.choose_core()
    steps = QUICK_STEPS if args.quick else STEPS
    if args.changes:
        return changes(args, core, cli.pace(args, ROUNDS), steps)
    pace, sizes = cli.pace(args, ROUNDS), list(SIZES)[: 1 if args.quick else None]
    rows, absent, more = contest.each("user code", sizes, 6, pace, lambda *of: play(args, core, pace, steps, *of))
    notes = [f"{steps} steps per round after a first one, {pace.rounds} rounds in turns, medians. Bits: against the first row's."]
    cli.finish("user_code", args, machine.describe(core), warnings + more, [tables.user_code], notes, absent, rows=rows,
               sizes=[SIZES[name] for name in sizes], steps=steps, rounds=pace.rounds)  # fmt: skip


def changes(args, core, pace, steps):
    """Print how many times faster than as it is written each changed program is, and whether its bits are the same."""
    import user_gpt

    names = list(user_gpt.CHANGES)[: 1 if args.quick else None]
    ways, made = [user_gpt.AS_WRITTEN, *user_gpt.WAYS], {}

    def race(change, folder, progress):
        the_task = task.write(folder, load_docs(BUNDLED), steps + 1)
        users = [field.module(way, user_gpt.__file__, folder, core, {"way": way, "change": change}) for way in ways]
        found = contest.play(users, users[0], the_task, steps, pace, progress)
        made[change] = found[0]
        return found

    from microgpt.data import BUNDLED, load_docs

    _, absent, warnings = contest.each("changes", names, len(ways), pace, race)
    print(f"{'change':16} {'as written':>12}", *(f"{way:>38}" for way in ways[1:]), "same bits")
    for change, rows in made.items():
        times = [f"{measure.ratio(rows[0]['rounds'], row['rounds']):37.0f}×" for row in rows[1:]]
        print(f"{change:16} {1e3 * rows[0]['seconds_per_document']:9.1f} ms", *times, all(row["bits"] for row in rows[1:]))
    for sentence in [*(f"not run: {name}: {why}" for name, why in absent.items()), *warnings]:
        print(f"WARNING: {sentence}")


def play(args, core, pace, steps, size, folder, progress):
    """Return the rows of one size, {name: why it was not run}, and warnings."""
    import user_gpt

    from microgpt.data import BUNDLED, load_docs

    n_embd = SIZES[size]
    the_task = task.write(folder, load_docs(BUNDLED), steps + 1, n_embd=n_embd)
    if args.script:
        original = Script("microgpt.py", edited.with_n_embd(args.script, n_embd, folder / "script.py"), folder, core)
    else:
        original = field.trainer("reference", "reference", folder, core)
    users = [field.module(f"user code: {way}", user_gpt.__file__, folder, core, {"way": way}) for way in user_gpt.WAYS]
    engines = [field.trainer(engine, engine, folder, core) for engine in ("graph", "fused")]
    rows, absent, warnings = contest.play([original, *users, *engines], original, the_task, steps, pace, progress)
    for row in rows:
        row["n_embd"], row["times_original"] = n_embd, measure.ratio(rows[0]["rounds"], row["rounds"])
    return rows, absent, warnings


if __name__ == "__main__":
    cli.run(main)
