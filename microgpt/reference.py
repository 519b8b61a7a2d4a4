"""The algorithm in plain Python: the readable twin of the compiled engines, and the oracle of their tests.

Everything here is written to be read from top to bottom: a scalar that remembers how it was computed, a GPT made of
such scalars, the loss of one document, and the optimizer. Each piece names the lines of Andrej Karpathy's
`microgpt.py` that it mirrors, and performs the same floating-point operations in the same order, so that every loss,
gradient, parameter and sample has the same bits.

Two things differ from the script, neither of which changes a bit: nothing is global, and `backward` walks the graph
with a stack of its own where the script recurses, so depth is bounded by memory and no reference cycle is left behind.
"""
import math
import operator
import random

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    def sum(values: "Iterable[Value]") -> "Value":
        """The builtin, of at least one Value: to type checkers its result might be the 0 that it begins with."""

__all__ = ["Value", "GPT", "Adam", "SGD", "linear", "softmax", "rmsnorm", "gpt", "document_loss"]


class Value:
    """A number in a computation graph (`microgpt.py`, class Value).

    data: the number.  grad: d(loss)/d(this), summed up by `backward`.  `_children`: the Values this one was computed
    from.  `_local_grads`: d(this)/d(child), one for each child.
    """

    __slots__ = ("data", "grad", "_children", "_local_grads")

    def __init__(
        self, data: float, children: "Sequence[Value]" = (), local_grads: "Sequence[float]" = ()
    ) -> None:
        self.data = data
        self.grad: float = 0
        self._children = children
        self._local_grads = local_grads

    def __add__(self, other: "Value | float") -> "Value":
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), (1, 1))

    def __mul__(self, other: "Value | float") -> "Value":
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def __pow__(self, exponent: float) -> "Value":
        return Value(self.data**exponent, (self,), (exponent * self.data**(exponent - 1),))

    def log(self) -> "Value":
        return Value(math.log(self.data), (self,), (1 / self.data,))

    def exp(self) -> "Value":
        return Value(math.exp(self.data), (self,), (math.exp(self.data),))

    def relu(self) -> "Value":
        # The 0 comes first: max keeps it for -0.0 and for nan.
        return Value(max(0, self.data), (self,), (float(self.data > 0),))

    # The rest is written in terms of the above. Subtraction and division therefore add nodes of their own, and a
    # division rounds twice: x / y is x * y**-1.
    def __neg__(self) -> "Value":
        return self * -1

    def __radd__(self, other: "Value | float") -> "Value":
        return self + other

    def __sub__(self, other: "Value | float") -> "Value":
        return self + (-other)

    def __rsub__(self, other: "Value | float") -> "Value":
        return other + (-self)

    def __rmul__(self, other: "Value | float") -> "Value":
        return self * other

    def __truediv__(self, other: "Value | float") -> "Value":
        return self * other**-1

    def __rtruediv__(self, other: "Value | float") -> "Value":
        return other * self**-1

    def backward(self) -> None:
        """Add d(self)/d(node) to the grad of every node below this one; this node's own grad becomes 1."""
        self.grad = 1
        for node in reversed(_topological_order(self)):
            for child, local_grad in zip(node._children, node._local_grads):
                child.grad += local_grad * node.grad

    def __repr__(self) -> str:
        return f"{type(self).__name__}(data={self.data!r}, grad={self.grad!r})"


def _topological_order(root: Value) -> list[Value]:
    """Every node below root, children before parents: depth first, children from left to right.

    The order decides in which sequence contributions to one gradient are added, and so decides its last bits.
    """
    order: list[Value] = []
    above: list[tuple[Value, Iterator[Value]]] = []
    visited = {root}
    node, children = root, iter(root._children)
    while True:
        for child in children:
            if child not in visited:
                visited.add(child)
                if child._children:  # go down to it, and come back to the rest later
                    above.append((node, children))
                    node, children = child, iter(child._children)
                    break
                order.append(child)
        else:  # no child is left to visit: this node's turn has come
            order.append(node)
            if not above:
                return order
            node, children = above.pop()


