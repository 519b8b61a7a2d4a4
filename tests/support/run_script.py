"""A small training script in the manner of the original, in one file and without this package: `microgpt run` takes it.

Tests change it by text, run it with Python and with `microgpt run`, and compare.
"""
import math
import random

random.seed(11)


class Value:
    __slots__ = ("data", "grad", "_children", "_local_grads")

    def __init__(self, number, below=(), slopes=()):
        self.data = number
        self.grad = 0
        self._children = below
        self._local_grads = slopes

    def __add__(self, y):
        y = y if isinstance(y, Value) else Value(y)
        return Value(self.data + y.data, (self, y), (1, 1))

    def __mul__(self, y):
        y = y if isinstance(y, Value) else Value(y)
        return Value(self.data * y.data, (self, y), (y.data, self.data))

    def __pow__(self, k):
        return Value(self.data ** k, (self,), (k * self.data ** (k - 1),))

    def log(self):
        return Value(math.log(self.data), (self,), (1 / self.data,))

    def exp(self):
        return Value(math.exp(self.data), (self,), (math.exp(self.data),))

    def relu(self):
        return Value(max(0, self.data), (self,), (float(self.data > 0),))

    def __neg__(self):
        return self * -1

    def __radd__(self, y):
        return self + y

    def __sub__(self, y):
        return self + (-y)

    def __rsub__(self, y):
        return y + (-self)

    def __rmul__(self, y):
        return self * y

    def __truediv__(self, y):
        return self * y ** -1

    def __rtruediv__(self, y):
        return y * self ** -1

    def backward(self):
        order = []
        seen = set()

        def visit(node):
            if node not in seen:
                seen.add(node)
                for below in node._children:
                    visit(below)
                order.append(node)

        visit(self)
        self.grad = 1
        for node in reversed(order):
            for below, slope in zip(node._children, node._local_grads):
                below.grad += slope * node.grad


words = ["anna", "bob", "nan", "ana", "noa", "abba", "nana"]
letters = sorted(set("".join(words)))
END = len(letters)
size, width, length = END + 1, 6, 8


def matrix(nout, nin):
    return [[Value(random.gauss(0, 0.4)) for _ in range(nin)] for _ in range(nout)]


def linear(x, w):
    return [sum(a * b for a, b in zip(row, x)) for row in w]


def softmax(logits):
    top = max(z.data for z in logits)
    exps = [(z - top).exp() for z in logits]
    total = sum(exps)
    return [e / total for e in exps]


def rmsnorm(x):
    square = sum(a * a for a in x) / len(x)
    factor = (square + 1e-5) ** -0.5
    return [a * factor for a in x]


weights = {"embedding": matrix(size, width), "mix": matrix(width, width), "out": matrix(size, width)}
parameters = [p for w in weights.values() for row in w for p in row]


def model(token, before):
    x = rmsnorm([e + b for e, b in zip(weights["embedding"][token], before)])
    hidden = [h.relu() for h in linear(x, weights["mix"])]
    return linear(rmsnorm([h + a for h, a in zip(hidden, x)]), weights["out"]), hidden


rate, decay1, decay2, tiny = 0.05, 0.85, 0.99, 1e-8
first = [0.0] * len(parameters)
second = [0.0] * len(parameters)
steps = 60
for step in range(steps):
    word = words[step % len(words)]
    tokens = [END] + [letters.index(c) for c in word] + [END]
    n = min(length, len(tokens) - 1)
    before = [Value(0.0) for _ in range(width)]
    losses = []
    for i in range(n):
        logits, before = model(tokens[i], before)
        losses.append(-softmax(logits)[tokens[i + 1]].log())
    loss = (1 / n) * sum(losses)
    loss.backward()
    now = rate * (1 - step / steps)
    for k, w in enumerate(parameters):
        first[k] = decay1 * first[k] + (1 - decay1) * w.grad
        second[k] = decay2 * second[k] + (1 - decay2) * w.grad ** 2
        m_hat = first[k] / (1 - decay1 ** (step + 1))
        v_hat = second[k] / (1 - decay2 ** (step + 1))
        w.data -= now * m_hat / (v_hat ** 0.5 + tiny)
        w.grad = 0
    print(f"{step} {word} {loss.data:.17g}")

print(f"{sum(p.data for p in parameters):.17g}")
