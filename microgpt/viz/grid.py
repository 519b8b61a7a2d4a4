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
LARGEST = 1e100  # that a chart has a place for: matplotlib computes powers of what is on an axis; a seed may be any number
FEW_LINES = 6  # whose legend has room beside them


def plot_sweep(results: "Iterable[Any]", x: "str | None" = None, path: "Path | None" = None, title: str = "") -> "Figure":
    """Draw the loss of each run of a sweep over one setting, and the mean over the seeds as a line.

    Where runs failed or diverged, there is a cross at the upper edge; the mean is that of the others.

    Parameters
    ----------
    results : iterable of SweepResult
    x : str, optional
        The setting along the axis: by default the one of numbers, beside the seed, with the most values, or one of words if
        there is none. There is a line for each combination of the other settings that differ.
    path : path, optional
        A .png, .svg or .pdf file to write.
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If no run can be drawn, or x is not a setting.
    ImportError
        Without matplotlib.
    """
    need_matplotlib()
    from .figures import Picture, default_settings

    every = [*results]
    drawn = [r for r in every if r.error is None and math.isfinite(r.score)]
    if not drawn:
        raise ValueError("there is no run to draw: all of them failed or diverged")
    varied = _varied(drawn)
    if x is None:
        x = max(varied, key=lambda name: (all(map(_is_number, varied[name])), len(varied[name])), default="seed")
    if x not in drawn[0].settings:
        raise ValueError(f"x must be a setting, not {x!r}")
    others = [name for name in varied if name != x]
    has_numbers = all(_is_number(r.settings[x]) for r in drawn)
    values = [r.settings[x] for r in drawn]
    is_log = has_numbers and min(values) > 1 / LARGEST and max(values) >= 4 * min(values)
    shown = [r for r in every if not has_numbers or _is_number(r.settings[x]) and (r.settings[x] > 0 or not is_log)]
    found = sorted({r.settings[x] for r in shown}, key=_order)
    place = {value: float(value) if has_numbers else i for i, value in enumerate(found)}
    lines: dict[tuple[Any, ...], dict[float, list[float]]] = {}
    for result in sorted(drawn, key=lambda r: [_order(r.settings[name]) for name in (*others, x)]):
        line = lines.setdefault(tuple(result.settings[name] for name in others), {})
        line.setdefault(place[result.settings[x]], []).append(result.score)
    lost = sorted({place[r.settings[x]] for r in shown if r.error is not None or not math.isfinite(r.score)})
    labels = [", ".join(f"{name} {_words(value)}" for name, value in zip(others, values)) for values in lines]
    has_seeds = any(len(scores) > 1 for line in lines.values() for scores in line.values())
    columns = 1 + len(lines) // 25
    with default_settings():
        width = 8 + 0.06 * columns * (max(map(len, labels)) + 8) * (len(lines) > FEW_LINES)
        figure = Picture(width, 4.6)
        axes = figure.add_subplot()
        for i, (label, line) in enumerate(zip(labels, lines.values())):
            color, style = COLORS[i % len(COLORS)], ("-", "--", ":", "-.")[i // len(COLORS) % 4]
            means = [math.fsum(scores) / len(scores) for scores in line.values()]
            axes.plot([*line], means, color=color, linestyle=style, marker="o", markersize=4, linewidth=1.6,
                      label=label or ("mean over the seeds" if has_seeds else "loss"))  # fmt: skip
            each = [(at, score) for at, scores in line.items() if len(scores) > 1 for score in scores]
            if each:
                x_of, y_of = zip(*each)
                axes.scatter(x_of, y_of, s=10, color=color, alpha=0.35, linewidths=0)
        if lost:
            axes.plot(lost, [1.0] * len(lost), "x", color=GREY, transform=axes.get_xaxis_transform(), clip_on=False,
                      label="failed or diverged")  # fmt: skip
        if is_log:
            axes.set_xscale("log")
        if len(place) <= 12 or not has_numbers:
            axes.set_xticks([*place.values()], [_words(value) for value in found])
            axes.set_xticks([], minor=True)
        what = "validation loss" if all(r.val_loss is not None for r in drawn) else "loss of the last tenth of the steps"
        style_axes(axes, x, f"{what} (nats)", title)
        if len(lines) > FEW_LINES:
            axes.legend(frameon=False, fontsize=8, ncols=columns, loc="center left", bbox_to_anchor=(1.01, 0.5))
        elif others or lost or has_seeds:
            axes.legend(frameon=False, fontsize=9)
        return figure.written_to(path)


def _is_number(value: object) -> bool:
    """Return whether a chart has a place for a value by its size."""
    return isinstance(value, (int, float)) and abs(value) < LARGEST


def _order(value: "Any") -> "tuple[bool, Any]":
    """Return what numbers are sorted by, and words after them."""
    return (False, value) if isinstance(value, (int, float)) else (True, f"{value}")


def _words(value: "Any") -> str:
    """Return the value of a setting as a chart shows it."""
    words = "off" if value is None else f"{value:g}" if _is_number(value) else f"{value}"
    return words if len(words) <= 20 else f"{words[:9]}...{words[-8:]}"


def _varied(results: "Sequence[Any]") -> "dict[str, set[Any]]":
    """Return the settings beside the seed that differ between results, with their values."""
    names = [name for name in results[0].settings if name != "seed"]
    values = {name: {result.settings[name] for result in results} for name in names}
    return {name: found for name, found in values.items() if len(found) > 1}
