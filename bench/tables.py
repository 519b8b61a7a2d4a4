"""The layout of each table, for the terminal and for Markdown: functions of a report -> (columns, rows).

harness/table.py prints them.
"""
from harness.measure import ratio
from harness.table import duration, number, percent, yes_no


def _layout(rows, *columns):
    """Return (columns, rows) from (title, side, function of a row) of each column."""
    return [(title, side) for title, side, _ in columns], [[cell(row) for _, _, cell in columns] for row in rows]


def row_of(report, start):
    """Return the row whose name begins so."""
    return next(row for row in report["rows"] if row["name"].startswith(start))


def compare(report):
    """compare.py: every contender."""
    others = report["rows"][0].get("times_other", {})
    return _layout(
        report["rows"],
        ("contender", "<", lambda row: row["name"]),
        ("µs per document", ">", lambda row: number(row["seconds_per_document"], scale=1e6)),
        ("spread", ">", lambda row: percent(row["spread"])),
        ("× original", ">", lambda row: number(row["times_original"])),
        ("× collector off", ">", lambda row: number(row["times_collector_off"])),
        *((f"× {name}", ">", lambda row, name=name: number(row["times_other"][name])) for name in others),
        ("precision", "<", lambda row: row["precision"]),
        ("batch", ">", lambda row: row["batch"]),
        ("losses compared", ">", lambda row: row["compared"]),
        ("same bits", "<", lambda row: yes_no(row["bits"])),
        ("same 4 digits", "<", lambda row: yes_no(row["print"])),
        ("MB", ">", lambda row: number(row["peak_bytes"], scale=1e-6)),
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
    return _layout(
        [(label, row_of(report, name)) for name, label in FIRST_PAGE.items()],
        ("", "<", lambda item: item[0]),
        ("time per step", ">", lambda item: duration(item[1]["seconds_per_document"])),
        ("× original", ">", lambda item: number(item[1]["times_original"])),
        ("× original, garbage collector off", ">", lambda item: number(item[1]["times_collector_off"])),
        ("same bits", "<", lambda item: yes_no(item[1]["bits"])),
    )


def value_operators(report):
    """bench_value.py: each operator of each class."""
    phases, classes = ("forward", "backward", "free"), report["rows"]
    titles = [f"{row['name']}: {phase}" if phase == "forward" else phase for row in classes for phase in phases]
    rows = [[f"`{operator}`", nodes, *(number(row["operators"][operator][phase], scale=1e9) for row in classes for phase in phases)]
            for operator, nodes in report["nodes"].items()]  # fmt: skip
    return [("operator", "<"), ("nodes", ">"), *((title, ">") for title in titles)], rows


def value_graph(report):
    """bench_value.py: whole graphs of each class."""
    first, shipped, off = report["rows"][0], "graph_shipped", "graph_collector_off"
    return _layout(
        report["rows"],
        ("class", "<", lambda row: row["name"]),
        ("ns per node", ">", lambda row: number(row[shipped], scale=1e9)),
        ("collector off", ">", lambda row: number(row[off], scale=1e9)),
        ("times faster", ">", lambda row: number(first[shipped] / row[shipped])),
        ("collector off", ">", lambda row: number(first[off] / row[off])),
    )


def shapes(report):
    """bench_shapes.py: a row for each model, a column for each contender."""
    names = list(dict.fromkeys(c["name"] for row in report["rows"] for c in row["contenders"]))
    found = {row["name"]: {c["name"]: c for c in row["contenders"]} for row in report["rows"]}
    exact = (report.get("peak") or {}).get("exact_flops")

    def seconds(row, name="fused"):
        return found[row["name"]][name]["seconds_per_document"] if name in found[row["name"]] else None

    def over(row, other):
        both = found[row["name"]]
        return 1 / ratio(both[other]["rounds"], both["fused"]["rounds"]) if other in both else None

    return _layout(
        report["rows"],
        ("µs per document", "<", lambda row: row["name"]),
        ("parameters", ">", lambda row: f"{row['num_params']:,}"),
        ("operations", ">", lambda row: number(row["flops"])),
        *((name, ">", lambda row, name=name: number(seconds(row, name), scale=1e6)) for name in names),
        *((f"fused / {o}", ">", lambda row, o=o: number(over(row, o))) for o in report.get("others", [])),
        ("fused: 10⁹ operations/s", ">", lambda row: number(row["flops"] / seconds(row), scale=1e-9)),
        *([("of the exact peak", ">", lambda row: percent(row["flops"] / seconds(row) / exact))] if exact else []),
        ("same bits", "<", lambda row: yes_no(found[row["name"]]["fused"]["bits"])),
    )


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


def user_code(report, key="n_embd", cases="sizes", title="n_embd {}", times="× original"):
    """bench_user_code.py: the same model as user code and by the engines, at every size."""
    found = {(row["name"], row[key]): row for row in report["rows"]}
    columns, rows = [("one training step", "<")], []
    for case in report[cases]:
        columns += [(title.format(case), ">"), (times, ">"), ("same bits", "<")]
    for name in dict.fromkeys(name for name, _ in found):
        rows.append([name])
        for row in (found.get((name, case)) for case in report[cases]):
            cells = row and (duration(row["seconds_per_document"]), number(row["times_original"]), yes_no(row["bits"]))
            rows[-1] += cells or ("–", "–", "–")
    return columns, rows


def changes(report):
    """bench_user_code.py --changes: a program as it is written and in every way, for every change."""
    return user_code(report, "change", "changes", "{}", "× as written")


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


def scale(report):
    """bench_scale.py: predicted speed-ups, a column for each number of ranks."""
    points = [(f"{case}, {link}", dict(found)) for case, links in report["speedups"].items() for link, found in links.items()]
    columns = [(str(ranks), ">", lambda item, ranks=ranks: number(item[1].get(ranks), 2)) for ranks in (2, 8, 64, 512)]
    return _layout(points, ("ranks", "<", lambda item: item[0]), *columns)
