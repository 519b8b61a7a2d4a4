"""The picture of bench_scaling.py, drawn from its JSON. Needs matplotlib (extra "bench").

python bench/plots.py bench/results/scaling.json bench/results/scaling.png     draws it again
"""
import json
import sys

from harness.table import duration

# Okabe and Ito's colours, distinguishable for most people, and in greyscale.
COLOURS = {"fused": "#0072B2", "graph": "#009E73", "NumPy": "#E69F00", "reference": "#8C8C8C"}
MARKERS = {"fused": "o", "graph": "s", "NumPy": "^", "reference": "D"}
TITLES = {
    "n_layer": "layers",
    "positions": "positions in the document",
    "block_size": "block_size (8 positions used)",
}


def scaling(report, path):
    """Draw time and memory along each axis, engine by engine."""
    try:
        import matplotlib
    except ImportError:
        sys.exit("the picture needs matplotlib: pip install '.[bench]'")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    axes_names = list(dict.fromkeys(row["axis"] for row in report["rows"]))
    engines = [e for e in COLOURS if any(row["engines"].get(e) for row in report["rows"])]
    figure, grid = pyplot.subplots(2, len(axes_names), figsize=(3.6 * len(axes_names), 7), squeeze=False, sharey="row")
    for column, name in enumerate(axes_names):
        rows = [row for row in report["rows"] if row["axis"] == name]
        for axes, key in zip(grid[:, column], ("seconds", "bytes")):
            for engine in engines:
                found = [(row["value"], row["engines"].get(engine)) for row in rows]
                points = [(x, one[key]) for x, one in found if one and one[key] and one[key] > 0]
                if points:
                    axes.plot(*zip(*points), color=COLOURS[engine], marker=MARKERS[engine], label=engine, lw=2)
            axes.set_xscale("log", base=10 if name == "vocab_size" else 2)
            axes.set_yscale("log")
            axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        grid[0][column].yaxis.set_major_formatter(lambda y, _: _tick(y))
        grid[1][column].yaxis.set_major_formatter(lambda y, _: f"{y / 1e6:,.3g} MB")
        grid[1][column].set_xlabel(TITLES.get(name, name))
    grid[0][0].set_ylabel("time per document (logarithmic)")
    grid[1][0].set_ylabel("memory of a run (logarithmic)")
    base, machine = report["base"], report["machine"]
    others = f"n_embd {base['n_embd']}, {base['n_layer']} layer, {base['positions']} positions, vocabulary {base['vocab_size']}"
    figure.suptitle(f"Time and memory of a training step: one setting varies, the others are {others}")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="lower left", ncols=len(engines), frameon=False)
    footer = [machine["processor"], machine["python"], f"NumPy {machine['numpy']}"]
    figure.text(0.99, 0.01, " · ".join(footer), ha="right", va="bottom", fontsize=9, color="#555555")
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=120, facecolor="white")
    pyplot.close(figure)


def _tick(seconds):
    """Return a duration without trailing zeros."""
    figure, unit = duration(seconds).split()
    return f"{figure.rstrip('0').rstrip('.') if '.' in figure else figure} {unit}"


PICTURES = {"scaling": scaling}


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        made = json.load(file)
    PICTURES[made["benchmark"]](made, sys.argv[2])
