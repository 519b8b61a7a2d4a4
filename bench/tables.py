"""The layout of each table, for the terminal and for Markdown: functions of a report -> (columns, rows).

harness/table.py prints them.
"""
from functools import partial

from harness.measure import ratio
from harness.table import duration, number, percent, yes_no

nano, micro, milli, mega = (partial(number, scale=scale) for scale in (1e9, 1e6, 1e3, 1e-6))


def inverse(value):
    return number(1 / value)


def _words(title, key, form=str):
    return title, "<", lambda row: form(row[key])


def _figure(title, key, form=number):
    return title, ">", lambda row: form(row[key])


NAME, SPREAD, SAME_BITS = _words("contender", "name"), _figure("spread", "spread", percent), _words("same bits", "bits", yes_no)


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
        report["rows"], NAME, _figure("µs per document", "seconds_per_document", micro), SPREAD,
        _figure("× original", "times_original"), _figure("× collector off", "times_collector_off"),
        *((f"× {name}", ">", lambda row, name=name: number(row["times_other"][name])) for name in others),
        _words("precision", "precision"), _figure("batch", "batch", str), _figure("losses compared", "compared", str), SAME_BITS,
        _words("same 4 digits", "print", yes_no), _figure("MB", "peak_bytes", mega),
    )  # fmt: skip


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
    rows = [{**row_of(report, name), "name": label} for name, label in FIRST_PAGE.items()]
    return _layout(rows, _words("", "name"), _figure("time per step", "seconds_per_document", duration),
                   _figure("× original", "times_original"), _figure("× original, garbage collector off", "times_collector_off"),
                   SAME_BITS)  # fmt: skip


def value_operators(report):
    """bench_value.py: each operator of each class."""
    phases, classes = ("forward", "backward", "free"), report["rows"]
    titles = [f"{row['name']}: {phase}" if phase == "forward" else phase for row in classes for phase in phases]
    rows = [[f"`{operator}`", nodes, *(nano(row["operators"][operator][phase]) for row in classes for phase in phases)]
            for operator, nodes in report["nodes"].items()]  # fmt: skip
    return [("operator", "<"), ("nodes", ">"), *((title, ">") for title in titles)], rows


def value_graph(report):
    """bench_value.py: whole graphs of each class."""
    first, shipped, off = report["rows"][0], "graph_shipped", "graph_collector_off"
    return _layout(
        report["rows"], _words("class", "name"), _figure("ns per node", shipped, nano), _figure("collector off", off, nano),
        _figure("times faster", shipped, lambda seconds: number(first[shipped] / seconds)),
        _figure("collector off", off, lambda seconds: number(first[off] / seconds)),
    )  # fmt: skip


def shapes(report):
    """bench_shapes.py: a row for each model, a column for each contender."""
    names = list(dict.fromkeys(c["name"] for row in report["rows"] for c in row["contenders"]))
    found = {row["name"]: {c["name"]: c for c in row["contenders"]} for row in report["rows"]}
    exact = report.get("exact_flops")

    def seconds(row, name="fused"):
        return found[row["name"]][name]["seconds_per_document"] if name in found[row["name"]] else None

    def over(row, other):
        both = found[row["name"]]
        return 1 / ratio(both[other]["rounds"], both["fused"]["rounds"]) if other in both else None

    return _layout(
        report["rows"], _words("µs per document", "name"), _figure("parameters", "num_params", "{:,}".format),
        _figure("operations", "flops"),
        *((name, ">", lambda row, name=name: micro(seconds(row, name))) for name in names),
        *((f"fused / {o}", ">", lambda row, o=o: number(over(row, o))) for o in report.get("others", [])),
        ("fused: 10⁹ operations/s", ">", lambda row: number(row["flops"] / seconds(row), scale=1e-9)),
        *([("of the exact peak", ">", lambda row: percent(row["flops"] / seconds(row) / exact))] if exact else []),
        ("same bits", "<", lambda row: yes_no(found[row["name"]]["fused"]["bits"])),
    )  # fmt: skip


def workers(report):
    """bench_workers.py: a row for each work."""
    threads = str(report["threads"])
    return _layout(
        report["rows"], _words("one training step", "name"),
        _figure("1 thread", "seconds", lambda seconds: duration(seconds["1"])),
        _figure(f"{threads} threads", "seconds", lambda seconds: duration(seconds[threads])),
        _figure("× 1 thread", "speedup"), _figure(f"{threads} processes × 1", "ceiling"), SAME_BITS,
    )  # fmt: skip


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
    return _layout(report["rows"], _words("engine", "name"), _figure("tokens/s", "seconds", inverse), SPREAD,
                   _figure("× reference", "times", inverse), _figure("texts compared", "compared", str),
                   _words("same text", "same_text", yes_no))  # fmt: skip


def startup(report):
    """bench_startup.py: whole processes."""
    return _layout(report["rows"], _words("process", "name"), _figure("ms", "seconds", milli), SPREAD,
                   _figure("× python -c pass", "times"))  # fmt: skip


def scale(report):
    """bench_scale.py: predicted speed-ups, a column for each number of ranks."""
    points = [(f"{case}, {link}", dict(found)) for case, links in report["speedups"].items() for link, found in links.items()]
    columns = [(str(ranks), ">", lambda item, ranks=ranks: number(item[1].get(ranks), 2)) for ranks in (2, 8, 64, 512)]
    return _layout(points, _words("ranks", 0), *columns)
