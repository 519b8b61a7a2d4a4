"""microgpt's training step in eager PyTorch, as a PyTorch user would write it: autograd and the fused Adam.

The same model, loss and optimizer as the original, by default on one thread. With `batch` documents per step the loss is their
mean: a different computation from the original's one document per step, and easier for the processor.
"""
import torch
import torch.nn.functional as F

IGNORE = -100  # cross_entropy's mark for a position without a target


class Run:
    """A run of a task; each step() returns its loss."""

    def __init__(self, task, dtype="float64", batch=1, threads=1):
        torch.set_num_threads(threads)
        self.num_steps, self.step_index, self.batch = task.num_steps, 0, batch
        self.n_head, self.n_layer, self.block_size = (task.settings[k] for k in ("n_head", "n_layer", "block_size"))
        params = torch.tensor(task.params(), dtype=getattr(torch, dtype)).split([nout * nin for _, nout, nin in task.shapes])
        self.w = {name: flat.view(nout, nin).clone().requires_grad_() for (name, nout, nin), flat in zip(task.shapes, params)}
        self.learning_rate, beta1, beta2, eps = task.adam.values()
        self.optimizer = torch.optim.Adam(self.w.values(), self.learning_rate, (beta1, beta2), eps, fused=True)
        self.tokens = task.tokens

    def parameters(self):
        return torch.cat([w.detach().flatten() for w in self.w.values()]).tolist()

    def step(self):
        at = self.step_index * self.batch
        inputs, targets = self.pad(self.tokens[at : at + self.batch])
        logits = self.forward(inputs)  # [B, T, V]
        loss = self.loss(logits, targets)
        self.optimizer.zero_grad()
        loss.backward()
        # A linear decay to 0; a scheduler object takes longer.
        self.optimizer.param_groups[0]["lr"] = self.learning_rate * (1 - self.step_index / self.num_steps)
        self.optimizer.step()
        self.step_index += 1
        return loss.item()

    def loss(self, logits, targets):
        """Return the mean over documents of the mean over each document's positions."""
        if self.batch == 1:
            return F.cross_entropy(logits[0], targets[0])
        losses = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORE, reduction="none")
        return (losses.sum(1) / (targets != IGNORE).sum(1)).mean()

    def pad(self, documents):
        """Return inputs and targets [B, T] from lists of token ids, padded at the end, where no target is."""
        lengths = [min(self.block_size, len(tokens) - 1) for tokens in documents]
        T = max(lengths)
        inputs = torch.tensor([tokens[:n] + [0] * (T - n) for tokens, n in zip(documents, lengths)])
        targets = torch.tensor([tokens[1 : n + 1] + [IGNORE] * (T - n) for tokens, n in zip(documents, lengths)])
        return inputs, targets

    def forward(self, inputs):
        w, (B, T) = self.w, inputs.shape
        x = F.embedding(inputs, w["wte"]) + w["wpe"][:T]
        E = x.shape[-1]
        x = F.rms_norm(x, (E,), eps=1e-5)
        for i in range(self.n_layer):
            xn = F.rms_norm(x, (E,), eps=1e-5)
            q, k, v = (F.linear(xn, w[f"layer{i}.attn_w{c}"]).view(B, T, self.n_head, -1).transpose(1, 2) for c in "qkv")
            x_attn = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + F.linear(x_attn.transpose(1, 2).reshape(B, T, E), w[f"layer{i}.attn_wo"])
            hidden = F.relu(F.linear(F.rms_norm(x, (E,), eps=1e-5), w[f"layer{i}.mlp_fc1"]))
            x = x + F.linear(hidden, w[f"layer{i}.mlp_fc2"])
        return F.linear(x, w["lm_head"])


make = Run  # what the contest calls
