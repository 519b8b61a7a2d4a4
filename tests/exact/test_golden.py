"""Every engine against the golden traces: losses, gradients, parameters and stdout, by bits."""
import contextlib
import io

import golden_traces
import pytest

import microgpt
from microgpt import Trainer, reference, train
from microgpt.core.fused import FusedEngine
from microgpt.trainer import ENGINES

STATE = ("n_embd", "n_head", "n_layer", "block_size", "init_std", "learning_rate", "beta1", "beta2", "eps_adam")


def trainer_of(config, text, engine):
    docs = [line.strip() for line in text.strip().split("\n") if line.strip()]
    return Trainer(docs, config["steps"], config["seed"], engine, **{name: config[name] for name in STATE})


def loss_and_grad(trainer, tokens):
    """The loss of one document, its gradient left in the model, and the gradient."""
    if trainer.engine == "fused":
        loss = FusedEngine(trainer.model).loss_and_grad(tokens)
    else:
        home = reference if trainer.engine == "reference" else microgpt
        value = home.document_loss(tokens, trainer.model)
        value.backward()
        loss = value.data
    return loss, [p.grad for p in trainer.model.params]


#: test_golden_reference.py compares the reference itself with all traces. Here it is seen that its Trainer and the
#: command hand it every setting, for which the small ones do.
FOR_THE_REFERENCE = ("smallest", "no_layers", "one_letter", "other_settings")
RUNS = pytest.mark.parametrize(
    "engine, name",
    [
        pytest.param(e, n, marks=pytest.mark.slow if (e, n) == ("reference", "other_settings") else ())
        for e in ENGINES for n in golden_traces.CONFIGURATIONS if e != "reference" or n in FOR_THE_REFERENCE
    ],  # fmt: skip
    indirect=["engine"],
)


@RUNS
def test_run_makes_the_trace(name, engine):
    config, text, trace = golden_traces.load_trace(name)
    trainer = trainer_of(config, text, engine)
    assert trainer.model.num_params == trace["num_params"]
    assert golden_traces.digest(p.data for p in trainer.model.params) == trace["init_sha256"]
    assert [loss.hex() for loss in trainer.run()] == trace["losses"]
    assert golden_traces.digest(p.data for p in trainer.model.params) == trace["params_sha256"]
    written = trainer.sample(config["samples"], config["temperature"])
    lines = [f"sample {i + 1:2d}: {text}" for i, text in enumerate(written)]
    assert lines == trace["stdout"].splitlines()[-config["samples"] :]


@pytest.mark.parametrize("name", golden_traces.CONFIGURATIONS)
def test_gradients_step_by_step(name, compiled_engine):
    """The same run with forward, backward and Adam called one by one, the gradients read in between."""
    config, text, trace = golden_traces.load_trace(name)
    trainer = trainer_of(config, text, compiled_engine)
    for step in range(config["steps"]):
        tokens = trainer.tokenizer.encode(trainer.docs[step % len(trainer.docs)])
        loss, grad = loss_and_grad(trainer, tokens)
        assert loss.hex() == trace["losses"][step]
        if f"grads_sha256_step{step}" in trace:
            assert golden_traces.digest(grad) == trace[f"grads_sha256_step{step}"]
        trainer.adam.step()
    assert golden_traces.digest(p.data for p in trainer.model.params) == trace["params_sha256"]


@RUNS
def test_command_prints_the_trace(name, engine, tmp_path):
    config, text, trace = golden_traces.load_trace(name)
    path = tmp_path / "input.txt"
    path.write_text(text, encoding="utf-8")
    arguments = [f"--{key.replace('_', '-')}={value}" for key, value in config.items()]
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")) as out:
        status = train.main([f"--input={path}", f"--engine={engine}", *arguments])
    assert status == 0
    assert out.buffer.getvalue().decode("utf-8") == trace["stdout"]


@pytest.mark.parametrize("name", golden_traces.CONFIGURATIONS)
def test_every_instruction_set_makes_the_trace(name, isa):
    config, text, trace = golden_traces.load_trace(name)
    trainer = trainer_of(config, text, "fused")
    assert [loss.hex() for loss in trainer.run()] == trace["losses"]
    assert golden_traces.digest(p.data for p in trainer.model.params) == trace["params_sha256"]
