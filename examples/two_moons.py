"""Train a classifier with Value alone: two half moons that no straight line separates.

python examples/two_moons.py
"""
import math
import random

from microgpt import Value

random.seed(1)


def moons(n: int, noise: float = 0.1) -> list[tuple[float, float, int]]:
    """Return n points (x, y, side) on two interlocking half circles; side is -1 or 1."""
    points = []
    for i in range(n):
        side, angle = (1, -1)[i % 2], random.uniform(0, math.pi)
        x, y = math.cos(angle), math.sin(angle)
        if side == -1:
            x, y = 1 - x, 0.5 - y
        points.append((x + random.gauss(0, noise), y + random.gauss(0, noise), side))
    return points


class Layer:
    """A layer of nout neurons with nin inputs: weighted sums plus biases, with ReLU unless it is the last layer."""

    def __init__(self, nin: int, nout: int, last: bool = False) -> None:
        self.w = [[Value(random.gauss(0, nin**-0.5)) for _ in range(nin)] for _ in range(nout)]
        self.b = [Value(0.0) for _ in range(nout)]
        self.last = last

    def __call__(self, x: list[Value]) -> list[Value]:
        sums = [sum((wi * xi for wi, xi in zip(row, x)), b) for row, b in zip(self.w, self.b)]
        return sums if self.last else [s.relu() for s in sums]


layers = [Layer(2, 16), Layer(16, 16), Layer(16, 1, last=True)]
params = [p for layer in layers for row in [*layer.w, layer.b] for p in row]


def score(x: float, y: float) -> Value:
    """Return a Value above 0 for side 1, below 0 for side -1."""
    h = [Value(x), Value(y)]
    for layer in layers:
        h = layer(h)
    return h[0]


velocity = [0.0] * len(params)
points, steps = moons(100), 120
for step in range(steps):
    # A point on its own side, beyond a margin of 1, costs nothing.
    losses = [(1 - side * score(x, y)).relu() for x, y, side in points]
    loss = sum(losses, Value(0.0)) / len(losses) + 1e-4 * sum((p * p for p in params), Value(0.0))
    loss.backward()
    rate = 0.2 * (1 - step / steps)
    for i, p in enumerate(params):
        velocity[i] = 0.9 * velocity[i] + p.grad
        p.data -= rate * velocity[i]
        p.grad = 0
    if step % 20 == 19:
        print(f"step {step + 1:3d} | loss {loss.data:.4f}")

fresh = moons(400)
right = sum((score(x, y).data > 0) == (side > 0) for x, y, side in fresh)
print(f"{right / 4:.1f} % of 400 new points are on the right side")
for row in range(14):  # the plane, seen through the model
    y = 1.3 - row * 0.15
    print("".join("#" if score(-1.3 + column * 0.075, y).data > 0 else "." for column in range(48)))
