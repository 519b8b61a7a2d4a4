"""Larger models: the fused engine against NumPy, PyTorch and other versions, with batches of 16 among them.

    python bench/bench_shapes.py --torch-python PYTHON --json bench/results/shapes.json

The bundled names with n_embd 16 to 256, and a text with four layers and a block of 64. The text is the interpreter's
help (pydoc_data.topics), cut into pieces of 64 characters, unless --text gives another.
"""
import argparse
import re
import statistics
import tempfile

from harness import arithmetic, cli, contest, field, machine, report, task

machine.find_package()

SHAPES = {
    "n_embd 16": {"n_embd": 16},
    "n_embd 64": {"n_embd": 64},
    "n_embd 128": {"n_embd": 128},
    "n_embd 256": {"n_embd": 256},
    "n_embd 128, 4 layers, block 64, text": {"n_embd": 128, "n_layer": 4, "block_size": 64},
}
ROUNDS, DOCUMENTS = 5, 64
#: The graph engine, which the tests hold to the original's bits, is the judge where its graph fits into memory: some
#: 64 bytes for every 4 operations.
MOST_OPERATIONS = 6e7


def main(argv=None):
    p = argparse.ArgumentParser(prog="python bench/bench_shapes.py", description=__doc__.splitlines()[0])
    p.add_argument("--text", metavar="FILE", help="the text of the four-layer model")
    p.add_argument("--only", metavar="WORD", help="only the models whose names contain this word")
    field.add_field_options(p)
    cli.add_options(p, ROUNDS)
    args = p.parse_args(argv)
    cli.check_pairs(p, args, "other")
    cli.check_files(p, args.text)
    core, warnings = cli.choose_core(args)
    shapes = {name: shape for name, shape in SHAPES.items() if not args.only or args.only in name}
    if args.quick:
        shapes = dict(list(shapes.items())[:2])
    rounds, rows, absent, versions = args.repeats or (2 if args.quick else ROUNDS), [], {}, {}
    progress = cli.progress("shapes", len(shapes) * (1 + (6 + len(args.other)) * (1 + rounds)))
    for name, shape in shapes.items():
        with tempfile.TemporaryDirectory() as folder:
            row, missing, more = play(name, shape, args, folder, core, rounds, progress)
        rows.append(row)
        absent |= missing
        warnings += [f"{name}: {sentence}" for sentence in more]
        for contender in row["contenders"]:
            versions |= {k: v for k, v in contender["versions"].items() if k == "torch"}
    progress(None)
    others = [value.partition("=")[0] for value in args.other]
    new = report.build("shapes", {**machine.describe(core), **versions}, warnings, rows=rows, others=others,
                       absent=absent)  # fmt: skip
    finish(new, args)


def play(name, shape, args, folder, core, rounds, progress):
    """Return the row of one model, {name: why it was not run}, and warnings."""
    from microgpt.data import BUNDLED, load_docs

    docs = text_documents(args.text, shape["block_size"]) if "text" in name else load_docs(BUNDLED)
    documents = field.BATCH if args.quick else DOCUMENTS
    the_task = task.write(folder, docs, documents + 4 * field.BATCH, **shape)
    positions = the_task.positions(documents)
    flops = statistics.fmean(arithmetic.flops(n, **the_task.shape) for n in positions)
    contenders = [
        field.trainer("fused", "fused", folder, core),
        *field.others(args, folder, core, folder),
        field.numpy("NumPy", folder, core),
        *field.pytorch("PyTorch {dtype}", folder, core, args.torch_python, (1, field.BATCH)),
    ]
    judge = field.trainer("graph", "graph", folder, core) if flops <= MOST_OPERATIONS else None
    least = 0.05 if args.quick else 0.3
    rows, absent, warnings = contest.play(contenders, judge, the_task, documents, rounds, least, args.clock, progress)
    row = {
        "name": name,
        **the_task.shape,
        "positions": statistics.fmean(positions),
        "documents": documents,
        "num_params": arithmetic.num_params(**the_task.shape),
        "flops": flops,
        "contenders": rows,
    }
    return row, absent, warnings


def text_documents(path, length):
    """Return pieces of a text of `length` characters; line ends become spaces, only printable ASCII is kept."""
    if path is None:
        from pydoc_data.topics import topics

        text = "\n".join(topics[name] for name in sorted(topics))
    else:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    text = re.sub(r"\s+", " ", re.sub(r"[^ -~\s]", "", text))
    pieces = [text[i : i + length].strip() for i in range(0, len(text) - length, length)]
    return [piece for piece in pieces if piece]


def finish(new, args):
    from tables import shapes

    notes = [
        "µs per document on one thread, medians. f64 and f32 are different work, as are a batch of 16 and 16 steps.",
        "All contenders train on the same documents. Same bits: all losses and the final parameters, compared with the",
        "graph engine's where its graph fits into memory.",
    ]
    cli.finish(new, args, [shapes(new)], notes)


if __name__ == "__main__":
    cli.run(main)
