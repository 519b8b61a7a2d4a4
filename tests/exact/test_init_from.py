"""A new run with the weights of another: what is taken over and what is drawn, to the bit, against the reference."""
import functools
import random

import oracle
import pytest
from conftest import hexes

from microgpt import Trainer, reference
from microgpt.storage.weights import begin_config, transfer

OLD = ["emma", "olivia", "ava", "mia"]
NEW = ["zoë", "ava", "xi", "eve", "Noa"]  # characters before, between and after the old ones
SETTINGS = dict(n_embd=4, n_head=2, n_layer=2, block_size=6)
STEPS = 5


@pytest.fixture(scope="module")
def source():
    return oracle.trainer(OLD, num_steps=9, steps=7, **SETTINGS)


@functools.cache
@oracle.collector_off()
def script_run(source, docs, seed, steps=STEPS, **adam):
    """The same in the script's words: matrices of rows of Value. Once for all engines; source and docs as what can be a key."""
    rng, docs = random.Random(seed), list(docs)
    rng.shuffle(docs)
    uchars = sorted(set("".join(docs)) | set(source.tokenizer.uchars))
    model = reference.GPT(len(uchars) + 1, rng=rng, **SETTINGS)
    for name, rows in source.model.state_dict.items():
        for i, row in enumerate(rows):
            if name in ("wte", "lm_head"):
                i = len(uchars) if i == source.tokenizer.BOS else uchars.index(source.tokenizer.uchars[i])
            for p, old in zip(model.state_dict[name][i], row):
                p.data = old.data
    begun = [p.data for p in model.params]
    optimizer, losses = reference.Adam(model, num_steps=steps, **adam), []
    for step in range(steps):
        doc = docs[step % len(docs)]
        loss = reference.document_loss([len(uchars), *map(uchars.index, doc), len(uchars)], model)
        loss.backward()
        optimizer.step()
        losses.append(loss.data)
    return uchars, begun, losses, [p.data for p in model.params], rng.getstate()


@pytest.mark.parametrize("docs", [NEW, OLD, ["emma"]], ids=["wider", "same", "fewer"])
@pytest.mark.parametrize("seed", [1, 42])
@pytest.mark.usefixtures("collector_off")
def test_run_is_the_script_s_with_these_weights(source, engine, docs, seed):
    uchars, begun, losses, params, stream = script_run(source, tuple(docs), seed, learning_rate=0.02)
    trainer = Trainer.init_from(source, docs, STEPS, seed, engine, learning_rate=0.02)
    assert trainer.tokenizer.uchars == uchars and trainer.step_index == 0
    assert hexes(trainer.parameters) == hexes(begun)
    assert trainer.rng.getstate() == stream
    assert hexes(trainer.run()) == hexes(losses) and hexes(trainer.parameters) == hexes(params)


def test_only_new_characters_have_the_rows_of_a_new_model_with_that_vocabulary(source):
    trainer = Trainer.init_from(source, NEW, seed=3)
    fresh = Trainer([*NEW[:-1], NEW[-1] + "".join(source.tokenizer.uchars)], seed=3, **SETTINGS)  # as many: the same stream
    uchars = trainer.tokenizer.uchars
    assert fresh.tokenizer.uchars == uchars
    for name in ("wte", "lm_head"):
        begun, drawn = trainer.model.state_dict[name], fresh.model.state_dict[name]
        same = [ch for i, ch in enumerate(uchars) if [p.data for p in begun[i]] == [p.data for p in drawn[i]]]
        assert same == [ch for ch in uchars if ch not in source.tokenizer.ids]
        assert [p.data for p in begun[-1]] == [p.data for p in source.model.state_dict[name][-1]]


def test_file_run_and_state_are_the_same_source(source, tmp_path):
    source.save(tmp_path / "p.safetensors")
    begun = [Trainer.init_from(x, NEW, 3).state() for x in (source, source.state(), tmp_path / "p.safetensors")]
    assert len({(tuple(hexes(state.params)), state.rng, state.docs_sha256) for state in begun}) == 1
    assert not any(state.m.any() or state.v.any() or state.extra for state in begun)


def test_source_is_left_as_it_was(source):
    before = source.state()
    Trainer.init_from(source, NEW, 3).run()
    after = source.state()
    assert hexes(after.params) == hexes(before.params) and after.rng == before.rng and after.uchars == before.uchars


def test_sizes_of_the_weights_are_kept(source):
    state = source.state()
    config = begin_config(state, {"init_std": 0.5})
    assert (config.n_embd, config.block_size, config.init_std, config.learning_rate) == (4, 6, 0.5, 0.01)
    for name, value in dict(n_embd=8, n_head=1, n_layer=1, block_size=7).items():
        with pytest.raises(ValueError, match=f"^the weights have {name} {SETTINGS[name]}; a model with {name} {value} cannot"):
            Trainer.init_from(source, NEW, **{name: value})
    assert Trainer.init_from(source, NEW, **SETTINGS).config.n_layer == 2
    drawn = source.parameters * 0
    assert hexes(transfer(state, state.uchars, drawn)) == hexes(state.params) and not drawn.any()
