"""Figures without a window, without pyplot, and without the user's settings.

Needs matplotlib: `microgpt.viz.plots.need_matplotlib` imports it, or says what is missing.
"""
import os
from contextlib import contextmanager
from threading import RLock

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .._types import Path

__all__ = ["Picture", "default_settings"]

#: matplotlib's settings belong to the process. Without the lock, a thread would restore what another has set.
_settings_lock = RLock()


@contextmanager
def default_settings() -> "Iterator[None]":
    """A context with matplotlib's own settings, whatever matplotlibrc or the program says; restores them afterwards.

    The user's settings may make a picture unreadable (dark axes) or impossible (`text.usetex` without LaTeX).
    """
    with _settings_lock, matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


class Picture(Figure):
    """A Figure that shows itself in a notebook and is the same whenever it is drawn.

    Make it, and what is on it, inside `default_settings()`.
    """

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(self)

    # Some of a figure is made when it is drawn: ticks, for example.
    def draw(self, renderer: "Any") -> None:
        with default_settings():
            super().draw(renderer)

    def savefig(self, fname: "Any", **options: "Any") -> None:
        with default_settings():
            super().savefig(fname, **options)

    def written_to(self, path: "Path | None") -> "Picture":
        """Write the picture to a file, atomically, in the format of its suffix; None: nowhere. Return the picture."""
        if path is not None:
            from io import BytesIO

            from ..files import write_atomically

            file = BytesIO()
            self.savefig(file, format=os.path.splitext(os.fspath(path))[1][1:] or "png", dpi=150)
            write_atomically(path, file.getvalue())
        return self

    def _repr_png_(self) -> bytes:
        from io import BytesIO

        file = BytesIO()
        self.savefig(file, format="png", dpi=110)
        return file.getvalue()
