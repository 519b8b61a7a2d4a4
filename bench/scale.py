"""How far do more MPI ranks pay? Measures computing and messages here, predicts other numbers of ranks, and draws them.

    python bench/scale.py --json bench/results/scale.json --picture docs/images/scale.svg

The seconds of a step on R ranks, by the formula in `predict`, from what is measured on 1 and 2 ranks:
    documents   tokens of the longest part x cost of a token: forward, and backward down to the activations
    gradients   (chunks + R - 1) x (a chunk's gradients on one rank + one message): a pipeline through all ranks
    broadcast   all gradients through one link once more, and log2(R) latencies for each chunk
    the rest    Adam, which every rank does in full, and one exchange of losses
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from harness import machine, report

machine.find_package()

SHAPE, BATCH, STEPS, ROUNDS = {"n_embd": 128, "n_layer": 4, "block_size": 64}, 16, 4, 5
#: With --quick: the model, and the numbers in a large message.
SMALL, SHORT = {"n_embd": 16, "n_layer": 1, "block_size": 16}, 1 << 10
#: What is predicted: sizes of the model and documents per step, each as long as the block.
CASES = {
    "0.8 million parameters, batch 16": (SHAPE, 16),
    "0.8 million parameters, batch 512": (SHAPE, 512),
    "151 million parameters, batch 512": ({"n_embd": 1024, "n_layer": 12, "block_size": 256}, 512),
}
TITLE = "Predicted speed-up by number of ranks"
#: Numbers of ranks in the table.
SHOWN = (2, 8, 64, 512)
#: Seconds for a message, bytes per second: assumed, of a network between machines with one rank each.
NETWORKS = {"10 Gbit/s": (2e-5, 1.25e9), "100 Gbit/s": (2e-6, 1.25e10)}
RANKS, VOCAB, MESSAGE = [2**i for i in range(10)], 27, 1 << 20


def timed(work, clock=time.perf_counter, repeats=7):
    """Return the median of the seconds that work() takes."""
    seconds = []
    for _ in range(repeats):
        before = clock()
        work()
        seconds.append(clock() - before)
    return statistics.median(seconds)


def measure(comm, shape=SHAPE, message=MESSAGE):
    """Return what one rank of comm measures: costs per parameter (and token), messages, a whole step."""
    import numpy as np

    from microgpt import GPT, Adam, Tokenizer, Trainer, load_docs
    from microgpt.core.fused import FusedEngine

    text, size = " ".join(load_docs()), shape["block_size"]
    docs = [text[i : i + size] for i in range(0, 64 * size, size)]
    tokenizer, ranks = Tokenizer(docs), comm.Get_size()
    model = GPT(tokenizer.vocab_size, **shape)
    adam, kernels, n = Adam(model), FusedEngine(model), model.num_params
    count, tokens = len(kernels.part_slices(ranks)) - 1, BATCH * size
    clock = time.thread_time  # processor time: other work on the machine counts less
    found = {
        "token": timed(lambda: kernels.part_losses(docs[:BATCH], tokenizer.ids, BATCH), clock) / tokens / n,
        "gradient": timed(lambda: kernels.part_gradients(0, count), clock) / tokens / n,
        "adam": timed(adam.step, clock) / n,
        "exchange": timed(lambda: comm.allgather(("losses", [1.0] * BATCH)), repeats=100),
    }
    if ranks > 1:
        from microgpt.distributed.chain import Chain

        for name, count in (("latency", 1), ("message", message)):
            found[name] = timed(partial(there_and_back, comm, np.zeros(count)), repeats=50) / 2
        # Two ways to get all gradients to where they are needed: sums through a chain of ranks and out again; or all activations
        # to all ranks, each of which then updates some parameters, and these to all.
        found["chain"] = timed(partial(Chain(Silent(np.zeros(n)), comm).pass_on, is_last=True))
        numbers = 16 * shape["n_embd"] * shape["n_layer"] * tokens
        found["activations"] = timed(partial(gather, comm, numbers)) + timed(partial(gather, comm, n))
    trainer = Trainer(docs, num_steps=10**6, batch_size=BATCH, comm=comm, **shape)
    trainer.run(2)
    before = time.perf_counter(), time.process_time()
    trainer.run(STEPS)
    after = time.perf_counter(), time.process_time()
    found["wall"], found["processor"] = ((b - a) / STEPS for a, b in zip(before, after))
    return found


def there_and_back(comm, buffer):
    """Send buffer from rank 0 to rank 1 and back."""
    if comm.Get_rank() == 0:
        comm.Send(buffer, 1)
        comm.Recv(buffer, 1)
    elif comm.Get_rank() == 1:
        comm.Recv(buffer, 0)
        comm.Send(buffer, 0)


def gather(comm, count):
    """Give every rank its share of so many numbers from each of the others."""
    import numpy as np

    part = np.zeros(count // comm.Get_size())
    comm.Allgather(part, np.empty(len(part) * comm.Get_size()))


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


def job(ranks, *options):
    """Return what the slowest rank of a job measured."""
    launcher = os.path.join(os.path.dirname(sys.executable), "mpiexec")
    command = [launcher, "-n", str(ranks), sys.executable, __file__, "--worker", *options]
    done = subprocess.run(command, capture_output=True, text=True, env=machine.child_environment())
    if done.returncode:
        sys.exit(done.stderr)
    each = json.loads(done.stdout)
    return {name: max(found[name] for found in each) for name in each[0]}


def summary(rounds):
    """Return the medians of the jobs' figures, and what follows from them."""
    jobs = {ranks: {name: statistics.median(r[ranks][name] for r in rounds) for name in rounds[0][ranks]} for ranks in (1, 2, 3)}
    costs = {**jobs[1], "exchange": jobs[2]["exchange"]}
    here = jobs[2]["latency"], 8 * MESSAGE / jobs[2]["message"]
    links = {"this machine": here, **NETWORKS}
    return {
        "jobs": jobs,
        "expected_here": {ranks: predict(costs, SHAPE, BATCH, ranks, *here) for ranks in jobs},
        "speedups": {case: {link: [[ranks, predict(costs, *what, 1, *links[link]) / predict(costs, *what, ranks, *links[link])]
                                   for ranks in RANKS if ranks <= what[1]] for link in NETWORKS}
                     for case, what in CASES.items()},
    }  # fmt: skip


