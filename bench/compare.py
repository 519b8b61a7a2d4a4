"""Who trains microgpt how fast, and to the same bits? One command, all contenders in one run.

    python bench/compare.py --script microgpt.py --json bench/results/compare.json

Contenders take turns, round after round, on the same documents from the same parameters, one core each. Without
--script the readable reference stands in for the original. See bench/README.md for what each column means.
"""
import argparse
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from harness import bits, cli, machine, measure, report, task
from harness.contender import Command, Script, Unavailable, Worker
from harness.progress import Progress

machine.find_package()
HERE = Path(__file__).resolve().parent

#: steps and rounds to time; steps on which every contender is checked first; steps on which the bits are compared of
#: those that need less than CHEAP seconds a step; the least seconds to spend on a contender in a round; seconds in all.
QUICK = {"steps": 6, "repeats": 3, "check": 2, "proof": 20, "least": 0.05, "budget": 22.0}
FULL = {"steps": 96, "repeats": 5, "check": 5, "proof": 96, "least": 0.3, "budget": None}
CHEAP = 0.03
BATCH = 16
F32_TOLERANCE = 1e-3


def main(argv=None):
    args = _arguments(argv)
    started, pace = time.perf_counter(), dict(QUICK if args.quick else FULL)
    pace["steps"], pace["repeats"] = args.steps or pace["steps"], args.repeats or pace["repeats"]
    pace["check"] = min(pace["check"], pace["steps"])
    pace["proof"] = pace["steps"] if args.steps else max(pace["proof"], pace["steps"])
    core, warnings = cli.choose_core(args)
    with tempfile.TemporaryDirectory() as folder:
        the_task = task.write(
            folder, _docs(args.input), max(pace["proof"], pace["steps"]) + BATCH * (pace["check"] + 1)
        )
        baseline, field, absent = contenders(args, the_task, core)
        with Progress(len(field) * (1 + pace["repeats"]), "compare") as progress:
            field, absent, proofs = prepare(field, absent, baseline, the_task, pace, progress)
            if pace["budget"]:
                pace["budget"] -= time.perf_counter() - started
                _fit(pace, field)
            times, results, shared, absent = run(field, absent, pace, args.clock, progress)
        for contender in field:
            contender.stop()
    rows, more = summarise(field, times, results, proofs, baseline)
    warnings += measure.distrust(times, shared) + more
    content = {
        "original": "microgpt.py" if args.script else "the readable reference (no --script was given)",
        "text": "the bundled names" if args.input is None else os.path.basename(args.input),
        "clock": args.clock,
        "steps": pace["steps"],
        "rounds": max(map(len, times.values())),
        "losses_checked_against": baseline[0],
        "rows": rows,
        "absent": absent,
    }
    the_machine = machine.describe(core)
    for contender in field:
        the_machine.update({k: v for k, v in contender.versions.items() if k == "torch"})
    new = report.build("compare", the_machine, warnings, **content)
    finish(new, args)
    return 0


def _arguments(argv):
    p = argparse.ArgumentParser(prog="python bench/compare.py", description=__doc__.splitlines()[0])
    p.add_argument("--script", metavar="PATH", help="your copy of the original microgpt.py; it is run, never changed")
    p.add_argument("--input", metavar="FILE", help="the text (default: the bundled names)")
    p.add_argument("--steps", type=cli.positive, metavar="N", help=f"steps a round (default {FULL['steps']})")
    cli.add_options(p, FULL["repeats"])
    cli.add_clock(p)
    p.add_argument("--only", metavar="WORD,...", help="of the contenders, those whose names contain one of these words")
    p.add_argument("--command", action="append", default=[], metavar="'NAME=CMD'", help="any program; {steps} in CMD "
                   "stands for the number of steps, {input} for the text's file")  # fmt: skip
    p.add_argument("--contender", action="append", default=[], metavar="NAME=FILE.py", help="a Python file with "
                   "make(task), as in bench/numpy_gpt.py")  # fmt: skip
    p.add_argument("--torch-python", metavar="PYTHON", default=sys.executable, help="the Python that has PyTorch")
    args = p.parse_args(argv)
    for option in ("command", "contender"):
        for value in getattr(args, option):
            if not all(value.partition("=")):
                p.error(f"--{option} {value!r} is not of the form NAME=...")
    cli.check_files(p, args.script, args.input, *(value.partition("=")[2] for value in args.contender))
    return args


def _docs(path):
    from microgpt.data import BUNDLED, load_docs

    return load_docs(BUNDLED if path is None else path)


