"""Larger models: the fused engine against NumPy and PyTorch, batches of 16 among them.

    python bench/bench_shapes.py --torch-python PYTHON --json bench/results/shapes.json

The names with n_embd 16 to 256, and a text with four layers and a block of 64. The text is the interpreter's own help
(pydoc_data.topics), cut into pieces of 64 characters, unless --text gives another.
"""
import argparse
import re
import sys
import tempfile

from harness import arithmetic, bits, cli, machine, measure, report, task
from harness.contender import Unavailable, Worker
from harness.progress import Progress

machine.find_package()

SHAPES = {
    "n_embd 16": {"n_embd": 16},
    "n_embd 64": {"n_embd": 64},
    "n_embd 128": {"n_embd": 128},
    "n_embd 256": {"n_embd": 256},
    "n_embd 128, 4 layers, block 64, text": {"n_embd": 128, "n_layer": 4, "block_size": 64, "text": True},
}
BATCH, REPEATS, DOCUMENTS = 16, 5, 64
#: The graph engine checks the losses' bits on this many steps where its graph fits: some 64 bytes for every 4
#: operations.
CHECKED, MOST_OPERATIONS = 2, 6e7


def main(argv=None):
    args = _arguments(argv)
    core, warnings = cli.choose_core(args)
    shapes = dict(list(SHAPES.items())[:2]) if args.quick else SHAPES
    rows, absent, versions = [], {}, {}
    with Progress(len(shapes), "shapes") as progress:
        for name, shape in shapes.items():
            progress.at(name)
            row, times = _shape(name, dict(shape), args, core, absent, versions)
            warnings += [f"{name}: {sentence}" for sentence in measure.distrust(times)]
            rows.append(row)
            progress.advance()
    new = report.build("shapes", {**machine.describe(core), **versions}, warnings, rows=rows, absent=absent)
    _finish(new, args)
    return 0


def _arguments(argv):
    p = argparse.ArgumentParser(prog="python bench/bench_shapes.py", description=__doc__.splitlines()[0])
    p.add_argument("--torch-python", metavar="PYTHON", default=sys.executable, help="the Python that has PyTorch")
    p.add_argument("--text", metavar="FILE", help="the text of the four-layer model")
    p.add_argument("--engine", default="fused", help="the engine that is compared (default: fused)")
    cli.add_options(p, REPEATS, plot=False)
    cli.add_clock(p)
    args = p.parse_args(argv)
    cli.check_files(p, args.text)
    return args


def text_documents(path, length):
    """Pieces of a text, each of `length` characters; line ends are spaces, anything but printable ASCII is left out."""
    if path is None:
        from pydoc_data.topics import topics

        text = "\n".join(topics[name] for name in sorted(topics))
    else:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    text = re.sub(r"\s+", " ", re.sub(r"[^ -~\s]", "", text))
    pieces = [text[i : i + length].strip() for i in range(0, len(text) - length, length)]
    return [piece for piece in pieces if piece]