def linear(x: "Sequence[Value]", w: "Iterable[Sequence[Value]]") -> list[Value]:
    """The matrix-vector product. x: [nin], w: [nout][nin] -> [nout] (`microgpt.py`, linear)."""
    return [sum(wi * xi for wi, xi in zip(row, x)) for row in w]


def softmax(logits: "Sequence[Value]") -> list[Value]:
    """Probabilities from logits, [n] -> [n] (`microgpt.py`, softmax). The largest logit is subtracted as a number."""
    largest = max(logit.data for logit in logits)
    exps = [(logit - largest).exp() for logit in logits]
    total = sum(exps)
    return [e / total for e in exps]


def rmsnorm(x: "Sequence[Value]") -> list[Value]:
    """x scaled to a root mean square of one, [n] -> [n] (`microgpt.py`, rmsnorm)."""
    mean_square = sum(xi * xi for xi in x) / len(x)
    scale = (mean_square + 1e-5) ** -0.5
    return [xi * scale for xi in x]


class GPT:
    """The parameters of the model (`microgpt.py`, "Initialize the parameters").

    state_dict: name -> matrix [nout][nin] of Value.  params: the same Values in one flat list, in the order in which
    they were drawn from rng, a `random.Random`.
    """

    def __init__(
        self,
        vocab_size: int,
        n_embd: int = 16,
        n_head: int = 4,
        n_layer: int = 1,
        block_size: int = 16,
        init_std: float = 0.08,
        rng: "random.Random | None" = None,
    ) -> None:
        # Plain numbers: NumPy's have their own arithmetic, in which sizes wrap around and float32 stays float32.
        vocab_size, n_embd, n_head = operator.index(vocab_size), operator.index(n_embd), operator.index(n_head)
        n_layer, block_size, init_std = operator.index(n_layer), operator.index(block_size), float(init_std)
        if n_embd % n_head:
            raise ValueError(f"n_embd ({n_embd}) must be a multiple of n_head ({n_head})")
        self.vocab_size, self.n_embd, self.n_head = vocab_size, n_embd, n_head
        self.n_layer, self.block_size, self.init_std = n_layer, block_size, init_std
        self.head_dim = n_embd // n_head
        source = random.Random(42) if rng is None else rng

        def matrix(nout: int, nin: int) -> list[list[Value]]:
            return [[Value(source.gauss(0, init_std)) for _ in range(nin)] for _ in range(nout)]

        self.state_dict = {
            "wte": matrix(vocab_size, n_embd),
            "wpe": matrix(block_size, n_embd),
            "lm_head": matrix(vocab_size, n_embd),
        }
        for i in range(n_layer):
            self.state_dict[f"layer{i}.attn_wq"] = matrix(n_embd, n_embd)
            self.state_dict[f"layer{i}.attn_wk"] = matrix(n_embd, n_embd)
            self.state_dict[f"layer{i}.attn_wv"] = matrix(n_embd, n_embd)
            self.state_dict[f"layer{i}.attn_wo"] = matrix(n_embd, n_embd)
            self.state_dict[f"layer{i}.mlp_fc1"] = matrix(4 * n_embd, n_embd)
            self.state_dict[f"layer{i}.mlp_fc2"] = matrix(n_embd, 4 * n_embd)
        self.params = [p for weights in self.state_dict.values() for row in weights for p in row]
        self.num_params = len(self.params)

    def __repr__(self) -> str:
        return (f"{type(self).__name__}(vocab_size={self.vocab_size}, n_embd={self.n_embd}, n_head={self.n_head}, "
                f"n_layer={self.n_layer}, block_size={self.block_size})")  # fmt: skip


