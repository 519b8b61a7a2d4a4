"""How do time and memory grow with n_embd, n_layer, document length, block size and vocabulary?

    python bench/bench_scaling.py --json bench/results/scaling.json --plot bench/results/scaling.png

Each point is a task with documents of one length; the engines take turns on it. Points that would take an engine too
long or too much memory are skipped, and shown as "–".
"""
import argparse
import random
import tempfile

from harness import arithmetic, cli, field, machine, measure, peak, report, task
from harness.contender import Unavailable

machine.find_package()

BASE = {"n_embd": 16, "n_layer": 1, "positions": 8, "block_size": 16, "vocab_size": 27}
AXES = {
    "n_embd": (8, 16, 32, 64, 128, 256),
    "n_layer": (1, 2, 4, 8, 16),
    "positions": (2, 4, 8, 16, 32, 64, 128, 256),
    "block_size": (8, 16, 64, 256, 1024, 4096),
    "vocab_size": (8, 27, 100, 1000, 10_000),
}
QUICK_AXES = {"n_embd": (8, 16), "positions": (4, 8)}
ROUNDS = 5
#: Estimated (seconds, bytes) per operation of arithmetic.flops, to skip what would take too long. Not a result.
ESTIMATE = {"fused": (1e-10, 0), "graph": (2e-9, 20), "NumPy": (1e-9, 0), "reference": (1e-6, 60)}
MOST_SECONDS, MOST_BYTES = 6.0, 1.5e9


def main(argv=None):
    p = argparse.ArgumentParser(prog="python bench/bench_scaling.py", description=__doc__.splitlines()[0])
    p.add_argument("--only", metavar="ENGINE,...", help=f"of {', '.join(ESTIMATE)}")
    cli.add_options(p, ROUNDS, plot=True)
    args = p.parse_args(argv)
    core, warnings = cli.choose_core(args)
    engines = [e for e in ESTIMATE if (e in args.only.split(",") if args.only else e != "reference" or not args.quick)]
    axes = QUICK_AXES if args.quick else AXES
    points = [(axis, {**BASE, axis: value}) for axis, values in axes.items() for value in values]
    the_peak, absent, rows = peak.measure(core), {}, []
    rounds = args.repeats or (2 if args.quick else ROUNDS)
    progress = cli.progress("scaling", len(points) * len(engines) * rounds)
    for axis, shape in points:
        shape["block_size"] = max(shape["block_size"], shape["positions"])
        row = {"axis": axis, "value": shape[axis], **shape, **work(shape)}
        row["engines"] = measure_point(shape, row["flops"], engines, args, core, rounds, absent, progress)
        spreads = {e: found["spread"] for e, found in row["engines"].items() if found}
        warnings += [f"{axis} {shape[axis]}: {s}" for s in measure.distrust(spreads)]
        rows.append(row)
    progress(None)
    new = report.build("scaling", machine.describe(core), warnings, peak=the_peak, base=BASE, rows=rows, absent=absent)
    finish(new, args)


def work(shape):
    """Return the number of parameters, and the operations per document."""
    model = {key: shape[key] for key in ("vocab_size", "n_embd", "n_layer", "block_size")}
    # Position embeddings that no document reaches take no work.
    reached = {**model, "block_size": shape["positions"]}
    return {"num_params": arithmetic.num_params(**model), "flops": arithmetic.flops(shape["positions"], **reached)}


def documents(positions, vocab_size, seed=1):
    """Return documents of `positions` - 1 letters, that is `positions` predictions; every letter occurs."""
    rng, letters = random.Random(seed), [chr(0x4E00 + i) for i in range(vocab_size - 1)]
    length = positions - 1
    every = ["".join(letters[i : i + length]) for i in range(0, len(letters), length)]
    every[-1] = every[-1].ljust(length, letters[0])
    return every + ["".join(rng.choices(letters, k=length)) for _ in range(100)]


def measure_point(shape, flops, engines, args, core, rounds, absent, progress):
    """Return {engine: its seconds per document, spread, steps and bytes; None if it was skipped}."""
    settings, found, workers = {key: shape[key] for key in ("n_embd", "n_layer", "block_size")}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        task.write(folder, documents(shape["positions"], shape["vocab_size"]), 501, **settings)
        for engine in engines:
            seconds, memory = (per_operation * flops for per_operation in ESTIMATE[engine])
            if seconds > MOST_SECONDS or memory > MOST_BYTES:
                found[engine] = None
                continue
            numpy = engine == "NumPy"
            worker = field.numpy(engine, folder, core) if numpy else field.trainer(engine, engine, folder, core)
            try:
                worker.start()
                # Enough documents for the clock, few enough for patience.
                once = worker.run(1).by_clock["wall"]
                worker.steps = max(1, min(500, round((0.02 if args.quick else 0.1) / once)))
                workers[engine] = worker
            except Unavailable as why:
                absent[engine] = str(why)

        def runner(worker):
            return lambda: worker.run(worker.steps).by_clock[args.clock] / worker.steps

        times = measure.interleave({e: runner(w) for e, w in workers.items()}, rounds, progress)
        for engine, worker in workers.items():
            held = worker.run(1).peak
            found[engine] = {
                "seconds": measure.median(times[engine]),
                "spread": measure.spread(times[engine]),
                "steps": worker.steps,
                "bytes": None if worker.memory_before is None else held - worker.memory_before,
            }
            worker.stop()
    return found


def finish(new, args):
    from tables import scaling

    notes = ["One document per step. Operations are counted from the shape, not measured."]
    if new["peak"]:
        notes.append(f"Exact peak, measured: {new['peak']['exact_flops'] / 1e9:.0f} × 10⁹ multiplications and additions per "
                     "second, each rounded on its own (harness/peak.c).")  # fmt: skip
    cli.finish(new, args, [scaling(new)], notes)


if __name__ == "__main__":
    cli.run(main)
