"""Whole training loops of compiled functions and the package's optimizers: bits of the script's class and of its loops."""
import functools
import random

import architectures
import oracle
import pytest
from training_runs import ADAM, SGD, assert_same_runs

pytestmark = pytest.mark.usefixtures("no_warnings")


@pytest.mark.slow
@pytest.mark.parametrize("optimizers", [ADAM, SGD], ids=["adam", "sgd"])
@pytest.mark.parametrize("build", architectures.ALL, ids=lambda build: build.__name__)
@oracle.collector_off()
def test_architecture_trains_like_the_reference(build, optimizers):
    assert_same_runs(build, optimizers, 8)


# ---- tied weights, frozen parameters ----

FROZEN = {
    "the first half": lambda params: params[: len(params) // 2],
    "every third": lambda params: params[::3],
    "backwards": lambda params: params[::-1],
    "one": lambda params: params[5:6],
    "none": lambda params: [],
}


@pytest.mark.parametrize("optimizers", [ADAM, SGD], ids=["adam", "sgd"])
@pytest.mark.parametrize("which", FROZEN)
@oracle.collector_off()
def test_frozen_parameters_stay_and_their_gradients_add_up(which, optimizers):
    assert_same_runs(architectures.gru, optimizers, 8, FROZEN[which])


@pytest.mark.parametrize("optimizers", [ADAM, SGD], ids=["adam", "sgd"])
@oracle.collector_off()
def test_frozen_parameters_whose_gradients_are_cleared(optimizers):
    def clear(params):
        for p in params[40:]:
            p.grad = 0.0

    assert_same_runs(architectures.tied_weights, optimizers, 8, lambda params: params[:40], clear)


@pytest.mark.parametrize("optimizers", [ADAM, SGD], ids=["adam", "sgd"])
@oracle.collector_off()
def test_a_weight_that_is_listed_twice_is_updated_twice(optimizers):
    """As by the script's params, made of state_dict with lm_head = wte."""
    twice = architectures.VOCAB * architectures.N_EMBD
    assert_same_runs(architectures.tied_weights, optimizers, 8, lambda params: params[:twice] + params[7:9] + params)


def shared_layers(Value, compile):
    """The same matrix in three layers, transposed in one of them; one number as bias everywhere; a weight squared."""
    rng = random.Random(21)
    w = [[Value(rng.gauss(0, 0.4)) for _ in range(5)] for _ in range(5)]
    embedding, bias = [[Value(rng.gauss(0, 0.4)) for _ in range(5)] for _ in range(4)], Value(0.1)
    params = [p for matrix in (w, embedding) for row in matrix for p in row] + [bias]

    @compile
    def loss(tokens, frozen):
        h = embedding[tokens[0]]
        for matrix in (w, [list(column) for column in zip(*w)], w):
            h = [sum(a * b for a, b in zip(row, h)) + bias + f for row, f in zip(matrix, frozen)]
            h = [x.relu() + 0.1 * x for x in h]
        logits = [sum(a * b for a, b in zip(row, h)) for row in embedding]
        exps = [logit.exp() for logit in logits]
        return -(exps[tokens[1]] / sum(exps)).log() + 0.01 * sum(p * p for p in params) + bias ** 2 * w[0][0] ** 2

    def arguments(step):
        return [step % 4, (step // 4) % 4], [0.01 * step] * 5

    return params, loss, arguments


@pytest.mark.parametrize("optimizers", [ADAM, SGD], ids=["adam", "sgd"])
@pytest.mark.parametrize("which", ["all", *FROZEN])
@oracle.collector_off()
def test_a_weight_that_is_used_again_and_again(which, optimizers):
    assert_same_runs(shared_layers, optimizers, 20, FROZEN.get(which, lambda params: params), fallback="error")


@oracle.collector_off()
def test_parameters_may_thaw_in_the_middle_of_a_run():
    """The frozen half from step 6 on, with an optimizer of its own: as one would fine-tune."""
    class Thawing:
        def __init__(self, kind, params):
            self.first, self.second = kind(params[:30]), kind(params[30:])
            self.frozen, self.steps = params[30:], 0

        def step(self):
            self.first.step()
            if self.steps >= 6:
                self.second.step()
            else:
                for p in self.frozen:
                    p.grad = 0
            self.steps += 1

    assert_same_runs(architectures.layer_norm, tuple(functools.partial(Thawing, kind) for kind in ADAM), 12)
