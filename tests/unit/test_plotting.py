"""Pictures: what is drawn, where it goes, and what is said where matplotlib is missing."""
import copy
import os
import pickle
import sys
import threading

import numpy as np
import pytest

import microgpt
from microgpt import Trainer, UsageError, plot_attention, plot_embeddings, plot_loss
from microgpt.cli import options
from microgpt.viz.activations import attention
from microgpt.viz.curves import smoothed, thinned

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
    from microgpt.viz.plots import _apart

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
    for trainer, name in ((Trainer(NAMES, n_embd=1, n_head=1, num_steps=1), "wte"),
                          (Trainer(["aa"], n_embd=4, n_head=1, num_steps=1), "wte"),
                          (Trainer(["aa"], n_embd=4, n_head=1, block_size=1, num_steps=1), "wpe")):  # fmt: skip
        figure = plot_embeddings(trainer, name=name)
        assert len(figure.axes[0].texts) == (trainer.tokenizer.vocab_size if name == "wte" else 1)


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
def test_plot_flag(in_process, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(NAMES), encoding="utf-8")
    flags = ["train", "--input", "text.txt", "--steps", "6", "--n-embd", "4", "--samples", "2"]
    plain = in_process(*flags)
    for name, start in (("loss.png", PNG), ("loss.svg", b"<?xml"), ("loss.pdf", b"%PDF")):
        done = in_process(*flags, "--plot", name, "--val-fraction", "0.5", "--val-every", "2")
        assert done.returncode == 0 and f"drew {name}" in done.stderr
        assert (tmp_path / name).read_bytes().startswith(start)
    assert in_process(*flags, "--plot", "loss.png").stdout == plain.stdout
    for name, part in (("loss.txt", "--plot draws .png, .svg or .pdf, not .txt"), ("no/x.png", "no"), ("x", "suffix")):
        done = in_process(*flags, "--plot", name)
        assert done.returncode == 2 and part in done.stderr.splitlines()[-1] and done.stdout == ""


def test_without_matplotlib_the_message_says_how_to_get_it(monkeypatch, command, tmp_path):
    trainer = Trainer(NAMES, num_steps=1, n_embd=4)
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (lambda: plot_attention(trainer, "emma"), lambda: plot_embeddings(trainer), lambda: plot_loss([1.0])):
        with pytest.raises(ModuleNotFoundError, match=r"needs matplotlib.*pip install 'microgpt-exact\[plot\]'") as error:
            draw()
        assert error.value.name == "matplotlib" and "\n" not in str(error.value)
    with pytest.raises(UsageError, match="needs matplotlib"):  # the command line's own, for exit status 2
        options.check({"plot": "x.png"})
    code = ("import sys; sys.modules['matplotlib'] = None; import microgpt.train as t; "
            "sys.exit(t.main(['--steps', '1', '--plot', 'x.png']))")  # fmt: skip
    done = command("-c", code)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert "pip install 'microgpt-exact[plot]'" in done.stderr.splitlines()[-1]


def lines_of(figure):
    return {line.get_label(): line for axes in figure.axes for line in axes.lines}


def generator_of_float32(numbers):
    return (np.float32(y) for y in numbers)


@pytest.mark.parametrize("make", [np.array, tuple, iter, generator_of_float32, list], ids=lambda make: make.__name__)
def test_loss_takes_any_numbers(make):
    losses, rates, measured = [3.0, 2.5, 2.25, 2.0], [0.01, 0.0075, 0.005, 0.0025], [(2, 2.75), (4, 2.5)]
    figure = plot_loss(make(losses), np.array(measured), make(rates), np.int64(5))
    lines = lines_of(figure)
    assert list(lines["loss of each step"].get_ydata()) == losses
    assert list(lines["loss of each step"].get_xdata()) == [5, 6, 7, 8]
    assert list(lines["moving average"].get_ydata()) == smoothed(losses)
    assert list(lines["learning rate"].get_ydata()) == pytest.approx(rates, rel=1e-7)
    for pairs in (iter(measured), dict(measured).items(), zip([2, 4], [2.75, 2.5]), [[2, 2.75], [4, 2.5]]):
        lines = lines_of(plot_loss(losses, pairs))
        assert list(lines["validation"].get_xdata()) == [2, 4]
        assert list(lines["validation"].get_ydata()) == [2.75, 2.5]


