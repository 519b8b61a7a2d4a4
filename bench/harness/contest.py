"""Contenders in turns, one task after the other; their losses and parameters compared with a judge's."""
import math
import sys
import tempfile

from tqdm import tqdm

from . import machine, measure, report
from .contender import Field, Unavailable

#: Steps on which every contender is checked before it is timed.
CHECK = 2


class Contest:
    """A benchmark in which contenders take turns on one core.

    args: of cli.parse(); core: None for contenders that may use every core. What happens meanwhile is collected:
    warnings, sentences; absent, {contender: why it was not timed}; torch, PyTorch's version.
    """

    def __init__(self, args, core):
        self.args, self.core = args, core
        self.warnings, self.absent, self.torch = machine.warnings_before(), {}, None
        self.case, self.bar = "", tqdm(total=0, leave=False, disable=None)  # only on a terminal

    def each(self, cases, play):
        """Return the rows of all cases; play(case, Field) returns those of one."""
        rows = []
        for case in cases:
            self.case = str(case)
            with tempfile.TemporaryDirectory() as folder:
                rows += play(case, Field(folder, self.core))
        return rows

    def progress(self, what):
        self.bar.set_postfix_str(what, refresh=False)
        self.bar.update()

    def play(self, contenders, judge, the_task, steps):
        """Check and time contenders; return a dict for each, with its verdict and the seconds per document of every round.

        judge: the Contender whose losses and parameters are right, or None; it may be among the others. steps: documents per
        run. Exits if the judge cannot run.
        """
        rounds, clock, truth, expected, absent = self.args.rounds, self.args.clock, None, None, {}
        self.bar.total += 1 + len(contenders) * (1 + rounds)
        if judge:
            self.progress(f"judge: {judge.name}")
            try:
                judge.start()
                truth = judge.run(steps)
                expected = truth.losses
                judge.stop()
            except Unavailable as why:
                sys.exit(f"{judge.name}: {why}")
        for contender in contenders:
            self.progress(f"checking {contender.name}")
            try:
                contender.start()
                first = contender.run(CHECK)
                expected = expected or first.losses
                # The first loss of a batch is the mean over its documents.
                right = expected if contender.batch == 1 else [batch_loss(the_task, contender.batch)]
                if wrong := measure.same_model(first.losses, right, contender.tolerance):
                    raise Unavailable(wrong)
            except Unavailable as why:
                contender.stop()
                absent[contender.name] = str(why)
                continue
            seconds = first.by_clock["wall"] / first.steps * steps / contender.batch
            contender.repeat = max(1, min(200, round(self.args.least / seconds)))
        ready = {c.name: c for c in contenders if c.name not in absent}
        results = {name: [] for name in ready}
        for i, name in measure.turns([*ready], rounds):
            self.progress(f"round {i + 1} of {rounds}: {name}")
            if name not in absent:
                try:
                    results[name].append(ready[name].run(math.ceil(steps / ready[name].batch)))  # a batch takes the same documents
                except Unavailable as why:
                    absent[name] = str(why)
        for contender in ready.values():
            contender.stop()
            self.torch = contender.versions.get("torch", self.torch)
        finished = [name for name in ready if name not in absent]
        rows = [_row(ready[name], results[name], clock, truth) for name in finished]
        warnings = [f"{name} is not reproducible: its losses differ between rounds" for name in finished
                    if any(r.losses != results[name][0].losses for r in results[name])]  # fmt: skip
        shared = [name for name in finished if clock == "wall" and any(
            r.by_clock["cpu"] < (1 - measure.NOISY) * r.by_clock["wall"] for r in results[name])]  # fmt: skip
        warnings += measure.distrust({row["name"]: row["spread"] for row in rows}, sorted(shared))
        self.warnings += [f"{self.case}: {sentence}".removeprefix(": ") for sentence in warnings]
        self.absent |= {f"{name}, {self.case}".removesuffix(", "): why for name, why in absent.items()}
        return rows

    def finish(self, name, layouts, notes, **content):
        """Write and print the report: see report.finish()."""
        self.bar.close()
        described = machine.describe(self.core, self.torch)
        report.finish(name, self.args, described, self.warnings, layouts, notes, self.absent, **content)


def batch_loss(the_task, batch):
    """Return the mean loss of the first documents under the initial parameters."""
    from microgpt import Trainer

    return Trainer(the_task.docs, seed=the_task.seed, batch_size=batch, **the_task.settings).step()


def _row(contender, results, clock, truth):
    seconds = [r.by_clock[clock] / r.steps / contender.batch for r in results]
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
