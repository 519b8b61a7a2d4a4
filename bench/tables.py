"""The layout of each table, for the terminal and for Markdown: functions of a report -> (columns, rows).

harness/table.py prints them.
"""
from harness.measure import ratio
from harness.table import duration, megabytes, microseconds, number, percent, yes_no


def compare(report):
    """compare.py: every contender."""
    others = list(report["rows"][0].get("times_other", {}))
    columns = [("contender", "<"), ("µs per document", ">"), ("spread", ">"), ("× original", ">"), ("× collector off", ">"),
               *((f"× {name}", ">") for name in others), ("precision", "<"), ("batch", ">"), ("losses compared", ">"),
               ("same bits", "<"), ("same 4 digits", "<"), ("MB", ">")]  # fmt: skip
    rows = [
        [
            row["name"],
            microseconds(row["seconds_per_document"]),
            percent(row["spread"]),
            number(row["times_original"]),
            number(row["times_collector_off"]),
            *(number(row["times_other"][name]) for name in others),
            row["precision"],
            row["batch"],
            row["compared"],
            yes_no(row["bits"]),
            yes_no(row["print"]),
            megabytes(row["peak_bytes"]),
        ]
        for row in report["rows"]
    ]
    return columns, rows


def engines(report):
    """compare.py, for the first page: less of each row, and no batches."""
    columns = [
        ("one document a step", "<"),
        ("time a step", ">"),
        ("× original as shipped", ">"),
        ("× original, collector off", ">"),
        ("precision", "<"),
        ("same bits", "<"),
    ]
    rows = [
        [
            row["name"],
            duration(row["seconds_per_document"]),
            number(row["times_original"]),
            number(row["times_collector_off"]),
            row["precision"],
            yes_no(row["bits"]),
        ]
        for row in report["rows"]
        if row["batch"] == 1
    ]
    return columns, rows


def _nanoseconds(seconds):
    return number(seconds, scale=1e9)


def value_operators(report):
    """bench_value.py: each operator of each class."""
    columns = [("operator", "<"), ("nodes", ">")]
    for row in report["rows"]:
        columns += [(f"{row['name']}: forward", ">"), ("backward", ">"), ("free", ">"), ("bytes", ">")]
    rows = []
    for operator, nodes in report["nodes"].items():
        cells = [f"`{operator}`", nodes]
        for row in report["rows"]:
            found = row["operators"][operator]
            cells += [_nanoseconds(found[phase]) for phase in ("forward", "backward", "free")] + [number(found["bytes"])]
        rows.append(cells)
    return columns, rows


def value_graph(report):
    """bench_value.py: whole graphs of each class."""
    columns = [("class", "<"), ("ns per node", ">"), ("collector off", ">"), ("times faster", ">"), ("collector off", ">")]
    first, keys = report["rows"][0], ("graph_shipped", "graph_collector_off")
    rows = [
        [row["name"], *(_nanoseconds(row[key]) for key in keys), *(number(first[key] / row[key]) for key in keys)]
        for row in report["rows"]
    ]
    return columns, rows


def scaling(report):
    """bench_scaling.py: every point, engine by engine."""
    engines = list(dict.fromkeys(engine for row in report["rows"] for engine in row["engines"]))
    exact = (report["peak"] or {}).get("exact_flops")
    columns = [("setting", "<"), ("value", ">"), ("parameters", ">"), ("operations", ">")]
    columns += [(f"{engine}, {unit}", ">") for unit in ("µs", "MB") for engine in engines]
    columns += [(f"{engines[0]}: 10⁹ operations/s", ">")] + ([("of the exact peak", ">")] if exact else [])
    rows = []
    for row in report["rows"]:
        found = [row["engines"].get(engine) or {} for engine in engines]
        seconds = found[0].get("seconds")
        rate = row["flops"] / seconds if seconds else None
        rows.append([
            row["axis"],
            f"{row['value']:,}",
            f"{row['num_params']:,}",
            number(row["flops"]),
            *(microseconds(one.get("seconds")) for one in found),
            *(megabytes(one.get("bytes")) for one in found),
            number(rate, scale=1e-9),
            *([percent(rate and rate / exact)] if exact else []),
        ])  # fmt: skip
    return columns, rows


