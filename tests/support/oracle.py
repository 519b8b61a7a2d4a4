"""The oracle of the tests: what microgpt.reference computes, each result once per session, with the collector off.

The reference makes hundreds of thousands of objects per document. They form no cycles, so the garbage collector finds
nothing among them, and takes two thirds of the time. Parametrized tests ask for the same numbers again and again: per
instruction set, per engine, per seed of something else. So every function here remembers its results by all that they
depend on, to the bit.

What is returned is immutable, or a copy that belongs to the caller: no test can change what another one sees.
"""
import functools
import gc
import hashlib
import random
import struct
from array import array
from contextlib import contextmanager
from dataclasses import dataclass

from microgpt import Trainer, reference


@contextmanager
def collector_off():
    """The garbage collector off while this runs; afterwards as it was before. Also a decorator."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


# ---- whole runs: the script from the shuffle to the samples ----


@dataclass(frozen=True)
class Run:
    """A run of the script.

    vocab_size counts BOS; m, v: Adam's moments; written: the samples. initial: the parameters before the first step;
    grads: (step, gradients before Adam clears them) of the first, second and last.
    """

    initial: "tuple[float, ...]"
    grads: "tuple[tuple[int, tuple[float, ...]], ...]"
    losses: "tuple[float, ...]"
    params: "tuple[float, ...]"
    m: "tuple[float, ...]"
    v: "tuple[float, ...]"
    written: "tuple[str, ...]"
    vocab_size: int

    def printed(self, num_docs):
        """What the script prints: its stdout, byte for byte."""
        steps = len(self.losses)
        lines = [f"num docs: {num_docs}", f"vocab size: {self.vocab_size}", f"num params: {len(self.params)}"]
        lines += [f"step {i:4d} / {steps:4d} | loss {loss:.4f}" for i, loss in enumerate(self.losses, 1)]
        lines += ["", "--- inference (new, hallucinated names) ---"]
        lines += [f"sample {i:2d}: {text}" for i, text in enumerate(self.written, 1)]
        return "".join(line + "\n" for line in lines)


def run(docs, num_steps, seed=42, *, samples=2, temperature=0.5, n_embd=16, n_head=4, n_layer=1, block_size=16,
        init_std=0.08, learning_rate=0.01, beta1=0.85, beta2=0.99, eps_adam=1e-8):  # fmt: skip
    """The script's top level over microgpt.reference, written out -> Run."""
    shape, adam = (n_embd, n_head, n_layer, block_size, init_std), (learning_rate, beta1, beta2, eps_adam)
    return _run(tuple(docs), num_steps, seed, samples, temperature, shape, adam)


@functools.lru_cache(maxsize=None, typed=True)
@collector_off()
def _run(docs, num_steps, seed, samples, temperature, shape, adam):
    rng, docs = random.Random(seed), list(docs)
    rng.shuffle(docs)
    uchars = sorted(set("".join(docs)))
    bos = len(uchars)
    model = reference.GPT(bos + 1, *shape, rng)
    optimizer = reference.Adam(model, *adam, num_steps)
    initial, grads, losses = tuple(p.data for p in model.params), [], []
    for step in range(num_steps):
        tokens = [bos] + [uchars.index(ch) for ch in docs[step % len(docs)]] + [bos]
        loss = reference.document_loss(tokens, model)
        loss.backward()
        losses.append(loss.data)
        if step in (0, 1, num_steps - 1):
            grads.append((step, tuple(p.grad for p in model.params)))
        optimizer.step()
    drawn = [_sample(model, rng, temperature, None, ()) for _ in range(samples)]
    written = tuple("".join(uchars[token_id] for token_id in ids) for ids in drawn)
    params = tuple(p.data for p in model.params)
    return Run(initial, tuple(grads), tuple(losses), params, tuple(optimizer.m), tuple(optimizer.v), written, bos + 1)


def trainer(docs, num_steps, steps=None, seed=42, **settings):
    """A Trainer with the reference engine after that many steps, by default all: the caller's own."""
    made = Trainer(docs, num_steps, seed, "reference", **settings)
    steps = num_steps if steps is None else steps
    params, m, v, losses = _trained(tuple(docs), num_steps, steps, seed, tuple(sorted(settings.items())))
    for p, value in zip(made.model.params, params):
        p.data = value
    made.adam.m, made.adam.v, made.adam.step_index, made.last_losses = list(m), list(v), steps, list(losses)
    return made


