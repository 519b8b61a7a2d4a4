"""A saved model as a PyTorch module. The module needs torch and safetensors, and nothing of this package.

    python examples/torch_model.py [MODEL.safetensors]

prints how far its logits are from microgpt's own: as far as sums in another order are. Without a file, it trains a model.
"""
import json
import sys

import torch
from safetensors import safe_open
from torch import Tensor, nn


def rmsnorm(x: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()


class Layer(nn.Module):
    """Attention and MLP, each beside its residual connection: [n, n_embd] -> [n, n_embd]."""

    def __init__(self, n_embd: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo"):
            self.add_module(name, nn.Linear(n_embd, n_embd, bias=False))
        self.mlp_fc1 = nn.Linear(n_embd, 4 * n_embd, bias=False)
        self.mlp_fc2 = nn.Linear(4 * n_embd, n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, n_embd = x.shape
        normed = rmsnorm(x)
        # [n, n_embd] -> [n_head, n, head_dim]
        q, k, v = (w(normed).view(n, self.n_head, -1).transpose(0, 1) for w in (self.attn_wq, self.attn_wk, self.attn_wv))
        later = torch.ones(n, n, dtype=torch.bool).triu(1)
        weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).masked_fill(later, -torch.inf).softmax(-1)
        x = x + self.attn_wo((weights @ v).transpose(0, 1).reshape(n, n_embd))
        return x + self.mlp_fc2(self.mlp_fc1(rmsnorm(x)).relu())


class MicroGPT(nn.Module):
    """The model of microgpt.py: [n] token ids -> logits [n, vocab_size] of the token after each."""

    def __init__(self, vocab_size: int, n_embd: int, n_head: int, n_layer: int, block_size: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab_size, n_embd), nn.Embedding(block_size, n_embd)
        self.layers = [Layer(n_embd, n_head) for _ in range(n_layer)]
        for i, layer in enumerate(self.layers):
            self.add_module(f"layer{i}", layer)
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = rmsnorm(self.wte(tokens) + self.wpe.weight[: len(tokens)])
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.lm_head(x)
        return logits


def load(path: str) -> tuple[MicroGPT, str]:
    """Return the model of a checkpoint, in its float64, and its characters; BOS is the token after the last of them."""
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["microgpt"])
        names = [name for name in file.keys() if not name.startswith(("adam.", "rng."))]
        weights = {f"{name}.weight": file.get_tensor(name) for name in names}
    sizes = {name: about["settings"][name] for name in ("n_embd", "n_head", "n_layer", "block_size")}
    model = MicroGPT(len(about["uchars"]) + 1, **sizes).double()
    model.load_state_dict(weights)
    return model, about["uchars"]


def sample(model: MicroGPT, uchars: str, temperature: float = 0.5) -> str:
    """Return one document, drawn with PyTorch's random numbers."""
    tokens = [len(uchars)]
    with torch.no_grad():
        while len(tokens) <= model.wpe.num_embeddings:
            weights = (model(torch.tensor(tokens))[-1] / temperature).softmax(-1)
            token = int(torch.multinomial(weights, 1))
            if token == len(uchars):
                break
            tokens.append(token)
    return "".join(uchars[token] for token in tokens[1:])


def main() -> None:
    from microgpt import Trainer, load_docs
    from microgpt.viz.activations import forward

    path = sys.argv[1] if len(sys.argv) > 1 else "torch_model.safetensors"
    if len(sys.argv) == 1:
        trainer = Trainer(load_docs(), num_steps=500, n_embd=24, n_head=3, n_layer=2)
        trainer.run()
        trainer.save(path)
    model, uchars = load(path)
    ours = Trainer.load(path)
    print(sum(p.numel() for p in model.parameters()), "parameters")
    furthest = 0.0
    for doc in ours.sample(20, temperature=1.0, seed=1):
        tokens = ours.tokenizer.encode(doc)[: ours.config.block_size]
        with torch.no_grad():
            theirs = model(torch.tensor(tokens))
        difference = theirs - torch.tensor(forward(ours.model, tokens)["logits"])
        furthest = max(furthest, float(difference.abs().max()))
    print(f"logits differ by at most {furthest:.0e}")
    torch.manual_seed(1)
    print(*(sample(model, uchars) for _ in range(5)), sep=", ")


if __name__ == "__main__":
    main()