def contenders(args, the_task, core):
    """((the original as shipped, the same with the collector off), [Contender], {name: why it is absent}); by name."""
    folder = str(the_task.folder)

    def trainer(name, engine, environment=None, collector=True):
        specification = {"kind": "trainer", "engine": engine, "task": folder, "core": core, "collector": collector}
        return Worker(name, specification, environment)

    def module(name, file, python=None, options=None, **kwargs):
        specification = {"kind": "module", "file": str(file), "task": folder, "core": core, "options": options or {}}
        return Worker(name, specification, python=python, **kwargs)

    base, field, absent = [], [], {}
    if args.script:
        path = os.path.abspath(args.script)
        base += [
            Script("microgpt.py", path, folder, core),
            Script("microgpt.py, collector off", path, folder, core, collector=False),
        ]
        field += [
            Script("microgpt.py with our Value", path, folder, core, value="microgpt:Value"),
            Script("microgpt.py with our Value, collector off", path, folder, core, False, "microgpt:Value"),
        ]
    else:
        absent["microgpt.py"] = "no --script was given"
    reference = [
        trainer("reference", "reference"),
        trainer("reference, collector off", "reference", collector=False),
    ]
    base, field = (base, reference + field) if base else (reference, field)
    field.append(trainer("graph", "graph"))
    field += [trainer(name, "fused", environment) for name, environment in _fused_variants()]
    field.append(module("NumPy, explicit backward", HERE / "numpy_gpt.py"))
    for batch in (1,) if args.quick else (1, BATCH):
        for dtype, precision, tolerance in (("float64", "f64", 1e-9), ("float32", "f32", F32_TOLERANCE)):
            name = f"PyTorch, eager, {precision}" + (f", batch {batch}" if batch > 1 else "")
            options = {"dtype": dtype, "batch": batch}
            field.append(module(name, HERE / "torch_gpt.py", args.torch_python, options,
                                precision=precision, batch=batch, tolerance=tolerance))  # fmt: skip
    for value in args.contender:
        name, _, path = value.partition("=")
        field.append(module(name, os.path.abspath(path), precision="?"))
    for value in args.command:
        name, _, template = value.partition("=")
        try:
            field.append(Command(name, template, core, the_task.folder / "input.txt"))
        except Unavailable as why:
            absent[name] = str(why)
    if args.only:
        words = args.only.split(",")
        field = [c for c in field if any(word in c.name for word in words)]
    names = [c.name for c in base + field]
    if len(set(names)) < len(names):
        sys.exit(f"two contenders have the same name: {', '.join(sorted(n for n in names if names.count(n) > 1))}")
    return tuple(c.name for c in base), base + field, absent


def _fused_variants():
    """[(name, environment)]: the instruction set that is chosen by itself, then each other one, forced."""
    try:
        from microgpt.core.simd import simd_info

        info = simd_info()
    except ImportError:
        return [("fused", {})]
    chosen = info["in_use"]
    others = [isa for isa in reversed(info["supported"]) if isa != chosen]
    return [(f"fused ({chosen})", {})] + [(f"fused ({isa} forced)", {"MICROGPT_SIMD": isa}) for isa in others]


def prepare(field, absent, baseline, the_task, pace, progress):
    """Start every contender, see that it computes the same model, and find how often to run it within a round.

    Returns (the contenders that can run, {name: why} of the others, {name: losses to compare the bits of}).
    """
    ready, absent, oracle, proofs = [], dict(absent), None, {}
    for contender in field:
        progress.at(f"checking {contender.name}")
        try:
            contender.start()
            if isinstance(contender, Command):
                contender.calibrate(pace["steps"])
                contender.printed = contender.printed_losses(the_task.num_steps)
            else:
                first = contender.run(pace["check"])
                oracle = oracle or first.losses
                difference = _check(contender, first.losses, oracle, the_task)
                if difference:
                    contender.stop()
                    raise Unavailable(difference)
                seconds = contender.pace = first.seconds / pace["check"]
                more = (seconds < CHEAP or contender.name == baseline[1]) and contender.batch == 1
                more = more and pace["proof"] > pace["steps"]
                proofs[contender.name] = contender.run(pace["proof"]).losses if more else first.losses
                contender.repeat = max(1, min(200, round(pace["least"] / seconds / pace["steps"] * contender.batch)))
            ready.append(contender)
        except Unavailable as why:
            absent[contender.name] = str(why)
            if contender.name in baseline:
                sys.exit(f"{contender.name}: {why}")
        progress.advance()
    return ready, absent, proofs


def _fit(pace, field):
    """Fewer steps, if two rounds of them would not be done in the time that is left."""
    seconds = sum(contender.pace for contender in field if not isinstance(contender, Command))
    pace["steps"] = max(2, min(pace["steps"], int(pace["budget"] / 2.2 / seconds) - 1))


