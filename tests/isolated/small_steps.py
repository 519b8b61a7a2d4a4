"""Many small steps do not grow the process: operators, layers, unfolded layers, models, errors half way."""
import resource
import sys

import microgpt
from microgpt.core.value import Value


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def step(k):
    a, b = Value(k * 0.001), Value(2.0)
    c = (a * b + 3 - a / b) ** 2
    y = microgpt.linear([a, c], [[b, a], [c, b], [a, a]])
    z = microgpt.softmax(microgpt.rmsnorm(y))
    loss = -z[k % 3].log() + Value(1.0, (a, b, c), (1.0, 2.0, 3.0))
    loss.backward()
    if k % 5 == 0:
        loss.backward()
        y[1]._children[0]._children  # noqa: B018
    if k % 7 == 0:
        try:
            Value(0.0).log()
        except ValueError:
            pass
    if k % 50 == 0:
        m = microgpt.GPT(4, n_embd=4, n_head=2, block_size=4)
        microgpt.document_loss([3, *[k % 3] * (k % 4), 3], m).backward()
        keys, values = [[]], [[]]
        microgpt.gpt(0, 0, keys, values, m)


steps = int(sys.argv[1])
for k in range(steps // 10):
    step(k)
before = resident()
for k in range(steps):
    step(k)
grown = resident() - before
print(f"grown by {grown} bytes")
assert grown < 1 << 19
