"""Random functions over Value, for fuzzing microgpt.compile: a plan is drawn first, the function carries it out.

Half of them look up inner nodes by an argument (softmax(x)[token] and worse), which is what makes the order of a backward
pass depend on an argument. run(seed) compares a compiled function with the script's class over a few calls.
"""
import math
import random
from collections import namedtuple

Sizes = namedtuple("Sizes", "vocab width tokens")
ACTIVATIONS = ["squash", "exp", "log", "power", "relu", "cubic", "negative", "tanh", "data"]
OPERATIONS = ["add", "mul", "linear", "dot", "sum", "activation", "pick", "embed", "scale", "tied", "chain", "affine", "norm",
              "attend", "mix", "extreme", "product"]


def draw_plan(rng):
    sizes = Sizes(rng.choice([2, 3, 5, 7, 11]), rng.choice([1, 2, 3, 4, 8, 9]), rng.choice([1, 2, 3, 5]))
    lookups, wild = rng.random() < 0.5, rng.random() < 0.3
    plan = []
    for _ in range(rng.choice([3, 6, 10, 20, 40])):
        name = rng.choice(OPERATIONS)
        if name == "pick" and not lookups:
            name = "embed"
        plan.append((name, rng.random(), rng.random(), rng.random(), rng.choice(ACTIVATIONS), rng.randrange(100), wild))
    return sizes, plan


def build(Value, compile, seed):
    """-> (params, loss, arguments of a generator)."""
    rng = random.Random(seed)
    sizes, plan = draw_plan(rng)
    vocab, width, n_tokens = sizes
    params = []

    def new(n):
        row = [Value(0.0) for _ in range(n)]
        params.extend(row)
        return row

    table = [new(width) for _ in range(vocab)]
    flat, bias = new(vocab), new(2 * width)
    matrices = [[new(width) for _ in range(rng.choice([1, 2, width, 2 * width]))] for _ in range(2)]

    def squash(x):
        return x / (1 + x * x)

    def softmax(logits):
        largest = max(logit.data for logit in logits)
        exps = [(logit - largest).exp() for logit in logits]
        total = sum(exps)
        return [e / total for e in exps]

    def linear(x, w):
        return [sum(wi * xi for wi, xi in zip(row, x)) for row in w]

    def activate(name, x):
        if name == "exp":
            return (x * 0.3).exp() * 0.5
        if name == "log":
            return (x * x + 1).log()
        if name == "power":
            return (x * x + 0.5) ** -0.5
        if name == "relu":
            return x.relu()
        if name == "cubic":
            return (x**3) * 0.2 - 0.25
        if name == "negative":
            return -x / 3
        if name == "tanh":
            t = math.tanh(x.data)
            return Value(t, (x,), (1 - t * t,))
        if name == "data":
            return x * (x.data / 2 + 1) - 0.1 / (abs(x.data) + 1)
        return squash(x)

    @compile
    def loss(tokens, xs):
        vectors = [list(bias[:width]), [Value(x) for x in xs], list(flat)]
        losses = []
        for name, first, second, third, activation, number, wild in plan:
            v, w, u = (vectors[int(r * len(vectors))] for r in (first, second, third))
            matrix = matrices[number % 2]
            token = tokens[number % n_tokens]
            one = u[number % len(u)]
            if name == "add":
                vectors.append([squash(a + b) for a, b in zip(v, w)])
            elif name == "mul":
                vectors.append([squash(a * b * 0.5) for a, b in zip(v, w)])
            elif name == "linear":
                vectors.append([squash(y) for y in linear(v, matrix)])
            elif name == "dot":
                vectors.append([squash(sum((a * b for a, b in zip(v, w)), one))])
            elif name == "sum":
                vectors.append([squash(sum(v)) for _ in range(1 + number % 2)])
            elif name == "activation":
                vectors.append([activate(activation, x) for x in v])
            elif name == "pick":
                if number % 2 or wild:
                    v = softmax(v)
                if wild:
                    vectors.append(v)
                while len(v) < vocab:
                    v = v + [squash(a * 0.9 + 0.1) for a in v]
                y = v[token]
                losses.append(-(y * y + 0.1).log() if number % 3 else y * y * y)
                if wild and number % 5 == 0:
                    vectors.append([y, squash(y + one)])
            elif name == "embed":
                vectors.append([a + b for a, b in zip(table[token], v)])
            elif name == "scale":
                row = table[token]
                vectors.append([a * b for a, b in zip(row, v)])
                if wild:
                    vectors.append(list(row))
            elif name == "tied":
                vectors.append([squash(y) for y in linear(v, table)])
            elif name == "chain":
                total = one
                for k, (a, b) in enumerate(zip(v, w)):
                    total = total + a * b + (b if k % 3 == 0 else 0.5)
                vectors.append([squash(total)])
            elif name == "affine":
                vectors.append([squash(sum(a * b for a, b in zip(row, v)) + c) for row, c in zip(matrix, bias)])
            elif name == "norm":
                mean = sum(v) / len(v)
                centred = [x - mean for x in v]
                scale = (sum(x * x for x in centred) / len(v) + 0.1) ** -0.5
                vectors.append([x * scale for x in centred])
            elif name == "attend":
                weights = softmax([a * b for a, b in zip(v, w)])
                vectors.append([squash(sum(a * b for a, b in zip(weights, column))) for column in (w, u)])
            elif name == "mix":
                vectors.append([one, v[number % len(v)], w[number % len(w)]])
            elif name == "extreme":
                top = max(x.data for x in v)
                vectors.append([squash(x * top + min(y.data for y in w)) for x in v])
            else:
                a, b = v[0], w[0]
                vectors.append([squash(Value(a.data * b.data * one.data, (a, b, one),
                                             (b.data * one.data, a.data * one.data, a.data * b.data)))])
        total = sum(sum(v) for v in vectors[-3:])
        for one_loss in losses:
            total = total + one_loss
        return total / (len(losses) + 1) + 0.01 * sum(p * p for p in params[:7])

    def arguments(generator):
        tokens = [generator.randrange(vocab) for _ in range(n_tokens)]
        return tokens, [generator.uniform(-1, 1) for _ in range(width + 1)]

    return params, loss, arguments


