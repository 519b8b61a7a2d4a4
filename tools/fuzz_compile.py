"""Random functions, compiled, against the script's class: python tools/fuzz_compile.py [FIRST [LAST]]

Prints how many were compiled in which way; ends with status 1 at the first difference, whose seed it names.
"""
import sys
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

import random_programs  # noqa: E402


def main(arguments):
    first, last = (int(arguments[0]) if arguments else 0), (int(arguments[1]) if len(arguments) > 1 else 1000)
    warnings.simplefilter("error")  # a program that is not the function warns
    counts = Counter()
    for seed in range(first, last):
        try:
            counts[random_programs.run(seed)] += 1
        except Exception as error:
            print(f"seed {seed}: {type(error).__name__}: {error}")
            return 1
    for what, n in counts.most_common():
        print(f"{n:8} {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
