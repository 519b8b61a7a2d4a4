"""Change the architecture: tied embeddings, in which the matrix that reads tokens also scores them.

python examples/tied_embeddings.py [STEPS]

The forward pass is the script's, with lm_head replaced by wte in the last line. There is no backward pass to write:
backward() follows the graph, and lm_head gets no gradient.
"""
import random
import sys

from microgpt import GPT, Adam, Tokenizer, Value, linear, load_docs, rmsnorm, softmax

Vector = list[Value]


def tied_gpt(token_id: int, pos_id: int, keys: list[list[Vector]], values: list[list[Vector]], model: GPT) -> Vector:
    w, head_dim = model.state_dict, model.head_dim
    x = rmsnorm([t + p for t, p in zip(w["wte"][token_id], w["wpe"][pos_id])])
    for i in range(model.n_layer):
        xn = rmsnorm(x)
        q = linear(xn, w[f"layer{i}.attn_wq"])
        keys[i].append(linear(xn, w[f"layer{i}.attn_wk"]))
        values[i].append(linear(xn, w[f"layer{i}.attn_wv"]))
        heads: Vector = []
        for first in range(0, model.n_embd, head_dim):
            head = range(first, first + head_dim)
            scores = [sum((q[j] * k[j] for j in head), Value(0.0)) / head_dim**0.5 for k in keys[i]]
            weights = softmax(scores)
            heads += [sum((a * v[j] for a, v in zip(weights, values[i])), Value(0.0)) for j in head]
        x = [a + b for a, b in zip(linear(heads, w[f"layer{i}.attn_wo"]), x)]
        hidden = [h.relu() for h in linear(rmsnorm(x), w[f"layer{i}.mlp_fc1"])]
        x = [a + b for a, b in zip(linear(hidden, w[f"layer{i}.mlp_fc2"]), x)]
    return linear(x, w["wte"])  # the change: w["lm_head"] in the script


def mean_loss(tokens: list[int], model: GPT) -> Value:
    n = min(model.block_size, len(tokens) - 1)
    keys: list[list[Vector]] = [[] for _ in range(model.n_layer)]
    values: list[list[Vector]] = [[] for _ in range(model.n_layer)]
    losses = []
    for pos_id in range(n):
        probs = softmax(tied_gpt(tokens[pos_id], pos_id, keys, values, model))
        losses.append(-probs[tokens[pos_id + 1]].log())
    return sum(losses, Value(0.0)) / n


random.seed(42)
docs = load_docs()
random.shuffle(docs)
tokenizer = Tokenizer(docs)
model = GPT(tokenizer.vocab_size)
steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
adam = Adam(model, num_steps=steps)
unused = len(model.state_dict["lm_head"]) * model.n_embd
print(f"{len(model.params) - unused} parameters, {unused} fewer than untied")
for step in range(steps):
    loss = mean_loss(tokenizer.encode(docs[step % len(docs)]), model)
    loss.backward()
    adam.step()
    if (step + 1) % max(1, steps // 10) == 0:
        print(f"step {step + 1:4d} / {steps:4d} | loss {loss.data:.4f}")
