"""Pictures: what is drawn, where it goes, and what is said where matplotlib is missing."""
import sys

import numpy as np
import pytest

from microgpt import Trainer, plot_attention, plot_embeddings, plot_loss
from microgpt.curves import smoothed, thinned
from microgpt.inside import attention

NAMES = ["emma", "olivia", "ava", "isabella", "sophia", "zoë sky", "안나", "😀a\u200d"]
PNG = b"\x89PNG\r\n"

@pytest.fixture
def trainer():
    trainer = Trainer(NAMES, num_steps=5, n_embd=8, n_head=2, n_layer=2, block_size=8)
    trainer.run()
    return trainer


def test_attention(trainer, tmp_path):
    figure = plot_attention(trainer, "zoë sky", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(PNG) and figure._repr_png_().startswith(PNG)
    maps = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in maps] == [f"layer {i}, head {j}" for i in range(2) for j in range(2)]
    weights = attention(trainer, "zoë sky")
    for axes, expected in zip(maps, weights.reshape(4, 8, 8)):
        assert (np.asarray(axes.images[0].get_array()) == expected).all()
        assert [label.get_text() for label in axes.get_xticklabels()] == ["·", "z", "o", "ë", "␣", "s", "k", "y"]
    with pytest.raises(ValueError, match="not in the vocabulary"):
        plot_attention(trainer, "X")
    with pytest.raises(ValueError, match="no layers"):
        plot_attention(Trainer(NAMES, n_layer=0), "emma")


def test_numbers_of_characters_stand_upright(trainer):
    """Four digits side by side would run into each other."""
    for text, rotation in (("emma", 0), ("안나", 90)):
        labels = plot_attention(trainer, text).axes[0].get_xticklabels()
        assert {label.get_rotation() for label in labels} == {rotation}


def test_labels_do_not_cover_each_other():
    from microgpt.plotting import _apart

    x, y = np.array([0.0, 0.0, 0.001, 1.0, 0.5]), np.array([0.0, 0.0, 0.001, 1.0, 0.2])
    shown_x, shown_y = _apart(x, y, 116, 116, 14)
    far = 100 * np.hypot(shown_x[:, None] - shown_x, shown_y[:, None] - shown_y) + 99 * np.eye(5)
    assert far.min() > 11
    assert (shown_x[3:], shown_y[3:]) == (pytest.approx(x[3:], abs=1e-6), pytest.approx(y[3:], abs=1e-6))


@pytest.mark.parametrize("name, rows", [("wte", None), ("lm_head", None), ("wpe", 8)])
def test_embeddings(trainer, tmp_path, name, rows):
    figure = plot_embeddings(trainer, tmp_path / "e.svg", name)
    assert "<svg" in (tmp_path / "e.svg").read_text(encoding="utf-8")
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.texts]
    assert len(labels) == (rows or trainer.tokenizer.vocab_size)
    if name != "wpe":
        # Characters that matplotlib's font lacks are given by their number: no warning, no empty boxes.
        assert {"a", "ë", "␣", "·", "C548", "1F600", "200D"} - set(labels) in (set(), {"1F600"})
    with pytest.raises(ValueError, match="name must be"):
        plot_embeddings(trainer, name="attn_wq")


def test_embeddings_of_one_dimension_or_one_character():
    plot_embeddings(Trainer(NAMES, n_embd=1, n_head=1, num_steps=1))
    plot_embeddings(Trainer(["aa"], n_embd=4, n_head=1, num_steps=1), name="wte")
    plot_embeddings(Trainer(["aa"], n_embd=4, n_head=1, block_size=1, num_steps=1), name="wpe")


def test_loss(tmp_path):
    losses = [3.0 - i / 50 for i in range(50)]
    figure = plot_loss(losses, [(10, 2.9), (50, 2.2)], [0.01] * 50, 1, tmp_path / "loss.pdf", "a title")
    assert (tmp_path / "loss.pdf").read_bytes().startswith(b"%PDF")
    left, right = figure.axes
    lines = {line.get_label(): line for axes in (left, right) for line in axes.lines}
    assert list(lines["loss of each step"].get_ydata()) == losses
    assert list(lines["loss of each step"].get_xdata()) == list(range(1, 51))
    assert list(lines["moving average"].get_ydata()) == smoothed(losses)
    assert list(lines["validation"].get_xdata()) == [10, 50]
    assert list(lines["learning rate"].get_ydata()) == [0.01] * 50
    for odd in ([], [2.0], [float("nan")] * 3, [1.0, float("inf"), 2.0], [1.0, 1.0]):
        plot_loss(odd)
    plot_loss([1.0], [(1, float("inf"))])
    for losses, marker in (([2.0], "o"), ([2.0, 1.0], "None")):  # one step alone is no line
        assert {line.get_marker() for axes in plot_loss(losses, (), losses).axes for line in axes.lines} == {marker}


def test_picture_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "loss.png").write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        plot_loss([1.0, 2.0], path=tmp_path / "loss.png")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("loss.png", b"old")]


def test_smoothed():
    assert smoothed([2.0] * 5) == pytest.approx([2.0] * 5)
    assert smoothed([1.0, 3.0], keep=0.5) == [1.0, pytest.approx((0.5 * 1 + 3) / 1.5)]
    assert smoothed([1.0, float("nan"), float("inf")]) == [1.0, 1.0, 1.0]
    assert smoothed([]) == []


def test_thinned():
    values = [((i * 7919) % 1000) / 7 for i in range(5000)]
    points = thinned(values, 200)
    assert len(points) <= 202 and points == sorted(points) and all(values[i] == y for i, y in points)
    assert points[0][0] == 0 and points[-1][0] == 4999
    assert max(values) in dict(points).values() and min(values) in dict(points).values()
    assert thinned(values[:10], 200) == list(enumerate(values[:10]))


@pytest.mark.slow
def test_plot_flag(command, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(NAMES), encoding="utf-8")
    flags = ["-m", "microgpt.train", "--input", "text.txt", "--steps", "6", "--n-embd", "4", "--samples", "2"]
    plain = command(*flags)
    for name, start in (("loss.png", PNG), ("loss.svg", b"<?xml"), ("loss.pdf", b"%PDF")):
        done = command(*flags, "--plot", name, "--val-fraction", "0.5", "--val-every", "2")
        assert done.returncode == 0 and f"drew {name}" in done.stderr
        assert (tmp_path / name).read_bytes().startswith(start)
    assert command(*flags, "--plot", "loss.png").stdout == plain.stdout
    for name, part in (("loss.txt", "--plot draws .png, .svg or .pdf, not .txt"), ("no/x.png", "no"), ("x", "suffix")):
        done = command(*flags, "--plot", name)
        assert done.returncode == 2 and part in done.stderr.splitlines()[-1] and done.stdout == ""


def test_without_matplotlib_the_message_says_how_to_get_it(monkeypatch, command, tmp_path):
    trainer = Trainer(NAMES, num_steps=1, n_embd=4)
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (lambda: plot_attention(trainer, "emma"), lambda: plot_embeddings(trainer), lambda: plot_loss([1.0])):
        with pytest.raises(ValueError, match=r"needs matplotlib.*pip install 'microgpt-exact\[plot\]'"):
            draw()
    code = ("import sys; sys.modules['matplotlib'] = None; import microgpt.train as t; "
            "sys.exit(t.main(['--steps', '1', '--plot', 'x.png']))")  # fmt: skip
    done = command("-c", code)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert "pip install 'microgpt-exact[plot]'" in done.stderr.splitlines()[-1]
