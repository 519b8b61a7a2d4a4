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

__all__ = ["Value", "GPT", "Adam", "linear", "softmax", "rmsnorm", "gpt", "document_loss"]


class Value:
    """A number in a computation graph (`microgpt.py`, class Value).

    data: the number.  grad: d(loss)/d(this), summed up by `backward`.  `_children`: the Values this one was computed
    from.  `_local_grads`: d(this)/d(child), one for each child.
    """

    __slots__ = ("data", "grad", "_children", "_local_grads")

    def __init__(self, data, children=(), local_grads=()):
        self.data = data
        self.grad = 0
        self._children = children
        self._local_grads = local_grads

    def __add__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), (1, 1))

    def __mul__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def __pow__(self, exponent):
        return Value(self.data**exponent, (self,), (exponent * self.data**(exponent - 1),))

    def log(self):
        return Value(math.log(self.data), (self,), (1 / self.data,))

    def exp(self):
        return Value(math.exp(self.data), (self,), (math.exp(self.data),))

    def relu(self):
        # The 0 stands first: max keeps it for -0.0 and for nan.
        return Value(max(0, self.data), (self,), (float(self.data > 0),))

    # The rest is written in terms of the above. Subtraction and division therefore add nodes of their own, and a
    # division rounds twice: x / y is x * y**-1.
    def __neg__(self):
        return self * -1

    def __radd__(self, other):
        return self + other

    def __sub__(self, other):
        return self + (-other)

    def __rsub__(self, other):
        return other + (-self)

    def __rmul__(self, other):
        return self * other

    def __truediv__(self, other):
        return self * other**-1

    def __rtruediv__(self, other):
        return other * self**-1

    def backward(self):
        """Add d(self)/d(node) to the grad of every node below this one; this node's own grad becomes 1."""
        self.grad = 1
        for node in reversed(_topological_order(self)):
            for child, local_grad in zip(node._children, node._local_grads):
                child.grad += local_grad * node.grad


def _topological_order(root):
    """Every node below root, children before parents: depth first, children from left to right.

    The order decides in which sequence contributions to one gradient are added, and so decides its last bits.
    """
    order, visited, above = [], {root}, []
    node, children = root, iter(root._children)
    while True:
        for child in children:
            if child not in visited:
                visited.add(child)
                if child._children:  # go down to it, and come back to the rest later
                    above.append(node)
                    above.append(children)
                    node, children = child, iter(child._children)
                    break
                order.append(child)
        else:  # no child is left to visit: this node's turn has come
            order.append(node)
            if not above:
                return order
            children = above.pop()
            node = above.pop()


def linear(x, w):
    """The matrix-vector product. x: [nin], w: [nout][nin] -> [nout] (`microgpt.py`, linear)."""
    return [sum(wi * xi for wi, xi in zip(row, x)) for row in w]


def softmax(logits):
    """Probabilities from logits, [n] -> [n] (`microgpt.py`, softmax). The largest logit is subtracted as a number."""
    largest = max(logit.data for logit in logits)
    exps = [(logit - largest).exp() for logit in logits]
    total = sum(exps)
    return [e / total for e in exps]


def rmsnorm(x):
    """x scaled to a root mean square of one, [n] -> [n] (`microgpt.py`, rmsnorm)."""
    mean_square = sum(xi * xi for xi in x) / len(x)
    scale = (mean_square + 1e-5) ** -0.5
    return [xi * scale for xi in x]


class GPT:
    """The parameters of the model (`microgpt.py`, "Initialize the parameters").

    state_dict: name -> matrix [nout][nin] of Value.  params: the same Values in one flat list, in the order in which
    they were drawn from rng, a `random.Random`.
    """

    def __init__(self, vocab_size, n_embd=16, n_head=4, n_layer=1, block_size=16, init_std=0.08, rng=None):
        # Plain numbers: NumPy's have their own arithmetic, in which sizes wrap around and float32 stays float32.
        vocab_size, n_embd, n_head = operator.index(vocab_size), operator.index(n_embd), operator.index(n_head)
        n_layer, block_size, init_std = operator.index(n_layer), operator.index(block_size), float(init_std)
        if n_embd % n_head:
            raise ValueError(f"n_embd ({n_embd}) must be a multiple of n_head ({n_head})")
        self.vocab_size, self.n_embd, self.n_head = vocab_size, n_embd, n_head
        self.n_layer, self.block_size, self.init_std = n_layer, block_size, init_std
        self.head_dim = n_embd // n_head
        rng = random.Random(42) if rng is None else rng

        def matrix(nout, nin):
            return [[Value(rng.gauss(0, init_std)) for _ in range(nin)] for _ in range(nout)]

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

    def __repr__(self):
        return (f"{type(self).__name__}(vocab_size={self.vocab_size}, n_embd={self.n_embd}, n_head={self.n_head}, "
                f"n_layer={self.n_layer}, block_size={self.block_size})")  # fmt: skip


def gpt(token_id, pos_id, keys, values, model):
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
        x_attn = []
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


def document_loss(tokens, model):
    """The mean loss of predicting each token of a document from those before it (`microgpt.py`, the training loop).

    tokens: the document's token ids with BOS on both sides; those beyond the model's block_size are left out.
    """
    n = min(model.block_size, len(tokens) - 1)
    keys, values = [[] for _ in range(model.n_layer)], [[] for _ in range(model.n_layer)]
    losses = []
    for pos_id in range(n):
        logits = gpt(tokens[pos_id], pos_id, keys, values, model)
        probs = softmax(logits)
        losses.append(-probs[tokens[pos_id + 1]].log())
    return (1 / n) * sum(losses)


class Adam:
    """The optimizer, with a learning rate that falls linearly to 0 over num_steps (`microgpt.py`, "Adam").

    m, v: the moments, one each for every parameter.  step_index: the updates done so far.
    """

    def __init__(self, model, learning_rate=0.01, beta1=0.85, beta2=0.99, eps=1e-8, num_steps=1000):
        self.params = model.params
        self.learning_rate, self.beta1, self.beta2, self.eps = map(float, (learning_rate, beta1, beta2, eps))
        self.num_steps = operator.index(num_steps)
        self.step_index = 0
        self.m = [0.0] * len(self.params)
        self.v = [0.0] * len(self.params)

    def step(self):
        """Move every parameter against its gradient, and clear the gradients."""
        beta1, beta2, eps, m, v = self.beta1, self.beta2, self.eps, self.m, self.v
        lr_t = self.learning_rate * (1 - self.step_index / self.num_steps)
        m_scale = 1 - beta1 ** (self.step_index + 1)
        v_scale = 1 - beta2 ** (self.step_index + 1)
        for i, p in enumerate(self.params):
            m[i] = beta1 * m[i] + (1 - beta1) * p.grad
            v[i] = beta2 * v[i] + (1 - beta2) * p.grad ** 2
            m_hat = m[i] / m_scale
            v_hat = v[i] / v_scale
            p.data -= lr_t * m_hat / (v_hat ** 0.5 + eps)
            p.grad = 0
        self.step_index += 1