@functools.lru_cache(maxsize=None, typed=True)
@collector_off()
def _trained(docs, num_steps, steps, seed, settings):
    run = Trainer(docs, num_steps, seed, "reference", **dict(settings))
    losses = run.run(steps)
    assert run.step_index == steps
    return tuple(p.data for p in run.model.params), tuple(run.adam.m), tuple(run.adam.v), tuple(losses)


# ---- a reference.GPT whose parameters a test may have set to anything ----


def twin(trainer):
    """A reference.GPT with the parameters that a Trainer has now."""
    shape = {name: trainer.settings[name] for name in ("n_embd", "n_head", "n_layer", "block_size")}
    made = reference.GPT(trainer.tokenizer.vocab_size, **shape)
    for p, value in zip(made.params, trainer.model.params):
        p.data = value.data
    return made


def _digest(twin, *what):
    """Of the model's shape, parameters and gradients, by bits, and of what is asked of it."""
    hashed = hashlib.sha256(repr((twin.vocab_size, twin.n_embd, twin.n_head, twin.n_layer, twin.block_size, what)).encode())
    for numbers in ([p.data for p in twin.params], [p.grad for p in twin.params]):
        hashed.update(struct.pack(f"<{len(numbers)}d", *numbers))
    return hashed.digest()


_documents, _logits, _samples = {}, {}, {}


def loss_and_grad(twin, tokens):
    """The loss of a document, as a float, its gradients added to those of twin's parameters.

    Raises what the reference raises, and then leaves twin as it was.
    """
    key = _digest(twin, tokens)
    if key not in _documents:
        _documents[key] = _loss_and_grad(twin, tokens)
    loss, grads, error = _documents[key]
    if error is not None:
        raise type(error)(*error.args)
    for p, grad in zip(twin.params, grads):
        p.grad = grad
    return loss


@collector_off()
def _loss_and_grad(twin, tokens):
    try:
        loss = reference.document_loss(tokens, twin)
    except Exception as error:
        return None, None, error.with_traceback(None)  # which would keep the graph
    loss.backward()
    return float(loss.data), array("d", [p.grad for p in twin.params]), None


def logits(twin, tokens):
    """Of the token after each of `tokens`, [len(tokens)][vocab_size], as tuples of float."""
    key = _digest(twin, tokens)
    if key not in _logits:
        with collector_off():
            keys, values = [[] for _ in range(twin.n_layer)], [[] for _ in range(twin.n_layer)]
            rows = [reference.gpt(token_id, pos_id, keys, values, twin) for pos_id, token_id in enumerate(tokens)]
            _logits[key] = tuple(tuple(logit.data for logit in row) for row in rows)
    return _logits[key]


def probabilities(twin, tokens, temperature=1.0):
    """Of each token of the vocabulary after each of `tokens`, [len(tokens)][vocab_size], as lists of float."""
    Value = reference.Value
    rows = [reference.softmax([Value(l) / temperature for l in row]) for row in logits(twin, tokens)]
    return [[p.data for p in row] for row in rows]


def sample(twin, rng, temperature, max_tokens=None, prompt=()):
    """The script's inference loop: the token ids that follow the prompt. rng, a random.Random, moves on."""
    key = _digest(twin, temperature, max_tokens, prompt, rng.getstate())
    if key not in _samples:
        with collector_off():
            _samples[key] = tuple(_sample(twin, rng, temperature, max_tokens, prompt)), rng.getstate()
    drawn, state = _samples[key]
    rng.setstate(state)
    return list(drawn)


def _sample(model, rng, temperature, max_tokens, prompt):
    bos = model.vocab_size - 1
    keys, values = [[] for _ in range(model.n_layer)], [[] for _ in range(model.n_layer)]
    token_id, drawn, given = bos, [], list(prompt)
    for pos_id in range(model.block_size):
        logits = reference.gpt(token_id, pos_id, keys, values, model)
        if given:
            token_id = given.pop(0)
            continue
        if len(drawn) == max_tokens:
            break
        probs = reference.softmax([l / temperature for l in logits])
        token_id = rng.choices(range(model.vocab_size), weights=[p.data for p in probs])[0]
        if token_id == bos:
            break
        drawn.append(token_id)
    return drawn
