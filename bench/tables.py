"""The layout of each table, for the terminal and for Markdown: functions of a report -> (columns, rows).

harness/table.py prints them.
"""
from functools import partial

from harness.measure import ratio
from harness.table import duration, number, percent, yes_no

nano, micro, milli, mega = (partial(number, scale=scale) for scale in (1e9, 1e6, 1e3, 1e-6))
count = "{:,}".format


def inverse(value):
    return number(1 / value)


NAME, SPREAD, SAME_BITS = ("contender", "name", str), ("spread", "spread", percent), ("same bits", "bits", yes_no)


def _layout(rows, *columns):
    """Return (columns, rows) from (title, key of a row, form) of each column; words are on the left, figures on the right."""
    sides = [(title, "<" if form in (str, yes_no) else ">") for title, _, form in columns]
    return sides, [[form(row[key]) for _, key, form in columns] for row in rows]


def _rows(*columns):
    """Return the layout of a report whose rows are the table's."""
    return lambda report: _layout(report["rows"], *columns)


def row_of(report, start):
    """Return the row whose name begins so."""
    return next(row for row in report["rows"] if row["name"].startswith(start))


def compare(report):
    """compare.py: every contender."""
    others = report["rows"][0].get("times_other", {})
    return _layout(
        [{**row, **{("×", name): row["times_other"][name] for name in others}} for row in report["rows"]],
        NAME, ("µs per document", "seconds_per_document", micro), SPREAD, ("× original", "times_original", number),
        ("× collector off", "times_collector_off", number), *((f"× {name}", ("×", name), number) for name in others),
        ("precision", "precision", str), ("batch", "batch", count), ("losses compared", "compared", count), SAME_BITS,
        ("same 4 digits", "print", yes_no), ("MB", "peak_bytes", mega),
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
    return _layout(rows, ("", "name", str), ("time per step", "seconds_per_document", duration), ("× original", "times_original", number),
                   ("× original, garbage collector off", "times_collector_off", number), SAME_BITS)  # fmt: skip


def value_operators(report):
    """bench_value.py: each operator of each class."""
    phases, classes = ("forward", "backward", "free"), report["rows"]
    titles = [f"{row['name']}: {phase}" if phase == "forward" else phase for row in classes for phase in phases]
    rows = [[f"`{operator}`", nodes, *(nano(row["operators"][operator][phase]) for row in classes for phase in phases)]
            for operator, nodes in report["nodes"].items()]  # fmt: skip
    return [("operator", "<"), ("nodes", ">"), *((title, ">") for title in titles)], rows


def value_graph(report):
    """bench_value.py: whole graphs of each class."""
    shipped, off = "graph_shipped", "graph_collector_off"
    times = [{**row, **{("×", key): report["rows"][0][key] / row[key] for key in (shipped, off)}} for row in report["rows"]]
    return _layout(times, ("class", "name", str), ("ns per node", shipped, nano), ("collector off", off, nano),
                   ("times faster", ("×", shipped), number), ("collector off", ("×", off), number))  # fmt: skip


def shapes(report):
    """bench_shapes.py: a row for each model, a column for each contender."""
    others, exact, names, rows = report.get("others", []), report.get("exact_flops"), {}, []
    for row in report["rows"]:
        found = {c["name"]: c for c in row["contenders"]}
        names |= dict.fromkeys(found)
        rate = row["flops"] / found["fused"]["seconds_per_document"]
        rows.append({**row, "bits": found["fused"]["bits"], "rate": rate, "share": exact and rate / exact})
        rows[-1] |= {("over", o): 1 / ratio(found[o]["rounds"], found["fused"]["rounds"]) for o in others if o in found}
        rows[-1] |= {name: c["seconds_per_document"] for name, c in found.items()}
    missing = dict.fromkeys([*names, *(("over", o) for o in others)])
    return _layout(
        [{**missing, **row} for row in rows], ("µs per document", "name", str), ("parameters", "num_params", count),
        ("operations", "flops", number), *((name, name, micro) for name in names),
        *((f"fused / {o}", ("over", o), number) for o in others), ("fused: 10⁹ operations/s", "rate", partial(number, scale=1e-9)),
        *([("of the exact peak", "share", percent)] if exact else []), SAME_BITS,
    )  # fmt: skip


def workers(report):
    """bench_workers.py: a row for each work."""
    threads = str(report["threads"])
    rows = [{**row, **row["pytorch"], "one": row["seconds"]["1"], "several": row["seconds"][threads]} for row in report["rows"]]
    pytorch = dict.fromkeys(name for row in report["rows"] for name in row["pytorch"])
    return _layout([{**pytorch, **row} for row in rows], ("one training step, or other work", "name", str),
                   ("1 thread", "one", duration), (f"{threads} threads", "several", duration), ("× 1 thread", "speedup", number),
                   (f"{threads} processes × 1", "ceiling", number), *((name, name, duration) for name in pytorch), SAME_BITS)  # fmt: skip


def user_code(report, key="n_embd", cases="sizes", title="n_embd {}", times="× original"):
    """bench_user_code.py: the same model as user code and by the engines, at every size."""
    forms, rows = {"seconds_per_document": duration, "times_original": number, "bits": yes_no}, {}
    missing = {(case, value): None for case in report[cases] for value in forms}
    for row in report["rows"]:
        rows.setdefault(row["name"], {"name": row["name"], **missing}).update({(row[key], value): row[value] for value in forms})
    columns = [(name, (case, value), forms[value]) for case in report[cases]
               for name, value in zip((title.format(case), times, "same bits"), forms)]  # fmt: skip
    return _layout(rows.values(), ("one training step", "name", str), *columns)


def changes(report):
    """bench_user_code.py --changes: a program as it is written and in every way, for every change."""
    return user_code(report, "change", "changes", "{}", "× as written")


#: bench_sampling.py: every engine.
sampling = _rows(("engine", "name", str), ("tokens/s", "seconds", inverse), SPREAD, ("× reference", "times", inverse),
                 ("texts compared", "compared", count), ("same text", "same_text", yes_no))  # fmt: skip
#: bench_startup.py: whole processes.
startup = _rows(("process", "name", str), ("ms", "seconds", milli), SPREAD, ("× python -c pass", "times", number))


def scale(report):
    """bench_scale.py: predicted speed-ups, a column for each number of ranks."""
    ranks, links = (2, 8, 64, 512), [(case, *item) for case, of in report["speedups"].items() for item in of.items()]
    rows = [{"name": f"{case}, {link}", **dict.fromkeys(ranks), **dict(points)} for case, link, points in links]
    return _layout(rows, ("ranks", "name", str), *((str(n), n, partial(number, digits=2)) for n in ranks))