def _shape(name, shape, args, core, absent, versions):
    """(the row of one shape, {contender: [seconds a document of each round]})"""
    if shape.pop("text", False):
        docs = text_documents(args.text, shape["block_size"])
    else:
        from microgpt.data import BUNDLED, load_docs

        docs = load_docs(BUNDLED)
    with tempfile.TemporaryDirectory() as folder:
        the_task = task.write(folder, docs, DOCUMENTS + BATCH, **shape)  # a first step comes before
        model = {
            "vocab_size": the_task.vocab_size,
            **{k: the_task.settings[k] for k in ("n_embd", "n_layer", "block_size")},
        }
        block = the_task.settings["block_size"]
        positions = [min(block, len(tokens) - 1) for tokens in the_task.tokens[:DOCUMENTS]]
        flops = sum(arithmetic.flops(n, **model) for n in positions) / DOCUMENTS
        workers, firsts, oracle = {}, {}, _oracle(folder, core, flops, absent)
        for worker in _contenders(args, folder, core):
            try:
                worker.start()
                first = worker.run(CHECKED)
                judge = oracle or next(iter(firsts.values()), first)
                difference = worker.batch == 1 and bits.same_model(first.losses, judge.losses, worker.tolerance)
                if difference:
                    worker.stop()
                    raise Unavailable(difference)
            except Unavailable as why:
                absent[worker.name] = str(why)
                continue
            versions.update({k: v for k, v in worker.versions.items() if k == "torch"})
            firsts[worker.name] = first
            worker.steps = (BATCH if args.quick else DOCUMENTS) // worker.batch  # the same documents for all
            seconds = first.seconds / CHECKED * worker.steps
            worker.repeat = max(1, min(50, round((0.05 if args.quick else 0.3) / seconds)))
            workers[worker.name] = worker
        times = measure.interleave(
            {n: _runner(w, args.clock) for n, w in workers.items()}, args.repeats or (2 if args.quick else REPEATS)
        )
        for worker in workers.values():
            worker.stop()
    contenders = [
        {
            "name": n,
            "precision": workers[n].precision,
            "batch": workers[n].batch,
            "seconds_per_document": measure.median(values),
            "spread": measure.spread(values),
            **_verdict(firsts[n] if workers[n].batch == 1 else None, oracle),
        }
        for n, values in times.items()
    ]
    row = {
        "name": name,
        **model,
        "positions": sum(positions) / DOCUMENTS,
        "documents": DOCUMENTS,
        "num_params": arithmetic.num_params(**model),
        "flops": flops,
        "contenders": contenders,
    }
    return row, times


def _verdict(first, oracle):
    if first is None or oracle is None:
        return bits.verdict(None, None)
    return bits.verdict(first.losses, oracle.losses, first.digest == oracle.digest)


def _contenders(args, folder, core):
    common = {"task": str(folder), "core": core}
    here = machine.HARNESS.parent
    yield Worker(args.engine, {"kind": "trainer", "engine": args.engine, **common})
    yield Worker("NumPy", {"kind": "module", "file": str(here / "numpy_gpt.py"), **common})
    for batch in (1, BATCH):
        for dtype in ("float64", "float32"):
            name = f"PyTorch {dtype}" + (f", batch {batch}" if batch > 1 else "")
            specification = {"kind": "module", "file": str(here / "torch_gpt.py"), **common}
            specification["options"] = {"dtype": dtype, "batch": batch}
            precision, tolerance = {"float64": ("f64", 1e-9), "float32": ("f32", 1e-3)}[dtype]
            yield Worker(
                name, specification, python=args.torch_python, precision=precision, batch=batch, tolerance=tolerance
            )


def _runner(worker, clock):
    return lambda: worker.run(worker.steps).by_clock[clock] / worker.steps / worker.batch


def _oracle(folder, core, flops, absent):
    """The first steps of the graph engine, which the tests hold to the original's bits; None if it is too large."""
    if flops > MOST_OPERATIONS:
        return None
    worker = Worker("graph", {"kind": "trainer", "engine": "graph", "task": str(folder), "core": core})
    try:
        worker.start()
        return worker.run(CHECKED)
    except Unavailable as why:
        absent["graph, as the judge of the bits"] = str(why)
        return None
    finally:
        worker.stop()


def _finish(new, args):
    from tables import shapes

    notes = [
        "µs a document on one thread, medians; f64 and f32 are not the same work, nor is a batch of 16 the same as 16",
        f"steps. The same {BATCH if args.quick else DOCUMENTS} documents for all. Same bits: the first losses, and the",
        f"parameters after {CHECKED + 1} steps, against the graph engine's.",
        *(f"not run: {name}: {why}" for name, why in new["absent"].items()),
    ]
    cli.finish(new, args, shapes(new), "\n".join(notes))


if __name__ == "__main__":
    cli.run(main)
