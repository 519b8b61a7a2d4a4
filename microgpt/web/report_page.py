"""The page of a report: HTML with its style, its script and its pictures (SVG) inside."""
import json
import math
import os
from html import escape

from ..storage.runlog import Comparison, facts
from ..viz.curves import smoothed, thinned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeAlias

    Record: TypeAlias = dict[str, Any]
    Run: TypeAlias = list[Record]  # a log: one record per step
    Names: TypeAlias = Sequence[str]
    Runs: TypeAlias = Sequence[Run]
    Curve: TypeAlias = tuple[str, str, Sequence[tuple[float, float]]]  # label, CSS class, points

__all__ = ["GENERATOR", "page"]

#: By which the command knows its own pages.
GENERATOR = '<meta name="generator" content="microgpt.report">'
_HERE = os.path.dirname(os.path.abspath(__file__))
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 920, 52, 22, 10, 26
_POINTS = 1600  # of a curve, at most


def page(names: "Sequence[str]", runs: "Sequence[list[dict[str, Any]]]", comparison: "Comparison | None") -> str:
    """Return the whole page for one log or two.

    Parameters
    ----------
    names : sequence of str
        What to call the logs. All text, theirs included, is escaped.
    runs : sequence of lists of dict
        What `microgpt.storage.runlog.read_log` returned for each.
    comparison : Comparison or None
        Of two logs.

    Returns
    -------
    str
        HTML that loads nothing.
    """
    title = " and ".join(names)
    sections = [f"<h1>{escape(title)}</h1>", _summary(names, runs)]
    if comparison:
        verdict = "same" if comparison.same else "differ"
        sections.append(f'<p class="verdict {verdict}" id="verdict">{escape(_sentence(str(comparison)))}</p>')
        if len(comparison.tensors) > 1:
            tensors = ", ".join(f"<code>{escape(name)}</code>" for name in comparison.tensors)
            sections.append(f"<p>Tensors that differ after step {comparison.first_digest}: {tensors}.</p>")
    sections += [_losses(names, runs), _rates(names, runs), _samples(names, runs), _attention(names, runs)]
    sections.append(_facts(names, runs, comparison))
    with open(os.path.join(_HERE, "report.css"), encoding="utf-8") as file:
        style = file.read()
    with open(os.path.join(_HERE, "report.js"), encoding="utf-8") as file:
        script = file.read()
    body = "\n".join(filter(None, sections))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{GENERATOR}\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n{body}\n"
        f"<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _embedded(data: "Any", name: str) -> str:
    """Data for the script; no text in it can end the element."""
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" class="{name}">{text}</script>'


def _loss(record: "Record", name: str = "loss") -> float:
    value = record.get(name)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def _summary(names: "Names", runs: "Runs") -> str:
    lines = []
    for name, records in zip(names, runs):
        last, run = records[-1], facts(records)
        text = (
            f"step {last['step']} of {run.get('num_steps', '?')}, {run.get('engine', '?')} engine, "
            f"{run.get('num_params', '?')} parameters, {run.get('docs', '?')} documents of {run.get('text', '?')}; "
            f"last loss {_loss(last):.4f}"
        )
        label = f"<b>{escape(name)}</b>: " if len(names) > 1 else ""
        lines.append(f'<p class="summary">{label}{escape(text)}</p>')
    return "\n".join(lines)


def _losses(names: "Names", runs: "Runs") -> str:
    curves: list[Curve] = []
    for number, (name, records) in enumerate(zip(names, runs)):
        prefix = f"{name}: " if len(runs) > 1 else ""
        steps, losses = [r["step"] for r in records], [_loss(r) for r in records]
        if len(runs) == 1:
            curves.append(("loss of each step", "each", [(steps[i], y) for i, y in thinned(losses, _POINTS)]))
        average = [(steps[i], y) for i, y in thinned(smoothed(losses), _POINTS)]
        curves.append((prefix + "moving average of the loss", f"average{number}", average))
        measured = [(r["step"], _loss(r, "val_loss")) for r in records if "val_loss" in r]
        if measured:
            curves.append((prefix + "validation loss", f"val{number}", measured))
    return f"<h2>Loss</h2>\n<p class=\"summary\">In nats a token.</p>\n{_chart('loss', curves, 330)}"


def _rates(names: "Names", runs: "Runs") -> str:
    curves: list[Curve] = []
    for number, (name, records) in enumerate(zip(names, runs)):
        rates = [_loss(r, "learning_rate") for r in records]
        points = [(records[i]["step"], y) for i, y in thinned(rates, 300)]
        curves.append((f"{name}: learning rate" if len(runs) > 1 else "learning rate", f"rate{number}", points))
    return _chart("rates", curves, 130, from_zero=True)


