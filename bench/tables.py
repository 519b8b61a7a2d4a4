"""What each table looks like, made from the JSON of a benchmark: for the terminal and for Markdown alike.

A table is a function of a report -> (columns, rows); see harness/table.py.
"""
from harness.table import duration, megabytes, microseconds, number, percent, yes_no


def compare(report):
    """Every contender of compare.py."""
    columns = [
        ("contender", "<"), ("µs a document", ">"), ("spread", ">"), ("× original", ">"), ("× collector off", ">"),
        ("documents/s", ">"), ("precision", "<"), ("batch", ">"), ("losses compared", ">"), ("same bits", "<"),
        ("same 4 digits", "<"), ("MB", ">"),
    ]  # fmt: skip
    rows = [
        [
            row["name"],
            microseconds(row["seconds_per_document"]),
            percent(row["spread"]),
            number(row["times_original"]),
            number(row["times_collector_off"]),
            number(row["documents_per_second"]),
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
    columns = [
        ("", "<"),
        ("time per step", ">"),
        ("× original", ">"),
        ("× original, garbage collector off", ">"),
        ("same bits", "<"),
    ]
    rows = []
    for name, label in FIRST_PAGE.items():
        row = next(row for row in report["rows"] if row["name"].startswith(name))
        ratios = [number(row["times_original"]), number(row["times_collector_off"])]
        rows.append([label, duration(row["seconds_per_document"]), *ratios, yes_no(row["bits"])])
    return columns, rows


def _nanoseconds(seconds):
    return number(None if seconds is None else seconds * 1e9)


def value_operators(report):
    """bench_value.py: each operator of each class."""
    columns = [("operator", "<"), ("nodes", ">")]
    for row in report["rows"]:
        columns += [(f"{row['name']}: forward", ">"), ("backward", ">"), ("free", ">"), ("bytes", ">")]
    rows = []
    for operator, nodes in report["nodes"].items():
        cells = [f"`{operator}`", nodes]
        for row in report["rows"]:
            found = row["operators"].get(operator, {})
            cells += [_nanoseconds(found.get(phase)) for phase in ("forward", "backward", "free")]
            cells.append(number(found.get("bytes")))
        rows.append(cells)
    return columns, rows


def value_graph(report):
    """bench_value.py: whole graphs of each class."""
    columns = [
        ("class", "<"),
        ("ns a node", ">"),
        ("collector off", ">"),
        ("times faster", ">"),
        ("collector off", ">"),
    ]
    first = report["rows"][0]
    rows = [
        [
            row["name"],
            _nanoseconds(row["graph_shipped"]),
            _nanoseconds(row["graph_collector_off"]),
            number(first["graph_shipped"] / row["graph_shipped"]),
            number(first["graph_collector_off"] / row["graph_collector_off"]),
        ]
        for row in report["rows"]
    ]
    return columns, rows


def value_script(report):
    """bench_value.py --script: the script with its class swapped."""
    columns = [("program", "<"), ("ms a step", ">"), ("spread", ">"), ("× original", ">"), ("× collector off", ">"),
               ("losses compared", ">"), ("same bits", "<"), ("MB", ">")]  # fmt: skip
    rows = [
        [
            row["name"],
            number(row["seconds_per_step"] * 1e3),
            percent(row["spread"]),
            number(row["times_original"]),
            number(row["times_collector_off"]),
            row["compared"],
            yes_no(row["bits"]),
            megabytes(row["peak_bytes"]),
        ]
        for row in report["script"]
    ]
    return columns, rows


def value_whole(report):
    """bench_value.py --script --whole: the script from start to end."""
    columns = [
        ("program, from start to end", "<"),
        ("seconds", ">"),
        ("× original", ">"),
        ("same output", "<"),
        ("MB", ">"),
    ]
    rows = [
        [
            row["name"],
            number(row["seconds"]),
            number(row["times_original"]),
            yes_no(row["same_output"]),
            megabytes(row["peak_bytes"]),
        ]
        for row in report["whole"]
    ]
    return columns, rows


def scaling(report):
    """bench_scaling.py: every point, engine by engine."""
    engines = list(dict.fromkeys(engine for row in report["rows"] for engine in row["engines"]))
    columns = [("along", "<"), ("value", ">"), ("parameters", ">"), ("operations", ">")]
    columns += [(f"{engine}, µs", ">") for engine in engines]
    columns += [(f"{engine}, MB", ">") for engine in engines]
    fastest = engines[0] if engines else None
    columns += [(f"{fastest}: 10⁹ operations/s", ">"), ("of NumPy's matmul", ">")]
    exact = report["peak"] and report["peak"].get("exact_flops")
    columns += [("of the exact peak", ">")] if exact else []
    columns += [("GB/s at least", ">")]
    rows = []
    for row in report["rows"]:
        found = [row["engines"].get(engine) or {} for engine in engines]
        cells = [row["axis"], f"{row['value']:,}", f"{row['num_params']:,}", number(row["flops"])]
        cells += [microseconds(f.get("seconds")) for f in found]
        cells += [megabytes(f.get("bytes")) for f in found]
        seconds = found[0].get("seconds") if found else None
        rate = row["flops"] / seconds if seconds else None
        peak = report["peak"] and report["peak"]["flops"]
        cells += [
            number(rate and rate / 1e9),
            percent(rate / peak if rate and peak else None),
            *([percent(rate / exact if rate else None)] if exact else []),
            number(row["least_bytes"] / seconds / 1e9 if seconds else None),
        ]
        rows.append(cells)
    return columns, rows


def shapes(report):
    """bench_shapes.py: a row for each contender, a column for each model."""
    names = list(dict.fromkeys(c["name"] for row in report["rows"] for c in row["contenders"]))
    columns = [("µs a document", "<"), ("precision", "<"), ("batch", ">")]
    columns += [(row["name"], ">") for row in report["rows"]] + [("same bits", "<")]
    rows = []
    for name in names:
        found = [next((c for c in row["contenders"] if c["name"] == name), None) for row in report["rows"]]
        one = next(c for c in found if c)
        verdicts = [c["bits"] for c in found if c and c["bits"] is not None]
        rows.append([
            name,
            one["precision"],
            one["batch"],
            *(microseconds(c and c["seconds_per_document"]) for c in found),
            yes_no(all(verdicts) if verdicts else None)
            + (f" ({len(verdicts)} of {len(found)} checked)" if 0 < len(verdicts) < len(found) else ""),
        ])  # fmt: skip
    return columns, rows


def sampling(report):
    """bench_sampling.py."""
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
    """bench_startup.py: what the command imports beyond what Python itself does, the dearest first."""
    columns = [("module", "<"), ("ms to import", ">")]
    own = [m for m in report["modules"] if not m["python"]]
    rows = [[f"`{m['module']}`", number(m["self"] * 1e3, 2)] for m in own[:15]]
    if len(own) > 15:
        rows.append([f"{len(own) - 15} others", number(sum(m["self"] for m in own[15:]) * 1e3, 2)])
    rows.append(["all of these", number(sum(m["self"] for m in own) * 1e3, 2)])
    return columns, rows


def breakdown(report):
    """bench_breakdown.py: a row for each part of a step."""
    columns = [("part of a step", "<"), ("µs", ">"), ("share", ">"), ("instructions", ">"), ("operations", ">")]
    exact = report["peak"] and report["peak"].get("exact_flops")
    columns += [("limit, µs", ">")] if exact else []
    rows, parts = [], report["parts"]
    everything = {key: sum(p[key] or 0 for p in parts) or None for key in ("seconds", "instructions", "flops")}
    for part in [*parts, {"name": "all", **everything}]:
        seconds, flops = part["seconds"], part["flops"]
        rows.append([
            part["name"],
            number(None if seconds is None else seconds * 1e6),
            percent(seconds / report["seconds"] if seconds is not None else None),
            number(part["instructions"]),
            number(flops),
            *([number(flops / exact * 1e6 if flops else None, 2)] if exact else []),
        ])  # fmt: skip
    return columns, rows


def breakdown_functions(report):
    """bench_breakdown.py: the functions that take most."""
    columns = [("function", "<"), ("share", ">"), ("instructions a step", ">")]
    rows = [[f"`{name}`", percent(f["share"]), number(f["instructions"])] for name, f in report["functions"].items()]
    return columns, rows
