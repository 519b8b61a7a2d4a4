"""Programs over Value as users write them, for the tests of microgpt.compile: one for each way to change the script.

Each is build(Value, compile) -> (params, loss, arguments of step): the same text for the script's class and for ours.
The script's functions stand here once more, and in run_script.py: what is compiled are lines of the user's own.
"""
import math
import random

VOCAB, N_EMBD, N_HEAD, BLOCK = 9, 8, 2, 6


class Bench:
    """Random matrices, and the script's functions."""

    def __init__(self, Value, seed):
        self.Value, self.rng, self.params = Value, random.Random(seed), []

    def matrix(self, nout, nin, std=0.3):
        rows = [[self.Value(self.rng.gauss(0, std)) for _ in range(nin)] for _ in range(nout)]
        self.params += [p for row in rows for p in row]
        return rows

    def vector(self, n, value=0.0):
        row = [self.Value(value + self.rng.gauss(0, 0.1)) for _ in range(n)]
        self.params += row
        return row

    def tokens(self, step, low=3, high=7):
        rng = random.Random(step)
        return [rng.randrange(VOCAB) for _ in range(rng.randrange(low, high))]


def linear(x, w):
    return [sum(wi * xi for wi, xi in zip(wo, x)) for wo in w]


def softmax(logits):
    max_val = max(val.data for val in logits)
    exps = [(val - max_val).exp() for val in logits]
    total = sum(exps)
    return [e / total for e in exps]


def rmsnorm(x):
    ms = sum(xi * xi for xi in x) / len(x)
    scale = (ms + 1e-5) ** -0.5
    return [xi * scale for xi in x]


def attention(q, keys, values, n_head=N_HEAD, bias=None):
    head_dim = len(q) // n_head
    out = []
    for h in range(n_head):
        hs = h * head_dim
        q_h = q[hs:hs + head_dim]
        k_h = [k[hs:hs + head_dim] for k in keys]
        v_h = [v[hs:hs + head_dim] for v in values]
        logits = [sum(q_h[j] * k_h[t][j] for j in range(head_dim)) / head_dim**0.5 for t in range(len(k_h))]
        if bias is not None:
            logits = [logit + bias(h, len(keys) - 1 - t) for t, logit in enumerate(logits)]
        weights = softmax(logits)
        out += [sum(weights[t] * v_h[t][j] for t in range(len(v_h))) for j in range(head_dim)]
    return out


def transformer(Value, compile, seed, *, norm=rmsnorm, activation=None, rotate=None, bias=None, tied=False, biases=False,
                grouped=False, experts=0, smoothing=0.0):
    """The script's architecture with what is asked for changed."""
    b = Bench(Value, seed)
    wte, wpe = b.matrix(VOCAB, N_EMBD), b.matrix(BLOCK, N_EMBD)
    lm_head = wte if tied else b.matrix(VOCAB, N_EMBD)
    wq, wo = b.matrix(N_EMBD, N_EMBD), b.matrix(N_EMBD, N_EMBD)
    kv = N_EMBD // 2 if grouped else N_EMBD
    wk, wv = b.matrix(kv, N_EMBD), b.matrix(kv, N_EMBD)
    fc1 = [b.matrix(2 * N_EMBD, N_EMBD) for _ in range(max(1, experts))]
    fc2 = [b.matrix(N_EMBD, 2 * N_EMBD) for _ in range(max(1, experts))]
    router = b.matrix(experts, N_EMBD) if experts else None
    b1, b2 = (b.vector(2 * N_EMBD), b.vector(N_EMBD)) if biases else (None, None)
    gain = b.vector(N_EMBD, 1.0)

    def mlp(x, k):
        h = linear(x, fc1[k])
        if biases:
            h = [hi + bi for hi, bi in zip(h, b1)]
        h = [activation(hi) if activation else hi.relu() for hi in h]
        h = linear(h, fc2[k])
        return [hi + bi for hi, bi in zip(h, b2)] if biases else h

    def gpt(token, position, keys, values):
        x = [t + p for t, p in zip(wte[token], wpe[position])]
        residual = x
        x = [g * xi for g, xi in zip(gain, norm(x))]
        q, k, v = linear(x, wq), linear(x, wk), linear(x, wv)
        if rotate:
            q, k = rotate(q, position), rotate(k, position)
        keys.append(k + k if grouped else k)
        values.append(v + v if grouped else v)
        x = linear(attention(q, keys, values, bias=bias), wo)
        x = [a + c for a, c in zip(x, residual)]
        residual = x
        x = norm(x)
        if experts:
            weights = softmax(linear(x, router))
            outs = [mlp(x, e) for e in range(experts)]
            x = [sum(w * out[j] for w, out in zip(weights, outs)) for j in range(N_EMBD)]
        else:
            x = mlp(x, 0)
        return linear([a + c for a, c in zip(x, residual)], lm_head)

    @compile
    def loss(tokens):
        keys, values, losses = [], [], []
        for position in range(len(tokens) - 1):
            probs = softmax(gpt(tokens[position], position, keys, values))
            nll = -probs[tokens[position + 1]].log()
            if smoothing:
                nll = (1 - smoothing) * nll + smoothing * sum(-p.log() for p in probs) / len(probs)
            losses.append(nll)
        return sum(losses) / len(losses)

    return b.params, loss, lambda step: (b.tokens(step),)


