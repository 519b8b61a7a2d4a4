"""The picture of the README: four contenders of compare.py, documents per second, on a linear scale. render.py writes it.

The SVG is written by hand: it needs no library, and the same JSON gives the same bytes. It has a background, so that it
is legible on a light page and on a dark one.
"""
from xml.sax.saxutils import escape

from harness.table import duration, number

#: The beginning of a row's name in the JSON -> what the picture calls it.
CONTENDERS = {
    "fused (": "this package",
    "NumPy": "NumPy, gradients by hand",
    "PyTorch, eager, f64": "PyTorch, eager",
    "microgpt.py": "microgpt.py, the original",
}
WIDTH, LEFT, RIGHT, TOP, ROW, BAR = 800, 232, 172, 62, 40, 22
STYLE = """
  text { font: 15px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
  .card { fill: #ffffff; stroke: #d1d9e0 }
  .title { font-weight: 600 }
  .note { font-size: 12.5px; fill: #59636e }
  .same { fill: #0072b2 }
  .other { fill: #b4b9c0 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .card { fill: #151b23; stroke: #3d444d }
    .note { fill: #9198a1 }
    .same { fill: #4aa8e0 }
    .other { fill: #656c76 }
  }
"""


def draw(report):
    """Return the SVG of a report of compare.py, as text."""
    rows = [(label, next(r for r in report["rows"] if r["name"].startswith(name))) for name, label in CONTENDERS.items()]
    largest, machine = max(1 / row["seconds_per_document"] for _, row in rows), report["machine"]
    scale, bottom = (WIDTH - LEFT - RIGHT) / largest, TOP + ROW * len(rows)
    height = bottom + 48
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">',
        "<title>Documents trained on per second: " + escape(
            "; ".join(f"{label} {number(1 / row['seconds_per_document'])}" for label, row in rows)) + "</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
        '<text class="title" x="20" y="30">Training speed, documents per second</text>',
        '<text class="note" x="20" y="49">One document per step, float64, one core. Linear scale; longer is faster.</text>',
    ]  # fmt: skip
    for i, (label, row) in enumerate(rows):
        y, per_second = TOP + ROW * i + (ROW - BAR) / 2, 1 / row["seconds_per_document"]
        kind = "same" if row["bits"] else "other"
        width = max(per_second * scale, 1.0)  # the original would be a tenth of a pixel
        out.append(f'<text x="{LEFT - 12}" y="{y + 16:.1f}" text-anchor="end">{escape(label)}</text>')
        out.append(f'<rect class="{kind}" x="{LEFT}" y="{y:.1f}" width="{width:.1f}" height="{BAR}"/>')
        out.append(f'<text x="{LEFT + width + 8:.1f}" y="{y + 16:.1f}">{number(per_second)}'
                   f'<tspan class="note" dx="8">{duration(row["seconds_per_document"])} each</tspan></text>')  # fmt: skip
    y = bottom + 20
    out += [
        f'<rect class="same" x="20" y="{y - 10}" width="12" height="12"/>',
        f'<text class="note" x="38" y="{y}">same bits as the original</text>',
        f'<rect class="other" x="206" y="{y - 10}" width="12" height="12"/>',
        f'<text class="note" x="224" y="{y}">different last bits</text>',
        f'<text class="note" x="20" y="{y + 18}">{escape(machine["processor"])}, {escape(machine["python"])}, '
        f"{escape(report['date'])}</text>",
        "</svg>",
    ]
    return "\n".join(out) + "\n"
