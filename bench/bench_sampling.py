"""How many tokens per second does a trained model generate, engine by engine, and is it the same text?

    python bench/bench_sampling.py --json bench/results/sampling.json

Each engine loads one model, trained and saved by the fused engine, and draws from the same stream. A token is one pass
through the model and one draw, the one that ends a document included. All options of pyperf work.
"""
import os
import tempfile
from time import perf_counter

import tables
from harness import cli, machine, micro

machine.find_package()

ENGINES, STEPS, COMPARED = ("fused", "graph", "reference"), 1000, 20


def main():
    runner = micro.runner(("model",), processes=5, min_time=0.05)
    runner.argparser.add_argument("--model", metavar="FILE", help="the model (default: the default model, trained)")
    args, load = runner.parse_args(), machine.load_warning()
    from microgpt import Trainer
    from microgpt.data import BUNDLED, load_docs

    with tempfile.TemporaryDirectory() as folder:
        if not args.model:
            args.model = os.path.join(folder, "model.safetensors")
            trainer = Trainer(load_docs(BUNDLED), num_steps=STEPS)
            trainer.run()
            trainer.save(args.model)
        made = {engine: runner.bench_time_func(engine, sample, engine, args.model) for engine in ENGINES}
        if args.worker:
            return
        texts = {engine: Trainer.load(args.model, engine=engine).sample(COMPARED) for engine in ENGINES}
    rows = micro.rows(made, "reference")
    for row in rows:
        row |= {"compared": COMPARED, "same_text": texts[row["name"]] == texts["reference"]}
    notes = [f"The default model after {STEPS} steps; temperature 0.5."]
    micro.finish("sampling", args, [tables.sampling], notes, load, rows, steps=STEPS)


def sample(n, engine, path):
    """Return the seconds for n tokens, from the time of n texts."""
    from microgpt import Trainer

    trainer = Trainer.load(path, engine=engine)
    started = perf_counter()
    texts = trainer.sample(n)
    seconds = perf_counter() - started
    # A text shorter than the block ends with a token that was drawn, too.
    block_size = trainer.settings["block_size"]
    return seconds * n / sum(min(len(text) + 1, block_size) for text in texts)


if __name__ == "__main__":
    cli.run(main)