def show(found):
    """Print the figures as tables."""
    for ranks, job in found["jobs"].items():
        speedup = [found["jobs"][1][name] / job[name] for name in ("wall", "processor")]
        expected = found["expected_here"][1] / found["expected_here"][ranks]
        print(f"{ranks} ranks: {job['wall'] * 1e3:.0f} ms a step, {job['processor'] * 1e3:.0f} ms of a processor; "
              f"{speedup[0]:.2f} and {speedup[1]:.2f} times as fast, predicted {expected:.2f}")  # fmt: skip
        if ranks > 1:
            print(f"    messages: chain {job['chain'] * 1e3:.1f} ms, activations {job['activations'] * 1e3:.1f} ms")
    print(table(found))


def table(found):
    """Return the predictions as a table for a page."""
    rows = [f"| | {' | '.join(map(str, SHOWN))} |", "| --- |" + " ---: |" * len(SHOWN)]
    for case, links in found["speedups"].items():
        for link, points in links.items():
            cells = (f"{dict(points)[ranks]:.1f}" if ranks in dict(points) else "" for ranks in SHOWN)
            rows.append(f"| {case}, {link} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def draw(found, path):
    """Draw the predicted speed-ups."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "scale", "svg.fonttype": "none"})
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for color, (case, links) in zip(("#0072b2", "#009e73", "#d55e00"), found["speedups"].items()):
        for style, (link, points) in zip(("--", "-"), links.items()):
            axes.plot(*zip(*points), style, color=color, label=f"{case}; {link}")
    axes.plot(RANKS, RANKS, ":", color="#888888", label="R ranks, R times as fast")
    axes.set(xscale="log", yscale="log", xlabel="ranks", ylabel="times as fast as one rank", ylim=(0.7, 600))
    for axis, ticks in ((axes.xaxis, RANKS), (axes.yaxis, RANKS)):
        axis.set_ticks(ticks, [str(tick) for tick in ticks])
        axis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.grid(color="#dddddd")
    axes.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None, "Title": TITLE})
    if path.endswith(".svg"):
        dark = "@media (prefers-color-scheme: dark) { svg { filter: invert(0.9) hue-rotate(180deg) } }"
        file = Path(path)
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(" <metadata>", f" <style>{dark}</style>\n <metadata>", 1), encoding="utf-8")


def main():
    p = argparse.ArgumentParser(prog="python bench/scale.py", description=__doc__.splitlines()[0])
    p.add_argument("--json", metavar="FILE", help="write the figures")
    p.add_argument("--picture", metavar="FILE", help="draw the predictions (needs matplotlib)")
    p.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"jobs of 1, 2 and 3 ranks, in turns (default: {ROUNDS})")
    p.add_argument("--quick", action="store_true", help="one round with a small model, which the predictions take for the large one")
    p.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.worker:
        from mpi4py import MPI

        each = MPI.COMM_WORLD.gather(measure(MPI.COMM_WORLD, *([SMALL, SHORT] if args.quick else [])))
        if each:
            print(json.dumps(each))
        return
    busy = machine.load_warning()
    rounds, options = (1, ["--quick"]) if args.quick else (args.rounds, [])
    found = summary([{ranks: job(ranks, *options) for ranks in (1, 2, 3)} for _ in range(rounds)])
    show(found)
    if args.json:
        report.write(args.json, report.build("scale", machine.describe(None), [busy] if busy else [], **found))
    if args.picture:
        draw(found, args.picture)


if __name__ == "__main__":
    main()
