"""Write the tables between their marks in PAGES, and the picture of the README, from bench/results/*.json.

    python bench/render.py

<!-- table: NAME -->  ...  <!-- end table -->           a table and the command behind it; names: TABLES
<!-- figure: NAME -->...<!-- end figure -->             one number in a sentence; names: FIGURES
"""
import re
import sys
from functools import partial
from pathlib import Path

import readme_picture
import tables
from harness import report
from harness.table import markdown, number

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
PAGES = ("README.md", "bench/README.md", "docs/index.md", "docs/howto/one-import.md", "docs/howto/own-architecture.md",
         "docs/howto/many-machines.md")  # fmt: skip
PICTURE = "docs/images/speed.svg"

#: Table -> (JSON file, the function that lays it out).
TABLES = {
    "engines": ("compare", tables.engines), "compare": ("compare", tables.compare), "shapes": ("shapes", tables.shapes),
    "value-operators": ("value", tables.value_operators), "value-graph": ("value", tables.value_graph),
    "user-code": ("user_code", tables.user_code), "workers": ("workers", tables.workers), "scale": ("scale", tables.scale),
    "sampling": ("sampling", tables.sampling), "startup": ("startup", tables.startup),
}  # fmt: skip


#: Figure -> (JSON file, the beginning of a row's name, the key in this row, form).
FIGURES = {
    "fused-times": ("compare", "fused (", "times_original", number),
    "value-times": ("compare", "microgpt.py with our Value", "times_original", number),
    "functions-times": ("user_code", "user code: Value,", "times_original", partial(number, digits=2)),
    "compiled-times": ("user_code", "user code: @microgpt", "times_original", partial(number, digits=2)),
    "startup-milliseconds": ("startup", "microgpt.train: 1,000 steps", "seconds", tables.milli),
}

_MARKED = re.compile(r"(<!-- (table|figure): (\S+) -->)(.*?)(<!-- end \2 -->)", re.DOTALL)


def rendered(page, results=RESULTS):
    """Return the text of a page with every table and figure as in the JSON files.

    Raises ValueError for a mark that has no end, no such name or no data.
    """
    opened, closed = (len(re.findall(f"<!-- {word}(?:table|figure)", page)) for word in ("", "end "))
    if opened != closed or opened != len(_MARKED.findall(page)):
        raise ValueError(f"{opened} marks begin a table or figure, {closed} end one, or one is not on its line")

    def fill(match):
        start, kind, name, _, end = match.groups()
        known = {"table": TABLES, "figure": FIGURES}[kind]
        if name not in known:
            raise ValueError(f"there is no {kind} {name!r}; there are {', '.join(known)}")
        file, *what = known[name]
        try:
            made = report.read(results / f"{file}.json")
        except FileNotFoundError:
            raise ValueError(f"{name} needs bench/results/{file}.json") from None
        if kind == "table":
            return f"{start}\n{markdown(*what[0](made))}\n\n{report.caption(made)}\n{end}"
        row, key, form = what
        return start + form(tables.row_of(made, row)[key]) + end

    return _MARKED.sub(fill, page)


def pages(root=ROOT, results=RESULTS):
    """Return [(path, its text, its text as it should be)] of the pages and the picture."""
    found = [(path, path.read_text(encoding="utf-8")) for path in (*(root / page for page in PAGES), root / PICTURE)]
    drawn = readme_picture.draw(report.read(results / "compare.json"))
    return [(path, now, drawn if path.suffix == ".svg" else rendered(now, results)) for path, now in found]


def main():
    try:
        changed = [(path, new) for path, old, new in pages() if old != new]
    except ValueError as error:
        sys.exit(f"render: {error}")
    for path, new in changed:
        path.write_text(new, encoding="utf-8", newline="\n")
        print(f"{path.relative_to(ROOT)}: rewritten")


if __name__ == "__main__":
    main()
