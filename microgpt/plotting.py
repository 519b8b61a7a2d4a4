"""Pictures of a run and of what a model has learned, by matplotlib, which the extra `plot` installs.

The functions return a matplotlib Figure that a notebook shows, and write it to `path` where one is given.
"""
import os

from . import cli
from .curves import smoothed
from .watching import Watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from matplotlib.figure import Figure

    from .trainer import Trainer
    from .validation import Validation

__all__ = ["LossPlot", "check_plot", "plot_attention", "plot_embeddings", "plot_loss"]

INK, FAINT, GREY, BLUE, ORANGE, GREEN = "#222222", "#c0c9d5", "#8f9dae", "#1f5fa8", "#d9631e", "#3a8f5c"


def check_plot(path: str) -> None:
    """Raise UsageError if no picture can be drawn, or none of this kind."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in (".png", ".svg", ".pdf"):
        raise cli.UsageError(f"--plot draws .png, .svg or .pdf, not {suffix or 'a file without a suffix'}")
    _figure(1, 1)


def _figure(width, height):
    """An empty Figure that shows itself in a notebook; no window, no state shared with pyplot."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise cli.UsageError(
            "drawing needs matplotlib, which is not installed: pip install 'microgpt-exact[plot]'"
        ) from None

    class Picture(Figure):
        def _repr_png_(self):
            from io import BytesIO

            file = BytesIO()
            self.savefig(file, format="png", dpi=110)
            return file.getvalue()

    figure = Picture(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _finish(figure, path):
    if path is not None:
        from io import BytesIO

        from .files import write_atomically

        file = BytesIO()
        figure.savefig(file, format=os.path.splitext(os.fspath(path))[1][1:] or "png", dpi=150)
        write_atomically(path, file.getvalue())
    return figure


def plot_loss(
    losses: "Sequence[float]",
    validation: "Sequence[tuple[int, float]]" = (),
    learning_rates: "Sequence[float]" = (),
    first_step: int = 1,
    path: "str | os.PathLike[str] | None" = None,
    title: str = "",
) -> "Figure":
    """Draw the loss of each step and its moving average, validation losses and the learning rate.

    validation: (step, loss) of each measurement.  learning_rates: one a step.  first_step: that of losses[0].
    """
    figure = _figure(8, 4.6)
    axes = figure.add_subplot()
    steps = range(first_step, first_step + len(losses))
    few, dot = len(losses) <= 300, "o" if len(losses) == 1 else None  # a line needs two ends to be seen
    each = {"color": GREY if few else FAINT, "linewidth": 1.0 if few else 0.6, "marker": dot}
    handles = axes.plot(steps, losses, label="loss of each step", **each)
    handles += axes.plot(steps, smoothed(losses), color=BLUE, linewidth=1.8, marker=dot, label="moving average")
    if validation:
        style = {"color": ORANGE, "marker": "o", "markersize": 3.5, "linewidth": 1.4}
        handles += axes.plot(*zip(*validation), label="validation", **style)
    axes.set_xlabel("step")
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.set_ylabel("loss (nats a token)")
    finite = sorted(loss for loss in losses if abs(loss) < float("inf"))
    if finite:
        # A few hard documents may not squeeze everything else into a line.
        high = max([finite[int(0.995 * (len(finite) - 1))], *(loss for _, loss in validation if loss < float("inf"))])
        room = 0.06 * (high - finite[0]) or 0.5
        axes.set_ylim(finite[0] - room, high + room)
    axes.grid(True, color="#e6e9ee", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if learning_rates:
        right = axes.twinx()
        style = {"color": GREEN, "linewidth": 1, "linestyle": "--", "marker": dot}
        handles += right.plot(steps, learning_rates, label="learning rate", **style)
        right.set_ylabel("learning rate", color=GREEN)
        right.tick_params(axis="y", colors=GREEN)
        right.set_ylim(0, (max(learning_rates) or 1) * 1.05)
        right.spines["top"].set_visible(False)
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=4, frameon=False, fontsize=9)
    if title:
        axes.set_title(title, loc="left", fontsize=10, color=INK, pad=24)
    return _finish(figure, path)


class LossPlot(Watcher):
    """`--plot FILE`: draws the run when it ends, and when it is interrupted."""

    def __init__(self, trainer: "Trainer", path: str, validation: "Validation | None") -> None:
        self.trainer, self.path, self.validation = trainer, path, validation
        self.first_step = trainer.step_index + 1
        self.steps: list[tuple[int, float, float]] = []  # (step, loss, learning rate)

    def note(self, first: int, losses: "list[float]") -> None:
        from .runlog import noted

        self.steps += noted(self.trainer, first, losses)

    def finish(self) -> None:
        from .runlog import missed

        self.steps += missed(self.trainer, self.first_step - 1 + len(self.steps))
        if not self.steps:
            return
        trainer, s = self.trainer, self.trainer.settings
        _, losses, rates = zip(*self.steps)
        title = f"n_embd {s['n_embd']}, n_head {s['n_head']}, n_layer {s['n_layer']}, block_size {s['block_size']}"
        measured = self.validation.measured if self.validation else []
        plot_loss(losses, measured, rates, self.first_step, self.path, f"{title}, {len(trainer.docs)} documents")
        cli.say(f"drew {self.path}")

    def __enter__(self) -> "LossPlot":
        return self

    def __exit__(self, kind: "type[BaseException] | None", *exception: "Any") -> None:
        if kind is not None:
            try:
                self.finish()
            except OSError as error:  # what ended the run is what is reported
                cli.say(f"the losses could not be drawn: {error.filename}: {error.strerror}")


def _shown(text):
    """The characters of text as labels: what cannot be seen, or is not in matplotlib's font, is given by its number."""
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    font = FT2Font(findfont("DejaVu Sans"))

    def label(ch):
        ch = {" ": "␣", "\t": "⇥"}.get(ch, ch)
        return ch if ch.isprintable() and font.get_char_index(ord(ch)) else f"{ord(ch):04X}"

    return [label(ch) for ch in text]


def plot_attention(model: "Trainer", text: str, path: "str | os.PathLike[str] | None" = None) -> "Figure":
    """Draw where each head of each layer looks while the model reads text: a heat map [from, to] a head.

    model: a Trainer, which knows the characters as well.  text: at most block_size - 1 characters. The labels are its
    characters; BOS stands before them as ·. A row is one position's weights, which sum to 1.
    """
    from .inside import attention

    _figure(1, 1)  # without matplotlib, say so first
    weights = attention(model, text)
    n_layer, n_head, n, _ = weights.shape
    if not n_layer:
        raise ValueError("this model has no layers, so no attention")
    labels = ["·", *_shown(text)]
    size = max(1.9, min(0.21 * n + 0.5, 6))
    figure = _figure(n_head * size + 0.9, n_layer * (size + 0.3) + 0.3)
    grid = figure.subplots(n_layer, n_head, squeeze=False)
    font = max(4, min(9, 150 / n))
    upright = 90 if max(map(len, labels)) > 1 else 0  # numbers of characters would run into each other
    for layer in range(n_layer):
        for head in range(n_head):
            axes = grid[layer][head]
            image = axes.imshow(weights[layer, head], cmap="Blues", vmin=0, vmax=1)
            axes.set_xticks(range(n), labels, fontsize=font, rotation=upright)
            axes.set_yticks(range(n), labels, fontsize=font)
            axes.tick_params(length=0)
            axes.set_title(f"layer {layer}, head {head}", fontsize=9)
            axes.spines[:].set_color("#c5ccd6")
    grid[0][0].set_ylabel("reading", fontsize=9)
    grid[-1][0].set_xlabel("looks back at", fontsize=9)
    figure.colorbar(image, ax=grid, shrink=0.8, aspect=25, pad=0.01, label="weight")
    return _finish(figure, path)


def _apart(x, y, width, height, distance):
    """Places for labels at x, y [n], moved until they are some `distance` points apart on width × height points."""
    import numpy as np

    scale = np.array([width / (np.ptp(x) or 1), height / (np.ptp(y) or 1)]) / 1.16
    places = np.stack([x, y], axis=1) * scale + np.arange(len(x))[:, None] * 1e-6  # no two at the same place
    if len(places) <= 400:  # more would not fit into the picture anyway
        for _ in range(60):
            away = places[:, None] - places
            far = np.hypot(away[..., 0], away[..., 1])
            np.fill_diagonal(far, np.inf)
            push = np.clip(distance - far, 0, None) / far
            places += (away * push[..., None]).sum(axis=1) / 4
    return (places / scale).T


def plot_embeddings(model: "Trainer", path: "str | os.PathLike[str] | None" = None, name: str = "wte") -> "Figure":
    """Draw the rows of an embedding in the plane in which they differ most (their first two principal components).

    model: a Trainer.  name: "wte", whose rows are labelled with their characters (BOS as ·), "wpe", with their
    positions, or "lm_head".
    """
    import numpy as np

    from .inside import weights

    if name not in ("wte", "wpe", "lm_head"):
        raise ValueError(f"name must be wte, wpe or lm_head, not {name!r}")
    _figure(1, 1)  # without matplotlib, say so first
    rows = model._exclusively(weights, model.model)[name]
    labels = [str(i) for i in range(len(rows))] if name == "wpe" else [*_shown(model.tokenizer.uchars), "·"]
    centred = rows - rows.mean(axis=0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    if len(values) < 2:
        values, directions = np.append(values, 0), np.vstack([directions, np.zeros_like(directions)])
    directions = directions[:2] * np.sign(directions[:2][[0, 1], np.abs(directions[:2]).argmax(axis=1)])[:, None]
    x, y = directions @ centred.T
    share = values[:2] ** 2 / ((values**2).sum() or 1)
    figure = _figure(6.4, 5.6)
    axes = figure.add_subplot()
    axes.axhline(0, color="#e6e9ee", linewidth=0.8, zorder=0)
    axes.axvline(0, color="#e6e9ee", linewidth=0.8, zorder=0)
    shown_x, shown_y = _apart(x, y, 410, 350, 14)
    axes.plot([x, shown_x], [y, shown_y], color="#9db8d8", linewidth=0.8, zorder=1)
    axes.scatter(x, y, s=4, color="#9db8d8", zorder=1)
    axes.scatter(shown_x, shown_y, s=190, color="#dbe7f5", edgecolor="#9db8d8", linewidth=0.6, zorder=2)
    for i, label in enumerate(labels):
        style = {"ha": "center", "va": "center", "fontsize": 10 if len(label) < 3 else 6, "color": INK}
        axes.annotate(label, (shown_x[i], shown_y[i]), **style)
    axes.set_xlabel(f"first principal component ({share[0]:.0%} of the variance)")
    axes.set_ylabel(f"second ({share[1]:.0%})")
    axes.set_title(f"{name}: {len(rows)} rows of {rows.shape[1]} numbers", loc="left", fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(0.08)
    return _finish(figure, path)
