"""Curves of a run: a moving average, and fewer points if there are more than can be seen."""
import math

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["smoothed", "thinned"]


def smoothed(losses: "Iterable[float]", keep: "float | None" = None) -> "list[float]":
    """Return an exponential moving average: each step is weighed by keep ** age, and the weights sum to 1.

    keep: by default what looks back over a twentieth of the run, at least 5 steps and at most 100. Steps whose loss is
    not finite leave the average as it was.
    """
    losses = list(map(float, losses))
    if keep is None:
        keep = 1 - 1 / min(100, max(5, len(losses) / 20))
    found, total, weight = [], 0.0, 0.0
    for loss in losses:
        if math.isfinite(loss):
            total = keep * total + (1 - keep) * loss
            weight = keep * weight + (1 - keep)
        found.append(total / weight if weight else math.nan)
    return found


def thinned(values: "Iterable[float]", most: int) -> "list[tuple[int, float]]":
    """Return (index, value) of about most values: of each stretch the lowest and the highest, in their order."""
    values = list(map(float, values))
    n = len(values)
    if n <= most:
        return list(enumerate(values))
    found, stretches = [(0, values[0])], max(1, most // 2)
    for i in range(stretches):
        stretch = [j for j in range(i * n // stretches, (i + 1) * n // stretches) if math.isfinite(values[j])]
        if stretch:
            ends = {min(stretch, key=values.__getitem__), max(stretch, key=values.__getitem__)}
            found += [(j, values[j]) for j in sorted(ends) if j != 0]
    if found[-1][0] != n - 1:
        found.append((n - 1, values[n - 1]))
    return found
