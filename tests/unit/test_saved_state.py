"""What a checkpoint holds is what trains: changed optimizers, odd vocabularies, seeds and notes; one read, one save."""
import json
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import environment, hexes
from safetensors.numpy import load_file

from microgpt import RunLogger, Trainer
from microgpt.storage import checkpoint, metadata
from microgpt.storage.checkpoint import CheckpointError, read_about
from microgpt.storage.runlog import learning_rate, read_log
from microgpt.trainer import ENGINES

DOCS = ["emma", "olivia", "ava", "zoë", "sophia", "mia"]
SETTINGS = dict(n_embd=4, n_head=2, block_size=6)
STEPS = 12
OLD = Path(__file__).parents[1] / "data" / "format-1.safetensors"


def outcome(trainer):
    return hexes(trainer.parameters), hexes(trainer.adam.m), hexes(trainer.adam.v), trainer.step_index


def with_one_nan(file):
    """What a checkpoint holds, with the same bits in every nan: its sign may differ (docs/explain/exactness.md)."""
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    numbers = np.frombuffer(content, "<f8", (len(content) - start) // 8, start).copy()
    numbers[np.isnan(numbers)] = np.nan
    return content[:start], numbers.tobytes(), content[start + numbers.nbytes :]


def settings_of(adam):
    return {name: getattr(adam, name) for name in metadata.ADAM_SETTINGS}


def scaled(name):
    def change(adam):
        getattr(adam, name)[:] = [0.5 * x + 1e-6 for x in getattr(adam, name)]

    return change


CHANGES = {
    "learning_rate": lambda adam: setattr(adam, "learning_rate", 0.0123456789),
    "learning_rate negative": lambda adam: setattr(adam, "learning_rate", -0.01),
    "learning_rate whole": lambda adam: setattr(adam, "learning_rate", 1),
    "learning_rate nan": lambda adam: setattr(adam, "learning_rate", float("nan")),
    "beta1": lambda adam: setattr(adam, "beta1", 0.5),
    "beta1 beyond 1": lambda adam: setattr(adam, "beta1", 1.5),
    "beta2": lambda adam: setattr(adam, "beta2", 0.9),
    "eps": lambda adam: setattr(adam, "eps", 1e-3),
    "num_steps": lambda adam: setattr(adam, "num_steps", 40),
    "num_steps less": lambda adam: setattr(adam, "num_steps", 6),
    "num_steps negative": lambda adam: setattr(adam, "num_steps", -3),
    "step_index": lambda adam: setattr(adam, "step_index", 8),
    "step_index back": lambda adam: setattr(adam, "step_index", 1),
    "m": scaled("m"),
    "v": scaled("v"),
}


QUICK = ("learning_rate", "beta1 beyond 1", "num_steps less", "m")


def engines_and_changes():
    """All changes on both classes of Adam, of which fused and graph have the same one."""
    for engine in ENGINES:
        for change in QUICK if engine == "graph" else CHANGES:
            yield pytest.param(engine, change, marks=() if change in QUICK and engine != "reference" else pytest.mark.slow)


@pytest.mark.parametrize("engine, change", [*engines_and_changes()], indirect=["engine"])
def test_run_resumes_with_the_optimizer_as_it_was_changed(tmp_path, engine, change):
    trainer = Trainer(DOCS, num_steps=STEPS, engine=engine, **SETTINGS)
    trainer.run(4)
    before = settings_of(trainer.adam)
    CHANGES[change](trainer.adam)
    trainer.save(tmp_path / "run")
    changed = settings_of(trainer.adam) != before
    assert read_about(tmp_path / "run")["format"] == 1 + changed
    resumed = [Trainer.load(tmp_path / "run", DOCS, engine=other) for other in ENGINES]
    rates = [learning_rate(trainer, 6).hex()]
    losses = hexes(trainer.run(3))
    trainer.save(tmp_path / "later")
    losses += hexes(trainer.run())
    for other in resumed:
        assert [learning_rate(other, 6).hex()] == rates
        assert hexes(other.run(3)) == losses[:3]
        other.save(tmp_path / "other")
        assert with_one_nan(tmp_path / "other") == with_one_nan(tmp_path / "later")
        assert hexes(other.run()) == losses[3:] and outcome(other) == outcome(trainer)


def test_step_beyond_the_last_and_more_steps_are_kept(tmp_path, engine):
    trainer = Trainer(DOCS, num_steps=STEPS, engine=engine, **SETTINGS)
    trainer.run(4)
    trainer.num_steps = 3  # fewer than are done
    trainer.save(tmp_path / "run")
    loaded = Trainer.load(tmp_path / "run", DOCS, engine=engine)
    assert (loaded.num_steps, loaded.adam.num_steps, loaded.step_index) == (3, STEPS, 4)
    loaded.num_steps = trainer.num_steps = 2 * STEPS  # more than Adam counts on
    loaded.save(tmp_path / "run")
    loaded = Trainer.load(tmp_path / "run", DOCS, engine=engine)
    assert hexes(loaded.run()) == hexes(trainer.run()) and outcome(loaded) == outcome(trainer)


@pytest.mark.parametrize("value", ["0.1", None, True, 1j, np.float32(0.1)])
def test_setting_that_a_file_cannot_hold_is_refused(tmp_path, value):
    trainer = Trainer(DOCS, num_steps=STEPS, engine="reference", **SETTINGS)
    trainer.adam.beta1 = value
    with pytest.raises(TypeError, match=r"adam.beta1 must be a float or int to be saved, not \w+"):
        trainer.save(tmp_path / "run")
    assert os.listdir(tmp_path) == []


def test_another_optimizer_cannot_take_the_place_of_the_one_that_trains(engine):
    trainer = Trainer(DOCS, num_steps=STEPS, engine=engine, **SETTINGS)
    with pytest.raises(AttributeError):
        trainer.adam = trainer.adam


def test_log_and_plot_show_the_rate_that_trains(tmp_path, engine):
    trainer = Trainer(DOCS, num_steps=STEPS, engine=engine, **SETTINGS)
    log = RunLogger(tmp_path / "run.jsonl")
    trainer.run(2, callbacks=[log])
    trainer.adam.learning_rate, trainer.adam.num_steps = 0.5, 100  # those logged keep theirs
    trainer.run(2, callbacks=[log])
    rates = [record["learning_rate"] for record in read_log(tmp_path / "run.jsonl")]
    assert rates == [0.01, 0.01 * (1 - 1 / STEPS), 0.5 * (1 - 2 / 100), 0.5 * (1 - 3 / 100)]


def test_reference_engine_resumes_with_python_s_floats(tmp_path):
    """With NumPy's it would warn where it raises."""
    trainer = Trainer(DOCS, num_steps=STEPS, engine="reference", **SETTINGS)
    trainer.save(tmp_path / "run")
    loaded = Trainer.load(tmp_path / "run", DOCS, engine="reference")
    assert {type(x) for x in [*loaded.adam.m, *loaded.adam.v]} == {float}


def test_file_is_opened_once(tmp_path, monkeypatch):
    """Replaced at any moment of a load, it is one save or the other."""
    path, opened = tmp_path / "run", []
    trainer = Trainer(DOCS, num_steps=STEPS, **SETTINGS)
    trainer.save(path)
    trainer.run(1)
    trainer.save(tmp_path / "next")

    def watch(event, arguments):
        if watching and event == "open" and isinstance(arguments[0], (str, bytes)) and os.fsdecode(arguments[0]) == str(path):
            opened.append(event)
            if len(opened) == 2:
                os.replace(tmp_path / "next", path)

    watching = True
    sys.addaudithook(watch)
    parse = metadata.parse

    def replacing(text):
        if (tmp_path / "next").exists():
            os.replace(tmp_path / "next", path)
        return parse(text)

    monkeypatch.setattr(checkpoint, "parse", replacing)
    loaded = Trainer.load(path, DOCS)
    watching = False
    assert opened == ["open"]
    fresh = Trainer(DOCS, num_steps=STEPS, **SETTINGS)
    assert loaded.step_index == 0 and outcome(loaded) == outcome(fresh)
    assert Trainer.load(path, DOCS).step_index == 1


WRITER = f"""
import sys
from microgpt import Trainer
trainer = Trainer({DOCS!r}, num_steps=10**6, **{SETTINGS!r})
while True:
    trainer.run(1)
    trainer.save(sys.argv[1])
"""


@pytest.mark.slow
def test_load_while_another_process_saves_is_one_save(tmp_path, engine):
    path = tmp_path / "run"
    whole = Trainer(DOCS, num_steps=10**6, **SETTINGS)
    states = [outcome(whole)]
    whole.save(path)
    child = subprocess.Popen([sys.executable, "-c", WRITER, path], env=environment())
    try:
        last, loads = 0, 0
        while last < 50 or loads < 50:
            assert child.poll() is None
            loaded = Trainer.load(path, DOCS, engine=engine)
            last, loads = max(last, loaded.step_index), loads + 1
            while len(states) <= loaded.step_index:
                whole.run(1)
                states.append(outcome(whole))
            assert outcome(loaded) == states[loaded.step_index]
    finally:
        child.kill()
        child.wait()


def test_reading_takes_no_memory_beside_the_arrays(tmp_path):
    import tracemalloc

    trainer = Trainer(["abc"], num_steps=1, n_embd=256, n_head=1, n_layer=1)
    trainer.save(tmp_path / "run")
    tracemalloc.start()
    try:
        state = checkpoint.load(tmp_path / "run")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert state.params.nbytes + state.m.nbytes + state.v.nbytes < peak < 1.1 * (tmp_path / "run").stat().st_size


def header_of(path):
    with open(path, "rb") as file:
        return json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))


