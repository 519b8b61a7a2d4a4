"""How many tokens per second does a trained model generate, engine by engine, and is it the same text?

    python bench/bench_sampling.py --json bench/results/sampling.json

Each engine loads one model, trained and saved by the fused engine, and draws from the same stream. A token is one draw, the
one that ends a document included. The fused engine remembers what follows each beginning of a text, so the time of a token
depends on how many texts are drawn: each time from an engine that remembers nothing. All options of pyperf work.
"""
import os
import tempfile
from time import perf_counter

import tables
from harness import cli, machine, micro

ENGINES, STEPS, COMPARED = ("fused", "graph", "reference"), 1000, 20
DRAWN = [("fused", 20), ("fused", 1000), ("fused", 5000), ("graph", 20), ("reference", 20)]  # engine, texts


def main():
    runner = micro.runner(("model",), processes=5, min_time=0.05)
    runner.argparser.add_argument("--model", metavar="FILE", help="the model (default: the default model, trained)")
    args, before = runner.parse_args(), machine.warnings_before()
    from microgpt import Trainer, load_docs

    with tempfile.TemporaryDirectory() as folder:
        if not args.model:
            args.model = os.path.join(folder, "model.safetensors")
            trainer = Trainer(load_docs(), num_steps=STEPS)
            trainer.run()
            trainer.save(args.model)
        names = [f"{engine}, {n:,} texts" for engine, n in DRAWN]
        made = {name: runner.bench_time_func(name, sample, *what, args.model) for name, what in zip(names, DRAWN)}
        if args.worker:
            return
        texts = {engine: Trainer.load(args.model, engine=engine).sample(COMPARED) for engine in ENGINES}
    rows = micro.rows(made, names[-1])
    for row, (engine, _) in zip(rows, DRAWN):
        row |= {"compared": COMPARED, "same_text": texts[engine] == texts["reference"]}
    notes = [f"The default model after {STEPS} steps; temperature 0.5."]
    micro.finish("sampling", args, [tables.sampling], notes, before, rows, steps=STEPS)


def sample(n, engine, texts, path):
    """Return the seconds for n tokens, from the time of n texts or more: `texts` again and again, nothing remembered before."""
    from microgpt import Trainer

    trainer = Trainer.load(path, engine=engine)
    state, block_size = trainer.rng.getstate(), trainer.settings["block_size"]
    seconds = tokens = 0
    for _ in range(-(-n // texts)):
        if engine == "fused":  # sampling from other parameters for once makes it forget what it remembers of these
            data, first = trainer.model.data, trainer.model.data[0]
            data[0] += 1.0
            trainer.sample(1, seed=1)
            data[0] = first
        trainer.rng.setstate(state)
        started = perf_counter()
        drawn = trainer.sample(texts)
        seconds += perf_counter() - started
        # A text shorter than the block ends with a token that was drawn, too.
        tokens += sum(min(len(text) + 1, block_size) for text in drawn)
    return seconds * n / tokens


if __name__ == "__main__":
    cli.run(main)
