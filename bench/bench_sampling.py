"""How many tokens a second does a trained model write, engine by engine, and is it the same text?

    python bench/bench_sampling.py --json bench/results/sampling.json

One model, trained and saved by the fastest engine there is, is loaded by each engine; all draw from the same stream. A
token is one pass through the model and one draw, the one that ends a document included.
"""
import argparse
import tempfile
from pathlib import Path

from harness import cli, machine, measure, report
from harness.contender import Unavailable, Worker
from harness.progress import Progress

machine.find_package()

ENGINES = ("fused", "graph", "reference")
REPEATS, STEPS, COMPARED = 5, 1000, 20
LEAST = 0.3  # seconds to sample in a round


def main(argv=None):
    args = _arguments(argv)
    core, warnings = cli.choose_core(args)
    repeats, compared = args.repeats or (2 if args.quick else REPEATS), 3 if args.quick else COMPARED
    absent, workers, texts, counts = {}, {}, {}, {}
    with tempfile.TemporaryDirectory() as folder, Progress(len(ENGINES) * (repeats + 1), "sampling") as progress:
        path = str(Path(folder, "model.safetensors"))
        trained_by, steps = _train(path, args.quick)
        for engine in ENGINES:
            progress.at(engine)
            specification = {"kind": "sampler", "engine": engine, "model": path, "core": core}
            worker = Worker(engine, specification)
            try:
                worker.start()
                first = worker.ask(samples=compared)
                workers[engine], texts[engine] = worker, first["texts"]
                rate = compared / first["seconds"]
                counts[engine] = max(compared, round((0.1 if args.quick else LEAST) * rate))
            except Unavailable as why:
                absent[engine] = str(why)
            progress.advance()
        times = measure.interleave(
            {engine: _runner(worker, counts[engine]) for engine, worker in workers.items()}, repeats, progress
        )
        for worker in workers.values():
            worker.stop()
    warnings += measure.distrust(times)
    rows = [
        {
            "name": engine,
            "tokens_per_second": 1 / measure.median(values),
            "spread": measure.spread(values),
            "times_reference": measure.ratio(times["reference"], values) if "reference" in times else None,
            "samples": counts[engine],
            "compared": compared,
            "same_text": texts[engine] == texts["reference"] if "reference" in texts else None,
        }
        for engine, values in times.items()
    ]
    new = report.build("sampling", machine.describe(core), warnings, rows=rows, absent=absent, steps=steps,
                       trained_by=trained_by)  # fmt: skip
    _finish(new, args)
    return 0


def _arguments(argv):
    p = argparse.ArgumentParser(prog="python bench/bench_sampling.py", description=__doc__.splitlines()[0])
    cli.add_options(p, REPEATS, plot=False)
    return p.parse_args(argv)


def _train(path, quick):
    """Train the default model on the bundled names and save it; returns (the engine that did, its steps)."""
    from microgpt import Trainer
    from microgpt.data import BUNDLED, load_docs

    for engine, steps in (("fused", STEPS), ("graph", STEPS), ("reference", 2 if quick else 50)):
        try:
            trainer = Trainer(load_docs(BUNDLED), num_steps=steps, engine=engine)
        except ImportError:
            continue
        trainer.run()
        trainer.save(path)
        return engine, steps
    raise AssertionError("the reference engine needs nothing that could be missing")


def _runner(worker, samples):
    def once():
        answer = worker.ask(samples=samples)
        return answer["seconds"] / answer["tokens"]

    return once


def _finish(new, args):
    from tables import sampling

    notes = [f"The default model after {new['steps']} steps; temperature 0.5."]
    notes += [f"not run: {name}: {why}" for name, why in new["absent"].items()]
    cli.finish(new, args, sampling(new), "\n".join(notes))


if __name__ == "__main__":
    cli.run(main)
