"""The layout of each table, for the terminal and for Markdown: functions of a report -> (columns, rows).

harness/table.py prints them.
"""
from harness.measure import ratio
from harness.table import duration, megabytes, microseconds, number, percent, yes_no


def _layout(rows, *columns):
    """Return (columns, rows) from (title, side, function of a row) of each column."""
    return [(title, side) for title, side, _ in columns], [[cell(row) for _, _, cell in columns] for row in rows]


def compare(report):
    """compare.py: every contender."""
    others = list(report["rows"][0].get("times_other", {}))
    return _layout(
        report["rows"],
        ("contender", "<", lambda row: row["name"]),
        ("µs per document", ">", lambda row: microseconds(row["seconds_per_document"])),
        ("spread", ">", lambda row: percent(row["spread"])),
        ("× original", ">", lambda row: number(row["times_original"])),
        ("× collector off", ">", lambda row: number(row["times_collector_off"])),
        *((f"× {name}", ">", lambda row, name=name: number(row["times_other"][name])) for name in others),
        ("precision", "<", lambda row: row["precision"]),
        ("batch", ">", lambda row: row["batch"]),
        ("losses compared", ">", lambda row: row["compared"]),
        ("same bits", "<", lambda row: yes_no(row["bits"])),
        ("same 4 digits", "<", lambda row: yes_no(row["print"])),
        ("MB", ">", lambda row: megabytes(row["peak_bytes"])),
    )


#: The rows of the first page, by the beginning of their names in compare.json -> what the page calls them.
FIRST_PAGE = {
    "microgpt.py": "microgpt.py, the original",
    "microgpt.py with our Value": "microgpt.py with one changed import",
    "graph": "graph engine",
    "fused (": "fused engine",
    "PyTorch, eager, f64": "PyTorch, eager, float64",
}


def engines(report):
    """compare.py, for the first page: five rows, less of each."""
    rows = report["rows"]
    return _layout(
        [(label, next(row for row in rows if row["name"].startswith(name))) for name, label in FIRST_PAGE.items()],
        ("", "<", lambda item: item[0]),
        ("time per step", ">", lambda item: duration(item[1]["seconds_per_document"])),
        ("× original", ">", lambda item: number(item[1]["times_original"])),
        ("× original, garbage collector off", ">", lambda item: number(item[1]["times_collector_off"])),
        ("same bits", "<", lambda item: yes_no(item[1]["bits"])),
    )


def value_operators(report):
    """bench_value.py: each operator of each class."""
    columns = [("operator", "<"), ("nodes", ">")]
    for row in report["rows"]:
        columns += [(f"{row['name']}: forward", ">"), ("backward", ">"), ("free", ">")]
    rows = []
    for operator, nodes in report["nodes"].items():
        cells = [f"`{operator}`", nodes]
        for row in report["rows"]:
            cells += [number(row["operators"][operator][phase], scale=1e9) for phase in ("forward", "backward", "free")]
        rows.append(cells)
    return columns, rows


def value_graph(report):
    """bench_value.py: whole graphs of each class."""
    columns = [("class", "<"), ("ns per node", ">"), ("collector off", ">"), ("times faster", ">"), ("collector off", ">")]
    first, keys = report["rows"][0], ("graph_shipped", "graph_collector_off")
    rows = [
        [row["name"], *(number(row[key], scale=1e9) for key in keys), *(number(first[key] / row[key]) for key in keys)]
        for row in report["rows"]
    ]
    return columns, rows


def shapes(report):
    """bench_shapes.py: a row for each model, a column for each contender."""
    names = list(dict.fromkeys(c["name"] for row in report["rows"] for c in row["contenders"]))
    exact, others = (report.get("peak") or {}).get("exact_flops"), report.get("others", [])
    columns = [("µs per document", "<"), ("parameters", ">"), ("operations", ">"), *((name, ">") for name in names)]
    columns += [(f"fused / {other}", ">") for other in others]
    columns += [("fused: 10⁹ operations/s", ">")] + ([("of the exact peak", ">")] if exact else []) + [("same bits", "<")]
    rows = []
    for row in report["rows"]:
        found = {c["name"]: c for c in row["contenders"]}
        fused = found["fused"]
        rate = row["flops"] / fused["seconds_per_document"]
        rows.append([
            row["name"],
            f"{row['num_params']:,}",
            number(row["flops"]),
            *(microseconds(found[name]["seconds_per_document"] if name in found else None) for name in names),
            *(number(1 / ratio(found[o]["rounds"], fused["rounds"]) if o in found else None) for o in others),
            number(rate, scale=1e-9),
            *([percent(rate / exact)] if exact else []),
            yes_no(fused["bits"]),
        ])  # fmt: skip
    return columns, rows


def workers(report):
    """bench_workers.py: a row for each work."""
    threads = str(report["threads"])
    return _layout(
        report["rows"],
        ("one training step", "<", lambda row: row["name"]),
        ("1 thread", ">", lambda row: duration(row["seconds"]["1"])),
        (f"{threads} threads", ">", lambda row: duration(row["seconds"][threads])),
        ("× 1 thread", ">", lambda row: number(row["speedup"])),
        (f"{threads} processes × 1", ">", lambda row: number(row["ceiling"])),
        ("same bits", "<", lambda row: yes_no(row["bits"])),
    )


def user_code(report):
    """bench_user_code.py: the same model as user code and by the engines, at every size."""
    found = {(row["name"], row["n_embd"]): row for row in report["rows"]}
    columns = [("one training step", "<")]
    for n_embd in report["sizes"]:
        columns += [(f"n_embd {n_embd}", ">"), ("× original", ">"), ("same bits", "<")]
    rows = []
    for name in dict.fromkeys(name for name, _ in found):
        rows.append([name])
        for n_embd in report["sizes"]:
            row = found.get((name, n_embd))
            cells = row and (duration(row["seconds_per_document"]), number(row["times_original"]), yes_no(row["bits"]))
            rows[-1] += cells or ("–", "–", "–")
    return columns, rows


def sampling(report):
    """bench_sampling.py: every engine."""
    return _layout(
        report["rows"],
        ("engine", "<", lambda row: row["name"]),
        ("tokens/s", ">", lambda row: number(1 / row["seconds"])),
        ("spread", ">", lambda row: percent(row["spread"])),
        ("× reference", ">", lambda row: number(1 / row["times"])),
        ("texts compared", ">", lambda row: row["compared"]),
        ("same text", "<", lambda row: yes_no(row["same_text"])),
    )


def startup(report):
    """bench_startup.py: whole processes."""
    return _layout(
        report["rows"],
        ("process", "<", lambda row: row["name"]),
        ("ms", ">", lambda row: number(row["seconds"], scale=1e3)),
        ("spread", ">", lambda row: percent(row["spread"])),
        ("× python -c pass", ">", lambda row: number(row["times"])),
    )
