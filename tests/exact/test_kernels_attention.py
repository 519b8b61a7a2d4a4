"""Attention in the kernels of each instruction set, by panels, by heads and token by token, against loops in plain Python floats."""
import math
import random

import numpy as np
import pytest
from kernels import aligned, args, array_of, dot, random_rows, same, unaligned


class Attention:
    """Attention over a whole document, forward and backward, panel by panel as in the engine."""

    def __init__(self, kernels, heads, head_dim, q, k, v, dout):
        n, size = q.shape
        lanes, panels = kernels.lanes, kernels.panels_of(n)
        qkv, stride = kernels.panels(np.concatenate([q, k, v], axis=1)), 3 * size * lanes
        factor = (head_dim**0.5) ** -1
        exps, total, inverse, power = (aligned(heads * panels * lanes * lanes) for _ in range(4))
        scratch, out = aligned(2 * panels * lanes * lanes), aligned(panels * size * lanes)
        douts = kernels.panels(np.concatenate([dout, np.ones((-n % lanes, size))]))  # of queries that do not exist as well
        dqkv = kernels.panels(np.full((n, 3 * size), math.nan))
        for panel in range(panels - 1, -1, -1):
            a = args("mg_attention_args", panel=panel, n=n, heads=heads, head_dim=head_dim, scale=factor, q=qkv,
                     k=qkv[size * lanes :], v=qkv[2 * size * lanes :], stride=stride, exps=exps, sum=total,
                     inv_sum=inverse, inv_sum_sq=power, scratch=scratch)  # fmt: skip
            kernels.attention_forward(a, out[panel * size * lanes :])
            grads = args("mg_attention_grads", dout=douts[panel * size * lanes :], dq=dqkv[panel * stride :],
                         dk=dqkv[size * lanes :], dv=dqkv[2 * size * lanes :])  # fmt: skip
            kernels.attention_backward(a, grads)
        self.out = kernels.rows(out, n, size)
        self.dq, self.dk, self.dv = np.split(kernels.rows(dqkv, n, 3 * size), 3, axis=1)


