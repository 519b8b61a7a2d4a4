"""Run contenders in turns on one task, and compare losses and parameters with a judge's."""
import math
import sys
import tempfile
from pathlib import Path

from . import cli, measure
from .contender import Unavailable

#: Steps on which every contender is checked before it is timed.
CHECK = 2


def each(title, names, most, pace, play):
    """Run one contest for each name; return (rows, absent, warnings) of all of them.

    most: contenders of a contest, at most; play(name, folder, progress) returns what `play` below does.
    """
    progress, rows, absent, warnings = cli.progress(title, len(names) * (1 + most * (1 + pace.rounds))), [], {}, []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            found, missing, more = play(name, Path(folder), progress)
        rows += found
        absent |= {f"{contender}, {name}".removesuffix(", "): why for contender, why in missing.items()}
        warnings += [f"{name}: {sentence}".removeprefix(": ") for sentence in more]
    progress(None)
    return rows, absent, warnings


def play(field, judge, the_task, steps, pace, progress):
    """Check and time every contender of a field.

    judge: the Contender whose losses and parameters are right, or None; it may be in the field. steps: documents per
    run; pace: a cli.Pace.

    Returns (rows, absent, warnings): a dict for each contender, with its verdict and the seconds per document of every
    round; {name: why it was not run}; sentences. Exits if the judge cannot run.
    """
    truth, absent = None, {}
    if judge:
        progress(f"judge: {judge.name}")
        try:
            judge.start()
            truth = judge.run(steps)
            judge.stop()
        except Unavailable as why:
            sys.exit(f"{judge.name}: {why}")
    expected = truth and truth.losses[: CHECK + 1]
    for contender in field:
        progress(f"checking {contender.name}")
        try:
            contender.start()
            first = contender.run(CHECK)
            if contender.batch > 1:  # the first loss of a batch is the mean over its documents
                wrong = measure.same_model(first.losses[:1], [batch_loss(the_task, contender.batch)], contender.tolerance)
            else:
                expected = expected or first.losses
                wrong = measure.same_model(first.losses, expected, contender.tolerance)
            if wrong:
                contender.stop()
                raise Unavailable(wrong)
        except Unavailable as why:
            absent[contender.name] = str(why)
            continue
        seconds = first.by_clock["wall"] / first.steps * steps / contender.batch
        contender.repeat = max(1, min(200, round(pace.least / seconds)))
    results, shared = {c.name: [] for c in field if c.name not in absent}, set()

    def once(contender):
        try:
            result = contender.run(math.ceil(steps / contender.batch))  # a batch takes the same documents
        except Unavailable as why:
            absent[contender.name] = str(why)
            return None
        results[contender.name].append(result)
        if pace.clock == "wall" and result.by_clock["cpu"] < (1 - measure.NOISY) * result.by_clock["wall"]:
            shared.add(contender.name)
        return result.by_clock[pace.clock] / result.steps / contender.batch

    ready = {c.name: c for c in field if c.name in results}
    times = measure.interleave({name: lambda c=c: once(c) for name, c in ready.items()}, pace.rounds, progress)
    rows, warnings = [], []
    for name, contender in ready.items():
        contender.stop()
        if name in times:
            rows.append(_row(contender, times[name], results[name], truth))
            if any(r.losses != results[name][0].losses for r in results[name]):
                warnings.append(f"{name} is not reproducible: its losses differ between rounds")
    return rows, absent, warnings + measure.distrust({row["name"]: row["spread"] for row in rows}, sorted(shared))


def batch_loss(the_task, batch):
    """Return the mean loss of the first documents under the initial parameters."""
    from microgpt import Trainer

    return Trainer(the_task.docs, seed=the_task.seed, batch_size=batch, **the_task.settings).step()


def _row(contender, seconds, results, truth):
    digests = {r.digest for r in results}
    same_steps = contender.batch == 1 and truth is not None and None not in (*digests, truth.digest)
    equal = digests == {truth.digest} if same_steps else None
    # The worst round counts.
    verdicts = [measure.verdict(r.losses, truth and truth.losses, equal) for r in results]
    verdict = min(verdicts, key=lambda v: (v["bits"] is not False, v["same_bits"]))
    return {"name": contender.name, "precision": contender.precision, "batch": contender.batch,
            "seconds_per_document": measure.median(seconds), "spread": measure.spread(seconds), **verdict,
            "peak_bytes": results[-1].peak, "runs_per_round": contender.repeat, "rounds": seconds,
            "versions": contender.versions}  # fmt: skip
