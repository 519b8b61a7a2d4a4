"""How do time and memory grow with n_embd, n_layer, document length, block size and vocabulary?

    python bench/bench_scaling.py --json bench/results/scaling.json --plot bench/results/scaling.png

Each point is a task of its own with documents of one length; engines take turns on it. Points that would take an engine
too long or too much memory are left out, and said to be.
"""
import argparse
import random
import tempfile

from harness import arithmetic, cli, machine, measure, peak, report, task
from harness.contender import Unavailable, Worker
from harness.progress import Progress

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
REPEATS = 5
#: What an engine is expected to need for each operation of arithmetic.flops, to leave out what would take too long.
#: Not a result.
GUESS = {"fused": (1e-10, 0), "graph": (2e-9, 20), "NumPy": (1e-9, 0), "reference": (1e-6, 60)}  # seconds, bytes
MOST_SECONDS, MOST_BYTES = 6.0, 1.5e9


def main(argv=None):
    args = _arguments(argv)
    core, warnings = cli.choose_core(args)
    axes = QUICK_AXES if args.quick else AXES
    engines = [e for e in GUESS if not args.only or e in args.only.split(",")]
    if args.quick and not args.only:
        engines.remove("reference")
    points = [(axis, {**BASE, axis: value}) for axis, values in axes.items() for value in values]
    for _, shape in points:
        shape["block_size"] = max(shape["block_size"], shape["positions"])
    the_peak, absent, rows = peak.measure(core), {}, []
    with Progress(len(points), "scaling") as progress:
        for axis, shape in points:
            progress.at(f"{axis} {shape[axis]}")
            row = {"axis": axis, "value": shape[axis], **shape, **_arithmetic(shape), "engines": {}}
            times = _point(shape, engines, args, core, row, absent)
            warnings += [f"{axis} {shape[axis]}: {s}" for s in measure.distrust(times)]
            rows.append(row)
            progress.advance()
    new = report.build("scaling", machine.describe(core), warnings, peak=the_peak, base=BASE, rows=rows, absent=absent)
    _finish(new, args)
    return 0


def _arguments(argv):
    p = argparse.ArgumentParser(prog="python bench/bench_scaling.py", description=__doc__.splitlines()[0])
    p.add_argument("--only", metavar="ENGINE,...", help=f"of {', '.join(GUESS)}")
    cli.add_options(p, REPEATS)
    cli.add_clock(p)
    return p.parse_args(argv)


def _arithmetic(shape):
    model = {key: shape[key] for key in ("vocab_size", "n_embd", "n_layer", "block_size")}
    # The embeddings of positions that no document reaches are not touched: neither work nor traffic.
    reached = {**model, "block_size": shape["positions"]}
    return {
        "num_params": arithmetic.num_params(**model),
        "flops": arithmetic.flops(shape["positions"], **reached),
        "least_bytes": arithmetic.least_bytes(**reached),
    }


def documents(positions, vocab_size, seed=1):
    """Documents of `positions` - 1 letters, that is `positions` predictions, with every letter in one of them."""
    rng, letters = random.Random(seed), [chr(0x4E00 + i) for i in range(vocab_size - 1)]
    length = positions - 1
    every = ["".join(letters[i : i + length]) for i in range(0, len(letters), length)]
    every[-1] = every[-1].ljust(length, letters[0])
    return every + ["".join(rng.choices(letters, k=length)) for _ in range(100)]


def _point(shape, engines, args, core, row, absent):
    """Measure one point into row["engines"]; returns {engine: [seconds of each round]}."""
    repeats = args.repeats or (2 if args.quick else REPEATS)
    settings = {key: shape[key] for key in ("n_embd", "n_layer", "block_size")}
    with tempfile.TemporaryDirectory() as folder:
        task.write(folder, documents(shape["positions"], shape["vocab_size"]), 501, **settings)
        workers = {}
        for engine in engines:
            seconds, memory = (per_flop * row["flops"] for per_flop in GUESS[engine])
            if seconds > MOST_SECONDS or memory > MOST_BYTES:
                row["engines"][engine] = None
                continue
            worker = _worker(engine, folder, core)
            try:
                worker.start()
            except Unavailable as why:
                absent[engine] = str(why)
                continue
            workers[engine] = worker, _steps(worker, args.quick)
        runners = {e: _runner(worker, steps, args.clock) for e, (worker, steps) in workers.items()}
        times = measure.interleave(runners, repeats)
        for engine, (worker, steps) in workers.items():
            result = worker.run(1)
            row["engines"][engine] = {
                "seconds": measure.median(times[engine]),
                "spread": measure.spread(times[engine]),
                "steps": steps,
                "bytes": None if worker.memory_before is None else result.peak - worker.memory_before,
            }
            worker.stop()
    return times


def _worker(engine, folder, core):
    specification = {"task": str(folder), "core": core}
    if engine == "NumPy":
        specification |= {"kind": "module", "file": str(machine.HARNESS.parent / "numpy_gpt.py")}
    else:
        specification |= {"kind": "trainer", "engine": engine}
    return Worker(engine, specification)


def _steps(worker, quick):
    """How many documents to time at once: enough for the clock, few enough for patience."""
    seconds = worker.run(1).seconds
    return max(1, min(500, round((0.02 if quick else 0.1) / seconds)))


def _runner(worker, steps, clock):
    return lambda: worker.run(steps).by_clock[clock] / steps


def _finish(new, args):
    from tables import scaling

    p = new["peak"]
    notes = [
        "One document a step. Shares: of the speed of NumPy's own matrix product on this core, with fused multiply-adds, and of",
        "the most that products and sums reach that are rounded one by one, as exact doubles are (harness/peak.c).",
    ]
    if p:
        notes.append(
            f"Measured, in billion operations a second: NumPy's matmul {p['flops'] / 1e9:.0f}"
            + (f", exact {p['exact_flops'] / 1e9:.0f}" if p["exact_flops"] else "")
            + f"; copying: {p['bytes'] / 1e9:.0f} GB/s."
        )
    notes += [f"not run: {name}: {why}" for name, why in new["absent"].items()]
    draw = None
    if args.plot:
        from plots import scaling as draw
    cli.finish(new, args, scaling(new), "\n".join(notes), draw)


if __name__ == "__main__":
    cli.run(main)
