#!/usr/bin/env python3
"""Writes the golden traces, tests/golden/NAME.json, from microgpt.reference in pure Python.

    python tests/golden/make_golden.py            # writes every file; about half a minute
    python tests/golden/make_golden.py --check    # compares instead, and names what differs; exit status 1

A file that changes means that the reference changed, or that another C library runs: say which in the commit.
What is recorded, and of which runs, is in ../support/golden_traces.py.
"""
import argparse
import json
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS / "support")]

from golden_traces import CONFIGURATIONS, GOLDEN, golden_file  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    check = parser.parse_args().check
    different = 0
    for name in CONFIGURATIONS:
        path = GOLDEN / f"{name}.json"
        content = json.dumps(golden_file(name), indent=1) + "\n"
        if not check:
            path.write_text(content, encoding="ascii", newline="\n")
        elif not path.exists() or path.read_text(encoding="ascii") != content:
            different += 1
            print(f"{path} differs", file=sys.stderr)
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
