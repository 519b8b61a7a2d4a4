"""Pictures of a run and of what a model has learned, by matplotlib, which the extra `plot` installs.

The functions return a matplotlib Figure that a notebook shows, and write it to `path` where one is given. They raise
ImportError where matplotlib is missing, and draw the same picture whatever matplotlib's settings and backend are.
"""
import math
import os
import sys

from .curves import smoothed
from .plane import plane

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from matplotlib.figure import Figure

    from .._types import AnyGPT, Array, Path
    from ..trainer import Trainer

__all__ = ["need_matplotlib", "plot_attention", "plot_embeddings", "plot_loss", "style_axes"]

INK, RULE, FAINT, GREY = "#222222", "#e6e9ee", "#c0c9d5", "#8f9dae"
BLUE, ORANGE, GREEN = "#1f5fa8", "#d9631e", "#3a8f5c"


def need_matplotlib() -> None:
    """Import matplotlib, whatever backend is set. Raises ImportError, in one line, where it is missing or broken."""
    # A notebook sets MPLBACKEND for its children, too. Where what it names is not installed, `import matplotlib` raises;
    # no picture of ours needs a backend. So what the import would do with it is done after it, and may fail.
    backend = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib  # by itself: of a missing one, the next line would say that it is not a package
        import matplotlib.figure
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise ImportError(f"drawing needs matplotlib, but matplotlib cannot be imported: {error}") from None
        message = "drawing needs matplotlib, which is not installed: pip install 'microgpt-exact[plot]'"
        raise ModuleNotFoundError(message, name="matplotlib") from None
    except (ImportError, AttributeError, ValueError) as error:  # made for another Python or another NumPy
        what = str(error).strip().partition("\n")[0]
        raise ImportError(f"drawing needs matplotlib, but matplotlib cannot be imported: {what}") from None
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        try:
            matplotlib.rcParams["backend"] = backend
        except ValueError:
            pass


