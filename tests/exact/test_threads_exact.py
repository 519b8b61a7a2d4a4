"""Any number of threads gives the bits of one: batches, long documents, evaluation, errors, files."""
import os
import random
import signal
import threading

import pytest
from conftest import hexes
from small_runs import DOCS, SHAPES, expected_numbers, numbers

from microgpt import DivergedError, Trainer
from microgpt.core import fused
from microgpt.train import main

THREADS = [2, 3, 5]


def shared(trainer, threads):
    """The same trainer with so many threads."""
    trainer.threads = threads
    return trainer


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_threads_give_the_bits_of_the_script(share_all, shape, batch_size, threads):
    trainer = shared(Trainer(DOCS, num_steps=2, batch_size=batch_size, **shape), threads)
    assert trainer.shares_steps()
    assert numbers(trainer, trainer.run()) == expected_numbers(2, batch_size, **shape)


@pytest.mark.slow
@pytest.mark.parametrize("threads", THREADS)
def test_every_instruction_set(share_all, isa, threads):
    shape = dict(n_embd=20, n_head=2, n_layer=1, block_size=12)
    trainer = shared(Trainer(DOCS, num_steps=2, batch_size=6, **shape), threads)
    assert numbers(trainer, trainer.run()) == expected_numbers(2, 6, **shape)


def long_documents(count, length):
    rng = random.Random(5)
    return ["".join(rng.choices("abcdefgh", k=length)) for _ in range(count)]


LONG = [dict(n_embd=64, n_head=4, n_layer=2, block_size=70), dict(n_embd=72, n_head=3, n_layer=1, block_size=33)]


@pytest.mark.slow
@pytest.mark.parametrize("shape", LONG, ids=str)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_long_document_is_shared(shape, batch_size):
    docs = long_documents(6, 80)
    alone = Trainer(docs, num_steps=12, batch_size=batch_size, **shape)
    expected = numbers(alone, alone.run())
    for threads in THREADS:
        trainer = Trainer(docs, num_steps=12, batch_size=batch_size, threads=threads, **shape)
        assert trainer.shares_steps()
        assert numbers(trainer, trainer.run()) == expected


def test_relu_that_skips_zeros_is_shared():
    # Zeros of relu are skipped when there are enough: a bias towards them, by embeddings of one sign, as in a trained model.
    docs = long_documents(8, 30)
    alone = Trainer(docs, num_steps=400, n_embd=64, n_head=4, block_size=32, learning_rate=0.02)
    shared_one = Trainer(docs, num_steps=400, n_embd=64, n_head=4, block_size=32, learning_rate=0.02, threads=3)
    for _ in range(4):
        assert hexes(alone.run(100)) == hexes(shared_one.run(100))
        assert hexes(alone.parameters) == hexes(shared_one.parameters)
    engine = fused.FusedEngine(alone.model)
    engine.loss_and_grad(alone.tokenizer.encode(docs[0]))
    assert engine._sparse_layers() == 1


SETTINGS = [dict(weight_decay=0.1), dict(schedule="cosine", warmup=2), dict(eps_adam=1e-300), dict(clip=0.5)]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_settings_of_adam_are_those_of_one_thread(share_all, settings):
    alone = Trainer(DOCS, num_steps=5, batch_size=4, **SHAPES[0], **settings)
    other = shared(Trainer(DOCS, num_steps=5, batch_size=4, **SHAPES[0], **settings), 3)
    assert numbers(alone, alone.run()) == numbers(other, other.run())


def test_evaluation_and_its_infinite_losses():
    trainer, docs = Trainer(DOCS, num_steps=3, **SHAPES[0]), DOCS * 5
    trainer.run()
    expected = trainer.evaluate(docs)
    for threads in THREADS:
        trainer.threads = threads
        assert hexes([trainer.evaluate(docs).loss]) == hexes([expected.loss])
    trainer.parameters = [1e5 * p for p in trainer.parameters]
    trainer.threads = 1
    alone = [hexes(found) for found in trainer.position_losses([trainer.tokenizer.encode(doc) for doc in docs])]
    trainer.threads = 4
    assert [hexes(found) for found in trainer.position_losses([trainer.tokenizer.encode(doc) for doc in docs])] == alone
    assert float("inf").hex() in sum(alone, [])


def test_a_run_resumes_on_any_number_of_threads(share_all, tmp_path):
    path = tmp_path / "run.safetensors"
    trainer = shared(Trainer(DOCS, num_steps=5, batch_size=4, **SHAPES[1]), 2)
    losses = trainer.run(2)
    trainer.save(path)
    resumed = Trainer.load(path, DOCS, threads=3)
    assert resumed.threads == 3
    whole = Trainer(DOCS, num_steps=5, batch_size=4, **SHAPES[1])
    assert numbers(resumed, losses + resumed.run()) == numbers(whole, whole.run())
    written = path.read_bytes()
    Trainer.load(path, DOCS, threads=2).save(path)
    assert path.read_bytes() == written


def test_a_step_that_fails_has_no_effect(share_all):
    def prepared(threads):
        trainer = Trainer(DOCS, num_steps=9, batch_size=3, **SHAPES[0])
        trainer.run(2)
        trainer.adam.v[-1] = -1.0  # of which Adam takes the root
        return shared(trainer, threads) if threads > 1 else trainer

    states = []
    for threads in (1, 2, 5):
        trainer = prepared(threads)
        with pytest.raises(DivergedError):
            trainer.run()
        states.append(numbers(trainer, trainer.last_losses) + [hexes(trainer.model.grad)])
        trainer.adam.v[-1] = 0.0
        states[-1] += numbers(trainer, trainer.run())
    assert states[1] == states[0] and states[2] == states[0]


def test_an_interrupt_ends_all_threads():
    docs = long_documents(40, 60)
    trainer = Trainer(docs, num_steps=10**6, batch_size=8, threads=2, n_embd=64, n_head=4, n_layer=2, block_size=64)
    assert trainer.shares_steps()
    for delay in (0.05, 0.12, 0.2):
        timer = threading.Timer(delay, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            trainer.run()
        timer.join()
    twin = Trainer(docs, num_steps=10**6, batch_size=8, n_embd=64, n_head=4, n_layer=2, block_size=64)
    twin.run(trainer.step_index)
    assert hexes(trainer.parameters) == hexes(twin.parameters)
    assert hexes(trainer.run(2)) == hexes(twin.run(2))


def test_the_command_prints_the_same_bytes(capsys):
    flags = ["--steps", "30", "--n-embd", "64", "--batch-size", "8", "--samples", "3"]
    printed = set()
    for threads in ("1", "2", "0", "7"):
        main([*flags, "--threads", threads])
        printed.add(capsys.readouterr().out)
    assert len(printed) == 1


@pytest.mark.parametrize("engine, said", [("fused", "too short to share"), ("graph", "the graph engine uses one")])
def test_threads_that_are_not_used_are_said(capsys, engine, said):
    main(["--steps", "1", "--threads", "2", "--engine", engine, "--samples", "0"])
    assert said in capsys.readouterr().err
