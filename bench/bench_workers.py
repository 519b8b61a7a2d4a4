"""How much faster is a step on several threads than on one, beside what independent processes reach here?

    python bench/bench_workers.py --threads 2 --json bench/results/workers.json

The threads of one trainer against one, in turns. The ceiling: as many processes of one thread each, all at once and each on a
core of its own, against one of them alone.
"""
import os
from concurrent.futures import ThreadPoolExecutor

import tables
from bench_shapes import text_documents
from harness import cli, measure, task
from harness.contender import Field
from harness.contest import Contest

BIG = {"n_embd": 128, "n_layer": 4, "block_size": 64}
#: Name -> documents per step, the model.
WORK = {
    "n_embd 16, batch 16": (16, {}),
    "n_embd 64, batch 16": (16, {"n_embd": 64}),
    "n_embd 128, 4 layers, block 64, text, batch 8": (8, BIG),
    "the same, batch 1": (1, BIG),
}
STEPS, ROUNDS = 8, 7


def main():
    p = cli.parser(__doc__, ROUNDS)
    p.add_argument("--threads", type=cli.positive, default=2, metavar="N", help="threads against one (default: 2)")
    args = cli.parse(p)
    contest = Contest(args, None)

    def play(name, field):
        from microgpt import load_docs

        batch, model = WORK[name]
        the_task = task.write(field.folder, text_documents(64) if model is BIG else load_docs(), 1, **model)
        threads = [field.trainer(f"{n} threads", "fused", {"threads": n, "batch_size": batch}) for n in (1, args.threads)]
        one, several = contest.play(threads, threads[0], the_task, STEPS)
        return [{"name": name, "documents": batch, "bits": several["bits"], "spread": several["spread"],
                 "seconds": {"1": one["seconds_per_document"], str(args.threads): several["seconds_per_document"]},
                 "speedup": measure.ratio(one["rounds"], several["rounds"]),
                 "ceiling": ceiling(field.folder, args.threads, batch, args.rounds, one["runs_per_round"])}]  # fmt: skip

    rows = contest.each(list(WORK)[: 2 if args.quick else None], play)
    notes = ["Medians of rounds in which one thread and several take turns. The ceiling is measured after them."]
    contest.finish("workers", [tables.workers], notes, rows=rows, threads=args.threads)


def ceiling(folder, count, batch, rounds, repeat):
    """Return how many times the steps of one process alone that many processes at once do, each on a core of its own."""
    cores = sorted(os.sched_getaffinity(0))[:count]
    processes = [Field(folder, core).trainer(f"core {core}", "fused", {"batch_size": batch}) for core in cores]

    def seconds(process):
        return process.run(STEPS).by_clock["wall"]

    for process in processes:
        process.start()
        process.repeat = repeat
    with ThreadPoolExecutor(count) as pool:
        times = [(seconds(processes[0]), [*pool.map(seconds, processes)]) for _ in range(rounds)]
    for process in processes:
        process.stop()
    return measure.median(sum(alone / one for one in together) for alone, together in times)


if __name__ == "__main__":
    cli.run(main)