def _ticks(low: float, high: float, about: int, least: float = 0.0) -> "list[float]":
    """Round numbers between low and high, at least `least` apart."""
    span = (high - low) or 1.0
    size = 10.0 ** math.floor(math.log10(span / about))
    step = max(least, next(size * m for m in (1, 2, 5, 10) if span / (size * m) <= about))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, int(math.floor(high / step + 1e-9)) + 1)]


def _chart(name: str, curves: "Sequence[Curve]", height: int, from_zero: bool = False) -> str:
    """An SVG of (label, class, [(x, y)]) curves with axes and a legend, and its numbers for the script."""
    shown = []
    for label, kind, points in curves:
        finite = [(x, y) for x, y in points if math.isfinite(y)]
        shown.append((label, f"{kind} few" if len(finite) <= 300 else kind, finite))
    xs, ys = [x for _, _, points in shown for x, _ in points], [y for _, _, points in shown for _, y in points]
    if not xs:
        return "<p>There is no finite number to draw.</p>"
    x0, x1 = min(xs), max(xs)
    low, high = (0.0 if from_zero else min(ys)), max(ys)
    # A few hard documents may not squeeze everything else into a line.
    if any(kind.startswith("each") for _, kind, _ in shown) and len(ys) > 50:
        high = sorted(ys)[int(0.998 * (len(ys) - 1))]
    room = 0.04 * (high - low) or 0.5
    low, high = (low if from_zero else low - room), high + room
    wide, tall = _WIDTH - _LEFT - _RIGHT, height - _TOP - _BOTTOM

    def at(x: float, y: float) -> "tuple[float, float]":
        return _LEFT + wide * (x - x0) / ((x1 - x0) or 1), _TOP + tall * (high - y) / (high - low)

    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(name)}">',
        f'<clipPath id="clip-{name}"><rect x="{_LEFT}" y="{_TOP}" width="{wide}" height="{tall}"/></clipPath>',
    ]
    for y in _ticks(low, high, 6 if height > 200 else 3):
        _, py = at(x0, y)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + wide}" y1="{py:.1f}" y2="{py:.1f}"/>'
                     f'<text class="tick" x="{_LEFT - 7}" y="{py + 4:.1f}" text-anchor="end">{y:g}</text>')  # fmt: skip
    parts.append(f'<text class="tick" x="0" y="{height - 8}">step</text>')
    for x in _ticks(x0, x1, 10, least=1):
        px, _ = at(x, low)
        parts.append(f'<text class="tick" x="{px:.1f}" y="{height - 8}" text-anchor="middle">{x:,.0f}</text>')
    for _, kind, points in shown:
        places = [at(x, y) for x, y in points]
        line = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
        parts.append(f'<polyline class="curve {kind}" clip-path="url(#clip-{name})" points="{line}"/>')
        if kind.startswith("val") or len(points) == 1:  # a line needs two ends to be seen
            parts += [f'<circle class="dot {kind}" cx="{px:.1f}" cy="{py:.1f}" r="2.6"/>' for px, py in places]
    parts.append(f'<line class="cursor" y1="{_TOP}" y2="{_TOP + tall}" visibility="hidden"/></svg>')
    legend = "".join(
        f'<span class="key"><svg width="22" height="10"><line class="curve {kind}" x1="1" x2="21" y1="5" y2="5"/></svg>'
        f'{escape(label)} <output></output></span>'
        for label, kind, _ in shown
    )
    data = {"x0": x0, "x1": x1, "left": _LEFT, "wide": wide, "width": _WIDTH,
            "curves": [[[x, float(f"{y:.6g}")] for x, y in points] for _, _, points in shown]}  # fmt: skip
    return (
        f'<figure class="plot" id="{name}"><figcaption>{legend}<span class="at"></span></figcaption>'
        f"{''.join(parts)}{_embedded(data, 'data')}</figure>"
    )


def _samples(names: "Names", runs: "Runs") -> str:
    tables = []
    for name, records in zip(names, runs):
        looks = [r for r in records if isinstance(r.get("samples"), list)]
        rows = ""
        for r in looks:
            cells = "".join(f"<td>{escape(str(text))}</td>" for text in r["samples"])
            rows += f'<tr><td class="step">{r["step"]:,}</td>{cells}</tr>'
        if rows:
            caption = f"<caption>{escape(name)}</caption>" if len(runs) > 1 else ""
            tables.append(f'<table class="samples">{caption}<tr><th>after step</th></tr>{rows}</table>')
    if not tables:
        return ""
    explained = "<p>Each row is drawn with the same random numbers: what differs is the model.</p>"
    return "\n".join(["<h2>Samples over time</h2>", explained, *tables])


