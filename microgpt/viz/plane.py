"""A projection onto the plane in which rows differ most."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._types import Array

__all__ = ["plane"]


def plane(rows: "Array") -> "tuple[Array, Array]":
    """Return the rows' first two principal components, [2, n], and the share of the variance in each, [2]."""
    import numpy as np

    centred = rows - rows.mean(axis=0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    if len(values) < 2:
        values, directions = np.append(values, 0), np.vstack([directions, np.zeros_like(directions)])
    directions = directions[:2] * np.sign(directions[:2][[0, 1], np.abs(directions[:2]).argmax(axis=1)])[:, None]
    return directions @ centred.T, values[:2] ** 2 / ((values**2).sum() or 1)
