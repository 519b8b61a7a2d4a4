"""The three engines behind one interface: train on documents, give the probabilities of the next token, hold a model.

What they compute is the same to the last bit. Each imports what it is made of only when it is made.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["ENGINE_CLASSES"]


def _model_arguments(settings):
    return {name: settings[name] for name in ("n_embd", "n_head", "n_layer", "block_size", "init_std")}


def _adam_arguments(settings, num_steps):
    return {
        "learning_rate": settings["learning_rate"],
        "beta1": settings["beta1"],
        "beta2": settings["beta2"],
        "eps": settings["eps_adam"],
        "num_steps": num_steps,
    }


def set_each(objects, name, values):
    """setattr for all of objects, in one call of C, which no interrupt divides."""
    from itertools import repeat

    any(map(setattr, objects, repeat(name), values))


class _Engine:
    """What every engine can do beside training; an engine with a faster way has its own."""

    #: Whether `sample` draws nothing from the stream if it raises.
    draws_all_or_nothing = False

    def recover(self):
        """Undo what a step that was interrupted twice (a second time while it was undone) has left."""

    def decoder(self):
        """The forward pass a token at a time: see `microgpt.generation.Decoder`."""
        from .generation import Decoder

        return Decoder(self.model)

    def position_losses(self, tokens):
        """-log of the probability of each next token, in nats, [n]: the numbers whose mean `document_loss` is.

        No gradients. A probability of 0 costs infinity where training would raise.
        """
        from .eval import position_losses

        return position_losses(tokens, self.decoder(), self.model.block_size)


class _ScalarEngine(_Engine):
    """An engine that builds the graph: the loop is the script's own, over `model`, `adam` and three functions."""

    #: Whether a step has begun that neither ended nor was undone; the steps done when it began; and, where the engine
    #: needs it, a copy of what Adam changes.
    unfinished, done, before = False, 0, None

    def train(self, docs, tokenizer, losses):
        done = len(losses) - self.adam.step_index
        for doc in docs:
            try:
                tokens = tokenizer.encode(doc)
                self.done, self.unfinished = self.adam.step_index, True
                loss = self.document_loss(tokens, self.model)
                loss.backward()
                losses.append(float(loss.data))
                del loss  # its graph, before the next one is built: half the memory, and a warmer cache
                self.update()
                self.unfinished = False
            except BaseException:
                # An interrupt may come between any two of these; the optimizer knows which steps are whole.
                self.recover()
                del losses[done + self.adam.step_index :]
                raise

    def recover(self):
        if self.unfinished:
            self.undo_update()
            self.clear_grad()
            self.unfinished = False

    def sample(self, rng, tokens, temperature):
        """Token ids that follow `tokens` (which begin with BOS), up to BOS or the end of the block."""
        model, bos, sampled = self.model, tokens[0], []
        keys, values = [[] for _ in range(model.n_layer)], [[] for _ in range(model.n_layer)]
        token_id = bos
        for pos_id in range(model.block_size):
            logits = self.gpt(token_id, pos_id, keys, values, model)
            if pos_id + 1 < len(tokens):
                token_id = tokens[pos_id + 1]
                continue
            probs = self.softmax([logit / temperature for logit in logits])
            token_id = self.choose(rng, [p.data for p in probs])
            if token_id == bos:
                break
            sampled.append(token_id)
        return sampled


class _ReferenceEngine(_ScalarEngine):
    """Plain Python throughout, Python's own random.Random included."""

    def __init__(self, vocab_size, num_steps, settings, rng):
        from . import reference

        self.document_loss, self.gpt, self.softmax = reference.document_loss, reference.gpt, reference.softmax
        self.model = reference.GPT(vocab_size, **_model_arguments(settings), rng=rng)
        self.adam = reference.Adam(self.model, **_adam_arguments(settings, num_steps))

    def update(self):
        adam = self.adam
        self.before = [p.data for p in adam.params], adam.m[:], adam.v[:], adam.step_index
        adam.step()
        self.before = None

    def undo_update(self):
        if self.before is not None:
            adam = self.adam
            data, adam.m, adam.v, adam.step_index = self.before
            set_each(adam.params, "data", data)
            self.before = None

    @staticmethod
    def seeded(seed):
        from random import Random

        return Random(seed)

    @staticmethod
    def choose(rng, weights):
        return rng.choices(range(len(weights)), weights=weights)[0]

    def clear_grad(self):
        from itertools import repeat

        set_each(self.model.params, "grad", repeat(0))

    def get_data(self):
        import numpy as np

        return np.array([p.data for p in self.model.params], dtype=np.float64)

    def set_data(self, values):
        for p, value in zip(self.model.params, values.tolist()):
            p.data = value


class _CompiledEngine(_Engine):
    """What the two compiled engines share: where parameters, moments and the stream live."""

    def __init__(self, vocab_size, num_steps, settings, rng):
        from .core.adam import Adam
        from .core.model import GPT

        self.model = GPT(vocab_size, **_model_arguments(settings), rng=rng)
        self.adam = Adam(self.model, **_adam_arguments(settings, num_steps))

    @staticmethod
    def seeded(seed):
        from .core.mt19937 import MT19937

        return MT19937(seed)

    @staticmethod
    def choose(rng, weights):
        return rng.choice_index(weights)

    def clear_grad(self):
        self.model._clear_grad()

    def get_data(self):
        return self.model.data

    def set_data(self, values):
        self.model.data[:] = values


class _GraphEngine(_CompiledEngine, _ScalarEngine):
    def __init__(self, vocab_size, num_steps, settings, rng):
        super().__init__(vocab_size, num_steps, settings, rng)
        from .core.functions import softmax
        from .core.gpt import document_loss, gpt

        self.document_loss, self.gpt, self.softmax = document_loss, gpt, softmax

    def update(self):
        """Adam's step. If it may fail at one parameter with those before it updated, there is a copy to go back to."""
        adam = self.adam
        if adam._squares_are_finite():
            adam.step()  # one call of C, which no interrupt divides
            return
        self.before = self.model.data.copy(), adam.m.copy(), adam.v.copy()
        adam.step()
        self.before = None

    def undo_update(self):
        if self.before is not None and self.adam.step_index == self.done:
            self.model.data[:], self.adam.m[:], self.adam.v[:] = self.before
        self.before = None


class _FusedEngine(_CompiledEngine):
    def __init__(self, vocab_size, num_steps, settings, rng):
        super().__init__(vocab_size, num_steps, settings, rng)
        from .core.fused import FusedEngine

        self.fused = FusedEngine(self.model)

    draws_all_or_nothing = True

    def train(self, docs, tokenizer, losses):
        self.fused.train(docs, self.adam, losses, tokenizer.ids)

    def sample(self, rng, tokens, temperature):
        return self.fused.sample(rng, temperature, prompt=tokens[1:])

    def decoder(self):
        from .generation import FusedDecoder

        return FusedDecoder(self.fused)

    def position_losses(self, tokens):
        try:
            return self.fused.position_losses(tokens)
        except ValueError:  # a probability of 0, or a token that cannot be: the long way tells
            return super().position_losses(tokens)


ENGINE_CLASSES: "dict[str, Any]" = {"fused": _FusedEngine, "graph": _GraphEngine, "reference": _ReferenceEngine}