def test_file_of_the_first_format_is_read_and_written_back(tmp_path):
    tensors, about = load_file(OLD), json.loads(header_of(OLD)["__metadata__"]["microgpt"])
    docs = ["emma", "olivia", "zoë", "ab😀"]
    ends = set()
    for engine in ENGINES:
        trainer = Trainer.load(OLD, docs, engine=engine)
        assert (trainer.step_index, trainer.num_steps, trainer.seed) == (3, 7, 2**70)
        assert trainer.settings == about["settings"] and trainer.extra == about["notes"]
        assert trainer.rng.getstate()[1] == tuple(tensors["rng.state"].tolist())
        assert trainer.rng.getstate()[2] == float.fromhex(about["gauss_next"])
        for prefix, values in (("", trainer.parameters), ("adam.m.", trainer.adam.m), ("adam.v.", trainer.adam.v)):
            names = trainer.config.shapes(trainer.tokenizer.vocab_size)
            assert hexes(values) == hexes(np.concatenate([tensors[prefix + name].ravel() for name in names]))
        trainer.save(tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == OLD.read_bytes()
        ends.add(str((hexes(trainer.run()), outcome(trainer), trainer.sample(3))))
    assert len(ends) == 1


VOCABULARIES = {
    "lone surrogates": ["\ud83d\ude00", "ab\udc00", "z\ud800"],
    "one high": ["a\ud800"],
    "surrogates beside a pair": ["\ud83d\ude00", "\U0001f600", "\udbff\udc00\udfff"],
    "all surrogates": ["".join(map(chr, range(0xD800, 0xE000)))],
    "controls and quotes": ["".join(map(chr, range(1, 128))) + "\0\x7f\x80\u2028\uffff\U0010ffff"],
    "every other character": ["".join(map(chr, range(0, 0x30000, 2)))],
    "two of three characters": ["".join(ch for i, ch in enumerate(map(chr, range(0x30000))) if i % 3)],
}


@pytest.mark.parametrize("docs", [pytest.param(docs, id=name, marks=pytest.mark.slow if " of three " in name or " other " in name else ())
                                  for name, docs in VOCABULARIES.items()])
def test_any_vocabulary_can_be_saved_and_loaded(tmp_path, docs):
    trainer = Trainer(docs, num_steps=3, n_embd=2, n_head=1, block_size=4)
    trainer.run(1)
    trainer.save(tmp_path / "run")
    loaded = Trainer.load(tmp_path / "run", docs)
    assert loaded.tokenizer.uchars == trainer.tokenizer.uchars and loaded.run() == trainer.run()
    loaded = Trainer.load(tmp_path / "run")
    loaded.save(tmp_path / "again")
    assert loaded.tokenizer.uchars == trainer.tokenizer.uchars


@pytest.mark.slow
def test_vocabulary_of_all_code_points(tmp_path):
    everything = "".join(map(chr, range(0x110000)))
    trainer = Trainer([everything], num_steps=3, n_embd=1, n_head=1, n_layer=0, block_size=1)
    trainer.save(tmp_path / "run")
    assert read_about(tmp_path / "run")["uchars"] == everything
    assert Trainer.load(tmp_path / "run").tokenizer.vocab_size == 0x110000 + 1


@pytest.mark.slow
def test_longest_vocabulary_fits_the_header():
    text = "".join(chr(i) for i in range(0x110000) if i % 3)  # pairs are the longest: see test_any_vocabulary_can_be_saved_and_loaded
    encoded = metadata.encode_uchars(list(text))
    assert len(json.dumps(encoded)) < checkpoint.MAX_HEADER - 2**20 and metadata.decode_uchars(encoded) == text


@pytest.mark.parametrize("bad", [None, {}, [None], [1.0], [True], [-1], [0x110000], [5, 5], [6, 5], [[1, 2], 2], [[3, 2]],
                                 [[1]], [[1, 2, 3]], [[0, 10**30]], ["a"], "ba", "aa"])  # fmt: skip
def test_vocabulary_that_is_none_is_refused(tmp_path, bad):
    with pytest.raises(CheckpointError, match="its vocabulary is not a sorted list of characters"):
        metadata.decode_uchars(bad)


def test_too_many_layers_or_notes_are_told_apart(tmp_path):
    trainer = Trainer(["ab"], num_steps=1, n_embd=1, n_head=1, n_layer=6000, block_size=1)
    with pytest.raises(CheckpointError, match="it has too many layers"):
        trainer.save(tmp_path / "run")
    trainer = Trainer(["ab"], num_steps=1, n_embd=1, n_head=1)
    trainer.extra["text"] = "x" * 9 * 2**20
    with pytest.raises(CheckpointError, match="its extra data is too long"):
        trainer.save(tmp_path / "run")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("seed", [10**4300, -(10**4300), 10**5000 + 1, 10**600, 2**70, -1, 0], ids=lambda n: n.bit_length())
def test_any_seed_can_be_saved_and_logged(tmp_path, engine, seed):
    trainer = Trainer(DOCS, num_steps=3, seed=seed, engine=engine, **SETTINGS)
    trainer.save(tmp_path / "run")
    trainer.run(1, callbacks=[RunLogger(tmp_path / "run.jsonl")])
    assert "seed" in trainer._repr_html_()
    for other in ENGINES:
        assert Trainer.load(tmp_path / "run", DOCS, engine=other).seed == seed
    assert int(read_log(tmp_path / "run.jsonl")[0]["run"]["seed"], 0) == seed


class Text(str):
    pass


KEPT = {"a": [1, -2.5, -0.0, True, False, None, "text", "\ud800", "😀", {}, [], {"b": {"c": [[]]}}], "": 10**500, "2": 5e-324}
REFUSED = [
    ((1, 2), TypeError, r"extra\['x'\] cannot be saved: it is a tuple"),
    ([{"y": (1,)}], TypeError, r"extra\['x'\]\[0\]\['y'\] cannot be saved: it is a tuple"),
    ({1: 2}, TypeError, r"extra\['x'\] cannot be saved: its key 1 is a int"),
    ({True: 2}, TypeError, "its key True is a bool"),
    ({None: 2}, TypeError, "its key None is a NoneType"),
    (float("nan"), ValueError, "JSON has no nan"),
    ([float("-inf")], ValueError, "JSON has no -inf"),
    ({1, 2}, TypeError, "it is a set"),
    (b"x", TypeError, "it is a bytes"),
    (Text("x"), TypeError, "it is a Text"),
    (np.float64(1), TypeError, "it is a float64"),
    (np.int64(1), TypeError, "it is a int64"),
    (np.zeros(2), TypeError, "it is a ndarray"),
    (10**5000, ValueError, "too many digits"),
    ("\ud83d\ude00", ValueError, "two surrogates"),
    ({"\ud83d\ude00": 1}, ValueError, "two surrogates"),
    (object(), TypeError, "it is a object"),
]


def test_notes_keep_their_types(tmp_path):
    def types(x):
        if isinstance(x, dict):
            return {key: types(value) for key, value in x.items()}
        return [types(y) for y in x] if isinstance(x, list) else (type(x), repr(x))

    trainer = Trainer(DOCS, num_steps=3, **SETTINGS)
    trainer.extra = KEPT
    trainer.save(tmp_path / "run")
    loaded = Trainer.load(tmp_path / "run")
    assert loaded.extra == KEPT and types(loaded.extra) == types(KEPT)


@pytest.mark.parametrize("note, kind, message", REFUSED, ids=lambda x: x if isinstance(x, str) else "")
def test_note_that_would_change_is_refused_in_words(tmp_path, note, kind, message):
    trainer = Trainer(DOCS, num_steps=3, **SETTINGS)
    trainer.save(tmp_path / "run")
    before = (tmp_path / "run").read_bytes()
    trainer.extra["x"] = note
    with pytest.raises(kind, match=message) as error:
        trainer.save(tmp_path / "run")
    assert "\n" not in str(error.value) and (tmp_path / "run").read_bytes() == before
    assert os.listdir(tmp_path) == ["run"]


def test_endless_notes_are_refused(tmp_path):
    endless, deep = [], []
    endless += [endless, endless]
    for _ in range(100_000):
        deep = [deep]
    for note in (endless, deep):
        trainer = Trainer(DOCS, num_steps=3, **SETTINGS)
        trainer.extra["x"] = note
        with pytest.raises(ValueError, match="nested more than 100 deep"):
            trainer.save(tmp_path / "run")
    while deep:
        deep = deep[0]
    trainer.extra = []
    with pytest.raises(TypeError, match="extra must be a dict"):
        trainer.save(tmp_path / "run")


def test_texts_of_a_checkpoint_reach_no_terminal_as_they_are(tmp_path):
    trainer = Trainer(DOCS, num_steps=3, **SETTINGS)
    trainer.extra["val_fraction"] = "\x1b[2J\nmicrogpt: all is well\u202e"
    trainer.save(tmp_path / "run")
    with pytest.raises(CheckpointError) as error:
        Trainer.load(tmp_path / "run", ["other"])
    assert str(error.value).isprintable() and r"\x1b[2J\n" in str(error.value)


@pytest.mark.slow
def test_threads_save_and_load_one_path(tmp_path):
    """Of two runs, one of them larger: every load is of one of them, whole."""
    path = tmp_path / "run"
    trainers = [Trainer(["ab"], num_steps=9, n_embd=n, n_head=4) for n in (8, 16, 32, 64)]
    trainers[0].save(path)
    expected, errors, end = {t.settings["n_embd"]: outcome(t) for t in trainers}, [], threading.Event()

    def guarded(work):
        try:
            work()
        except BaseException as error:
            errors.append(error)

    def save(trainer):
        for _ in range(10):
            trainer.save(path)

    def load():
        while not end.is_set():
            loaded = Trainer.load(path)
            assert outcome(loaded) == expected[loaded.settings["n_embd"]]

    loaders = [threading.Thread(target=guarded, args=(load,)) for _ in range(4)]
    savers = [threading.Thread(target=guarded, args=(lambda t=t: save(t),)) for t in trainers]
    for thread in [*loaders, *savers]:
        thread.start()
    for thread in savers:
        thread.join()
    end.set()
    for thread in loaders:
        thread.join()
    assert not errors and os.listdir(tmp_path) == ["run"]