@pytest.mark.slow
@pytest.mark.parametrize("losses", [
    [], [2.0], [np.nan], [np.inf], [-np.inf], [np.nan] * 3, [1.0, np.inf, 2.0], [-np.inf, 1.0], [1.0, 1.0], [0.0, 0.0],
    [1e300, 1e300], [1e308, -1e308], [1.7e308, 1.7e308], [5e-324, 1e-323], [1, 2, 3], [True, False], [1e30, 1.0, 1e-30],
], ids=str)  # fmt: skip
def test_loss_draws_whatever_a_run_may_give(losses):
    """And the same in arrays, as validation losses and as learning rates; warnings are errors here."""
    array = np.array(losses, dtype=float)
    pairs = np.array(list(enumerate(losses, 1)), dtype=float).reshape(-1, 2)
    for figure in (plot_loss(losses), plot_loss([2.0, 1.0], list(enumerate(losses, 1))), plot_loss(array, pairs, array)):
        figure.draw_without_rendering()
        shown = [y for line in lines_of(figure).values() for y in line.get_ydata()]
        assert not np.isinf(shown).any() and {y for y in array if abs(y) < 1e300} <= {*shown}


def test_loss_rejects_what_is_no_run():
    for losses in ("2.5", ["2.5"], [None], [[1.0, 2.0]], [microgpt.Value(2.0)], 3.0, np.zeros((2, 2)), [1j]):
        with pytest.raises(TypeError, match="losses must be a sequence of numbers"):
            plot_loss(losses)
    with pytest.raises(TypeError, match="learning_rates must be a sequence of numbers"):
        plot_loss([1.0], (), 0.01)
    with pytest.raises(ValueError, match="2 learning_rates do not fit 3 losses"):
        plot_loss([1.0, 2.0, 3.0], (), [0.1, 0.2])
    for measured in ([1.0, 2.0], {1: 2.0}, [(1, 2.0, 3)], 5, [(1, "x")]):
        with pytest.raises(TypeError, match=r"validation must be a sequence of pairs \(step, loss\)"):
            plot_loss([1.0], measured)


def test_loss_between_two_that_are_not_finite_is_marked():
    """Without neighbours it is no line, and would not be seen."""
    nan = float("nan")
    lines = lines_of(plot_loss([3.0, nan, 2.0, nan, 1.0, 1.5], (), [nan, 1.0, nan, 2.0, 3.0, 4.0]))
    marked = {name: line.get_markevery() if line.get_marker() == "o" else [] for name, line in lines.items()}
    assert marked == {"loss of each step": [0, 2], "moving average": [], "learning rate": [1]}


def test_validation_below_the_losses_is_in_the_picture():
    low, high = plot_loss([3.0, 2.9, 2.8], [(1, 2.0), (3, 1.5)]).axes[0].get_ylim()
    assert low < 1.5 and high > 3.0


@pytest.mark.slow
def test_attention_and_embeddings_of_a_bare_model(trainer, tmp_path):
    ids = trainer.tokenizer.encode("zoë sky")[1:-1]
    for model, labels in ((trainer, ["·", "z", "o", "ë", "␣", "s", "k", "y"]), (trainer.model, ["·", *map(str, ids)])):
        axes = plot_attention(model, ids, tmp_path / "a.png").axes[0]
        assert [label.get_text() for label in axes.get_xticklabels()] == labels
        assert (np.asarray(axes.images[0].get_array()) == attention(trainer, "zoë sky")[0, 0]).all()
    for name in ("wte", "lm_head"):
        (axes,) = plot_embeddings(trainer.model, name=name).axes
        assert [text.get_text() for text in axes.texts] == [*map(str, range(trainer.tokenizer.BOS)), "·"]
    assert len(plot_embeddings(trainer.model, name="wpe").axes[0].texts) == 8
    with pytest.raises(TypeError, match="a GPT knows no characters"):
        plot_attention(trainer.model, "zoë")
    for draw in (lambda: plot_attention("model", "zoë"), lambda: plot_embeddings("model")):
        with pytest.raises(TypeError, match="expected a Trainer or a GPT, not str"):
            draw()


SETTINGS = [
    "text.usetex: True", "path.effects: foo", "font.family: NoSuchFont", "axes.prop_cycle: cycler('color', ['red'])",
    "interactive: True", "axes.formatter.use_mathtext: True", "savefig.bbox: tight", "figure.autolayout: True",
    "image.interpolation: bicubic", "figure.facecolor: black", "lines.marker: o", "image.origin: lower",
]  # fmt: skip
DRAWN = """
import sys
from microgpt import Trainer, plot_attention, plot_embeddings, plot_loss
trainer = Trainer(["emma", "ava", "mia"], num_steps=2, n_embd=4, n_head=2)
figures = [plot_loss([3.0, 2.0, 1.5, 1.0], [(2, 2.0)], [0.1] * 4), plot_attention(trainer, "emma"), plot_embeddings(trainer)]
import hashlib, io
from matplotlib.backends.backend_agg import FigureCanvasAgg
for figure in figures:
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})  # as a user would, later
    figure.canvas.print_png(io.BytesIO())
    print(hashlib.sha256(figure._repr_png_()).hexdigest())
print("matplotlib.pyplot" in sys.modules)
"""


