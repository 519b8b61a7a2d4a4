"""An architecture of your own, end to end: LayerNorm with a gain, biases, GELU. Train, save, load, sample.

python examples/own_gpt.py [STEPS [FILE]]

Everything is plain Python over Value. `microgpt.compile` replays the loss in compiled code, `Adam` updates the parameters,
`save_values` and `load_values` keep them in a .safetensors file.
"""
import math
import random
import sys

import microgpt
from microgpt import Adam, Tokenizer, Value, linear, load_docs, softmax

N_EMBD, N_HEAD, BLOCK = 16, 4, 16
Vector = list[Value]


def gelu(x: Value) -> Value:
    """Return 0.5 * x * (1 + tanh(...)): tanh is an operation of our own, with its derivative as the local gradient."""
    u = (x + 0.044715 * x**3) * math.sqrt(2 / math.pi)
    t = math.tanh(u.data)
    return 0.5 * x * (1 + Value(t, (u,), (1 - t * t,)))


def layer_norm(x: Vector, gain: Vector, bias: Vector) -> Vector:
    mean = sum(x, Value(0.0)) / len(x)
    centred = [xi - mean for xi in x]
    scale = (sum((c * c for c in centred), Value(0.0)) / len(x) + 1e-5) ** -0.5
    return [g * (c * scale) + b for g, c, b in zip(gain, centred, bias)]


class OwnGPT:
    """One block: attention and an MLP, each behind a LayerNorm."""

    def __init__(self, vocab_size: int, seed: int = 1) -> None:
        rng = random.Random(seed)

        def matrix(nout: int, nin: int) -> list[Vector]:
            return [[Value(rng.gauss(0, 0.08)) for _ in range(nin)] for _ in range(nout)]

        self.weights = {"wte": matrix(vocab_size, N_EMBD), "wpe": matrix(BLOCK, N_EMBD), "lm_head": matrix(vocab_size, N_EMBD),
                        "attn": matrix(3 * N_EMBD, N_EMBD), "out": matrix(N_EMBD, N_EMBD),
                        "fc1": matrix(4 * N_EMBD, N_EMBD), "fc2": matrix(N_EMBD, 4 * N_EMBD)}  # fmt: skip
        for name in ("norm1", "norm2"):
            self.weights[name] = [[Value(1.0) for _ in range(N_EMBD)], [Value(0.0) for _ in range(N_EMBD)]]
        self.params = [p for rows in self.weights.values() for row in rows for p in row]

    def __call__(self, token_id: int, pos_id: int, keys: list[Vector], values: list[Vector]) -> Vector:
        w, head_dim = self.weights, N_EMBD // N_HEAD
        x = [t + p for t, p in zip(w["wte"][token_id], w["wpe"][pos_id])]
        qkv = linear(layer_norm(x, *w["norm1"]), w["attn"])
        q = qkv[:N_EMBD]
        keys.append(qkv[N_EMBD : 2 * N_EMBD])
        values.append(qkv[2 * N_EMBD :])
        heads: Vector = []
        for first in range(0, N_EMBD, head_dim):
            head = range(first, first + head_dim)
            scores = [sum((q[j] * k[j] for j in head), Value(0.0)) / head_dim**0.5 for k in keys]
            attended = softmax(scores)
            heads += [sum((a * v[j] for a, v in zip(attended, values)), Value(0.0)) for j in head]
        x = [a + b for a, b in zip(linear(heads, w["out"]), x)]
        hidden = [gelu(h) for h in linear(layer_norm(x, *w["norm2"]), w["fc1"])]
        x = [a + b for a, b in zip(linear(hidden, w["fc2"]), x)]
        return linear(x, w["lm_head"])


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    path = sys.argv[2] if len(sys.argv) > 2 else "own_gpt.safetensors"
    docs = load_docs()
    tokenizer = Tokenizer(docs)
    random.Random(42).shuffle(docs)
    model = OwnGPT(tokenizer.vocab_size)
    adam = Adam(model.params, learning_rate=0.01, num_steps=steps)

    @microgpt.compile
    def loss(tokens: list[int]) -> Value:
        keys: list[Vector] = []
        values: list[Vector] = []
        losses = []
        for pos_id in range(min(BLOCK, len(tokens) - 1)):
            probs = softmax(model(tokens[pos_id], pos_id, keys, values))
            losses.append(-probs[tokens[pos_id + 1]].log())
        return sum(losses, Value(0.0)) / len(losses)

    for step in range(steps):
        value = loss(tokenizer.encode(docs[step % len(docs)]))
        value.backward()
        adam.step()
        if (step + 1) % max(1, steps // 10) == 0:
            print(f"step {step + 1:4d} / {steps:4d} | loss {value.data:.4f}")
    microgpt.save_values(path, model.weights, optimizer=adam)

    loaded = OwnGPT(tokenizer.vocab_size, seed=2)
    microgpt.load_values(path, loaded.weights)
    rng = random.Random(42)
    for i in range(5):
        token_id, text, keys, values = tokenizer.BOS, "", [], []  # type: int, str, list[Vector], list[Vector]
        for pos_id in range(BLOCK):
            probs = softmax([logit / 0.5 for logit in loaded(token_id, pos_id, keys, values)])
            token_id = rng.choices(range(tokenizer.vocab_size), weights=[p.data for p in probs])[0]
            if token_id == tokenizer.BOS:
                break
            text += tokenizer.decode([token_id])
        print(f"sample {i + 1}: {text}")


if __name__ == "__main__":
    main()
