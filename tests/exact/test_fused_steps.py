"""Many steps in one call of the fused engine: it takes them without looking first whether Adam can fail, Adam follows the
gradient matrix by matrix in a large model, and if a gradient's square does overflow it goes back. The same bits as one
step in a call, which looks first, and as the graph's."""
import random

import numpy as np
import pytest
from conftest import hexes
from kernels import vector_math

from microgpt import GPT, Adam, Trainer, reference
from microgpt.core.fused import FusedEngine

SMALL, LARGE = 16, 10_000  # block sizes that make a model of few or of many parameters


class Run:
    """A model in training, document by document or many at once."""

    def __init__(self, model, learning_rate, **kept):
        self.model = model
        self.adam = Adam(model, learning_rate=learning_rate, num_steps=100, **kept)
        self.engine = FusedEngine(model)
        self.losses = []

    def train(self, documents):
        self.engine.train(documents, self.adam, self.losses)

    def state(self):
        model, adam = self.model, self.adam
        arrays = [x.tobytes() for x in (model.data, model.grad, adam.m, adam.v)]
        return arrays, hexes(self.losses), adam.step_index


def check_it_goes_on(together, apart, documents):
    """After a step that failed, as if nothing had been: 39 of 40 steps are taken in the end."""
    together.train(documents)
    for document in documents:
        apart.train([document])
    assert together.adam.step_index == 39
    assert together.state() == apart.state()


def without_layers(block_size, **kept):
    """Gradients of the embeddings are tame for some documents and beyond all bounds for others: column 0 of lm_head is
    huge, but what it is multiplied by is 0 until Adam moves it, by next to nothing."""
    rng = random.Random(1)
    model = GPT(vocab_size=6, n_embd=8, n_head=2, n_layer=0, block_size=block_size)
    wte, wpe, lm_head = np.split(model.data.reshape(-1, 8), [6, 6 + block_size])
    wpe[:] = 0.0
    for row in wte:
        row[:] = [0.0] + [rng.choice([-1e150, 1e150]) for _ in range(7)]  # rmsnorm divides gradients by as much
    wte[4] = 0.0  # but not those of token 4
    lm_head[:, 0] = [1e160, 2e160, -3e160, 1e160, -2e160, 4e160]
    return Run(model, 2e-15, **kept)


@pytest.mark.parametrize("block_size", [SMALL, LARGE])
@pytest.mark.parametrize("good", [0, 1, 15, 30])
@pytest.mark.parametrize("kept", [{}, {"schedule": "cosine", "warmup": 10}], ids=str)
def test_a_step_that_fails_is_undone_and_those_before_it_are_not(isa, block_size, good, kept):
    rng = random.Random(good)
    documents = [[5, rng.randrange(4), rng.randrange(4), 5] for _ in range(40)]
    documents[good] = [5, 1, 2, 4, 5]
    together, apart = without_layers(block_size, **kept), without_layers(block_size, **kept)
    for run in (together, apart):
        run.model.grad[7] = 1e-3 * (good > 0)  # the first step adds to what is there
    with pytest.raises(OverflowError):
        together.train(documents)
    with pytest.raises(OverflowError):
        for document in documents:
            apart.train([document])
    assert together.adam.step_index == good == len(together.losses)
    assert together.state() == apart.state()
    check_it_goes_on(together, apart, documents[good + 1 :])


@pytest.fixture
def libm(isa):
    """The C library asked for every power: then Adam takes one parameter after the other, and stops at a bad one."""
    before = vector_math(isa, -1)
    vector_math(isa, 0)
    yield
    vector_math(isa, before)


def with_a_shut_unit():
    """The gradient of mlp_fc1's first row is beyond all bounds in documents with token 4, which alone opens its unit, by
    number 0 of an embedding. That is 0 in all others, and nothing moves it."""
    model = GPT(vocab_size=6, n_embd=8, n_head=2, n_layer=1, block_size=LARGE)
    layers = len(model.data) - 12 * 64
    model.data[layers - 48 : layers].reshape(6, 8)[:, 0] = 0.0  # lm_head
    model.data[: 8 * (6 + LARGE)].reshape(-1, 8)[:, 0] = 0.0  # wte, wpe
    model.data[4 * 8] = 1.0
    attention, mlp_fc1, mlp_fc2 = np.split(model.data[layers:], [4 * 64, 8 * 64])
    mlp_fc1, mlp_fc2 = mlp_fc1.reshape(32, 8), mlp_fc2.reshape(8, 32)
    attention[:] = 0.0
    mlp_fc1[:, 0] = 0.0
    mlp_fc1[0] = [1e-170, 0, 0, 0, 0, 0, 0, 0]
    mlp_fc2[:, 0] = 1e160
    mlp_fc2[0] = 0.0
    return Run(model, 0.01)


