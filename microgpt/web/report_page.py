"""The page of a report: one HTML file with its style, its scripts and its data inside.

Python writes what is text; chart.js, which the page of `microgpt play` has too, draws the rest from a block of JSON.
"""
import json
import math
import os
from html import escape

from ..storage.runlog import facts
from ..viz.curves import smoothed, thinned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, TypeAlias

    from ..storage.runlog import Comparison

    Record: TypeAlias = dict[str, Any]
    Run: TypeAlias = list[Record]  # a log: one record per step
    Names: TypeAlias = Sequence[str]
    Runs: TypeAlias = Sequence[Run]

__all__ = ["GENERATOR", "page"]

#: By which the command knows its own pages.
GENERATOR = '<meta name="generator" content="microgpt.report">'
_HERE = os.path.dirname(os.path.abspath(__file__))
_POINTS = 1600  # of a curve, at most
_COLOURS = 6  # of runs, in page.css


def page(
    names: "Sequence[str]", runs: "Sequence[list[dict[str, Any]]]", comparisons: "Sequence[Comparison]" = ()
) -> str:
    """Return the whole page for any number of logs.

    Parameters
    ----------
    names : sequence of str
        What to call the logs. All text, theirs included, is escaped.
    runs : sequence of lists of dict
        What `microgpt.storage.runlog.read_log` returned for each.
    comparisons : sequence of Comparison
        Of the first log with each of the others.

    Returns
    -------
    str
        HTML that loads nothing.
    """
    from string import Template

    title = " and ".join(names) if len(names) < 4 else f"{names[0]} and {len(names) - 1} more runs"
    attention, explained = _attention(names, runs)
    sections = [
        f"<h1>{escape(title)}</h1>",
        _summary(names, runs),
        *_verdicts(names, comparisons),
        '<section><h2>Loss</h2>\n<figure id="loss"></figure>\n<figure id="rates"></figure></section>',
        _samples(names, runs),
        explained,
        _facts(names, runs, comparisons),
    ]
    data = {"loss": _losses(names, runs), "rates": _rates(names, runs), "attention": attention}
    style, script = _text("page.css", "report.css"), _text("chart.js", "report.js")
    return Template(_text("report.html")).substitute(
        generator=GENERATOR,
        title=escape(title),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        body="\n".join(filter(None, sections)),
        data=_embedded(data),
    )


def _text(*files: str) -> str:
    found = []
    for name in files:
        with open(os.path.join(_HERE, name), encoding="utf-8") as file:
            found.append(file.read())
    return "\n".join(found)


