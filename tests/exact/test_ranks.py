"""Training on several MPI ranks: the bits of one process, for any number of ranks."""
import sys

import pytest
from conftest import hexes
from mpi_jobs import digest, run_tasks
from small_runs import DOCS, SHAPES

from microgpt import Trainer
from microgpt.core.simd import simd_info
from microgpt.distributed.chain import own_part, rounds_of
from microgpt.trainer import ENGINES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="MPI is tested on Linux")

LARGE = dict(n_embd=72, n_head=2, n_layer=2, block_size=12)
SIZES = (1, 2, 3, 5, 9)


def seen(trainer, losses):
    return dict(losses=hexes(losses), step=trainer.step_index, params=digest(trainer.parameters),
                m=digest(trainer.adam.m), v=digest(trainer.adam.v), grad=[(0.0).hex()])  # fmt: skip


def expected(settings, steps=None, engine="fused"):
    trainer = Trainer(DOCS, engine=engine, **settings)
    return seen(trainer, trainer.run(steps))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_rank_has_the_bits_of_one_process(tmp_path, ranks):
    sizes = SIZES if ranks > 2 else (1, 2, 5)
    settings = [dict(shape, num_steps=3, batch_size=size) for shape in [*SHAPES, LARGE] for size in sizes]
    settings.append(dict(SHAPES[0], num_steps=4, batch_size=5, schedule="cosine", warmup=1, weight_decay=0.1, clip=0.3))
    tasks = [dict(docs=DOCS, settings=s) for s in settings if ranks > 1 or s["batch_size"] == 5]  # one rank trains as without a job
    tasks += [dict(docs=DOCS, settings=dict(s, num_steps=2), engine=engine) for engine in ("graph", "reference") for s in settings
              if s["n_embd"] == 8 and s["batch_size"] in (2, 5)]  # fmt: skip
    tasks += [dict(task, threads=2) for task in tasks if task["settings"]["n_embd"] == 72]
    rounds = [dict(task, capacity=1) for task in tasks if task["settings"]["batch_size"] in (5, 9)]  # by messages as well
    tasks += [dict(task, messages=True) for task in tasks if "engine" not in task and ranks > 1] + rounds
    for task, found in zip(tasks, run_tasks(tmp_path, ranks, tasks)):
        assert found == (expected(task["settings"]),) * ranks, task


@pytest.mark.slow
def test_a_run_resumes_on_any_number_of_ranks(tmp_path):
    settings, path = dict(LARGE, num_steps=8, batch_size=5), str(tmp_path / "run.safetensors")
    task = dict(docs=DOCS, settings=settings, steps=2, save=path)
    losses = []
    for ranks, engine in ((3, "fused"), (1, "fused"), (2, "graph")):
        found = run_tasks(tmp_path, ranks, [dict(task, engine=engine)])[0]
        assert found[0] == found[-1]
        losses += found[0]["losses"]
        task = dict(docs=DOCS, load=path, steps=2, save=path)
    resumed = Trainer.load(path, DOCS)
    assert resumed.step_index == 6
    last = seen(resumed, resumed.run())
    assert dict(last, losses=losses + last["losses"]) == expected(settings)


@pytest.mark.slow
def test_machines_of_a_job_may_have_other_instruction_sets(tmp_path):
    settings, others = dict(LARGE, num_steps=3, batch_size=5), simd_info()["supported"][:2]
    tasks = [dict(docs=DOCS, settings=settings), dict(docs=DOCS, settings=settings, capacity=1)]
    for found in run_tasks(tmp_path, 3, tasks, simd=others):
        assert found == (expected(settings),) * 3


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_gradients_that_were_there_are_added_to(tmp_path, ranks):
    settings = dict(SHAPES[0], num_steps=3, batch_size=4)
    values = {str(i): ((-0.0).hex(), (0.25).hex(), (0.0).hex())[i % 3] for i in range(500)}
    trainer = Trainer(DOCS, **settings)
    count = len(trainer.model.params)
    values = {i: value for i, value in values.items() if int(i) < count}
    for i, value in values.items():
        trainer.model.params[int(i)].grad = float.fromhex(value)
    whole = seen(trainer, trainer.run())
    tasks = [dict(docs=DOCS, settings=settings, grad=values, engine=engine) for engine in ENGINES]
    tasks.append(dict(tasks[0], messages=True))
    for found in run_tasks(tmp_path, ranks, tasks):
        assert found == (whole,) * ranks


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("lengths", [[], [3], [5, 5], [1, 9, 1], [4] * 16, [0, 0, 0], [100, 1, 1, 1, 1], [7, 3, 8, 2, 9, 4, 1]])
def test_parts_are_the_batch_in_order_and_about_equal(lengths, size):
    parts = [own_part(lengths, rank, size) for rank in range(size)]
    assert [i for first, end in reversed(parts) for i in range(first, end)] == [*range(len(lengths))]
    work = [n + 1 for n in lengths]
    assert all(sum(work[first:end]) <= sum(work) / size + max(work, default=0) for first, end in parts)


@pytest.mark.parametrize("documents, most", [(1, 1), (5, 2), (6, 3), (7, 100)])
def test_rounds_are_the_batch_from_its_end(documents, most):
    rounds = rounds_of(documents, most)
    assert [i for first, end in reversed(rounds) for i in range(first, end)] == [*range(documents)]
    assert all(0 < end - first <= most for first, end in rounds)
