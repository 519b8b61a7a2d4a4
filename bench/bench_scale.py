"""How far do more MPI ranks pay? Measures computing and messages here, predicts other numbers of ranks, and draws them.

    python bench/bench_scale.py --json bench/results/scale.json --picture docs/images/scale.svg

The seconds of a step on R ranks of R machines, by the formula in `predict`, from what is measured on 1 and 2 ranks:
    documents   tokens of the longest part x cost of a token: forward, and backward down to the activations
    gradients   (chunks + R - 1) x (a chunk's gradients on one rank + one message): a pipeline through all ranks
    broadcast   all gradients through one link once more, and log2(R) latencies for each chunk
    the rest    Adam, which every rank does in full, and one exchange of losses
On one machine (`predict_together`), ranks divide the documents and Adam, and send nothing.
"""
import json
import math
import os
import subprocess
import sys
import time
import timeit
from functools import partial
from pathlib import Path

import tables
from harness import cli, machine, report
from harness.measure import median

SHAPE, BATCH, STEPS, ROUNDS = {"n_embd": 128, "n_layer": 4, "block_size": 64}, 16, 8, 5
#: With --quick: the model, and the numbers in a large message.
SMALL, SHORT = {"n_embd": 16, "n_layer": 1, "block_size": 16}, 1 << 10
#: What is predicted: sizes of the model and documents per step, each as long as the block.
CASES = {
    "0.8 million parameters, batch 16": (SHAPE, 16),
    "0.8 million parameters, batch 512": (SHAPE, 512),
    "151 million parameters, batch 512": ({"n_embd": 1024, "n_layer": 12, "block_size": 256}, 512),
}
TITLE = "Predicted speed-up by number of ranks"
#: Seconds for a message, bytes per second: assumed, of a network between machines with one rank each.
NETWORKS = {"10 Gbit/s": (2e-5, 1.25e9), "100 Gbit/s": (2e-6, 1.25e10)}
RANKS, VOCAB, MESSAGE = [2**i for i in range(10)], 27, 1 << 20


def main():
    p = cli.parser(__doc__, ROUNDS)
    p.add_argument("--picture", type=cli.picture, metavar="FILE", help="draw the predictions (needs matplotlib)")
    args, warnings = cli.parse(p), machine.warnings_before()
    rounds = [{ranks: job(ranks, args.quick) for ranks in (1, 2, 3)} for _ in range(args.rounds)]
    jobs = {ranks: {name: median(found[ranks][name] for found in rounds) for name in rounds[0][ranks]} for ranks in (1, 2, 3)}
    costs = {**jobs[1], "exchange": jobs[2]["exchange"]}
    here = jobs[2]["latency"], 8 * MESSAGE / jobs[2]["message"]
    expected = {ranks: [predict_together(costs, BATCH, ranks), predict(costs, SHAPE, BATCH, ranks, *here)] for ranks in jobs}
    speedups = {case: {name: [[ranks, predict(costs, *what, 1, *link) / predict(costs, *what, ranks, *link)]
                              for ranks in RANKS if ranks <= what[1]] for name, link in NETWORKS.items()}
                for case, what in CASES.items()}  # fmt: skip
    notes = [f"{ranks} ranks{how}: {one['wall' + how] * 1e3:.0f} ms a step, {one['processor' + how] * 1e3:.0f} ms of a processor; "
             f"{jobs[1]['wall'] / one['wall' + how]:.2f} and {jobs[1]['processor'] / one['processor' + how]:.2f} times as fast, "
             f"predicted {expected[1][i] / expected[ranks][i]:.2f}"
             for i, how in enumerate(("", " by messages")) for ranks, one in jobs.items() if ranks > i]  # fmt: skip
    notes += [f"messages of {ranks} ranks: {jobs[ranks]['chain'] * 1e3:.1f} ms" for ranks in (2, 3)]
    report.finish("scale", args, machine.describe(None), warnings, [tables.scale], notes,
                  jobs=jobs, expected_here=expected, speedups=speedups)  # fmt: skip
    if args.picture:
        draw(speedups, args.picture)


def job(ranks, quick):
    """Return what the slowest rank of a job measured."""
    launcher = os.path.join(os.path.dirname(sys.executable), "mpiexec")
    command = [launcher, "-n", str(ranks), sys.executable, __file__, "measure", *["quick"] * quick]
    done = subprocess.run(command, capture_output=True, text=True, env=machine.child_environment())
    if done.returncode:
        sys.exit(done.stderr)
    each = json.loads(done.stdout)
    return {name: max(found[name] for found in each) for name in each[0]}


def timed(work, clock=time.perf_counter, repeats=7):
    """Return the median of the seconds that work() takes."""
    return median(timeit.repeat(work, timer=clock, repeat=repeats, number=1))


