"""A look inside the forward pass: the attention weights and what else `gpt` computes on its way, as NumPy arrays.

The same operations as the script's, in its order: every sum keeps its own accumulator from the first term to the last,
and NumPy works across outputs, positions and heads only. So the logits have the bits of `gpt`'s.
"""
import math

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    import numpy as np

    from .trainer import Trainer

__all__ = ["attention", "forward", "weights"]


def weights(model: "Any") -> "dict[str, np.ndarray]":
    """The script's state_dict as name -> array [nout, nin] of float64, copied."""
    import numpy as np

    return {
        name: np.array([[p.data for p in row] for row in matrix], dtype=np.float64)
        for name, matrix in model.state_dict.items()
    }


def forward(model: "Any", tokens: "Sequence[int]") -> "dict[str, np.ndarray]":
    """Everything of one document's forward pass, for all n positions at once.

    model: a GPT of any engine.  tokens: n ids, the first BOS, at most block_size of them.
    Returns `logits` [n, vocab_size], `attention` [n_layer, n_head, n, n] (from each position to each, 0 to those after
    it) and `residual` [1 + n_layer, n, n_embd]: what enters the first layer and what leaves each.
    """
    import numpy as np

    w, n, head_dim = weights(model), len(tokens), model.head_dim
    x = _rmsnorm(w["wte"][list(tokens)] + w["wpe"][:n])
    residual, looks = [x], []
    for i in range(model.n_layer):
        xn = _rmsnorm(x)
        q, k, v = (_linear(xn, w[f"layer{i}.attn_w{part}"]).reshape(n, model.n_head, head_dim) for part in "qkv")
        heads = np.zeros((model.n_head, n, n))
        for j in range(head_dim):
            heads += q[:, None, :, j].transpose(2, 0, 1) * k[None, :, :, j].transpose(2, 0, 1)
        heads *= (head_dim**0.5) ** -1
        for head in heads:
            for p in range(n):
                head[p] = [*_softmax(head[p, : p + 1].tolist()), *[0.0] * (n - p - 1)]
        x_attn = np.zeros((n, model.n_head, head_dim))
        for t in range(n):
            # Positions before t do not see it: they keep their sum as it is, rather than add a 0.0 to a -0.0.
            x_attn[t:] += heads[:, t:, t].T[:, :, None] * v[t]
        x = _linear(x_attn.reshape(n, -1), w[f"layer{i}.attn_wo"]) + x
        hidden = _linear(_rmsnorm(x), w[f"layer{i}.mlp_fc1"])
        hidden = np.where(hidden > 0, hidden, 0.0)
        x = _linear(hidden, w[f"layer{i}.mlp_fc2"]) + x
        residual.append(x)
        looks.append(heads)
    return {
        "logits": _linear(x, w["lm_head"]),
        "attention": np.array(looks).reshape(-1, model.n_head, n, n),
        "residual": np.array(residual),
    }


def attention(trainer: "Trainer", text: str) -> "np.ndarray":
    """The attention weights over BOS and text, [n_layer, n_head, n, n]; a row is one position's, and sums to 1.

    text: at most block_size - 1 characters. Raises ValueError for more, or for one that is not in the vocabulary.
    """
    tokens = trainer.tokenizer.encode(text)[:-1]
    if len(tokens) > trainer.settings["block_size"]:
        raise ValueError(
            f"the text has {len(text)} characters; with block_size {trainer.settings['block_size']} "
            f"it may have {trainer.settings['block_size'] - 1}"
        )
    return trainer._exclusively(forward, trainer.model, tokens)["attention"]


def _linear(x, w):
    """x [n, nin], w [nout, nin] -> [n, nout]."""
    import numpy as np

    total = np.zeros((len(x), len(w)))
    for j in range(w.shape[1]):
        total += w[:, j] * x[:, j, None]
    return total


def _rmsnorm(x):
    """[n, n_embd] -> the same shape."""
    import numpy as np

    total = np.zeros(len(x))
    for j in range(x.shape[1]):
        total += x[:, j] * x[:, j]
    total *= float(x.shape[1]) ** -1
    # Python's pow: NumPy's own may round differently.
    scale = [(ms + 1e-5) ** -0.5 for ms in total.tolist()]
    return x * np.array(scale)[:, None]


def _softmax(logits):
    """[n] -> [n], lists of float."""
    largest = max(logits)
    exps = [math.exp(logit - largest) for logit in logits]
    total = 0.0
    for e in exps:
        total += e
    inverse = total**-1
    return [e * inverse for e in exps]
