"""A small training script in the manner of the original, written against whatever class Value its argument names.

python dropin_script.py microgpt.core.value        python dropin_script.py microgpt.reference
"""
import random
import sys
from importlib import import_module

Value = import_module(sys.argv[1]).Value
random.seed(7)

words = ["anna", "bob", "nan", "ana", "noa", "abba"]
letters = sorted(set("".join(words)))
END = len(letters)
size, width, steps = END + 1, 6, 12


def matrix(nout, nin):
    return [[Value(random.gauss(0, 0.4)) for _ in range(nin)] for _ in range(nout)]


def apply(w, x):
    return [sum(wi * xi for wi, xi in zip(row, x)) for row in w]


def normalise(x):
    scale = (sum(xi * xi for xi in x) / len(x) + 1e-5) ** -0.5
    return [xi * scale for xi in x]


def probabilities(logits):
    top = max(value.data for value in logits)
    exps = [(value - top).exp() for value in logits]
    total = sum(exps)
    return [e / total for e in exps]


weights = {"embedding": matrix(size, width), "mix": matrix(width, 2 * width), "out": matrix(size, width)}
parameters = [p for w in weights.values() for row in w for p in row]
velocity = [0.0] * len(parameters)

for step in range(steps):
    tokens = [END] + [letters.index(c) for c in words[step % len(words)]] + [END]
    before = [Value(0) for _ in range(width)]
    losses = []
    for token, target in zip(tokens, tokens[1:]):
        x = normalise([e + b for e, b in zip(weights["embedding"][token], before)])
        hidden = [(v - 1 / 3).relu() + v * 0.1 for v in apply(weights["mix"], x + before)]
        before = normalise([h / 2 - b ** 3 for h, b in zip(hidden, before)])
        losses.append(-probabilities(apply(weights["out"], before))[target].log())
    loss = (1 / len(losses)) * sum(losses)
    loss.backward()
    for i, p in enumerate(parameters):
        velocity[i] = 0.9 * velocity[i] + p.grad
        p.data -= 0.05 * velocity[i]
        p.grad = 0
    print(f"step {step + 1} loss {loss.data.hex()} {sum(p.data for p in parameters).hex()}")
    print(f"  constant {2 - loss.data:.17g} {float((1 / loss - loss / 3).data):.17g}")