def measure(comm, shape=SHAPE, message=MESSAGE):
    """Return what one rank of comm measures: costs per parameter (and token), messages, a whole step."""
    import numpy as np

    from microgpt import GPT, Adam, Tokenizer, Trainer, load_docs
    from microgpt.core.fused import FusedEngine
    from microgpt.core.part import BatchPart
    from microgpt.distributed import crew

    text, size = " ".join(load_docs()), shape["block_size"]
    docs = [text[i : i + size] for i in range(0, 64 * size, size)]
    tokenizer, rank, ranks = Tokenizer(docs), comm.Get_rank(), comm.Get_size()
    model = GPT(tokenizer.vocab_size, **shape)
    adam, part, n, tokens = Adam(model), BatchPart(FusedEngine(model), ranks), model.num_params, BATCH * size
    clock = time.thread_time  # processor time: other work on the machine counts less
    found = {
        "token": timed(lambda: part.losses(docs[:BATCH], tokenizer.ids, BATCH), clock) / tokens / n,
        "gradient": timed(lambda: part.add_gradients(0, len(part.starts) - 1), clock) / tokens / n,
        "adam": timed(adam.step, clock) / n,
        "exchange": timed(lambda: comm.allgather(("losses", [1.0] * BATCH)), repeats=100),
    }

    def there_and_back(buffer):
        for sender in (0, 1):
            if rank == sender:
                comm.Send(buffer, 1 - rank)
            elif rank < 2:
                comm.Recv(buffer, 1 - rank)

    if ranks > 1:
        from microgpt.distributed.chain import Chain

        for name, numbers in (("latency", 1), ("message", message)):
            found[name] = timed(partial(there_and_back, np.zeros(numbers)), repeats=50) / 2
        found["chain"] = timed(partial(Chain(Silent(np.zeros(n)), comm).pass_on, is_last=True))
    for how in ("", " by messages"):  # as ranks of one machine, and as if each had a machine of its own
        crew.SHARES_MEMORY = not how
        trainer = Trainer(docs, num_steps=10**6, batch_size=BATCH, comm=comm, **shape)
        trainer.run(2)
        wall, processor = time.perf_counter(), time.process_time()
        trainer.run(STEPS)
        found |= {"wall" + how: (time.perf_counter() - wall) / STEPS, "processor" + how: (time.process_time() - processor) / STEPS}
    return {**found, "update": found["adam"] * n}


class Silent:
    """A part of a batch without documents: the messages of a step without its work."""

    def __init__(self, grad):
        self.grad, self.chunks = grad, [(i, min(i + 50_000, len(grad))) for i in range(0, len(grad), 50_000)]

    def gradients(self):
        return self.grad

    def add(self, chunk):
        pass


def predict(costs, shape, batch, ranks, latency, bandwidth):
    """Return the seconds of a step, every rank having a core of its own."""
    from microgpt.config import Config
    from microgpt.distributed.parts import LARGEST_CHUNK, SMALLEST_CHUNK

    params, several = Config(**shape).num_params(VOCAB), ranks > 1
    chunks = math.ceil(params / min(LARGEST_CHUNK, max(SMALLEST_CHUNK, params // (8 * ranks))))
    work = math.ceil(batch / ranks) * shape["block_size"] * params
    message = several * (latency + 8 * params / chunks / bandwidth)
    gradients = (chunks + ranks - 1) * (work * costs["gradient"] / chunks + message)
    broadcast = several * (8 * params / bandwidth + chunks * latency * math.log2(ranks))
    rest = params * costs["adam"] + several * costs["exchange"]
    return work * costs["token"] + gradients + broadcast + rest


def predict_together(costs, batch, ranks):
    """Return the seconds of a step of the measured model on ranks of one machine."""
    return math.ceil(batch / ranks) / batch * (costs["wall"] - costs["update"]) + costs["update"] / ranks


def draw(speedups, path):
    """Draw the predicted speed-ups."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "scale", "svg.fonttype": "none"})
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for color, (case, links) in zip(("#0072b2", "#009e73", "#d55e00"), speedups.items()):
        for style, (link, points) in zip(("--", "-"), links.items()):
            axes.plot(*zip(*points), style, color=color, label=f"{case}; {link}")
    axes.plot(RANKS, RANKS, ":", color="#888888", label="R ranks, R times as fast")
    axes.set(xscale="log", yscale="log", xlabel="ranks", ylabel="times as fast as one rank", ylim=(0.7, 600))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(RANKS, list(map(str, RANKS)))
        axis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.grid(color="#dddddd")
    axes.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None, "Title": TITLE})
    if path.endswith(".svg"):
        dark = " <style>@media (prefers-color-scheme: dark) { svg { filter: invert(0.9) hue-rotate(180deg) } }</style>\n"
        text = Path(path).read_text(encoding="utf-8")
        Path(path).write_text(text.replace(" <metadata>", f"{dark} <metadata>", 1), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:  # one rank of a job
        from mpi4py import MPI

        if each := MPI.COMM_WORLD.gather(measure(MPI.COMM_WORLD, *([SMALL, SHORT] if "quick" in sys.argv else []))):
            print(json.dumps(each))
    else:
        cli.run(main)