def test_a_step_that_fails_within_a_matrix_is_undone(libm):
    rng = random.Random(4)
    documents = [[5, *(rng.randrange(4) for _ in range(6)), 5] for _ in range(40)]
    bad = 20
    documents[bad] = [5, 1, 2, 4, 5]
    together, apart = with_a_shut_unit(), with_a_shut_unit()
    with pytest.raises(OverflowError):
        together.train(documents)
    for document in documents[:bad]:
        apart.train([document])
    assert together.state() == apart.state()
    check_it_goes_on(together, apart, documents[bad + 1 :])


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"n_embd": 80, "n_head": 8}, {"n_embd": 40, "n_head": 4, "n_layer": 4},
                                      {"n_embd": 12, "n_head": 2, "block_size": 6000},
                                      {"n_embd": 76, "n_head": 1, "init_std": 0.2}], ids=str)  # fmt: skip
def test_a_large_model_is_updated_matrix_by_matrix_to_the_same_bits(isa, settings):
    rng = random.Random(3)
    docs = ["".join(rng.choices("abcdefgh", k=rng.choice([1, 3, 7, 8, 15, 40]))) for _ in range(30)]
    at_once, by_step, graph = (
        Trainer(docs, num_steps=40, engine=engine, **settings) for engine in ("fused", "fused", "graph")
    )
    assert at_once.model.num_params >= 1 << 16
    losses = at_once.run()
    assert hexes(losses) == hexes(by_step.step() for _ in range(40)) == hexes(graph.run())
    for other in (by_step, graph):
        assert at_once.model.data.tobytes() == other.model.data.tobytes()
        assert at_once.adam.m.tobytes() == other.adam.m.tobytes()
        assert at_once.adam.v.tobytes() == other.adam.v.tobytes()
    assert not at_once.model.grad.any()


@pytest.mark.parametrize("exponents", [(-1010, -1020, -20), (-7, 0, 1019), (-7, 380, 760)],
                         ids=["tiny parameters", "huge v", "huge m and v"])  # fmt: skip
def test_what_is_not_in_range_is_not_taken_to_be(isa, exponents):
    """The weights of units of the MLP that are always 0: nothing depends on them, and Adam moves them by their moments alone.
    So they may be of any size: of these sizes Adam's update makes other bits, where it takes all for in range (in_range.h)."""
    n_embd, shut, settings, documents = 52, 150, dict(num_steps=100, eps=2.0**-500), [[5, 1, 2, 3, 5]] * 4
    rng, model = np.random.RandomState(5), GPT(vocab_size=6, n_embd=n_embd, n_head=1, n_layer=1, block_size=8, rng=random.Random(3))
    assert model.num_params >= 1 << 15  # updated matrix by matrix
    mlp_fc1, mlp_fc2 = (np.arange(start, start + 4 * n_embd**2) for start in model.num_params - 4 * n_embd**2 * np.array([2, 1]))
    model.data[mlp_fc1[: shut * n_embd]] = 0.0
    at = mlp_fc2.reshape(n_embd, 4 * n_embd)[:, :shut].ravel()
    data, m, v = (np.ldexp(1.0 + rng.rand(len(at)), exponent) for exponent in exponents)
    data *= rng.choice([-1.0, 1.0], len(at))
    adam, script = Adam(model, **settings), reference.Adam([reference.Value(x) for x in data.tolist()], **settings)
    adam.v[:] = 1.0
    model.data[at], adam.m[at], adam.v[at], script.m, script.v = data, m, v, m.tolist(), v.tolist()
    FusedEngine(model).train(documents, adam, [])
    for _ in documents:
        script.step()
    assert hexes(adam.m[at]) == hexes(script.m) and hexes(adam.v[at]) == hexes(script.v)
    assert hexes(model.data[at]) == hexes(p.data for p in script.params)


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [200, 6000])
@pytest.mark.parametrize("touched", ["nothing", "m", "v", "grad", "rate"])
def test_positions_that_no_document_has_reached(isa, block_size, touched):
    """Adam passes over their embeddings, unless something is there, or -0.0 and a negative rate make 0.0 of them."""
    docs = ["ab" * k for k in (1, 3, 2, 9, 5, 20, 1, 30)] * 3
    at_once, by_step, graph = trainers = [
        Trainer(docs, num_steps=40, block_size=block_size, engine=engine)
        for engine in ("fused", "fused", "graph")
    ]
    model, adam = at_once.model, at_once.adam
    row = (model.vocab_size + 100) * model.n_embd  # of wpe, far beyond the longest document
    for trainer in trainers:
        if touched == "rate":
            trainer.adam.learning_rate = -0.01  # no setting of a Trainer, but an Adam may have it
        trainer.model.data[row : row + 5] = -0.0
        array = {"m": trainer.adam.m, "v": trainer.adam.v, "grad": trainer.model.grad}.get(touched)
        if array is not None:
            array[row : row + 3] = [1e-3, 2e-300, 3e-5]
    losses = at_once.run(24)
    assert hexes(losses) == hexes(by_step.step() for _ in range(24)) == hexes(graph.run(24))
    for other in (by_step, graph):
        assert model.data.tobytes() == other.model.data.tobytes()
        assert adam.m.tobytes() == other.adam.m.tobytes()
        assert adam.v.tobytes() == other.adam.v.tobytes()
