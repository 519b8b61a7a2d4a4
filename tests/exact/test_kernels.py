"""Each kernel of each instruction set, against loops in plain Python floats, at sizes around every vector width."""
import math
import random

import numpy as np
import pytest
from kernels import aligned, args, array_of, dot, random_rows, same, unaligned

SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65]
FEW = [1, 3, 8, 9, 16, 33]


def shapes():
    """(positions, nout, nin): each of the three takes all sizes."""
    rng = random.Random(0)
    for size in SIZES:
        yield size, rng.choice(FEW), rng.choice(FEW)
        yield rng.choice(FEW), size, rng.choice(FEW)
        yield rng.choice(FEW), rng.choice(FEW), size
    yield 7, 48, 16
    yield 9, 16, 64
    yield 2, 5, 130  # long rows are taken in blocks
    yield 17, 40, 130
    yield 61, 70, 131  # many positions: from copies, in several groups and blocks, the last of which are not full
    yield 70, 9, 70  # more positions than a copy of dy has room for
    yield 33, 65, 262
    for n in range(1, 17):  # every number of idle lanes, of positions where the columns are in the lanes
        yield n, 57, 60


@pytest.mark.parametrize("n, nout, nin", list(shapes()))
def test_matrix_products_match_scalar_loops(kernels, n, nout, nin):
    rng = random.Random(f"{n} {nout} {nin}")
    x, dy, residual = random_rows(rng, n, nin), random_rows(rng, n, nout), random_rows(rng, n, nout)
    w, dw = random_rows(rng, nout, nin), random_rows(rng, nout, nin)
    lanes, panels, weights = kernels.lanes, kernels.panels_of(n), unaligned(w)
    xs, dys, residuals = kernels.panels(x), kernels.panels(dy), kernels.panels(residual)
    product = [[dot(w[o], x[p], range(nin)) for o in range(nout)] for p in range(n)]

    out = kernels.panels(np.zeros((n, nout)))
    forward = args("mg_linear_forward_args", n=n, nout=nout, nin=nin, w=weights, x=xs, x_stride=nin * lanes,
                   out=out, out_stride=nout * lanes)  # fmt: skip
    kernels.linear_forward(forward)
    same(kernels.rows(out, n, nout), product)
    forward.residual = residuals.ctypes.data
    kernels.linear_forward(forward)
    same(kernels.rows(out, n, nout), [[a + b for a, b in zip(*rows)] for rows in zip(product, residual.tolist())])

    descending = range(nout - 1, -1, -1)
    dx = kernels.panels(np.zeros((n, nin)))
    backward = args("mg_linear_backward_input_args", n=n, nout=nout, ncols=nin, w=weights, w_stride=nin,
                    dy=dys, dy_stride=nout * lanes, dx=dx, dx_stride=nin * lanes)  # fmt: skip
    kernels.linear_backward_input(backward)
    same(kernels.rows(dx, n, nin), [[dot(w[:, i], dy[p], descending) for i in range(nin)] for p in range(n)])
    order = list(range(nout))
    rng.shuffle(order)
    order_array = array_of(order, np.int32)
    backward.order = order_array.ctypes.data
    kernels.linear_backward_input(backward)
    same(kernels.rows(dx, n, nin), [[dot(w[:, i], dy[p], order) for i in range(nin)] for p in range(n)])

    back = list(reversed(order))
    back_array = array_of(back, np.int32)
    backward.order_first = back_array.ctypes.data
    kernels.linear_backward_input(backward)
    expected = [[dot(w[:, i], dy[p], back if p == 0 else order) for i in range(nin)] for p in range(n)]
    same(kernels.rows(dx, n, nin), expected)

    targets = [rng.randrange(nout) for _ in range(lanes)]
    dtarget = [rng.gauss(0, 1) for _ in range(lanes)]
    kernels.linear_backward_target(nin, weights, array_of(targets, np.int32), array_of(dtarget), dx)
    for p in range(min(n, lanes)):
        expected[p] = [e + float(w[targets[p]][i]) * dtarget[p] for i, e in enumerate(expected[p])]
    same(kernels.rows(dx, n, nin), expected)

    stride = -(-nin // lanes) * lanes
    rows = aligned(panels * lanes * stride)
    kernels.panels_to_rows(panels, nin, xs, nin * lanes, rows, stride)
    same(rows.reshape(-1, stride)[:n, :nin], x)
    gradient = dw.copy()
    for p in range(n - 1, -1, -1):
        gradient = gradient + np.outer(dy[p], x[p])  # one product and one sum for each weight
    weight = args("mg_linear_backward_weight_args", n=n, nout=nout, nin=nin, x=rows, x_stride=stride, dy=dys,
                  dy_stride=nout * lanes)  # fmt: skip
    ours = unaligned(dw)
    weight.dw = ours.ctypes.data
    kernels.linear_backward_weight(weight)
    same(ours, gradient)
    ours = unaligned(dw)
    weight.dw = ours.ctypes.data
    kernels.linear_backward_weight_sparse(weight, aligned(stride // lanes * (n + 1), np.int32))
    same(ours, gradient)


@pytest.mark.parametrize("size", SIZES)
def test_skipping_inactive_rows_gives_the_same_bits(kernels, size):
    """relu, and the products that skip its zeros against those that do not."""
    rng = random.Random(size)
    lanes, nin = kernels.lanes, 5
    n = rng.randint(1, lanes)
    h = random_rows(rng, n, size)
    for o in range(size):
        if rng.random() < 0.6:
            h[:, o] = -abs(h[:, o])
    hs = kernels.panels(h, fill=math.inf)  # lanes without a position count for nothing
    active, magnitude = aligned(size, np.int32), aligned(1)
    nactive = kernels.relu_forward(n, size, hs, active, magnitude)
    r = np.maximum(h, 0.0)
    same(kernels.rows(hs, n, size), r)
    assert active[:nactive].tolist() == [o for o in range(size) if r[:, o].any()]
    assert magnitude[0] == pytest.approx(abs(h).sum())
    for bad in (math.inf, -math.inf, math.nan):
        spoiled = h.copy()
        spoiled[n - 1, size - 1] = bad
        copy = kernels.panels(spoiled)
        kernels.relu_forward(n, size, copy, aligned(size, np.int32), magnitude)
        assert not magnitude[0] < math.inf
        assert kernels.rows(copy, n, size)[n - 1, size - 1] == (bad if bad > 0 else 0.0)

    hs[np.isinf(hs)] = 0.0
    w, residual, dy = random_rows(rng, nin, size), random_rows(rng, n, nin), random_rows(rng, n, nin)
    weights = unaligned(w)
    out, expected = kernels.panels(np.zeros((n, nin))), kernels.panels(np.zeros((n, nin)))
    kernels.linear_forward_active(nin, nactive, active, weights, size, hs, kernels.panels(residual), out)
    all_rows = args("mg_linear_forward_args", n=n, nout=nin, nin=size, w=weights, x=hs,
                    residual=kernels.panels(residual), out=expected)  # fmt: skip
    kernels.linear_forward(all_rows)
    same(out, expected)

    dr, all_dr = kernels.panels(np.zeros((n, size))), kernels.panels(np.zeros((n, size)))
    dys = kernels.panels(dy)
    kernels.linear_backward_input_active(nin, nactive, active, weights, size, dys, dr)
    kernels.linear_backward_input(args("mg_linear_backward_input_args", n=n, nout=nin, ncols=size, w=weights,
                                       w_stride=size, dy=dys, dx=all_dr))  # fmt: skip
    kernels.relu_backward(nactive, active, hs, dr)
    kernels.relu_backward(size, None, hs, all_dr)
    same(kernels.rows(dr, n, size), kernels.rows(all_dr, n, size))
    same(all_dr, np.where(hs[: all_dr.size] > 0, all_dr, 0.0))

    x = random_rows(rng, n, nin)
    stride = -(-nin // lanes) * lanes
    rows = aligned(lanes * stride)
    rows.reshape(lanes, stride)[:n, :nin] = x
    start = random_rows(rng, size, nin)
    dw, expected = unaligned(start), unaligned(start)
    weight = {"n": n, "nin": nin, "x": rows, "x_stride": stride}
    some = args("mg_linear_backward_weight_args", nout=nactive, dy=dr, dw=dw, **weight)
    kernels.linear_backward_weight_active(some, active)
    kernels.linear_backward_weight(args("mg_linear_backward_weight_args", nout=size, dy=all_dr, dw=expected, **weight))
    same(dw, expected)


@pytest.mark.parametrize("size", SIZES)
def test_or_of_bits_and_sum_of_magnitudes_detect_every_special_number(kernels, size):
    rng = random.Random(size)
    x = random_rows(rng, 1, size)[0]
    assert kernels.sum_of_magnitudes(size, unaligned(x)) >= abs(x).max()
    assert kernels.or_of_bits(size, unaligned(0.0 * abs(x))) == 0
    for at in range(size):
        for bad in (math.inf, -math.inf, math.nan):
            y = x.copy()
            y[at] = bad
            assert not kernels.sum_of_magnitudes(size, unaligned(y)) < math.inf
        y = np.zeros(size)
        y[at] = -0.0
        assert kernels.or_of_bits(size, unaligned(y)) == 2**63
        y[at] = 5e-324
        assert kernels.or_of_bits(size, unaligned(y)) == 1


@pytest.mark.parametrize("size", [*SIZES, 1024, 1100, 3000])
def test_are_between_finds_every_number_that_is_not(kernels, size):
    rng = random.Random(size)
    x = np.array([rng.choice((-1.0, 1.0)) * rng.uniform(0.5, 2.0) for _ in range(size)])
    x[0] = -0.5
    x[-1] = 2.0 if size > 1 else x[-1]
    assert kernels.are_between(size, unaligned(x), 0.5, 2.0) == 1
    assert kernels.are_between(size, unaligned(0.0 * x), 0.0, 2.0) == 1
    for at in range(size) if size < 1000 else rng.sample(range(size), 50):
        for bad in (0.0, -0.0, math.nextafter(0.5, 0.0), -math.nextafter(2.0, 3.0), math.inf, -math.inf, math.nan):
            y = x.copy()
            y[at] = bad
            assert kernels.are_between(size, unaligned(y), 0.5, 2.0) == 0


@pytest.mark.parametrize("size", SIZES)
def test_embedding_matches_scalar_loops(kernels, size):
    rng = random.Random(size)
    lanes, vocab_size = kernels.lanes, 6
    for n in range(1, lanes + 1):
        tokens = [rng.randrange(vocab_size) for _ in range(n)]
        wte, wpe = random_rows(rng, vocab_size, size), random_rows(rng, n, size)
        x = kernels.panels(np.zeros((n, size)), fill=math.nan)
        x[:] = math.nan
        ids = array_of(tokens + [0] * (lanes - n), np.int32)
        kernels.embed_forward(n, size, ids, unaligned(wte), unaligned(wpe), x)
        same(kernels.rows(x, n, size), wte[tokens] + wpe)
        assert not np.isnan(x[: size * lanes]).any()
        dx = random_rows(rng, n, size)
        dwte, dwpe = unaligned(wte), unaligned(wpe)
        kernels.embed_backward(n, size, ids, kernels.panels(dx), dwte, dwpe)
        expected = wte.copy()
        for p in range(n - 1, -1, -1):
            expected[tokens[p]] += dx[p]
        same(dwte, expected)
        same(dwpe, wpe + dx)


@pytest.mark.parametrize("panels", [1, 2, 3])
@pytest.mark.parametrize("size", SIZES)
def test_rmsnorm_matches_scalar_loops(kernels, size, panels):
    rng = random.Random(size)
    n = panels * kernels.lanes
    x, dout, dx = (random_rows(rng, n, size) for _ in range(3))
    base, scale, power = aligned(n), aligned(n), aligned(n)
    out = kernels.panels(np.zeros((n, size)))
    inverse = float(size) ** -1
    kernels.rmsnorm_forward(panels, size, inverse, kernels.panels(x), base, scale, power, out)
    for p in range(n):
        expected = dot(x[p], x[p], range(size)) * inverse + 1e-5
        same([base[p], scale[p], power[p]], [expected, expected**-0.5, expected**-1.5])
        same(kernels.rows(out, n, size)[p], x[p] * scale[p])
    ours = kernels.panels(dx)
    kernels.rmsnorm_backward(panels, size, inverse, kernels.panels(x), scale, power, kernels.panels(dout), ours)
    for p in range(n):
        dscale = dot(x[p], dout[p], range(size - 1, -1, -1))
        dsum = inverse * ((-0.5 * float(power[p])) * dscale)
        product = x[p] * dsum
        same(kernels.rows(ours, n, size)[p], dx[p] + scale[p] * dout[p] + product + product)


@pytest.mark.parametrize("panels", [1, 2, 3])
@pytest.mark.parametrize("size", SIZES)
def test_loss_matches_scalar_loops(kernels, size, panels):
    rng = random.Random(size)
    lanes, n = kernels.lanes, panels * kernels.lanes
    logits = random_rows(rng, n, size)
    targets = [rng.randrange(size) for _ in range(n)]
    ids, dloss = array_of(targets, np.int32), 1 / 7
    rows = kernels.panels(logits)
    total, inverse, prob, power, dtarget = (aligned(n) for _ in range(5))
    kernels.loss_forward(panels, size, rows, ids, total, inverse, power, prob)
    exps = kernels.rows(rows, n, size)
    same(power, [x**-2 for x in total.tolist()])
    for at in range(0, n, lanes):
        kernels.loss_backward(size, rows[at * size :], ids[at:], inverse[at:], power[at:], prob[at:], dloss, dtarget[at:])
    dlogits = kernels.rows(rows, n, size)
    for p in range(n):
        e = [math.exp(logit - max(logits[p])) for logit in logits[p].tolist()]
        sum_e = 0.0
        for x in e:
            sum_e = sum_e + x
        same(exps[p], e)
        target = targets[p]
        same([total[p], inverse[p], prob[p]], [sum_e, sum_e**-1, e[target] * sum_e**-1])
        dprob = 0.0 + (1 / float(prob[p])) * (0.0 + -1 * dloss)
        dtotal = 0.0 + (-1 * sum_e**-2) * (0.0 + e[target] * dprob)
        expected = [0.0 + x * (0.0 + dtotal) for x in e]
        same([dtarget[p]], [0.0 + e[target] * ((0.0 + sum_e**-1 * dprob) + dtotal)])
        expected[target] = 0.0
        same(dlogits[p], expected)


@pytest.mark.parametrize("size", SIZES)
def test_decode_products_and_softmax_match_scalar_loops(kernels, size):
    """The products and the softmax of sampling."""
    rng = random.Random(size)
    lanes = kernels.lanes
    for nin in (1, 5, 8, 17):
        w, x = random_rows(rng, size, nin), random_rows(rng, 1, nin)[0]
        stride = -(-size // lanes) * lanes
        wt, out = aligned(nin * stride), aligned(stride)
        kernels.transpose_weights(size, nin, unaligned(w), wt, stride)
        same(wt.reshape(nin, stride)[:, :size], w.T)
        assert not wt.reshape(nin, stride)[:, size:].any()
        kernels.linear_decode(size, nin, None, wt, stride, array_of(x), out)
        same(out[:size], [dot(row, x, range(nin)) for row in w])
        some = sorted(rng.sample(range(nin), rng.randint(0, nin)))
        kernels.linear_decode(size, len(some), array_of(some, np.int32), wt, stride, array_of(x), out)
        same(out[:size], [dot(row, x, some) for row in w])
    logits = [rng.gauss(0, 3) for _ in range(size)]
    for change in (None, (0, math.nan), (size - 1, math.nan), (size // 2, math.inf), (0, -math.inf)):
        if change:
            logits[change[0]] = change[1]
        ours = aligned(stride)
        ours[:size] = logits
        kernels.softmax_decode(size, 2.0, ours)
        scaled = [logit * 2.0 for logit in logits]
        largest = max(scaled)
        e = [math.exp(logit - largest) for logit in scaled]
        total = 0.0
        for x in e:
            total = total + x
        same(ours[:size], [x * total**-1 for x in e])


@pytest.mark.parametrize("size", SIZES)
def test_decode_relu_matches_scalar_loops(kernels, size):
    rng = random.Random(size)
    stride = -(-size // kernels.lanes) * kernels.lanes
    for _ in range(20):
        x, active = aligned(stride), aligned(stride, np.int32)
        x[:size] = [rng.choice([rng.gauss(0, 1), 0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324]) for _ in range(size)]
        x[size:] = rng.choice([0.0, math.nan])
        before = x.tolist()
        count = kernels.relu_decode(size, x, active)
        same(x, [xi if xi > 0 else 0.0 for xi in before])
        assert active[:count].tolist() == [i for i, xi in enumerate(before) if xi > 0]


@pytest.mark.parametrize(
    "name, function, low, high",
    [
        ("exp_array", math.exp, -750.0, 0.0),
        ("pow_2_array", lambda x: x**2, 0.0, 3.0),
        ("pow_05_array", lambda x: x**0.5, 0.0, 3.0),
        ("pow_m05_array", lambda x: x**-0.5, 1e-5, 30.0),
        ("pow_m1_array", lambda x: x**-1, 1.0, 1000.0),
        ("pow_m15_array", lambda x: x**-1.5, 1e-5, 30.0),
        ("pow_m2_array", lambda x: x**-2, 1.0, 1000.0),
    ],
)
def test_exp_and_powers_match_python(kernels, name, function, low, high):
    rng = random.Random(name)
    for size in SIZES:
        size = kernels.panels_of(size) * kernels.lanes
        x = array_of([rng.uniform(low, high) for _ in range(size)])
        if name == "exp_array":
            x[rng.randrange(size)] = -math.inf
            x[rng.randrange(size)] = math.nan
        expected = [function(value) for value in x.tolist()]
        out = aligned(size)
        getattr(kernels, name)(size, x, out)
        same(out, expected)
        getattr(kernels, name)(size, x, x)  # in place
        same(x, expected)