def _check(contender, losses, oracle, the_task):
    if contender.batch == 1:
        return bits.same_model(losses or [], oracle or [], contender.tolerance)
    # The first loss of a batch is the mean over its documents, from the first parameters; the next ones are its own.
    return bits.same_model(losses[:1], [_batch_loss(the_task, contender.batch)], contender.tolerance)


def _batch_loss(the_task, batch, cache={}):  # noqa: B006  (the cache is meant to stay)
    if batch not in cache:
        import random

        from microgpt import reference

        rng, docs = random.Random(the_task.seed), the_task.docs
        rng.shuffle(docs)
        model = reference.GPT(the_task.vocab_size, **the_task.settings, rng=rng)
        cache[batch] = statistics.fmean(reference.document_loss(t, model).data for t in the_task.tokens[:batch])
    return cache[batch]


def run(field, absent, pace, clock, progress):
    """The rounds. Returns ({name: [seconds a document]}, {name: [Result]}, names that shared their core, absent)."""
    results, shared, absent = {c.name: [] for c in field}, set(), dict(absent)

    def runner(contender):
        def once():
            try:
                result = contender.run(math.ceil(pace["steps"] / contender.batch))  # a batch takes the same documents
            except Unavailable as why:
                absent[contender.name] = str(why)
                return None
            results[contender.name].append(result)
            if clock == "wall" and result.cpu < 0.9 * result.seconds:
                shared.add(contender.name)
            return result.by_clock[clock] / result.steps / contender.batch

        return once

    runners = {c.name: runner(c) for c in field}
    times = measure.interleave(runners, pace["repeats"], progress, pace["budget"])
    return times, results, [c.name for c in field if c.name in shared], absent


def summarise(field, times, results, proofs, baseline):
    """(a row for each contender, sentences of doubt)"""
    shipped, collector_off = (times[name] for name in baseline)
    # The original's losses: as shipped, and further ones from its quicker self, if that has the same bits so far.
    original, longer = results[baseline[0]][0].losses, proofs[baseline[1]]
    digest = results[baseline[0]][0].digest
    if len(longer) > len(original) and bits.verdict(longer, original)["bits"]:
        original = longer
    rows, doubts = [], []
    for contender in field:
        name = contender.name
        if name not in times:
            continue
        seconds = times[name]
        if isinstance(contender, Command):
            verdict = bits.printed_verdict(contender.printed, original)
        else:
            # Every round must have the same losses; one that differs is shown by its own.
            lists = sorted([proofs[name], *(r.losses for r in results[name])], key=len)
            if any(short != longest for short, longest in zip(lists, [lists[-1][: len(x)] for x in lists])):
                doubts.append(f"{name} does not repeat itself: its losses differ from round to round")
            digests = {r.digest for r in results[name]}
            equal = None if None in (*digests, digest) else digests == {digest}
            verdict = min((bits.verdict(x, original, equal) for x in lists), key=lambda v: (v["bits"], -v["compared"]))
        for other, base in zip(baseline, (shipped, collector_off)):
            apart = measure.halves_disagree(base, seconds)
            if apart and name != other:
                doubts.append(f"noisy: {other} / {name} differs by {apart:.0%} between odd and even rounds")
        peaks = [r.peak for r in results[name] if r.peak]
        rows.append({
            "name": name,
            "precision": contender.precision,
            "batch": contender.batch,
            "seconds_per_document": measure.median(seconds),
            "spread": measure.spread(seconds),
            "documents_per_second": 1 / measure.median(seconds),
            "times_original": measure.ratio(shipped, seconds),
            "times_collector_off": measure.ratio(collector_off, seconds),
            **verdict,
            "peak_bytes": max(peaks) if peaks else None,
            "runs_per_round": contender.repeat,
            "rounds": seconds,
            "versions": contender.versions,
        })  # fmt: skip
    return rows, doubts


def finish(new, args):
    from tables import compare

    new["warnings"] += cli.compared_with_before(
        args.json, new, lambda r: {row["name"]: row["times_original"] for row in r["rows"]}, ("original", "text")
    )
    notes = [
        f"{new['steps']} steps a round after a first one to warm up, {new['rounds']} rounds taken in turns, medians. "
        "× is times the original,",
        f"here {new['original']}, as shipped and with its garbage collector off.",
        f"Same bits: float.hex of that many losses and of all parameters after the last step, against those of "
        f"{new['losses_checked_against']}.",
        *(["Quick: few steps, so that the fastest contenders still work from cold caches."] if args.quick else []),
        *(["The processor's time, not the clock's."] if new["clock"] == "cpu" else []),
        *(f"not run: {name}: {why}" for name, why in new["absent"].items()),
    ]
    draw = None
    if args.plot:
        from plots import compare as draw
    cli.finish(new, args, compare(new), "\n".join(notes), draw)


if __name__ == "__main__":
    cli.run(main)
