"""No attention at all: a GRU reads the names letter by letter.

python examples/gru.py [STEPS]

A recurrent network keeps one state and mixes each letter into it. The sigmoid is made of `exp`; tanh is an operation of our
own. `microgpt.compile` replays the loss in compiled code; SGD with momentum updates the parameters.
"""
import math
import random
import sys

import microgpt
from microgpt import SGD, Tokenizer, Value, linear, load_docs, softmax

N_EMBD, N_HIDDEN, LONGEST = 8, 16, 12
Vector = list[Value]

rng = random.Random(1)


def matrix(nout: int, nin: int) -> list[Vector]:
    return [[Value(rng.gauss(0, nin**-0.5)) for _ in range(nin)] for _ in range(nout)]


def sigmoid(x: Value) -> Value:
    return 1 / (1 + (-x).exp())


def tanh(x: Value) -> Value:
    t = math.tanh(x.data)
    return Value(t, (x,), (1 - t * t,))


docs = [doc for doc in load_docs() if len(doc) < LONGEST]
tokenizer = Tokenizer(docs)
random.Random(42).shuffle(docs)
embedding, output = matrix(tokenizer.vocab_size, N_EMBD), matrix(tokenizer.vocab_size, N_HIDDEN)
update, reset, candidate = (matrix(N_HIDDEN, N_EMBD + N_HIDDEN) for _ in range(3))
params = [p for rows in (embedding, output, update, reset, candidate) for row in rows for p in row]
sgd = SGD(params, learning_rate=0.05, momentum=0.9)


def cell(token_id: int, h: Vector) -> Vector:
    """Mix a token into the state, [N_HIDDEN] -> [N_HIDDEN]."""
    x = embedding[token_id]
    z = [sigmoid(v) for v in linear(x + h, update)]  # how much of the state is replaced
    r = [sigmoid(v) for v in linear(x + h, reset)]  # how much of it the new part sees
    n = [tanh(v) for v in linear(x + [ri * hi for ri, hi in zip(r, h)], candidate)]
    return [zi * ni + (1 - zi) * hi for zi, ni, hi in zip(z, n, h)]


@microgpt.compile
def loss(tokens: list[int]) -> Value:
    h, losses = [Value(0.0) for _ in range(N_HIDDEN)], []
    for token_id, target in zip(tokens, tokens[1:]):
        h = cell(token_id, h)
        losses.append(-softmax(linear(h, output))[target].log())
    return sum(losses, Value(0.0)) / len(losses)


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 300
recent = []
for step in range(steps):
    value = loss(tokenizer.encode(docs[step % len(docs)]))
    value.backward()
    sgd.step()
    recent.append(value.data)
    if (step + 1) % max(1, steps // 6) == 0:
        print(f"step {step + 1:4d} / {steps:4d} | mean loss {sum(recent) / len(recent):.4f}")
        recent = []
print(f"parameters: {len(params)}, last loss {value.data.hex()}")
