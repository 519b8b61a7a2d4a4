"""A little of everything that is compiled, for valgrind: python tools/short_run.py

The fused engine trains and samples on every instruction set, the graph engine takes a step, Values do sums. What comes
out is compared with the reference, so that the run is known to have been one.
"""
import random

from microgpt import GPT, Trainer, Value, document_loss, reference, simd_info
from microgpt.core import simd
from microgpt.core.adam import Adam
from microgpt.core.mt19937 import MT19937

DOCS = ["emma", "olivia", "ava", "isabella"]
SHAPES = [dict(n_embd=5, n_head=1, n_layer=1, block_size=3), dict(n_embd=12, n_head=3, n_layer=2, block_size=9)]


def main():
    for settings in SHAPES:
        expected = Trainer(DOCS, num_steps=2, engine="reference", **settings).run()
        for isa in simd_info()["supported"]:
            simd._use(isa)
            trainer = Trainer(DOCS, num_steps=2, **settings)
            assert trainer.run() == expected, isa
            trainer.sample(2)
        assert Trainer(DOCS, num_steps=2, engine="graph", **settings).run() == expected
    results = []
    for V in (Value, reference.Value):
        a, b = V(2.0), V(-3.0)
        c = (a * b + a**2).relu() + (b / a).exp() - (a + 1).log()
        c.backward()
        results.append((c.data, a.grad, b.grad))
    assert results[0] == results[1]
    model = GPT(5, n_embd=4, n_head=2, block_size=4, rng=random.Random(1))
    document_loss([4, 1, 2, 4], model).backward()
    Adam(model).step()
    stream = MT19937(7)
    stream.shuffle(list(range(20)))
    print(f"{len(SHAPES)} shapes on {', '.join(simd_info()['supported'])}")


if __name__ == "__main__":
    main()
