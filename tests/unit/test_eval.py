"""Measuring: the losses of training without training, and what is made of them."""
import json
import math

import oracle
import pytest
from conftest import hexes

from microgpt import Trainer, evaluate, load_docs
from microgpt.data import BUNDLED
from microgpt.evaluation import Evaluation

NAMES = ["emma", "olivia", "ava", "isabella", "sophia", "charlotte", "mia", "amelia", "harper", "evelyn"]


@pytest.fixture
def trainer(engine):
    settings = dict(num_steps=9, n_embd=4, n_head=2, n_layer=2, block_size=6)
    if engine == "reference":
        return oracle.trainer(NAMES, steps=5, **settings)
    trainer = Trainer(NAMES, engine=engine, **settings)
    trainer.run(5)
    return trainer


def test_position_losses_are_those_of_the_script(trainer):
    model = oracle.twin(trainer)
    for doc in ("a", "emma", "sophia", "isabella"):
        tokens = trainer.tokenizer.encode(doc)
        rows = oracle.probabilities(model, tokens[: min(6, len(tokens) - 1)])
        expected = [-math.log(row[token_id]) for row, token_id in zip(rows, tokens[1:])]
        assert hexes(trainer.position_losses([tokens])[0]) == hexes(expected)


def test_evaluation_of_a_document_has_the_bits_of_its_training_loss(engine):
    docs = load_docs(BUNDLED)[:400]
    trainer = Trainer(docs, num_steps=400, engine=engine, n_embd=4, n_head=2, block_size=10)
    count = 400 if engine != "reference" else 20
    found, losses = [], []
    for step in range(count):
        found.append(evaluate(trainer, [trainer.docs[step]]).loss)
        losses.append(trainer.step())
    assert hexes(found) == hexes(losses)


def test_loss_is_the_mean_of_the_script_s_document_losses():
    """The sum of a document's losses rounds after each: 1e16 + 1 + 1 is 1e16, which fsum would not say."""
    assert Evaluation([[1e16, 1.0, 1.0]], [3]).loss == 1 / 3 * 1e16
    assert math.isnan(Evaluation([[math.nan]], [1]).perplexity)


def test_evaluation_leaves_the_trainer_where_it_stood(trainer, engine):
    twin = Trainer(NAMES, num_steps=9, engine=engine, n_embd=4, n_head=2, n_layer=2, block_size=6)
    twin.run(5)
    evaluate(trainer, NAMES)
    assert trainer.rng.getstate() == twin.rng.getstate()
    assert hexes(trainer.run()) == hexes(twin.run())
    assert trainer.sample(3) == twin.sample(3)


@oracle.collector_off()
def test_engines_agree(trainer):
    twin = oracle.trainer(NAMES, num_steps=9, steps=5, n_embd=4, n_head=2, n_layer=2, block_size=6)
    found, expected = evaluate(trainer, NAMES), evaluate(twin, NAMES)
    assert {name: float(x).hex() for name, x in vars(found).items()} == {
        name: float(x).hex() for name, x in vars(expected).items()
    }


def test_numbers():
    """Two documents of 2 and 5 characters in a block of 4: 3 predictions and 4, one character left out."""
    found = Evaluation([[1.0, 2.0, 3.0], [1.0] * 4], [2, 5])
    assert (found.documents, found.tokens, found.characters, found.left_out) == (2, 7, 6, 1)
    assert found.loss == 1.5 and found.token_loss == 10 / 7
    assert found.perplexity == math.exp(10 / 7) and found.bits_per_character == 10 / math.log(2) / 6
    hopeless = Evaluation([[math.inf]], [1])
    assert hopeless.loss == hopeless.perplexity == math.inf
    assert Evaluation([[1000.0]], [0]).perplexity == math.inf


def test_uniform_model_has_the_perplexity_of_its_vocabulary(trainer):
    trainer.parameters = trainer.parameters * 0
    found = evaluate(trainer, NAMES)
    assert found.perplexity == pytest.approx(trainer.tokenizer.vocab_size)


def test_probability_of_zero_costs_infinity(trainer):
    """Where training would raise: the logits are so far apart that exp underflows."""
    values = trainer.parameters * 0
    size, width = trainer.tokenizer.vocab_size, trainer.settings["n_embd"]
    lm_head = values[(size + 6) * width : (2 * size + 6) * width].reshape(size, width)
    values[: size * width] = 1.0
    lm_head[0] = 1000.0
    trainer.parameters = values
    tokens = [trainer.tokenizer.BOS, 0, 1, 0]
    assert trainer.position_losses([tokens]) == [[0.0, math.inf, 0.0]]
    found = Evaluation(trainer.position_losses([tokens]), [2])
    assert found.loss == found.perplexity == found.bits_per_character == math.inf


def test_what_cannot_be_evaluated(trainer):
    with pytest.raises(ValueError, match="no documents"):
        evaluate(trainer, [])
    with pytest.raises(ValueError, match="not in the vocabulary"):
        evaluate(trainer, ["XYZ"])
    with pytest.raises(TypeError):
        evaluate(trainer, "emma")


@pytest.mark.slow
def test_command(in_process, tmp_path, trainer, engine):
    saved, text = tmp_path / "run.safetensors", tmp_path / "text.txt"
    trainer.save(saved)
    text.write_text("\n".join(NAMES), encoding="utf-8")
    expected = evaluate(trainer, NAMES)
    done = in_process("eval", saved, "--input", text, "--engine", engine)
    assert done.returncode == 0, done.stderr
    rows = dict(line.split(":", 1) for line in done.stdout.splitlines())
    assert rows["loss"].split()[0] == f"{expected.loss:.4f}"
    assert rows["perplexity"].split()[0] == f"{expected.perplexity:.4f}"
    assert rows["bits per character"].split()[0] == f"{expected.bits_per_character:.4f}"
    assert rows["documents"].split()[0] == "10" and float(rows["documents per second"]) > 0
    assert f"{expected.left_out} characters beyond the block of 6" in rows["tokens"]
    found = json.loads(in_process("eval", saved, "--input", text, "--json").stdout)
    assert found["loss_hex"] == expected.loss.hex() and found["tokens"] == expected.tokens

    (tmp_path / "bad.txt").write_text("emma\nXYZ\n", encoding="utf-8")
    for arguments, part in [
        ([saved, "--input", "bad.txt"], "not in the vocabulary"),
        ([saved, "--input", "none.txt"], "none.txt"),
        ([text], "damaged or not a checkpoint"),
    ]:
        done = in_process("eval", *arguments)
        assert done.returncode == 2 and part in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