def layernorm(x):
    mean = sum(x) / len(x)
    centred = [xi - mean for xi in x]
    scale = (sum(c * c for c in centred) / len(x) + 1e-5) ** -0.5
    return [c * scale for c in centred]


def plain(Value, compile):
    return transformer(Value, compile, 1)


def biases(Value, compile):
    return transformer(Value, compile, 2, biases=True)


def layer_norm(Value, compile):
    return transformer(Value, compile, 3, norm=layernorm)


def gelu_exp(Value, compile):
    return transformer(Value, compile, 4, activation=lambda x: x / (1 + (-1.702 * x).exp()))


def gelu_tanh(Value, compile):
    def tanh(x):  # an operation of the user's own
        t = math.tanh(x.data)
        return Value(t, (x,), (1 - t * t,))

    def gelu(x):
        return 0.5 * x * (1 + tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3)))

    return transformer(Value, compile, 5, activation=gelu)


def rope(Value, compile):
    def rotate(x, position):
        out = []
        for i in range(0, len(x), 2):
            c, s = math.cos(position / 100 ** (i / len(x))), math.sin(position / 100 ** (i / len(x)))
            out += [x[i] * c - x[i + 1] * s, x[i] * s + x[i + 1] * c]
        return out

    return transformer(Value, compile, 6, rotate=rotate)


def alibi(Value, compile):
    return transformer(Value, compile, 7, bias=lambda head, distance: -distance * 2.0 ** -(head + 1))


def grouped_queries(Value, compile):
    return transformer(Value, compile, 8, grouped=True)


def mixture_of_experts(Value, compile):
    return transformer(Value, compile, 9, experts=3)


def tied_weights(Value, compile):
    return transformer(Value, compile, 10, tied=True)


def label_smoothing(Value, compile):
    return transformer(Value, compile, 11, smoothing=0.1)


def gru(Value, compile):
    b = Bench(Value, 12)
    wte, head = b.matrix(VOCAB, N_EMBD), b.matrix(VOCAB, N_EMBD)
    gates = [(b.matrix(N_EMBD, N_EMBD), b.matrix(N_EMBD, N_EMBD), b.vector(N_EMBD)) for _ in range(3)]

    def sigmoid(x):
        return 1 / (1 + (-x).exp())

    def gate(k, x, h):
        w, u, bias = gates[k]
        return [a + c + d for a, c, d in zip(linear(x, w), linear(h, u), bias)]

    @compile
    def loss(tokens):
        h = [Value(0.0) for _ in range(N_EMBD)]
        total = 0
        for token, target in zip(tokens, tokens[1:]):
            x = wte[token]
            z = [sigmoid(v) for v in gate(0, x, h)]
            r = [sigmoid(v) for v in gate(1, x, h)]
            n = [2 * sigmoid(2 * v) - 1 for v in gate(2, x, [ri * hi for ri, hi in zip(r, h)])]
            h = [(1 - zi) * ni + zi * hi for zi, ni, hi in zip(z, n, h)]
            total = total - softmax(linear(h, head))[target].log()
        return total / (len(tokens) - 1)

    return b.params, loss, lambda step: (b.tokens(step),)


def lstm(Value, compile):
    b = Bench(Value, 13)

    class Cell:
        def __init__(self):
            self.weights = {name: (b.matrix(N_EMBD, 2 * N_EMBD), b.vector(N_EMBD)) for name in "ifog"}

        def __call__(self, x, h, c):
            def pre(name):
                w, bias = self.weights[name]
                return [v + bi for v, bi in zip(linear(x + h, w), bias)]

            i, f, o = ([1 / (1 + (-v).exp()) for v in pre(name)] for name in "ifo")
            g = [(v.exp() - (-v).exp()) / (v.exp() + (-v).exp()) for v in pre("g")]
            c = [fi * ci + ii * gi for fi, ci, ii, gi in zip(f, c, i, g)]
            return [oi * ci.relu() for oi, ci in zip(o, c)], c

    cell = Cell()
    wte, head = b.matrix(VOCAB, N_EMBD), b.matrix(VOCAB, N_EMBD)

    @compile
    def loss(tokens):
        h = c = [Value(0.0)] * N_EMBD
        losses = []
        for token, target in zip(tokens, tokens[1:]):
            h, c = cell(wte[token], h, c)
            losses.append(-softmax(linear(h, head))[target].log())
        return sum(losses) / len(losses)

    return b.params, loss, lambda step: (b.tokens(step),)