def _hash(text: str) -> str:
    """Return the source expression by which a Content-Security-Policy knows the content of an element."""
    from base64 import b64encode
    from hashlib import sha256

    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _embedded(data: "Any") -> str:
    """Return JSON in which no text can end the element that it is in."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _number(record: "Record", name: str = "loss") -> float:
    value = record.get(name)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def _summary(names: "Names", runs: "Runs") -> str:
    """Return a line for each run: how far it went, and what its losses are at the end."""
    lines = []
    for name, records in zip(names, runs):
        last, run = records[-1], facts(records)
        average = smoothed(_number(record) for record in records)[-1]
        text = (
            f"step {last['step']} of {run.get('num_steps', '?')}, {run.get('engine', '?')} engine, "
            f"{run.get('num_params', '?')} parameters, {run.get('docs', '?')} documents of {run.get('text', '?')}; "
            f"moving average of the loss {average:.4f}{_validation(records)}"
        )
        label = f"<b>{escape(name)}</b>: " if len(names) > 1 else ""
        lines.append(f'<p class="summary">{label}{escape(text)}</p>')
    return "\n".join(lines)


def _validation(records: "Run") -> str:
    measured = [(record["step"], _number(record, "val_loss")) for record in records if "val_loss" in record]
    finite = [(loss, step) for step, loss in measured if math.isfinite(loss)]
    if not finite:
        return ""
    (best, step), last = min(finite), measured[-1][1]
    return f", validation loss {last:.4f}" + ("" if best == last else f" (lowest {best:.4f}, at step {step})")


def _verdicts(names: "Names", comparisons: "Sequence[Comparison]") -> "list[str]":
    found = []
    for name, comparison in zip(names[1:], comparisons):
        which = f"{escape(names[0])} and {escape(name)}: " if len(comparisons) > 1 else ""
        text = str(comparison) if which else _sentence(str(comparison))
        found.append(f'<p class="verdict {"same" if comparison.same else "differ"}">{which}{escape(text)}</p>')
        if len(comparison.tensors) > 1:
            tensors = ", ".join(f"<code>{escape(tensor)}</code>" for tensor in comparison.tensors)
            found.append(f"<p>Tensors that differ after step {comparison.first_digest}: {tensors}.</p>")
    return found


def _curve(name: str, kind: str, points: "Iterable[tuple[int, float]]", **more: bool) -> "Record":
    finite = [(x, float(f"{y:.6g}")) for x, y in points if math.isfinite(y)]
    return {"name": name, "kind": kind, "x": [x for x, _ in finite], "y": [y for _, y in finite], **more}


def _losses(names: "Names", runs: "Runs") -> "list[Record]":
    curves = []
    for number, (name, records) in enumerate(zip(names, runs)):
        alone = len(runs) == 1
        prefix, colour = "" if alone else f"{name}: ", f"run{number % _COLOURS}"
        steps, losses = [r["step"] for r in records], [_number(r) for r in records]
        if alone:
            each = ((steps[i], y) for i, y in thinned(losses, _POINTS))
            curves.append(_curve("loss of each step", "each", each, noisy=True))
        average = ((steps[i], y) for i, y in thinned(smoothed(losses), _POINTS))
        curves.append(_curve(prefix + "moving average", colour, average))
        measured = [(r["step"], _number(r, "val_loss")) for r in records if "val_loss" in r]
        if measured:
            kind = "val alone" if alone else f"val {colour}"
            curves.append(_curve(prefix + "validation", kind, measured, dots=True))
    return curves


def _rates(names: "Names", runs: "Runs") -> "list[Record]":
    curves = []
    for number, (name, records) in enumerate(zip(names, runs)):
        points = ((records[i]["step"], y) for i, y in thinned([_number(r, "learning_rate") for r in records], 300))
        alone = len(runs) == 1
        kind = "rate alone" if alone else f"rate run{number % _COLOURS}"
        curves.append(_curve("learning rate" if alone else f"{name}: learning rate", kind, points))
    return curves


def _samples(names: "Names", runs: "Runs") -> str:
    tables = []
    for name, records in zip(names, runs):
        rows = ""
        for r in (r for r in records if isinstance(r.get("samples"), list)):
            cells = "".join(f"<td>{escape(str(text))}</td>" for text in r["samples"])
            rows += f'<tr><td class="step">{r["step"]:,}</td>{cells}</tr>'
        if rows:
            caption = f"<caption>{escape(name)}</caption>" if len(runs) > 1 else ""
            tables.append(f'<table class="samples">{caption}<tr><th scope="col">after step</th></tr>{rows}</table>')
    if not tables:
        return ""
    explained = "<p>Each row is drawn with the same random numbers: what differs is the model.</p>"
    return "\n".join(["<section><h2>Samples over time</h2>", explained, *tables, "</section>"])


def _attention(names: "Names", runs: "Runs") -> "tuple[list[Record], str]":
    """Return what is drawn of each run, and the section that it is drawn into; both empty if no run has attention."""
    found, figures = [], []
    for name, records in zip(names, runs):
        looks = [r for r in records if isinstance(r.get("attention"), dict) and _is_attention(r["attention"])]
        if not looks:
            continue
        last = looks[-1]["attention"]
        looks = [r for r in looks if _shape(r["attention"]) == _shape(last)]
        titles = [f"layer {i}, head {j}" for i, layer in enumerate(last["weights"]) for j in range(len(layer))]
        labels = ["·", *("␣" if ch == " " else ch if ch.isprintable() else "?" for ch in last["text"])]
        maps = [[head for layer in r["attention"]["weights"] for head in layer] for r in looks]
        found.append({"name": name, "labels": labels, "titles": titles, "steps": [r["step"] for r in looks], "maps": maps})
        heading = f"<h3>{escape(name)}</h3>" if len(runs) > 1 else ""
        figures.append(f'<div>{heading}<figure class="attention"></figure></div>')
    if not found:
        return [], ""
    return found, (
        "<section><h2>Attention</h2>\n<p>While the model reads the character of a row, it attends to the characters above the "
        "columns: the stronger the colour, the more. · is the beginning of the document.</p>\n"
        '<p class="stepper"><label for="look">after step <output id="looked"></output></label> '
        f'<input type="range" id="look" min="0" max="0" value="0"></p>\n<div class="runs">{"".join(figures)}</div></section>'
    )


def _shape(attention: "Record") -> "Any":
    return attention["text"], [[len(head) for head in layer] for layer in attention["weights"]]


def _is_attention(attention: "Record") -> bool:
    """Whether it is [layer][head] of lower triangles as large as the text: a log may come from anywhere."""
    try:
        n, heads = len(attention["text"]) + 1, [head for layer in attention["weights"] for head in layer]
        return isinstance(attention["text"], str) and bool(heads) and all(
            [len(row) for row in head] == list(range(1, n + 1)) and all(0 <= w <= 1.01 for row in head for w in row)
            for head in heads
        )  # fmt: skip
    except (TypeError, LookupError):
        return False


def _facts(names: "Names", runs: "Runs", comparisons: "Sequence[Comparison]") -> str:
    columns = [facts(records) for records in runs]
    differing = set().union(*(comparison.settings for comparison in comparisons))
    rows = "".join(
        f'<tr{" class=differs" if name in differing else ""}><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(column.get(name, ''))}</td>" for column in columns)
        + "</tr>"
        for name in {name: None for column in columns for name in column}
    )
    head = ""
    if len(runs) > 1:
        head = f"<tr><td></td>{''.join(f'<th scope=col><b>{escape(name)}</b></th>' for name in names)}</tr>"
    resumed = [f"<p>{escape(name)} was resumed after step {r['step'] - 1:,}.</p>"
               for name, records in zip(names, runs) for r in records[1:] if "run" in r]  # fmt: skip
    return (
        f"<section><h2>Settings and machine</h2>\n{''.join(resumed)}"
        f'<div class="scroll" tabindex="0" role="region" aria-label="settings and machine"><table class="facts">{head}{rows}</table></div>'
        "</section>"
    )