def gpt(
    token_id: int, pos_id: int, keys: list[list[list[Value]]], values: list[list[list[Value]]], model: GPT
) -> list[Value]:
    """The logits, [vocab_size], of the token that follows token_id at position pos_id (`microgpt.py`, gpt).

    keys, values: one list a layer; this position's key and value, [n_embd] each, are appended to them.
    """
    weights, head_dim = model.state_dict, model.head_dim
    x = [t + p for t, p in zip(weights["wte"][token_id], weights["wpe"][pos_id])]
    x = rmsnorm(x)
    for i in range(model.n_layer):
        # Attention: each head looks back over the positions so far.
        x_residual = x
        x = rmsnorm(x)
        q = linear(x, weights[f"layer{i}.attn_wq"])
        keys[i].append(linear(x, weights[f"layer{i}.attn_wk"]))
        values[i].append(linear(x, weights[f"layer{i}.attn_wv"]))
        x_attn: list[Value] = []
        for start in range(0, model.n_embd, head_dim):
            head = slice(start, start + head_dim)
            q_h = q[head]
            k_h = [k[head] for k in keys[i]]
            v_h = [v[head] for v in values[i]]
            attn_logits = [sum(qj * kj for qj, kj in zip(q_h, k)) / head_dim**0.5 for k in k_h]
            attn_weights = softmax(attn_logits)
            x_attn.extend(sum(a * v[j] for a, v in zip(attn_weights, v_h)) for j in range(head_dim))
        x = linear(x_attn, weights[f"layer{i}.attn_wo"])
        x = [a + b for a, b in zip(x, x_residual)]
        # The MLP: each position by itself.
        x_residual = x
        x = rmsnorm(x)
        x = linear(x, weights[f"layer{i}.mlp_fc1"])
        x = [xi.relu() for xi in x]
        x = linear(x, weights[f"layer{i}.mlp_fc2"])
        x = [a + b for a, b in zip(x, x_residual)]
    return linear(x, weights["lm_head"])


def document_loss(tokens: "Sequence[int]", model: GPT) -> Value:
    """The mean loss of predicting each token of a document from those before it (`microgpt.py`, the training loop).

    tokens: the document's token ids with BOS on both sides; those beyond the model's block_size are left out.
    """
    n = min(model.block_size, len(tokens) - 1)
    keys: list[list[list[Value]]] = [[] for _ in range(model.n_layer)]
    values: list[list[list[Value]]] = [[] for _ in range(model.n_layer)]
    losses = []
    for pos_id in range(n):
        logits = gpt(tokens[pos_id], pos_id, keys, values, model)
        probs = softmax(logits)
        losses.append(-probs[tokens[pos_id + 1]].log())
    return (1 / n) * sum(losses)


def batch_loss(batch: "Sequence[Sequence[int]]", model: GPT) -> Value:
    """The mean loss of several documents, by the script's arithmetic one level up; the script has one document a step.

    batch: token ids of each document, as for `document_loss`.
    """
    losses = [document_loss(tokens, model) for tokens in batch]
    return (1 / len(losses)) * sum(losses)


def scheduled_rate(
    step: int, learning_rate: float, num_steps: "int | None", schedule: str = "linear", warmup: int = 0
) -> float:
    """The learning rate of an update, counted from 0. The script's is linear without warmup, and has its bits here.

    The first warmup updates have learning_rate * (step + 1) / (warmup + 1). After them, `constant` stays at learning_rate,
    and `linear` and `cosine` (half a period) fall to 0 over the steps that are left of num_steps. num_steps None is constant.
    """
    if step < warmup:
        return learning_rate * ((step + 1) / (warmup + 1))
    if schedule == "constant" or num_steps is None:
        return learning_rate
    done = (step - warmup) / (num_steps - warmup)
    if schedule == "cosine":
        return learning_rate * (0.5 * (1 + math.cos(math.pi * done)))
    if schedule == "linear":
        return learning_rate * (1 - done)
    raise ValueError(f"there is no schedule {schedule!r}")


def clip_gradients(rows: "Sequence[Sequence[Value]]", most: float) -> None:
    """Multiply every gradient by most / norm if their norm is larger than most.

    norm: the square root of the sum of the rows' sums, from the first row to the last; a row's sum is that of its squared
    gradients, from left to right. An infinite norm makes finite gradients 0; one that is not a number leaves them.
    """
    total = 0.0
    for row in rows:
        squares = 0.0
        for p in row:
            squares += p.grad * p.grad
        total += squares
    norm = math.sqrt(total)
    if norm > most:
        scale = most / norm
        for row in rows:
            for p in row:
                p.grad *= scale


