"""How does the time grow with the model, against NumPy, PyTorch and other versions?

    python bench/bench_shapes.py --torch-python PYTHON --json bench/results/shapes.json

The bundled names with n_embd 16 to 256, then one other setting at a time on synthetic documents, then a text with four
layers and a block of 64.
"""
import random
import re
import statistics

import tables
from harness import cli, machine, task
from harness.contender import BATCH
from harness.contest import Contest

SHAPES = {
    **{f"n_embd {n}": {"n_embd": n} for n in (16, 64, 128, 256)},
    "16 layers": {"n_layer": 16},
    "256 positions": {"block_size": 256, "length": 255},
    "block 4,096": {"block_size": 4096},
    "vocabulary 10,000": {"letters": 9999},
    "n_embd 128, 4 layers, block 64, text": {"n_embd": 128, "n_layer": 4, "block_size": 64},
}
ROUNDS, DOCUMENTS = 5, 64
#: The graph engine, which the tests hold to the original's bits, is the judge where its graph fits into memory: some
#: 64 bytes for every 4 operations.
MOST_OPERATIONS = 6e7


def main():
    p = cli.parser(__doc__, ROUNDS)
    p.add_argument("--only", metavar="WORD", default="", help="only the models whose names contain this word")
    cli.add_field_options(p)
    args = cli.parse(p)
    contest = Contest(args, machine.choose_core())
    names = [name for name in SHAPES if args.only in name][: 2 if args.quick else None]
    rows = contest.each(names, lambda *of: play(args, contest, *of))
    notes = [
        "One thread, medians, the same documents for all. Operations are counted from the shape. float32 is other work than",
        "float64, and a batch of 16 is other work than 16 steps. Same bits: all losses and the final parameters of the fused",
        "engine, compared with the graph engine's where its graph fits into memory.",
    ]
    contest.finish("shapes", [tables.shapes], notes, rows=rows, others=[name for name, _ in args.other],
                   exact_flops=machine.exact_peak(contest.core))  # fmt: skip


def play(args, contest, name, field):
    """Return [the row of one model]."""
    from microgpt import Config, load_docs

    shape = dict(SHAPES[name])
    length, letters = shape.pop("length", None), shape.pop("letters", None)
    if length or letters:
        docs = synthetic_documents(length or 7, letters or 26)
    else:
        docs = text_documents(shape["block_size"]) if "text" in name else load_docs()
    documents = BATCH if args.quick else DOCUMENTS
    the_task = task.write(field.folder, docs, documents + 4 * BATCH, **shape)
    vocab_size, sizes = the_task.vocab_size, Config(**the_task.settings)
    positions = [min(sizes.block_size, len(tokens) - 1) for tokens in the_task.tokens[:documents]]
    # Position embeddings that no document reaches take no work.
    operations = statistics.fmean(flops(n, vocab_size, sizes.replace(block_size=max(positions))) for n in positions)
    contenders = [
        field.trainer("fused", "fused"),
        *field.others(args.other),
        field.module("NumPy", machine.BENCH / "numpy_gpt.py"),
        *field.pytorch("PyTorch {dtype}", args.torch_python, (1, BATCH)),
    ]
    judge = field.trainer("graph", "graph") if operations <= MOST_OPERATIONS else None
    rows = contest.play(contenders, judge, the_task, documents)
    return [{"name": name, "vocab_size": vocab_size, **the_task.settings, "positions": statistics.fmean(positions),
             "documents": documents, "num_params": sizes.num_params(vocab_size), "flops": operations, "contenders": rows}]  # fmt: skip


def flops(positions, vocab_size, sizes):
    """Return the additions, multiplications and divisions of one document: forward, backward and Adam.

    Each weight is multiplied and added once forward and twice backward per position; so is each pair of positions
    that attend to one another, for each of n_embd, in the scores and in the weighted sum. Adam takes 14 operations
    per parameter, a square root counted as one. Softmax and rmsnorm, a few per cent, are left out.
    """
    weights = (12 * sizes.n_layer * sizes.n_embd + vocab_size) * sizes.n_embd
    pairs = positions * (positions + 1) // 2
    forward = 2 * positions * weights + 4 * sizes.n_layer * sizes.n_embd * pairs
    return 3 * forward + 14 * sizes.num_params(vocab_size)


def synthetic_documents(length, count, seed=1):
    """Return documents of `length` letters out of `count` different ones; every letter occurs."""
    rng, letters = random.Random(seed), [chr(0x4E00 + i) for i in range(count)]
    every = ["".join(letters[i : i + length]).ljust(length, letters[0]) for i in range(0, count, length)]
    return every + ["".join(rng.choices(letters, k=length)) for _ in range(100)]


def text_documents(length):
    """Return pieces of Python's help texts of `length` characters: printable ASCII, line ends as spaces."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))
    text = re.sub(r"\s+", " ", re.sub(r"[^ -~\s]", "", text))
    pieces = [text[i : i + length].strip() for i in range(0, len(text) - length, length)]
    return [piece for piece in pieces if piece]


if __name__ == "__main__":
    cli.run(main)
