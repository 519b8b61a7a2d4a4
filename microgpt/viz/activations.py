"""The forward pass opened up: attention weights, residual stream and logits as NumPy arrays.

The same operations as the script's, in its order: every sum keeps its own accumulator from the first term to the last,
and NumPy works across outputs, positions and heads only. So the logits have the bits of `gpt`'s.
"""
import math

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from typing_extensions import TypeIs

    from .._types import AnyGPT, Array
    from ..trainer import Trainer

__all__ = ["attention", "forward", "weights"]


def weights(model: "AnyGPT | Trainer") -> "dict[str, Array]":
    """Return the script's state_dict as name -> array [nout, nin] of float64, copied.

    model: a GPT of any engine, or a Trainer. Makes no Values: the numbers of a compiled GPT are contiguous in memory.
    """
    return _at_rest(model, _copies)


def _copies(model: "AnyGPT") -> "dict[str, Array]":
    return {name: matrix.copy() for name, matrix in _matrices(model).items()}


def _at_rest(model: "AnyGPT | Trainer", work: "Callable[..., dict[str, Array]]", *arguments: "Any") -> "dict[str, Array]":
    """Return work(the GPT, *arguments). If model is a Trainer, no other thread trains meanwhile."""
    if is_trainer(model):
        return model.exclusively(work, model.model, *arguments)
    return work(gpt_of(model), *arguments)


def is_trainer(model: object) -> "TypeIs[Trainer]":
    """Return whether model is a Trainer, by its attributes: this package draws what it is given, and imports neither."""
    return hasattr(model, "model") and hasattr(model, "tokenizer")


def gpt_of(model: "AnyGPT | Trainer") -> "AnyGPT":
    """Return the GPT that is meant: a Trainer's, or model itself. Raises TypeError for anything else."""
    if is_trainer(model):
        gpt: AnyGPT = model.model
        return gpt
    # Not state_dict: a compiled GPT that is asked for it makes a Value of each parameter, and keeps them.
    if not hasattr(model, "n_head"):
        raise TypeError(f"expected a Trainer or a GPT, not {type(model).__name__}")
    return model


def _matrices(model: "AnyGPT") -> "dict[str, Array]":
    """Return what `weights` copies: views of a compiled GPT's memory, or arrays."""
    import numpy as np

    # A compiled GPT, whose state_dict no subclass has replaced: views of its flat data are the same numbers.
    kind: Any = type(model)
    home: Any = next((base for base in kind.__mro__ if base.__module__ == "microgpt.core.model"), None)
    if home is not None and kind.state_dict is home.state_dict:
        from ..config import shapes, split_parameters

        compiled: Any = model
        return split_parameters(compiled.data, shapes(model.vocab_size, model))
    return {
        name: np.array([[p.data for p in row] for row in matrix], dtype=np.float64)
        for name, matrix in model.state_dict.items()
    }


def tokens_of(model: "AnyGPT | Trainer", text: "str | Iterable[int]") -> "list[int]":
    """Return BOS and the token ids of text, at most block_size in all.

    text: a str, if model is a Trainer, which knows the characters; or token ids without BOS.
    Raises ValueError or TypeError, in one line, for a text that the model cannot read.
    """
    from ..config import whole_number

    gpt = gpt_of(model)
    if isinstance(text, str):
        if not is_trainer(model):
            raise TypeError("a GPT knows no characters: give its Trainer, or token ids instead of a text")
        tokens = model.tokenizer.encode(text)[:-1]
    else:
        tokens = [gpt.vocab_size - 1, *(whole_number("a token id", i) for i in text)]
        for i in tokens:
            if not 0 <= i < gpt.vocab_size:
                raise ValueError(f"token id {i} is not in the vocabulary (0 to {gpt.vocab_size - 1})")
    if len(tokens) > gpt.block_size:
        raise ValueError(
            f"the text has {len(tokens) - 1} {'characters' if isinstance(text, str) else 'tokens'}; "
            f"with block_size {gpt.block_size} it may have {gpt.block_size - 1}"
        )
    return tokens


def forward(model: "AnyGPT | Trainer", tokens: "Sequence[int]") -> "dict[str, Array]":
    """Compute one document's forward pass, for all n positions at once.

    The numbers are those of the script's `gpt`, to the bit.

    Parameters
    ----------
    model : GPT or Trainer
        A GPT of any engine.
    tokens : sequence of int
        n ids, the first BOS, at most block_size of them.

    Returns
    -------
    dict of float64 arrays
        `logits` [n, vocab_size]; `attention` [n_layer, n_head, n, n], from each position to each, 0 to those after it;
        `residual` [1 + n_layer, n, n_embd], what enters the first layer and what leaves each.
    """
    return _at_rest(model, _forward, tokens)


def _forward(model: "AnyGPT", tokens: "Sequence[int]") -> "dict[str, Array]":
    import numpy as np

    w, n, head_dim = _matrices(model), len(tokens), model.head_dim
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


def attention(trainer: "Trainer | AnyGPT", text: "str | Iterable[int]") -> "Array":
    """Return the attention weights over BOS and text, [n_layer, n_head, n, n]; a row is one position's, and sums to 1.

    Parameters
    ----------
    trainer : Trainer or GPT
    text : str or iterable of int
        At most block_size - 1 characters or, for a GPT, token ids without BOS.

    Raises
    ------
    ValueError
        For more of them, or for one that is not in the vocabulary.
    """
    return forward(trainer, tokens_of(trainer, text))["attention"]


def _linear(x: "Array", w: "Array") -> "Array":
    """x [n, nin], w [nout, nin] -> [n, nout]."""
    import numpy as np

    total = np.zeros((len(x), len(w)))
    for j in range(w.shape[1]):
        total += w[:, j] * x[:, j, None]
    return total


def _rmsnorm(x: "Array") -> "Array":
    """[n, n_embd] -> the same shape."""
    import numpy as np

    total = np.zeros(len(x))
    for j in range(x.shape[1]):
        total += x[:, j] * x[:, j]
    total *= float(x.shape[1]) ** -1
    # Python's pow: NumPy's own may round differently.
    scale = [(ms + 1e-5) ** -0.5 for ms in total.tolist()]
    scaled: Array = x * np.array(scale)[:, None]
    return scaled


def _softmax(logits: "list[float]") -> "list[float]":
    """[n] -> [n], lists of float."""
    largest = max(logits)
    exps = [math.exp(logit - largest) for logit in logits]
    total = 0.0
    for e in exps:
        total += e
    inverse = total**-1
    return [e * inverse for e in exps]