def style_axes(axes: "Any", x_label: str, y_label: str, title: str, grid: bool = True, pad: float = 6) -> None:
    """Give axes their labels, and what all charts have in common: no frame above and to the right, a faint grid below.

    pad: points between the axes and their title, for a legend.
    """
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title, loc="left", fontsize=10, color=INK, pad=pad)
    if grid:
        axes.grid(True, color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _numbers(name: str, values: "Iterable[float]") -> "list[float]":
    """Return values as a list of floats, from a list, an array, an iterator or another iterable of numbers."""
    from ..config import real_number

    try:
        return [float(x) if isinstance(x, bool) else real_number(name, x) for x in values]
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a sequence of numbers") from None


def _drawable(numbers: "list[float]") -> "list[float]":
    """Return numbers with nan, which matplotlib leaves out, for those so large that it would compute with infinities."""
    return [x if abs(x) < 1e300 else math.nan for x in numbers]


def _dots(numbers: "list[float]") -> "dict[str, Any]":
    """Return the style that marks numbers without a neighbour: a line needs two ends to be seen."""
    finite = [False, *map(math.isfinite, numbers), False]
    alone = [i for i in range(len(numbers)) if finite[i + 1] and not finite[i] and not finite[i + 2]]
    return {"marker": "o", "markevery": alone} if alone else {}


def _pairs(values: "Iterable[tuple[float, float]]") -> "tuple[list[float], list[float]]":
    try:
        found = [(step, loss) for step, loss in (_numbers("validation", pair) for pair in values)]
        return [step for step, _ in found], [loss for _, loss in found]
    except (TypeError, ValueError):
        raise TypeError("validation must be a sequence of pairs (step, loss)") from None


def _limits(losses: "list[float]", measured: "list[float]") -> "tuple[float, float] | None":
    """Return the range in which the losses are drawn, or None if none is finite."""
    finite, measured = sorted(filter(math.isfinite, losses)), list(filter(math.isfinite, measured))
    if not finite:
        return None
    # A few hard documents may not squeeze everything else into a line.
    low, high = min([finite[0], *measured]), max([finite[math.ceil(0.995 * (len(finite) - 1))], *measured])
    room = 0.06 * (high - low)
    if not room > 1e-9 * max(abs(low), abs(high)):  # a line that is flat, for all that can be seen
        room = max(0.5, 0.06 * abs(high))
    return low - room, high + room


def plot_loss(
    losses: "Iterable[float]",
    validation: "Iterable[tuple[float, float]]" = (),
    learning_rates: "Iterable[float]" = (),
    first_step: int = 1,
    path: "Path | None" = None,
    title: str = "",
) -> "Figure":
    """Draw the loss of each step and its moving average, validation losses and the learning rate.

    Parameters
    ----------
    losses, learning_rates : iterable of float
        One number per step, [n]; those that are not finite are left out. learning_rates may be empty.
    validation : iterable of (int, float)
        (step, loss) of each measurement.
    first_step : int
        The step of the first loss.
    path : path, optional
        A .png, .svg or .pdf file to write.
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError
        For what is not a number.
    ValueError
        If there are learning_rates, but not as many as losses.
    ImportError
        Without matplotlib.
    """
    need_matplotlib()
    from matplotlib.ticker import MaxNLocator

    from .figures import Picture, default_settings

    losses, learning_rates = _numbers("losses", losses), _numbers("learning_rates", learning_rates)
    at, measured = _pairs(validation)
    if learning_rates and len(learning_rates) != len(losses):
        raise ValueError(f"{len(learning_rates)} learning_rates do not fit {len(losses)} losses")
    losses, learning_rates, measured = map(_drawable, (losses, learning_rates, measured))
    steps = range(first_step, first_step + len(losses))
    average, few = smoothed(losses), len(losses) <= 300
    with default_settings():
        figure = Picture(8, 4.6)
        axes = figure.add_subplot()
        color, width = (GREY, 1.0) if few else (FAINT, 0.6)
        handles = axes.plot(steps, losses, color=color, linewidth=width, label="loss of each step", **_dots(losses))
        handles += axes.plot(steps, average, color=BLUE, linewidth=1.8, label="moving average", **_dots(average))
        if measured:
            style: dict[str, Any] = {"color": ORANGE, "marker": "o", "markersize": 3.5, "linewidth": 1.4}
            handles += axes.plot(at, measured, label="validation", **style)
        style_axes(axes, "step", "loss (nats per token)", title, pad=24)
        axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True, min_n_ticks=1))
        limits = _limits(losses, measured)
        if limits:
            axes.set_ylim(*limits)
        if learning_rates:
            right = axes.twinx()
            style = {"color": GREEN, "linewidth": 1, "linestyle": "--", **_dots(learning_rates)}
            handles += right.plot(steps, learning_rates, label="learning rate", **style)
            right.set_ylabel("learning rate", color=GREEN)
            right.tick_params(axis="y", colors=GREEN)
            right.set_ylim(0, (max(filter(math.isfinite, learning_rates), default=1) or 1) * 1.05)
            right.spines["top"].set_visible(False)
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=4, frameon=False, fontsize=9)
        return figure.written_to(path)


def _shown(text: "Iterable[str]") -> "list[str]":
    """Return the characters of text as labels: what cannot be seen, or is not in matplotlib's font, by its number."""
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    font = FT2Font(findfont("DejaVu Sans"))

    def label(ch: str) -> str:
        ch = {" ": "␣", "\t": "⇥"}.get(ch, ch)
        return ch if ch.isprintable() and font.get_char_index(ord(ch)) else f"{ord(ch):04X}"

    return [label(ch) for ch in text]


def _labels(model: "Trainer | AnyGPT") -> "list[str]":
    """Return a label for each token id: its character if model knows it, else the id; · for BOS."""
    from .activations import gpt_of, is_trainer

    known = _shown(model.tokenizer.uchars) if is_trainer(model) else map(str, range(gpt_of(model).vocab_size - 1))
    return [*known, "·"]