class Adam:
    """The optimizer, by default with a rate that falls linearly to 0 over num_steps (`microgpt.py`, "Adam").

    params: a GPT, or a sequence of Values.  num_steps None: the rate is constant, as it is by default for a sequence; for a
    GPT the default is 1000.  schedule, warmup: see `scheduled_rate`.  weight_decay: as in AdamW, before Adam's own step every
    parameter becomes data - lr_t * weight_decay * data.  clip: the largest norm of the gradient, or None: see `clip_gradients`;
    its rows are those of the state dict, and a sequence is one row.  m, v: the moments, one each for every parameter.  step_index: the
    updates done so far.
    """

    def __init__(
        self,
        params: "GPT | Sequence[Value]",
        learning_rate: float = 0.01,
        beta1: float = 0.85,
        beta2: float = 0.99,
        eps: float = 1e-8,
        num_steps: "Any" = ...,  # int or None
        schedule: str = "linear",
        warmup: int = 0,
        weight_decay: float = 0.0,
        clip: "float | None" = None,
    ) -> None:
        if num_steps is ...:
            num_steps = 1000 if hasattr(params, "params") else None
        self.params: list[Value] = params.params if hasattr(params, "params") else list(params)
        self.learning_rate, self.beta1, self.beta2, self.eps = map(float, (learning_rate, beta1, beta2, eps))
        self.num_steps = None if num_steps is None else operator.index(num_steps)
        self.schedule, self.warmup, self.weight_decay = schedule, operator.index(warmup), float(weight_decay)
        self.clip = None if clip is None else float(clip)
        weights = getattr(params, "state_dict", {"": [self.params]})
        self.rows: list[Sequence[Value]] = [row for matrix in weights.values() for row in matrix]
        if schedule == "cosine" and self.num_steps is None:
            raise ValueError("the cosine schedule needs num_steps")
        self.step_index = 0
        self.m = [0.0] * len(self.params)
        self.v = [0.0] * len(self.params)

    def rate(self, step_index: int) -> float:
        """The learning rate of an update, counted from 0."""
        return scheduled_rate(step_index, self.learning_rate, self.num_steps, self.schedule, self.warmup)

    def step(self) -> None:
        """Move every parameter against its gradient, and clear the gradients."""
        beta1, beta2, eps, m, v = self.beta1, self.beta2, self.eps, self.m, self.v
        lr_t = self.rate(self.step_index)
        m_scale = 1 - beta1 ** (self.step_index + 1)
        v_scale = 1 - beta2 ** (self.step_index + 1)
        if self.clip is not None:
            clip_gradients(self.rows, self.clip)
        if self.weight_decay:
            for p in self.params:
                p.data -= lr_t * self.weight_decay * p.data
        for i, p in enumerate(self.params):
            m[i] = beta1 * m[i] + (1 - beta1) * p.grad
            v[i] = beta2 * v[i] + (1 - beta2) * p.grad ** 2
            m_hat = m[i] / m_scale
            v_hat = v[i] / v_scale
            p.data -= lr_t * m_hat / (v_hat ** 0.5 + eps)
            p.grad = 0
        self.step_index += 1

    def __repr__(self) -> str:
        return (f"{type(self).__name__}(learning_rate={self.learning_rate}, beta1={self.beta1}, beta2={self.beta2}, "
                f"eps={self.eps}, num_steps={self.num_steps}, step_index={self.step_index})")  # fmt: skip


class SGD:
    """Stochastic gradient descent with momentum; the script has none.

    m: one number for each parameter, not used where momentum is 0.  step_index: the updates done so far.
    """

    def __init__(
        self,
        params: "Sequence[Value]",
        learning_rate: float = 0.1,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        self.params = list(params)
        self.learning_rate, self.momentum, self.weight_decay = map(float, (learning_rate, momentum, weight_decay))
        self.step_index = 0
        self.m = [0.0] * len(self.params)

    def step(self) -> None:
        """Move every parameter against its gradient, and clear the gradients."""
        for i, p in enumerate(self.params):
            g = p.grad
            if self.momentum:
                g = self.m[i] = self.momentum * self.m[i] + p.grad
            if self.weight_decay:
                g = g + self.weight_decay * p.data
                if self.momentum:
                    self.m[i] = g
            p.data -= self.learning_rate * g
            p.grad = 0
        self.step_index += 1
