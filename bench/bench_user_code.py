"""What does an architecture of your own cost, beside the engines that know the script's?

    python bench/bench_user_code.py --script microgpt.py --json bench/results/user_code.json
    python bench/bench_user_code.py --changes

The script's architecture written as user code (user_gpt.py): eager, with the package's functions, and compiled; in
turns with the graph and the fused engine and with the original, at n_embd 16 and 64. The time to compile is not
included: each length of document has been compiled before the first step.
"""
import tables
from harness import cli, edited, machine, measure, task
from harness.contender import Script
from harness.contest import Contest

machine.find_package()
import user_gpt  # noqa: E402

SIZES, STEPS, QUICK_STEPS, ROUNDS = [16, 64], 12, 2, 3


def main():
    p = cli.parser(__doc__, ROUNDS)
    p.add_argument("--changes", action="store_true", help="typical changes of the architecture instead, at n_embd 16")
    p.add_argument("--script", metavar="PATH", type=cli.file, help="your copy of the original microgpt.py (default: the reference)")
    args = cli.parse(p)
    contest = Contest(args, machine.choose_core())
    key, cases, contenders = ("change", [*user_gpt.CHANGES], changed) if args.changes else ("n_embd", SIZES, unchanged)
    cases, steps = (cases[:1], QUICK_STEPS) if args.quick else (cases, STEPS)

    def play(case, field):
        from microgpt import load_docs

        the_task = task.write(field.folder, load_docs(), steps + 1, n_embd=SIZES[0] if args.changes else case)
        made = contenders(case, args.script, field)
        rows = contest.play(made, made[0], the_task, steps)
        for row in rows:
            row[key], row["times_original"] = case, measure.ratio(rows[0]["rounds"], row["rounds"])
        return rows

    rows = contest.each(cases, play)
    notes = [f"{steps} steps per round after a first one, {args.rounds} rounds in turns, medians. Bits: against the first row's."]
    layout, name = (tables.changes, "changes") if args.changes else (tables.user_code, "sizes")
    contest.finish("user_code", [layout], notes, rows=rows, steps=steps, rounds=args.rounds, **{name: cases})


def unchanged(n_embd, script, field):
    """Return the original, user code in every way, and the engines."""
    if script:
        script = edited.replaced(script, "\nn_embd = 16 ", f"\nn_embd = {n_embd} ", field.folder / "script.py")
        original = Script("microgpt.py", script, field)
    else:
        original = field.trainer("reference", "reference")
    users = [field.module(f"user code: {way}", user_gpt.__file__, {"way": way}) for way in user_gpt.WAYS]
    return [original, *users, field.trainer("graph", "graph"), field.trainer("fused", "fused")]


def changed(change, script, field):
    """Return a changed program as it is written, and in every way."""
    ways = (user_gpt.AS_WRITTEN, *user_gpt.WAYS)
    return [field.module(way, user_gpt.__file__, {"way": way, "change": change}) for way in ways]


if __name__ == "__main__":
    cli.run(main)