@pytest.mark.slow
def test_pictures_do_not_depend_on_the_user_s_settings(command, tmp_path):
    outputs = []
    for settings in ("", "\n".join(SETTINGS)):
        (tmp_path / "matplotlibrc").write_text(settings, encoding="utf-8")
        done = command("-c", DRAWN)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1] and outputs[0].count("\n") == 4 and outputs[0].endswith("False\n")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["module://no.such.module", "TkAgg", "nonsense", ""])
def test_no_backend_matters(command, tmp_path, backend):
    """A notebook sets MPLBACKEND for its children, too, and some of them lack what it names."""
    code = ("import os, sys, microgpt.train as t; from microgpt import plot_loss\n"
            "status = t.main(['--steps', '2', '--n-embd', '4', '--samples', '1', '--plot', 'loss.png'])\n"
            "plot_loss([2.0, 1.0], path='again.svg')\n"
            f"assert os.environ['MPLBACKEND'] == {backend!r} and 'matplotlib.pyplot' not in sys.modules\n"
            "sys.exit(status)\n")  # fmt: skip
    done = command("-c", code, env={"MPLBACKEND": backend})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "loss.png").read_bytes().startswith(PNG) and (tmp_path / "again.svg").exists()


@pytest.mark.slow
def test_backend_of_the_environment_is_still_the_user_s(command):
    """Our import of matplotlib is the first in the process; a pyplot that comes later finds what was asked for."""
    code = ("from microgpt import plot_loss; plot_loss([1.0]); import matplotlib.pyplot; "
            "print(matplotlib.get_backend())")  # fmt: skip
    assert command("-c", code, env={"MPLBACKEND": "svg"}).stdout == "svg\n"


@pytest.mark.slow
def test_drawing_leaves_matplotlib_s_settings_alone(trainer, tmp_path):
    import matplotlib

    def unlike_the_defaults():
        return {"text.usetex": True, "lines.linewidth": 9.0, "backend": "svg", "interactive": True, "font.size": 3.0}

    with matplotlib.rc_context(unlike_the_defaults()):
        matplotlib.rcParams["backend"] = "svg"
        before = dict(matplotlib.rcParams)
        figures = [plot_loss([2.0, 1.0], path=tmp_path / "x.svg"), plot_attention(trainer, "a"), plot_embeddings(trainer)]
        for figure in figures:
            figure._repr_png_()
            figure.savefig(tmp_path / "y.png")
        with pytest.raises(TypeError):
            plot_loss("x")
        assert dict(matplotlib.rcParams) == before
        threads = [threading.Thread(target=lambda: plot_loss([2.0, 1.0])._repr_png_()) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert dict(matplotlib.rcParams) == before
    assert os.path.getsize(tmp_path / "y.png")


@pytest.mark.slow
def test_figures_can_be_copied_and_pickled(trainer):
    for figure in (plot_loss([2.0, 1.0], [(1, 2.0)], [1, 2]), plot_attention(trainer, "emma"), plot_embeddings(trainer)):
        copies = [way(figure) for way in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x)))]
        expected = figure._repr_png_()  # which moves things a little, and would again
        for again in copies:
            assert type(again) is type(figure) and again._repr_png_() == expected


def test_matplotlib_that_is_broken_is_not_called_missing(command):
    """An ImportError from within it is of another kind than its absence."""
    code = ("import sys; sys.modules['matplotlib.figure'] = None; import microgpt.train as t; "
            "sys.exit(t.main(['--steps', '1', '--plot', 'x.png']))")  # fmt: skip
    done = command("-c", code)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert "matplotlib cannot be imported" in last and "matplotlib.figure" in last and "not installed" not in last


def test_curves_take_arrays_and_iterators():
    values = [3.0, 2.0, float("nan"), 1.0] * 100
    for make in (np.array, tuple, iter):
        assert smoothed(make(values)) == smoothed(values)
        assert all(type(y) is float for y in smoothed(make(values)))
        assert repr(thinned(make(values), 50)) == repr(thinned(values, 50))
