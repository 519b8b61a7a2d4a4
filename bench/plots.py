"""The pictures, drawn from the JSON of a benchmark. Needs matplotlib (extra "bench").

python bench/plots.py bench/results/compare.json bench/results/compare.png     draws it again
"""
import json
import sys

from harness.table import duration, number

# Okabe and Ito's colours, which most eyes can tell apart, and in greyscale too.
BLUE, ORANGE, GREEN, RED, GREY, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8C8C8C", "#56B4E9"
KINDS = {
    "bits": (BLUE, "same bits as the original"),
    "print": (ORANGE, "same 4 printed digits; other bits, or bits not shown"),
    "other": (GREY, "other losses, or not shown"),
}
ENGINES = {"fused": BLUE, "graph": GREEN, "NumPy": ORANGE, "reference": GREY}
MARKERS = {"fused": "o", "graph": "s", "NumPy": "^", "reference": "D"}
AXES = {
    "n_embd": "n_embd",
    "n_layer": "layers",
    "positions": "positions in the document",
    "block_size": "block_size (8 of them used)",
    "vocab_size": "vocab_size",
}


def _pyplot():
    try:
        import matplotlib
    except ImportError:
        sys.exit("the picture needs matplotlib: pip install '.[bench]'")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({
        "font.size": 13, "axes.titlesize": 15, "axes.spines.top": False, "axes.spines.right": False,
    })  # fmt: skip
    return pyplot


def _save(figure, path):
    figure.savefig(path, dpi=120, bbox_inches="tight", facecolor="white")


def _footer(report):
    machine = report["machine"]
    parts = [
        machine["processor"],
        "one core" + ("" if machine["pinned_to_core"] is None else ", pinned"),
        machine["python"],
    ]
    if machine.get("numpy"):
        parts.append(f"NumPy {machine['numpy']}")
    if machine.get("torch"):
        parts.append(f"PyTorch {machine['torch']}")
    return " · ".join(parts)


def _tick(seconds):
    """A duration without the zeros that tell nothing on an axis."""
    figure, unit = duration(seconds).split()
    return f"{figure.rstrip('0').rstrip('.') if '.' in figure else figure} {unit}"


def compare(report, path):
    """Time a document of every contender, the fastest on top, coloured by what its losses are."""
    pyplot = _pyplot()
    rows = sorted(report["rows"], key=lambda row: -row["seconds_per_document"])
    figure, axes = pyplot.subplots(figsize=(13, 1.6 + 0.5 * len(rows)))
    kinds = ["bits" if row["bits"] else "print" if row["print"] else "other" for row in rows]
    seconds = [row["seconds_per_document"] for row in rows]
    axes.barh([row["name"] for row in rows], seconds, color=[KINDS[kind][0] for kind in kinds], height=0.72)
    axes.set_xscale("log")
    low, high = min(seconds) / 3, max(seconds)
    axes.set_xlim(low, high * 30)
    for y, (row, x) in enumerate(zip(rows, seconds)):
        axes.text(
            x * 1.12,
            y,
            f"{duration(x)}   {number(row['times_original'])}×   {number(row['times_collector_off'])}×",
            va="center",
        )
    axes.set_xlabel("time for one document: forward, backward and Adam, on one core (logarithmic)")
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.text(
        0, 1.06, "How long one training step of microgpt takes", transform=axes.transAxes, fontsize=18, va="bottom"
    )
    axes.text(0, 1.02, f"then: times faster than {report['original']} as shipped, and with its garbage collector off",
              transform=axes.transAxes, va="bottom", color="#555555")  # fmt: skip
    axes.xaxis.set_major_formatter(lambda x, _: _tick(x))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=KINDS[k][0]) for k in KINDS if k in kinds]
    axes.legend(handles, [KINDS[k][1] for k in KINDS if k in kinds], loc="upper right", frameon=False)
    axes.annotate(_footer(report), (1, 0), (0, -52), "axes fraction", textcoords="offset points", ha="right", va="top",
                  fontsize=10, color="#555555")  # fmt: skip
    _save(figure, path)
    pyplot.close(figure)


def scaling(report, path):
    """Time and memory along each axis, engine by engine."""
    pyplot = _pyplot()
    from matplotlib.ticker import LogLocator, NullFormatter

    axes_names = list(dict.fromkeys(row["axis"] for row in report["rows"]))
    engines = [e for e in ENGINES if any(row["engines"].get(e) for row in report["rows"])]
    figure, grid = pyplot.subplots(
        2, len(axes_names), figsize=(4.2 * len(axes_names), 8.4), squeeze=False, sharey="row"
    )
    for column, name in enumerate(axes_names):
        rows = [row for row in report["rows"] if row["axis"] == name]
        for line, (key, scale) in enumerate((("seconds", 1), ("bytes", 1e-6))):
            axes = grid[line][column]
            for engine in engines:
                points = [(r["value"], r["engines"][engine][key] * scale) for r in rows
                          if r["engines"].get(engine) and r["engines"][engine][key]]  # fmt: skip
                if points:
                    axes.plot(*zip(*points), color=ENGINES[engine], marker=MARKERS[engine], label=engine, lw=2, ms=7)
            axes.set_xscale("log", base=2 if name != "vocab_size" else 10)
            axes.set_yscale("log")
            shown = [r["engines"][e][key] for r in report["rows"] for e in engines if r["engines"].get(e)]
            many = max(filter(None, shown)) > 2000 * min(filter(None, shown))
            axes.yaxis.set_major_locator(LogLocator(subs=(1,) if many else (1, 2, 5), numticks=20))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.grid(alpha=0.25, which="major")
            axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
            if line == 1:
                axes.set_xlabel(AXES[name])
                axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.3g} MB")
            else:
                axes.yaxis.set_major_formatter(lambda y, _: _tick(y))
    grid[0][0].set_ylabel("time for one document")
    grid[1][0].set_ylabel("memory of a run")
    base = report["base"]
    figure.tight_layout(rect=(0, 0.02, 1, 0.9))
    figure.text(0.01, 0.985, "How time and memory of a training step grow", fontsize=20, va="top")
    others = f"n_embd {base['n_embd']}, {base['n_layer']} layer, {base['positions']} positions"
    subtitle = f"one setting at a time; the others at {others}, vocabulary {base['vocab_size']}"
    figure.text(0.01, 0.945, subtitle, va="top", color="#555555")
    figure.legend(
        *grid[0][0].get_legend_handles_labels(), loc="upper right", ncols=len(engines), frameon=False, fontsize=14
    )
    figure.text(0.99, 0.0, _footer(report), ha="right", va="bottom", fontsize=10, color="#555555")
    _save(figure, path)
    pyplot.close(figure)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        made = json.load(file)
    {"compare": compare, "scaling": scaling}[made["benchmark"]](made, sys.argv[2])