def plot_attention(
    model: "Trainer | AnyGPT", text: "str | Iterable[int]", path: "Path | None" = None
) -> "Figure":
    """Draw the attention weights of each head of each layer over text: one heat map [from, to] per head.

    The labels are the characters of text, or the ids; BOS comes first, as ·. A row is one position's weights, which sum
    to 1.

    Parameters
    ----------
    model : Trainer or GPT
        A Trainer knows the characters as well.
    text : str or iterable of int
        At most block_size - 1 characters or, for a GPT, token ids without BOS.
    path : path, optional
        A .png, .svg or .pdf file to write.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        For a text that is too long, a character or an id that is not in the vocabulary, or a model without layers.
    TypeError
        For a str with a GPT.
    ImportError
        Without matplotlib.
    """
    need_matplotlib()
    from .activations import forward, tokens_of
    from .figures import Picture, default_settings

    tokens = tokens_of(model, text)
    weights = forward(model, tokens)["attention"]
    n_layer, n_head, n, _ = weights.shape
    if not n_layer:
        raise ValueError("this model has no layers, so no attention")
    size = max(1.9, min(0.21 * n + 0.5, 6))
    font = max(4, min(9, 150 / n))
    with default_settings():
        names = _labels(model)
        labels = [names[i] for i in tokens]
        upright = 90 if max(map(len, labels)) > 1 else 0  # numbers of characters would run into each other
        figure = Picture(n_head * size + 0.9, n_layer * (size + 0.3) + 0.3)
        grid = figure.subplots(n_layer, n_head, squeeze=False)
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
        return figure.written_to(path)


def _apart(x: "Array", y: "Array", width: float, height: float, distance: float) -> "Array":
    """Return places for labels at x, y [n], moved until they are about distance points apart on width × height points."""
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
    found: Array = (places / scale).T
    return found


def plot_embeddings(model: "Trainer | AnyGPT", path: "Path | None" = None, name: str = "wte") -> "Figure":
    """Draw the rows of an embedding, projected onto their first two principal components.

    Parameters
    ----------
    model : Trainer or GPT
    path : path, optional
        A .png, .svg or .pdf file to write.
    name : {"wte", "lm_head", "wpe"}
        Rows of "wte" and "lm_head" are labelled with their characters (with token ids, if model is a GPT; BOS as ·), those
        of "wpe" with their positions.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        For another name.
    ImportError
        Without matplotlib.
    """
    need_matplotlib()
    from .activations import weights
    from .figures import Picture, default_settings

    if name not in ("wte", "wpe", "lm_head"):
        raise ValueError(f"name must be wte, wpe or lm_head, not {name!r}")
    rows = weights(model)[name]
    (x, y), share = plane(rows)
    with default_settings():
        labels = [str(i) for i in range(len(rows))] if name == "wpe" else _labels(model)
        figure = Picture(6.4, 5.6)
        axes = figure.add_subplot()
        axes.axhline(0, color=RULE, linewidth=0.8, zorder=0)
        axes.axvline(0, color=RULE, linewidth=0.8, zorder=0)
        shown_x, shown_y = _apart(x, y, 410, 350, 14)
        axes.plot([x, shown_x], [y, shown_y], color="#9db8d8", linewidth=0.8, zorder=1)
        axes.scatter(x, y, s=4, color="#9db8d8", zorder=1)
        axes.scatter(shown_x, shown_y, s=190, color="#dbe7f5", edgecolor="#9db8d8", linewidth=0.6, zorder=2)
        for i, label in enumerate(labels):
            style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 10 if len(label) < 3 else 6, "color": INK}
            axes.annotate(label, (shown_x[i], shown_y[i]), **style)
        x_label, y_label = f"first principal component ({share[0]:.0%} of the variance)", f"second ({share[1]:.0%})"
        style_axes(axes, x_label, y_label, f"{name}: {len(rows)} rows of {rows.shape[1]} numbers", grid=False)
        axes.margins(0.08)
        return figure.written_to(path)
