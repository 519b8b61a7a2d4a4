"""python growth.py SUBJECT STEPS: does the process grow? Run by test_leaks.py, each subject in a process of its own.

A tenth of the steps is done first, so that pools and caches are full; then resident memory must stay where it is, but
for what allocators keep for themselves.
"""
import builtins
import gc
import linecache
import resource
import sys
import tempfile
from pathlib import Path

from microgpt import GPT, Adam, Trainer, Value, compile
from microgpt.core.fused import FusedEngine
from microgpt.core.mt19937 import MT19937

DOCS = ["emma", "olivia", "ava", "isabella", "sophia", "mia"]
SETTINGS = dict(n_embd=8, n_head=2, n_layer=1, block_size=8)
ALLOWED = 1 << 19  # bytes


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def operators():
    """Ten operations and a backward a step."""
    a, b = Value(1.5), Value(-0.5)

    def step(k):
        c = (a * b + k * 1e-9 - a / 3.0) ** 2
        d = (c + 1.0).log() + (-c).exp().relu()
        d.backward()
        a.grad = b.grad = 0.0

    return step


def fused():
    trainer = Trainer(DOCS, num_steps=10**7, **SETTINGS)

    def step(k):
        trainer.run(1)
        if k % 100 == 0:
            trainer.sample(1)

    return step


def graph():
    trainer = Trainer(DOCS, num_steps=10**7, engine="graph", **SETTINGS)
    return lambda k: trainer.run(1)


def compilations():
    """Functions over leaves of their own and of others, new code now and then, a shape more, errors, replays, backward."""
    shared, lines = [Value(0.5 + i / 8) for i in range(8)], "def f(i, x):\n    return w[i] * x + w[0].exp() * sum(shared)\n"

    def step(k):
        w = [Value(0.5), Value(1.5)]
        f = compile(lambda i, x: w[i] * x + w[0].exp() * sum(shared), verify="first" if k % 2 else False)
        g = compile(lambda xs: [x * shared[0] for x in xs])
        if k % 10 == 0:
            name, space = f"growth_{k}.py", {"w": w, "shared": shared}
            linecache.cache[name] = (len(lines), None, lines.splitlines(True), name)
            exec(builtins.compile(lines, name, "exec"), space)
            f = compile(space["f"])
            del linecache.cache[name]
        for n in (1, 1, 1, 2, 2, 2):
            f(1, 0.5).backward()
            g([0.25] * n)[0].backward()
        compile(lambda x: w[0] * float(x), verify=False)(0.5)
        assert f.explain()

    return step


def objects():
    """Models, optimizers, engines and streams come and go, and so do their views."""
    def step(k):
        model = GPT(5 + k % 3, n_embd=4, n_head=2, block_size=4 + k % 5)
        adam, engine, stream = Adam(model), FusedEngine(model), MT19937(k)
        engine.loss_and_grad([4, 1, 2, 4])
        adam.step()
        engine.sample(stream)
        model.data[0] + adam.m[0]
        stream.setstate(stream.getstate())

    return step


def errors():
    """Whatever is refused half way leaves nothing behind."""
    model = GPT(5, n_embd=4, n_head=2, block_size=4)
    engine, stream = FusedEngine(model), MT19937(1)
    refused = [
        lambda: engine.loss_and_grad([4, 9, 4]),
        lambda: engine.loss_and_grad(["x"]),
        lambda: engine.train([[4, 1, 4], [4, -1, 4]], Adam(model), []),
        lambda: engine.sample(stream, temperature=0.0),
        lambda: engine.probabilities([]),
        lambda: Value(0.0).log(),
        lambda: Value(0.0) ** -1,
        lambda: Value(1000.0).exp(),
        lambda: Value("x"),
        lambda: Value(1.0, (1,), (1.0,)),
        lambda: MT19937("x"),
        lambda: GPT(5, n_embd=5, n_head=2),
    ]

    def step(k):
        try:
            refused[k % len(refused)]()
        except (ValueError, TypeError, ArithmeticError):
            return
        raise AssertionError(f"number {k % len(refused)} was not refused")

    return step


def checkpoints():
    trainer = Trainer(DOCS, num_steps=10, **SETTINGS)
    trainer.run(3)
    folder = tempfile.TemporaryDirectory()

    def step(k):
        path = Path(folder.name) / "run.safetensors"
        trainer.save(path)
        Trainer.load(path, docs=DOCS if k % 2 else None)

    return step


def main(subject, steps):
    step, steps = globals()[subject](), int(steps)
    for k in range(steps // 10):
        step(k)
    gc.collect()
    before = resident()
    for k in range(steps):
        step(k)
    gc.collect()
    grown = resident() - before
    print(f"{subject}: grown by {grown} bytes in {steps} steps")
    assert grown < ALLOWED


if __name__ == "__main__":
    main(*sys.argv[1:])
