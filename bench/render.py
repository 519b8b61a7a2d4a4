"""Write the tables between their marks in PAGES, and the picture of the README, from bench/results/*.json.

python bench/render.py            rewrites the pages that have changed
python bench/render.py --check    changes nothing; reports what would change, with exit status 1

<!-- table: NAME -->  ...  <!-- end table -->           a table and the command behind it; names: TABLES
<!-- figure: NAME -->...<!-- end figure -->             one number in a sentence; names: FIGURES
"""
import argparse
import re
import sys
from pathlib import Path

import readme_picture
import tables
from harness import report
from harness.table import markdown, number

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
PAGES = ("README.md", "bench/README.md", "docs/howto/own-architecture.md")

#: Table -> (JSON file, the function that lays it out).
TABLES = {
    "engines": ("compare", tables.engines),
    "compare": ("compare", tables.compare),
    "value-operators": ("value", tables.value_operators),
    "value-graph": ("value", tables.value_graph),
    "shapes": ("shapes", tables.shapes),
    "user-code": ("user_code", tables.user_code),
    "workers": ("workers", tables.workers),
    "sampling": ("sampling", tables.sampling),
    "startup": ("startup", tables.startup),
}


def _row(made, start):
    return next(row for row in made["rows"] if row["name"].startswith(start))


#: Figure -> (JSON file, report -> str).
FIGURES = {
    "fused-times": ("compare", lambda made: number(_row(made, "fused (")["times_original"])),
    "value-times": ("compare", lambda made: number(_row(made, "microgpt.py with our Value")["times_original"])),
    "functions-times": ("user_code", lambda made: number(_row(made, "user code: Value,")["times_original"], 2)),
    "compiled-times": ("user_code", lambda made: number(_row(made, "user code: @microgpt")["times_original"], 2)),
    "startup-milliseconds": ("startup", lambda made: number(made["rows"][-1]["seconds"] * 1e3)),
}

_TABLE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end table -->)", re.DOTALL)
_FIGURE = re.compile(r"(<!-- figure: (\S+) -->).*?(<!-- end figure -->)", re.DOTALL)


def rendered(page, results=RESULTS):
    """Return the text of a page with every table and figure as in the JSON files.

    Raises ValueError for a mark that has no end, no such name or no data.
    """
    opened = len(re.findall("<!-- (?:table|figure): ", page))
    closed = len(re.findall("<!-- end (?:table|figure) -->", page))
    if opened != closed or opened != len(_TABLE.findall(page)) + len(_FIGURE.findall(page)):
        raise ValueError(f"{opened} marks begin a table or figure, {closed} end one, or one is not on its line")

    def data(kind, name):
        if name not in kind:
            raise ValueError(f"there is no table or figure {name!r}; there are {', '.join(kind)}")
        file, layout = kind[name]
        try:
            made = report.read(results / f"{file}.json")
            return made, layout(made)
        except FileNotFoundError:
            raise ValueError(f"{name} needs bench/results/{file}.json") from None
        except (KeyError, StopIteration) as error:
            raise ValueError(f"bench/results/{file}.json has nothing for {name}: {error!r}") from None

    def table(match):
        made, columns_and_rows = data(TABLES, match[2])
        return f"{match[1]}{markdown(*columns_and_rows)}\n\n{report.caption(made)}\n{match[3]}"

    def figure(match):
        return match[1] + data(FIGURES, match[2])[1] + match[3]

    return _FIGURE.sub(figure, _TABLE.sub(table, page))


def pages(root=ROOT, results=RESULTS):
    """Return [(path, its text, its text as it should be)] of the pages and the picture."""
    found = [(root / page, (root / page).read_text(encoding="utf-8")) for page in PAGES]
    picture = root / "docs" / "images" / "speed.svg"
    drawn = readme_picture.draw(report.read(results / "compare.json"))
    return [(path, now, rendered(now, results)) for path, now in found] + [(picture, picture.read_text("utf-8"), drawn)]


def main(argv=None):
    p = argparse.ArgumentParser(prog="python bench/render.py", description=__doc__.splitlines()[0])
    p.add_argument("--check", action="store_true", help="change nothing; exit status 1 if a page is out of date")
    args = p.parse_args(argv)
    try:
        changed = [(path, new) for path, old, new in pages() if old != new]
    except ValueError as error:
        sys.exit(f"render: {error}")
    for path, new in changed:
        if not args.check:
            path.write_text(new, encoding="utf-8", newline="\n")
        print(f"{path.relative_to(ROOT)}: {'differs from its data' if args.check else 'rewritten'}")
    return 1 if args.check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