def convolution(Value, compile):
    b = Bench(Value, 14)
    wte, kernels, head = b.matrix(VOCAB, 4), [b.matrix(6, 4) for _ in range(3)], b.matrix(VOCAB, 6)

    @compile
    def loss(tokens):
        x = [[Value(0.0)] * 4] * 2 + [wte[token] for token in tokens[:-1]]
        losses = []
        for t, target in enumerate(tokens[1:]):
            parts = [linear(x[t + k], kernel) for k, kernel in enumerate(kernels)]
            h = [sum(column).relu() for column in zip(*parts)]
            losses.append(-softmax(linear(h, head))[target].log())
        return sum(losses) / len(losses)

    return b.params, loss, lambda step: (b.tokens(step),)


def two_heads(Value, compile):
    """Two losses at once, one of them on the class of the next token; results that are numbers beside the loss."""
    b = Bench(Value, 15)
    wte, hidden = b.matrix(VOCAB, N_EMBD), b.matrix(N_EMBD, N_EMBD)
    head, class_head = b.matrix(VOCAB, N_EMBD), b.matrix(3, N_EMBD)
    class_of = [i % 3 for i in range(VOCAB)]

    @compile
    def loss(tokens, classes, weight):
        losses = []
        for token, target, k in zip(tokens, tokens[1:], classes):
            h = [v.relu() for v in linear(wte[token], hidden)]
            losses.append(-softmax(linear(h, head))[target].log() - weight * softmax(linear(h, class_head))[k].log())
        return sum(losses) / len(losses)

    def arguments(step):
        tokens = b.tokens(step)
        return tokens, [class_of[t] for t in tokens[1:]], 0.3 + 0.1 * (step % 3)

    return b.params, loss, arguments


def regression(Value, compile):
    b = Bench(Value, 16)
    layers = [(b.matrix(6, 2), b.vector(6)), (b.matrix(6, 6), b.vector(6)), (b.matrix(1, 6), b.vector(1))]

    @compile
    def loss(xs, ys, *, decay=1e-3):
        errors = []
        for x, y in zip(xs, ys):
            h = [Value(v) for v in x]
            for i, (w, bias) in enumerate(layers):
                h = [sum((wi * hi for wi, hi in zip(row, h)), bi) for row, bi in zip(w, bias)]
                h = [v.relu() for v in h] if i < 2 else h
            errors.append((h[0] - y) ** 2)
        return sum(errors) / len(errors) + decay * sum(p * p for p in b.params)

    def arguments(step):
        rng = random.Random(step)
        xs = [(rng.uniform(-1, 1), rng.uniform(-1, 1)) for _ in range(5)]
        return xs, [math.sin(x) * y for x, y in xs]

    return b.params, loss, arguments


def custom_operations(Value, compile):
    """Functions of math on numbers, in local gradients too; powers with unknown exponents; max and min."""
    b = Bench(Value, 17)
    w, v = b.matrix(5, 5), b.vector(5, 1.0)

    def unary(f, df):
        return lambda x: Value(f(x.data), (x,), (df(x.data),))

    sin = unary(math.sin, math.cos)
    softplus = unary(lambda x: math.log1p(math.exp(x)), lambda x: 1 / (1 + math.exp(-x)))
    erf = unary(math.erf, lambda x: 2 / math.sqrt(math.pi) * math.exp(-x * x))

    def product(a, c, d):  # three children
        return Value(a.data * c.data * d.data, (a, c, d), (c.data * d.data, a.data * d.data, a.data * c.data))

    @compile
    def loss(xs, power):
        h = [Value(x) + vi for x, vi in zip(xs, v)]
        h = [sin(y) for y in linear(h, w)]
        h = [softplus(y) + erf(y) for y in linear(h, w)]
        top, bottom = max(y.data for y in h), min(abs(y.data) for y in h)
        h = [(y * y + 0.5) ** power - bottom / (top * top + 1) for y in h]
        return product(h[0], h[1], h[2]) + sum(h) * math.sqrt(abs(xs[0]) + 1.0)

    def arguments(step):
        rng = random.Random(step)
        return [rng.uniform(-1, 1) for _ in range(5)], rng.uniform(0.5, 2.0)

    return b.params, loss, arguments


ALL = [plain, biases, layer_norm, gelu_exp, gelu_tanh, rope, alibi, grouped_queries, mixture_of_experts, tied_weights,
       label_smoothing, gru, lstm, convolution, two_heads, regression, custom_operations]