class AttentionByHeads:
    """The same with heads in the lanes, which are as many as `heads`."""

    def __init__(self, kernels, heads, head_dim, q, k, v, dout):
        n, size = q.shape
        assert heads == kernels.lanes
        panels, panel = kernels.panels_of(n), size * kernels.lanes
        qkv = kernels.panels(np.concatenate([q, k, v], axis=1), math.nan)
        exps, total, inverse, power = (aligned(n * (n + 1) // 2 * heads) for _ in range(4))
        out, dqkv = aligned(panels * panel), kernels.panels(np.full((n, 3 * size), math.nan))
        a = args("mg_attention_heads_args", n=n, head_dim=head_dim, scale=(head_dim**0.5) ** -1, q=qkv, k=qkv[panel:],
                 v=qkv[2 * panel :], stride=3 * panel, out_stride=panel, exps=exps, sum=total, inv_sum=inverse,
                 inv_sum_sq=power)  # fmt: skip
        kernels.attention_heads_forward(a, out)
        grads = args("mg_attention_heads_grads", dout=kernels.panels(dout, math.nan), dq=dqkv, dk=dqkv[panel:],
                     dv=dqkv[2 * panel :])  # fmt: skip
        kernels.attention_heads_backward(a, grads)
        self.out = kernels.rows(out, n, size)
        self.dq, self.dk, self.dv = np.split(kernels.rows(dqkv, n, 3 * size), 3, axis=1)
        for x in (out, dqkv[: panels * 3 * panel]):  # positions that do not exist
            assert not x.reshape(panels, -1, heads)[-1][:, (n - 1) % heads + 1 :].any()


def attention(heads, head_dim, q, k, v, dout):
    """out, dq, dk and dv in the script's order, one query and one head at a time."""
    n, size = q.shape
    factor = (head_dim**0.5) ** -1
    out, dq, dk, dv = (np.zeros((n, size)) for _ in range(4))
    for p in range(n - 1, -1, -1):
        for h in range(heads):
            js = range(h * head_dim, (h + 1) * head_dim)
            logits = [dot(q[p], k[t], js) * factor for t in range(p + 1)]
            e = [math.exp(logit - max(logits)) for logit in logits]
            sum_e = 0.0
            for x in e:
                sum_e = sum_e + x
            weight = [x * sum_e**-1 for x in e]
            dweight = [dot(v[t], dout[p], reversed(js)) for t in range(p + 1)]
            dtotal = 0.0
            for t in range(p, -1, -1):
                dtotal += (-1 * sum_e**-2) * (e[t] * dweight[t])
            for t in range(p, -1, -1):
                dlogit = factor * (e[t] * (sum_e**-1 * dweight[t] + dtotal))
                for j in js:
                    dq[p][j] += k[t][j] * dlogit
                    dk[t][j] += q[p][j] * dlogit
                    dv[t][j] += weight[t] * dout[p][j]
            for j in js:
                for t in range(p + 1):
                    out[p][j] += weight[t] * v[t][j]
    return out, dq, dk, dv


@pytest.mark.parametrize("head_dim", [1, 2, 3, 4, 5, 8, 9, 16])
@pytest.mark.parametrize("n", [1, 2, 5, 6, 7, 8, 9, 17])
def test_attention_matches_scalar_loops(kernels, n, head_dim):
    rng = random.Random(f"{n} {head_dim}")
    heads = 9 if head_dim == 4 else 2  # of 4 dimensions four are done together
    q, k, v, dout = (random_rows(rng, n, heads * head_dim) for _ in range(4))
    ours = Attention(kernels, heads, head_dim, q, k, v, dout)
    for ours_, expected in zip((ours.out, ours.dq, ours.dk, ours.dv), attention(heads, head_dim, q, k, v, dout)):
        same(ours_, expected)


@pytest.mark.parametrize("head_dim", [1, 2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("n", [1, 2, 4, 7, 8, 9, 16])
def test_attention_by_heads_matches_scalar_loops(kernels, n, head_dim):
    rng = random.Random(f"{n} {head_dim}")
    heads = kernels.lanes
    q, k, v, dout = (random_rows(rng, n, heads * head_dim) for _ in range(4))
    ours = AttentionByHeads(kernels, heads, head_dim, q, k, v, dout)
    for ours_, expected in zip((ours.out, ours.dq, ours.dk, ours.dv), attention(heads, head_dim, q, k, v, dout)):
        same(ours_, expected)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("head_dim", [4, 5])
@pytest.mark.parametrize("kind, n", [*((Attention, n) for n in (2, 5, 7, 8, 9, 17)), *((AttentionByHeads, n) for n in (2, 5, 7, 8, 9, 16))])
def test_attention_is_causal(kernels, n, head_dim, bad, kind):
    """A query does not depend on later positions, nor the gradient of a key on earlier queries."""
    rng = random.Random(n)
    heads = 5 if kind is Attention else kernels.lanes
    q, k, v, dout = (random_rows(rng, n, heads * head_dim) for _ in range(4))
    good = kind(kernels, heads, head_dim, q, k, v, dout)
    for x in (q, k, v, dout):
        x[n - 1] = bad
    late = kind(kernels, heads, head_dim, q, k, v, dout)
    same(late.out[: n - 1], good.out[: n - 1])
    same(late.dq[: n - 1], good.dq[: n - 1])
    q, k, v, dout = (random_rows(rng, n, heads * head_dim) for _ in range(4))
    good = kind(kernels, heads, head_dim, q, k, v, dout)
    q[0], dout[0] = bad, bad
    early = kind(kernels, heads, head_dim, q, k, v, dout)
    same(early.dk[1:], good.dk[1:])
    same(early.dv[1:], good.dv[1:])


@pytest.mark.parametrize("head_dim", [1, 3, 4, 8, 9, 12, 24])
@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 17])
def test_decode_attention_matches_scalar_loops(kernels, n, head_dim):
    rng = random.Random(f"{n} {head_dim}")
    lanes, heads = kernels.lanes, 3
    size, factor = heads * head_dim, (head_dim**0.5) ** -1
    q, k, v = random_rows(rng, 1, size)[0], random_rows(rng, n, size), random_rows(rng, n, size)
    out, scratch = aligned(size), aligned(heads * (n + lanes) + lanes)
    keys = kernels.panels(k, fill=math.nan)
    kernels.attention_decode(heads, head_dim, n, factor, array_of(q), keys, unaligned(v), scratch, out)
    for h in range(heads):
        js = range(h * head_dim, (h + 1) * head_dim)
        logits = [dot(q, k[t], js) * factor for t in range(n)]
        e = [math.exp(logit - max(logits)) for logit in logits]
        total = 0.0
        for x in e:
            total = total + x
        same(out[js.start : js.stop], [dot([x * total**-1 for x in e], v[:, j], range(n)) for j in js])
