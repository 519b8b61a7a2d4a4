"""A picture of a sweep: the loss over a grid of settings, by matplotlib, which the extra `plot` installs."""
import math

from .plots import BLUE, GREEN, GREY, ORANGE, need_matplotlib, style_axes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from matplotlib.figure import Figure

    from .._types import Path

__all__ = ["plot_sweep"]

COLORS = (BLUE, ORANGE, GREEN, "#8a4fa3", "#b5892f", "#2f8f9d", "#c0392b", GREY)


def plot_sweep(results: "Iterable[Any]", x: "str | None" = None, path: "Path | None" = None, title: str = "") -> "Figure":
    """Draw the loss of each run of a sweep over one setting, and the mean over the seeds as a line.

    Parameters
    ----------
    results : iterable of SweepResult
        Runs that failed or diverged are left out.
    x : str, optional
        The setting along the axis: by default the one of numbers, beside the seed, with the most values. There is a line for each
        combination of the other settings that differ.
    path : path, optional
        A .png, .svg or .pdf file to write.
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If no run can be drawn, or x is not a setting that is a number in every run.
    ImportError
        Without matplotlib.
    """
    need_matplotlib()
    from .figures import Picture, default_settings

    drawn = [r for r in results if r.error is None and math.isfinite(r.score)]
    if not drawn:
        raise ValueError("there is no run to draw: all of them failed or diverged")
    varied = _varied(drawn)
    if x is None:
        numbers = [name for name, values in varied.items() if all(isinstance(value, (int, float)) for value in values)]
        x = max(numbers, key=lambda name: len(varied[name])) if numbers else "seed"
    if not all(isinstance(r.settings.get(x), (int, float)) for r in drawn):
        raise ValueError(f"x must be a setting that is a number, not {x!r}")
    others = [name for name in varied if name != x]
    lines: dict[tuple[Any, ...], dict[float, list[float]]] = {}
    for result in sorted(drawn, key=lambda r: [(v is not None, v) for v in map(r.settings.get, [*others, x])]):
        line = lines.setdefault(tuple(result.settings[name] for name in others), {})
        line.setdefault(float(result.settings[x]), []).append(result.score)
    with default_settings():
        figure = Picture(8, 4.6)
        axes = figure.add_subplot()
        for i, (values, line) in enumerate(lines.items()):
            color, style = COLORS[i % len(COLORS)], ("-", "--", ":", "-.")[i // len(COLORS) % 4]
            parts = [f"{name} {_words(value)}" for name, value in zip(others, values)]
            label = ", ".join(parts) or "mean over the seeds"
            means = [math.fsum(scores) / len(scores) for scores in line.values()]
            axes.plot([*line], means, color=color, linestyle=style, marker="o", markersize=4, linewidth=1.6, label=label)
            each = [(at, score) for at, scores in line.items() if len(scores) > 1 for score in scores]
            if each:
                x_of, y_of = zip(*each)
                axes.scatter(x_of, y_of, s=10, color=color, alpha=0.35, linewidths=0)
        places = sorted({at for line in lines.values() for at in line})
        if places[0] > 0 and places[-1] >= 4 * places[0]:
            axes.set_xscale("log")
        if len(places) <= 12:
            axes.set_xticks(places, [f"{at:g}" for at in places])
            axes.set_xticks([], minor=True)
        what = "validation loss" if all(r.val_loss is not None for r in drawn) else "loss of the last tenth of the steps"
        style_axes(axes, x, f"{what} (nats)", title)
        if others or any(len(scores) > 1 for line in lines.values() for scores in line.values()):
            axes.legend(frameon=False, fontsize=9, ncols=1 + (len(lines) > 6))
        return figure.written_to(path)


def _words(value: "str | float | None") -> str:
    """Return the value of a setting as a legend shows it."""
    return "off" if value is None else value if isinstance(value, str) else f"{value:g}"


def _varied(results: "Sequence[Any]") -> "dict[str, set[Any]]":
    """Return the settings beside the seed that differ between results, with their values."""
    names = [name for name in results[0].settings if name != "seed"]
    values = {name: {result.settings[name] for result in results} for name in names}
    return {name: found for name, found in values.items() if len(found) > 1}