def _attention(names: "Names", runs: "Runs") -> str:
    figures = []
    for name, records in zip(names, runs):
        looks = [r for r in records if isinstance(r.get("attention"), dict)]
        looks = [r for r in looks if _is_attention(r["attention"])]
        if looks:
            last = looks[-1]["attention"]
            looks = [r for r in looks if _shape(r["attention"]) == _shape(last)]
            caption = f"<b>{escape(name)}</b>" if len(runs) > 1 else ""
            weights = [[w for head in _heads(r["attention"]) for row in head for w in row] for r in looks]
            data = {"steps": [r["step"] for r in looks], "weights": weights}
            end = len(looks) - 1
            figures.append(
                f'<figure class="attention"><figcaption>{caption}<span>after step <output>{looks[-1]["step"]}</output>'
                f'</span> <input type="range" min="0" max="{end}" value="{end}" aria-label="step"></figcaption>'
                f"{_heat_maps(last)}{_embedded(data, 'data')}</figure>"
            )
    if not figures:
        return ""
    return (
        "<h2>Attention</h2>\n<p>While the model reads the character of a row, it looks back at the characters above "
        "the columns: the stronger the colour, the more. · is the beginning of the document.</p>\n" + "\n".join(figures)
    )


def _heads(attention: "Record") -> "list[Any]":
    return [head for layer in attention["weights"] for head in layer]


def _shape(attention: "Record") -> "Any":
    return attention["text"], [[len(head) for head in layer] for layer in attention["weights"]]


def _is_attention(attention: "Record") -> bool:
    """Whether it is [layer][head] of lower triangles as large as the text: a log may come from anywhere."""
    try:
        n = len(attention["text"]) + 1
        return isinstance(attention["text"], str) and bool(_heads(attention)) and all(
            [len(row) for row in head] == list(range(1, n + 1)) and all(0 <= w <= 1.01 for row in head for w in row)
            for head in _heads(attention)
        )  # fmt: skip
    except (TypeError, LookupError):
        return False


def _heat_maps(attention: "Record") -> str:
    text, cell = attention["text"], 15 if len(attention["text"]) < 14 else 11
    labels = ["·", *("␣" if ch == " " else ch if ch.isprintable() else "?" for ch in text)]
    n, maps = len(labels), []
    size = n * cell
    for i, layer in enumerate(attention["weights"]):
        for j, head in enumerate(layer):
            parts = [f'<svg width="{size + 18}" height="{size + 36}" role="img" aria-label="layer {i}, head {j}">'
                     f'<text class="tick" x="18" y="11">layer {i}, head {j}</text>']  # fmt: skip
            for t, label in enumerate(labels):
                middle = t * cell + cell / 2
                for x, y in ((18 + middle, 28), (9, 37 + middle)):
                    parts.append(f'<text class="tick" x="{x}" y="{y}" text-anchor="middle">{escape(label)}</text>')
            for p, row in enumerate(head):
                for t, weight in enumerate(row):
                    parts.append(f'<rect class="cell" x="{18 + t * cell}" y="{33 + p * cell}" width="{cell - 1}" '
                                 f'height="{cell - 1}" fill-opacity="{weight}"><title>{escape(labels[p])} looks at '
                                 f"{escape(labels[t])}: {weight}</title></rect>")  # fmt: skip
            maps.append("".join(parts) + "</svg>")
    return f'<div class="maps">{"".join(maps)}</div>'


def _facts(names: "Names", runs: "Runs", comparison: "Comparison | None") -> str:
    columns = [facts(records) for records in runs]
    differing = comparison.settings if comparison else {}
    rows = "".join(
        f"<tr{' class=differs' if name in differing else ''}><th>{escape(name)}</th>"
        + "".join(f"<td>{escape(column.get(name, ''))}</td>" for column in columns)
        + "</tr>"
        for name in {name: None for column in columns for name in column}
    )
    head = ""
    if len(runs) > 1:
        head = f"<tr><th></th>{''.join(f'<td><b>{escape(name)}</b></td>' for name in names)}</tr>"
    resumed = [f"<p>{escape(name)} was resumed after step {r['step'] - 1:,}.</p>"
               for name, records in zip(names, runs) for r in records[1:] if "run" in r]  # fmt: skip
    return f"<h2>Settings and machine</h2>\n{''.join(resumed)}<table class=\"facts\">{head}{rows}</table>"
