"""A model for the fused engine beside the reference with the same parameters, compared bit for bit. For test_fused*.py."""
import random
import re

import oracle
import pytest
from conftest import hexes

from microgpt import GPT, reference
from microgpt.core.fused import FusedEngine


class Pair:
    """A model, and the reference with the same parameters."""

    def __init__(self, shape, seed=1, init_std=0.5):
        self.model = GPT(**shape, init_std=init_std, rng=random.Random(seed))
        self.twin = reference.GPT(**shape, init_std=init_std, rng=random.Random(seed))
        self.engine = FusedEngine(self.model)
        self.check_data()

    def set(self, index, value):
        self.model.data[index] = value
        self.twin.params[index].data = value

    def check_data(self):
        assert hexes(self.model.data) == hexes(p.data for p in self.twin.params)

    def check_grad(self):
        assert hexes(self.model.grad) == hexes(p.grad for p in self.twin.params)

    def loss_and_grad(self, tokens):
        """Both sides; the loss, compared, and the gradients."""
        loss = self.engine.loss_and_grad(tokens)
        assert loss.hex() == oracle.loss_and_grad(self.twin, tokens).hex()
        self.check_grad()
        return loss

    def outcome(self, tokens):
        """The loss as from loss_and_grad, or None where both sides raise the same, and then leave the gradients."""
        before = self.model.grad.tobytes()
        try:
            loss = oracle.loss_and_grad(self.twin, tokens)
        except Exception as error:
            with pytest.raises(type(error), match=re.escape(str(error))):
                self.engine.loss_and_grad(tokens)
            assert self.model.grad.tobytes() == before
            return None
        assert self.engine.loss_and_grad(tokens).hex() == loss.hex()
        self.check_grad()
        return loss

    def offset(self, name, o=0, i=0):
        at = 0
        for key, matrix in self.twin.state_dict.items():
            if key == name:
                return at + o * len(matrix[0]) + i
            at += len(matrix) * len(matrix[0])
        raise KeyError(name)


def document(rng, vocab_size, length):
    bos = vocab_size - 1
    return [bos, *(rng.randrange(vocab_size) for _ in range(length)), bos]


def shape(vocab_size, n_embd, n_head, n_layer, block_size):
    return dict(vocab_size=vocab_size, n_embd=n_embd, n_head=n_head, n_layer=n_layer, block_size=block_size)


def ids(shape):
    return "-".join(map(str, shape.values()))
