"""How Value, GPT and Trainer show themselves in a notebook: as small tables."""
from html import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .._types import AnyGPT, AnyValue
    from ..trainer import Trainer

__all__ = ["gpt_html", "trainer_html", "value_html"]

_STYLE = "border-collapse:collapse;font-family:sans-serif;font-size:13px"
_CELL = "text-align:left;padding:3px 10px;border-bottom:1px solid #dde3ea"


def value_html(value: "AnyValue") -> str:
    """data and grad, the operator and the children's data."""
    from .graph import edges_of, number, operator

    name = operator(value)
    rows = [("data", repr(value.data)), ("grad", repr(value.grad))]
    if name:
        children = [(number(child.data, 6), local) for child, local in edges_of(value)]
        shown = [f"{x} ({'no local gradient' if local is None else f'local gradient {number(local, 6)}'})"
                 for x, local in children]  # fmt: skip
        rows.append((f"computed by {name} from", ", ".join(shown)))
    return _table("Value", rows)


def gpt_html(model: "AnyGPT") -> str:
    """The settings, and name, shape and size of each matrix."""
    from ..config import shapes

    rows = [("parameters", f"{model.num_params:,}")]
    rows += [(name, str(getattr(model, name))) for name in ("vocab_size", "n_embd", "n_head", "n_layer", "block_size")]
    tensors = list(shapes(model.vocab_size, model).items())
    matrices = [(name, f"{nout} × {nin}") for name, (nout, nin) in tensors]
    if len(matrices) > 27:
        matrices[9:-6] = [("…", f"{len(matrices) - 15} more matrices")]
    rows += matrices
    return _table(type(model).__name__, rows)


def trainer_html(trainer: "Trainer") -> str:
    """The step that the run has reached, its settings, and the course of the last losses."""
    from ..config import seed_text

    done = trainer.step_index / trainer.num_steps if trainer.num_steps else 1.0
    rows = [
        ("engine", trainer.engine),
        ("step", f"{trainer.step_index:,} of {trainer.num_steps:,} ({done:.0%})"),
        ("documents", "none" if trainer.docs is None else f"{len(trainer.docs):,}"),
        ("vocabulary", f"{trainer.tokenizer.vocab_size}: {''.join(trainer.tokenizer.uchars)[:80]}"),
        ("seed", seed_text(trainer.seed)),
        *((name, str(value)) for name, value in trainer.settings.items()),
    ]
    if trainer.last_losses:
        rows.append(("last loss", f"{trainer.last_losses[-1]:.4f}"))
    return _table("Trainer", rows) + _sparkline(trainer.last_losses)


def _table(title: str, rows: "Iterable[tuple[str, str]]") -> str:
    cells = "".join(
        f'<tr><th style="{_CELL};font-weight:normal;color:#5a6675">{escape(name)}</th>'
        f'<td style="{_CELL}">{escape(value)}</td></tr>'
        for name, value in rows
    )
    return f'<table style="{_STYLE}"><caption style="text-align:left;font-weight:bold">{escape(title)}</caption>{cells}</table>'


def _sparkline(losses: "Sequence[float]", width: int = 420, height: int = 80) -> str:
    """A small curve of the smoothed losses, or nothing for fewer than two."""
    from .curves import smoothed, thinned

    points = [(x, y) for x, y in thinned(smoothed(losses), 200) if abs(y) < float("inf")]
    if len(points) < 2:
        return ""
    low, high = min(y for _, y in points), max(y for _, y in points)
    spread = (high - low) or 1
    path = " ".join(
        f"{width * x / (len(losses) - 1):.1f},{4 + (height - 8) * (high - y) / spread:.1f}" for x, y in points
    )
    return (
        f'<svg width="{width}" height="{height + 18}" style="font:11px sans-serif" role="img" aria-label="loss">'
        f'<polyline points="{path}" fill="none" stroke="#1f5fa8" stroke-width="1.5"/>'
        f'<text x="0" y="{height + 13}" fill="#5a6675">smoothed loss of the last {len(losses):,} steps: '
        f"{points[0][1]:.3f} to {points[-1][1]:.3f}</text></svg>"
    )