def shapes(report):
    """bench_shapes.py: a row for each contender, a column for each model."""
    names = list(dict.fromkeys(c["name"] for row in report["rows"] for c in row["contenders"]))
    columns = [("µs per document", "<"), ("precision", "<"), ("batch", ">")]
    columns += [(row["name"], ">") for row in report["rows"]] + [("same bits", "<")]
    models = [{c["name"]: c for c in row["contenders"]} for row in report["rows"]]
    rows = []
    for name in names:
        found = [model.get(name) for model in models]
        one = next(c for c in found if c)
        verdicts = [c["bits"] for c in found if c and c["bits"] is not None]
        checked = f" ({len(verdicts)} of {len(found)} checked)" if 0 < len(verdicts) < len(found) else ""
        same = yes_no(all(verdicts) if verdicts else None) + checked
        cells = [microseconds(c and c["seconds_per_document"]) for c in found]
        rows.append([name, one["precision"], one["batch"], *cells, same])
    for other in report.get("others", ()):
        ratios = [
            1 / ratio(model[other]["rounds"], model["fused"]["rounds"]) if {"fused", other} <= model.keys() else None
            for model in models
        ]
        rows.append([f"fused, share of {other}'s time", "", "", *(number(r) for r in ratios), ""])
    return columns, rows


def sampling(report):
    """bench_sampling.py: every engine."""
    columns = [("engine", "<"), ("tokens/s", ">"), ("spread", ">"), ("× reference", ">"), ("texts compared", ">"),
               ("same text", "<")]  # fmt: skip
    rows = [
        [
            row["name"],
            number(row["tokens_per_second"]),
            percent(row["spread"]),
            number(row["times_reference"]),
            row["compared"],
            yes_no(row["same_text"]),
        ]
        for row in report["rows"]
    ]
    return columns, rows


def startup(report):
    """bench_startup.py: whole processes."""
    columns = [("process", "<"), ("ms", ">"), ("spread", ">"), ("× python -c pass", ">")]
    rows = [
        [row["name"], number(row["seconds"] * 1e3), percent(row["spread"]), number(row["times_python"])]
        for row in report["rows"]
    ]
    return columns, rows


def startup_modules(report):
    """bench_startup.py: modules that the command imports and Python alone does not, slowest first."""
    columns = [("module", "<"), ("ms to import", ">")]
    own = [m for m in report["modules"] if not m["python"]]
    rows = [[f"`{m['module']}`", number(m["self"] * 1e3, 2)] for m in own[:15]]
    if len(own) > 15:
        rows.append([f"{len(own) - 15} others", number(sum(m["self"] for m in own[15:]) * 1e3, 2)])
    rows.append(["all of these", number(sum(m["self"] for m in own) * 1e3, 2)])
    return columns, rows


def breakdown(report):
    """bench_breakdown.py: a row for each part of a step."""
    exact = (report["peak"] or {}).get("exact_flops")
    columns = [("part of a step", "<"), ("µs", ">"), ("share", ">"), ("operations", ">")]
    columns += [("limit, µs", ">")] if exact else []
    rows, parts = [], report["parts"]
    total = {key: sum(p[key] or 0 for p in parts) or None for key in ("seconds", "flops")}
    for part in [*parts, {"name": "all", **total}]:
        seconds, flops = part["seconds"], part["flops"]
        rows.append([
            part["name"],
            microseconds(seconds),
            percent(seconds and seconds / report["seconds"]),
            number(flops),
            *([number(flops and flops / exact, 2, 1e6)] if exact else []),
        ])  # fmt: skip
    return columns, rows
