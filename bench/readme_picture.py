"""The picture of the README: four contenders of compare.py, documents per second, on a linear scale. render.py writes it.

The SVG is written by hand: it needs no library, and the same JSON gives the same bytes. It has a background, so that it
is legible on a light page and on a dark one.
"""
from xml.sax.saxutils import escape

from harness.table import duration, number
from tables import row_of

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


BAR_OF = """
<text x="{x:.0f}" y="{text_y:.1f}" text-anchor="end">{label}</text>
<rect class="{kind}" x="{LEFT}" y="{y:.1f}" width="{width:.1f}" height="{BAR}"/>
<text x="{end:.1f}" y="{text_y:.1f}">{speed}<tspan class="note" dx="8">{time} each</tspan></text>"""


def draw(report):
    """Return the SVG of a report of compare.py, as text."""
    rows = [(label, row_of(report, name)) for name, label in CONTENDERS.items()]
    speeds, machine = {label: 1 / row["seconds_per_document"] for label, row in rows}, report["machine"]
    bars, bottom = "", TOP + ROW * len(rows)
    for i, (label, row) in enumerate(rows):
        # The original's bar would be a tenth of a pixel.
        y, width = TOP + ROW * i + (ROW - BAR) / 2, max(1.0, speeds[label] * (WIDTH - LEFT - RIGHT) / max(speeds.values()))
        bars += BAR_OF.format(**globals(), x=LEFT - 12, y=y, text_y=y + 16, label=escape(label), kind="same" if row["bits"] else "other",
                              width=width, end=LEFT + width + 8, speed=number(speeds[label]), time=duration(row["seconds_per_document"]))
    return f'''\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 48}" width="{WIDTH}" height="{bottom + 48}" role="img">
<title>Documents trained on per second: {escape("; ".join(f"{label} {number(speed)}" for label, speed in speeds.items()))}</title>
<style>{STYLE}</style>
<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{bottom + 47}" rx="8"/>
<text class="title" x="20" y="30">Training speed, documents per second</text>
<text class="note" x="20" y="49">One document per step, float64, one core. Linear scale; longer is faster.</text>{bars}
<rect class="same" x="20" y="{bottom + 10}" width="12" height="12"/>
<text class="note" x="38" y="{bottom + 20}">same bits as the original</text>
<rect class="other" x="206" y="{bottom + 10}" width="12" height="12"/>
<text class="note" x="224" y="{bottom + 20}">different last bits</text>
<text class="note" x="20" y="{bottom + 38}">{escape(f"{machine['processor']}, {machine['python']}, {report['date']}")}</text>
</svg>
'''