def run(seed, calls=6, **options):
    """Compare; "static", "sorted in every call", "as written", or "math error" of the script's own. Raises on a difference."""
    import microgpt
    from microgpt import reference

    params, loss, arguments = build(microgpt.Value, lambda f: microgpt.compile(f, **options), seed)
    expected_params, expected_loss, _ = build(reference.Value, lambda f: f, seed)
    generator = random.Random(7 * seed + 1)
    for call in range(calls):
        given = arguments(generator)
        for p, q in zip(params, expected_params):
            p.data = q.data = generator.uniform(-1.2, 1.2)
            p.grad = q.grad = 0
        try:
            expected = expected_loss(*given)
        except (ArithmeticError, ValueError) as error:
            try:
                loss(*given)
            except type(error):
                continue
            raise AssertionError(f"seed {seed}, call {call}: no {type(error).__name__}") from error
        result = loss(*given)
        if not math.isfinite(expected.data):
            return "not finite"
        result.backward()
        expected.backward()
        found = [x.hex() for x in (result.data, *(p.grad for p in params))]
        wanted = [float(x).hex() for x in (expected.data, *(q.grad for q in expected_params))]
        assert found == wanted, f"seed {seed}, call {call}: {sum(a != b for a, b in zip(found, wanted))} numbers differ"
    (entry,) = loss.entries.values()
    if entry.program is None:
        assert entry.why is not None and "differs" not in entry.why, f"seed {seed}: {entry.why}"
        return "as written: " + entry.why.split(": ")[-1]
    return "sorted in every call" if entry.program.dynamic else "static"
