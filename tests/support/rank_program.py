"""What each rank of a test runs: `mpiexec -n N python rank_program.py TASKS.json OUT`.

A task is a list of calls of one trainer, whose numbers go to OUT.RANK as JSON, one entry for each task.
"""
import json
import sys

import oracle
from mpi4py import MPI
from mpi_jobs import digest

from microgpt import Callback, Trainer
from microgpt.distributed import crew


class StopAfter(Callback):
    """Ends the run after a step, by a reason or by an exception."""

    every = 1

    def __init__(self, step, error=None):
        self.step, self.error = step, error

    def on_check(self, trainer, record):
        if trainer.step_index == self.step:
            if self.error:
                raise OSError(self.error)
            self.stop = "enough"


def numbers(values):
    return [float(x).hex() for x in values]


def run(task, comm):
    """Carry out one task; return what this rank saw."""
    rank, settings = comm.Get_rank(), dict(task.get("settings", {}))
    settings.update(task.get("rank_settings", {}).get(str(rank), {}))
    engine, found = task.get("engine", "fused"), {}
    crew.SHARES_MEMORY = "capacity" not in task and not task.get("messages")
    try:
        if "load" in task:
            trainer = Trainer.load(task["load"], task["docs"], engine, comm=comm)
        else:
            trainer = Trainer(task["docs"], engine=engine, comm=comm, **settings)
        trainer.threads = task.get("threads", 1)
        for i, value in task.get("grad", {}).items():
            trainer.model.params[int(i)].grad = float.fromhex(value)
        if "scale" in task:
            trainer.parameters = trainer.parameters * task["scale"]
        if "capacity" in task and comm.Get_size() > 1:
            trainer._ranks.chain.part.capacity = task["capacity"]
        callbacks = [StopAfter(*task["stop"])] if "stop" in task else []
        if task.get("interrupt") == rank:
            raise_in_step(trainer)
        losses = trainer.run(task.get("steps"), callbacks)
        found["losses"] = numbers(losses)
    except (Exception, KeyboardInterrupt) as error:
        found["error"] = f"{type(error).__name__}: {error}"
    if found.get("error", "").startswith("TypeError"):
        return found
    found["step"], found["params"] = trainer.step_index, digest(trainer.parameters)
    found["m"], found["v"] = digest(trainer.adam.m), digest(trainer.adam.v)
    found["grad"] = sorted({float(p.grad).hex() for p in trainer.model.params})
    if "save" in task:
        trainer.save(task["save"])
    if "again" in task:
        found["again"] = numbers(trainer.run(task["again"]))
    comm.Barrier()
    return found


def raise_in_step(trainer):
    """As a Ctrl-C would: a signal to this process, once the run has made a step."""
    import os
    import signal
    import threading
    import time

    def interrupt():
        while not trainer.adam.step_index:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()


def main():
    comm = MPI.COMM_WORLD
    with open(sys.argv[1], encoding="utf-8") as file:
        tasks = json.load(file)
    with oracle.collector_off():
        found = [run(task, comm) for task in tasks]
    with open(f"{sys.argv[2]}.{comm.Get_rank()}", "w", encoding="utf-8") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
