"""microgpt's training step as a NumPy user would write it: whole arrays, explicit backward, float64.

The same model, loss and optimizer as the original, on all positions of a document at once. NumPy adds in a different
order, so the losses agree to about 1e-13 but not in all bits. Shapes: T positions, E = n_embd, H heads of D = E / H,
V = vocab_size. A gradient is named d + name.
"""
import numpy as np

from microgpt.config import split_parameters


class Run:
    """A run of a task; each step() returns its loss."""

    def __init__(self, task):
        self.tokens, self.num_steps, self.step_index = task.tokens, task.num_steps, 0
        self.n_head, self.n_layer, self.block_size = (task.settings[k] for k in ("n_head", "n_layer", "block_size"))
        # All parameters in one array and all gradients in another, with a view for each matrix.
        self.params, shapes = np.array(task.params()), {name: (nout, nin) for name, nout, nin in task.shapes}
        self.grads = np.zeros_like(self.params)
        self.w, self.dw = split_parameters(self.params, shapes), split_parameters(self.grads, shapes)
        self.m, self.v = np.zeros_like(self.params), np.zeros_like(self.params)
        self.adam = task.adam

    def parameters(self):
        return self.params.tolist()

    def step(self):
        loss = self.forward_backward(self.tokens[self.step_index])
        self.update()
        return loss

    def forward_backward(self, tokens):
        """Return the loss of a document, and leave the gradient of every parameter in self.grads."""
        w, dw, T = self.w, self.dw, min(self.block_size, len(tokens) - 1)
        inputs, targets = tokens[:T], tokens[1 : T + 1]

        # forward
        x, norm0 = rmsnorm(w["wte"][inputs] + w["wpe"][:T])
        x_first = x
        future = np.triu(np.full((T, T), -np.inf, dtype=x.dtype), 1)
        saved = []
        for i in range(self.n_layer):
            x_in = x
            xn, norm1 = rmsnorm(x_in)
            q, k, v = (self.heads(xn @ w[f"layer{i}.attn_w{c}"].T) for c in "qkv")  # [H, T, D]
            scale = q.shape[-1] ** -0.5
            attn = softmax(q @ k.transpose(0, 2, 1) * scale + future)  # [H, T, T]
            x_attn = self.unheads(attn @ v)
            x_mid = x_attn @ w[f"layer{i}.attn_wo"].T + x_in
            xn2, norm2 = rmsnorm(x_mid)
            hidden = np.maximum(xn2 @ w[f"layer{i}.mlp_fc1"].T, 0)
            x = hidden @ w[f"layer{i}.mlp_fc2"].T + x_mid
            saved.append((xn, norm1, q, k, v, attn, x_attn, xn2, norm2, hidden))
        probs = softmax(x @ w["lm_head"].T)
        at_target = np.arange(T), targets
        loss = -np.log(probs[at_target]).sum() / T

        # backward
        dlogits = probs
        dlogits[at_target] -= 1
        dlogits /= T
        np.matmul(dlogits.T, x, out=dw["lm_head"])
        dx = dlogits @ w["lm_head"]
        for i in reversed(range(self.n_layer)):
            xn, norm1, q, k, v, attn, x_attn, xn2, norm2, hidden = saved[i]
            np.matmul(dx.T, hidden, out=dw[f"layer{i}.mlp_fc2"])
            dhidden = (dx @ w[f"layer{i}.mlp_fc2"]) * (hidden > 0)
            np.matmul(dhidden.T, xn2, out=dw[f"layer{i}.mlp_fc1"])
            dx = dx + rmsnorm_backward(dhidden @ w[f"layer{i}.mlp_fc1"], xn2, norm2)
            np.matmul(dx.T, x_attn, out=dw[f"layer{i}.attn_wo"])
            dx_attn = self.heads(dx @ w[f"layer{i}.attn_wo"])
            dattn = dx_attn @ v.transpose(0, 2, 1)
            dscores = attn * (dattn - (dattn * attn).sum(-1, keepdims=True)) * q.shape[-1] ** -0.5
            dqkv = dscores @ k, dscores.transpose(0, 2, 1) @ q, attn.transpose(0, 2, 1) @ dx_attn
            dxn = 0
            for c, d in zip("qkv", map(self.unheads, dqkv)):
                np.matmul(d.T, xn, out=dw[f"layer{i}.attn_w{c}"])
                dxn = dxn + d @ w[f"layer{i}.attn_w{c}"]
            dx = dx + rmsnorm_backward(dxn, xn, norm1)
        dx0 = rmsnorm_backward(dx, x_first, norm0)
        dw["wpe"][:T] = dx0
        dw["wpe"][T:] = 0
        dw["wte"][:] = 0
        np.add.at(dw["wte"], inputs, dx0)
        return float(loss)

    def heads(self, x):
        """[T, E] -> [H, T, D]"""
        return x.reshape(len(x), self.n_head, -1).transpose(1, 0, 2)

    def unheads(self, x):
        """[H, T, D] -> [T, E]"""
        return x.transpose(1, 0, 2).reshape(x.shape[1], -1)

    def update(self):
        """Take a step of Adam; the learning rate decays linearly to 0."""
        beta1, beta2 = self.adam["beta1"], self.adam["beta2"]
        lr_t = self.adam["learning_rate"] * (1 - self.step_index / self.num_steps)
        self.step_index += 1
        self.m *= beta1
        self.m += (1 - beta1) * self.grads
        self.v *= beta2
        self.v += (1 - beta2) * self.grads**2
        m_hat = self.m / (1 - beta1**self.step_index)
        v_hat = self.v / (1 - beta2**self.step_index)
        self.params -= lr_t * m_hat / (np.sqrt(v_hat) + self.adam["eps_adam"])


make = Run  # what the contest calls


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rmsnorm(x):
    """Return (normalised x [T, E], its scale [T, 1])."""
    scale = ((x * x).sum(-1, keepdims=True) / x.shape[-1] + 1e-5) ** -0.5
    return x * scale, scale


def rmsnorm_backward(dy, y, scale):
    """Return dx, given the gradient dy of the normalised y."""
    return scale * (dy - y * ((dy * y).sum(-1, keepdims=True) / y.shape[-1]))
