"""What does an architecture of your own cost, beside the engines that know the script's?

    python bench/bench_user_code.py --script microgpt.py --json bench/results/user_code.json
    python bench/bench_user_code.py --changes

The script's architecture written as user code (user_gpt.py): eager, with the package's functions, and compiled; in
turns with the graph and the fused engine and with the original, at n_embd 16 and 64. The time to compile is not
included: each length of document has been compiled before the first step.
"""
import tables
from harness import cli, contest, edited, field, machine, measure, task
from harness.contender import Script

machine.find_package()
import user_gpt  # noqa: E402

SIZES, STEPS, QUICK_STEPS, ROUNDS = [16, 64], 12, 3, 3


def main():
    p = cli.parser(__doc__, ROUNDS)
    p.add_argument("--changes", action="store_true", help="typical changes of the architecture instead, at n_embd 16")
    p.add_argument("--script", metavar="PATH", type=cli.file, help="your copy of the original microgpt.py (default: the reference)")
    args = p.parse_args()
    core, warnings, pace = machine.choose_core(), machine.warnings_before(), cli.pace(args)
    key, cases, contenders = ("change", [*user_gpt.CHANGES], changed) if args.changes else ("n_embd", SIZES, unchanged)
    cases, steps = (cases[:1], QUICK_STEPS) if args.quick else (cases, STEPS)

    def play(case, folder, progress):
        from microgpt import load_docs

        the_task = task.write(folder, load_docs(), steps + 1, n_embd=SIZES[0] if args.changes else case)
        field_of = contenders(case, args.script, folder, core)
        rows, absent, more = contest.play(field_of, field_of[0], the_task, steps, pace, progress)
        for row in rows:
            row[key], row["times_original"] = case, measure.ratio(rows[0]["rounds"], row["rounds"])
        return rows, absent, more

    rows, absent, more = contest.each("user code", cases, 6, pace, play)
    notes = [f"{steps} steps per round after a first one, {pace.rounds} rounds in turns, medians. Bits: against the first row's."]
    layout, name = (tables.changes, "changes") if args.changes else (tables.user_code, "sizes")
    cli.finish("user_code", args, machine.describe(core), warnings + more, [layout], notes, absent, rows=rows,
               steps=steps, rounds=pace.rounds, **{name: cases})  # fmt: skip


def unchanged(n_embd, script, folder, core):
    """Return the original, user code in every way, and the engines."""
    if script:
        original = Script("microgpt.py", edited.with_n_embd(script, n_embd, folder / "script.py"), folder, core)
    else:
        original = field.trainer("reference", "reference", folder, core)
    users = [field.module(f"user code: {way}", user_gpt.__file__, folder, core, {"way": way}) for way in user_gpt.WAYS]
    return [original, *users, *(field.trainer(engine, engine, folder, core) for engine in ("graph", "fused"))]


def changed(change, script, folder, core):
    """Return a changed program as it is written, and in every way."""
    return [field.module(way, user_gpt.__file__, folder, core, {"way": way, "change": change})
            for way in (user_gpt.AS_WRITTEN, *user_gpt.WAYS)]  # fmt: skip


if __name__ == "__main__":
    cli.run(main)
