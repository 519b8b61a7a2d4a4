#!/usr/bin/env python3
"""Writes libm_arguments.json: where the C library's functions are hardest to round.

    python tests/golden/find_libm_arguments.py            # about a minute
    python tests/golden/find_libm_arguments.py --check    # the file is what would be written

A function of the C library is right to a little more than half a unit in the last place (ulp). Which of the two
neighbouring doubles it returns is in doubt only where the exact result is near the middle between them; there two
libraries, or one library with and without fused multiply-add, part ways. So, from a fixed stream of random arguments
in the range in which a training run uses the function, this keeps those whose exact result, computed with 50 decimal
digits, is within WINDOW ulp of such a middle.
"""
import argparse
import json
import math
import random
import sys
from decimal import Context, Decimal
from pathlib import Path

FILE = Path(__file__).resolve().with_name("libm_arguments.json")
WINDOW = 0.0005
COUNT = 180  # of each function
EXACT = Context(prec=50)
TWO_PI = 6.283185307179586


def sin_cos(x):
    """(sin x, cos x) of a Decimal below 2 pi, by their series; terms reach 60 or so before they shrink."""
    sums, term, n = [Decimal(0), Decimal(0)], Decimal(1), 0
    while abs(term) > Decimal("1e-48"):
        add = EXACT.subtract if n % 4 >= 2 else EXACT.add
        sums[1 - n % 2] = add(sums[1 - n % 2], term)
        n += 1
        term = EXACT.divide(EXACT.multiply(term, x), Decimal(n))
    return sums


def power(y):
    def exact(x):
        root = x if y == int(y) else EXACT.sqrt(x)
        return EXACT.power(root, int(y) if y == int(y) else int(2 * y))
    return exact


def uniform(low, high):
    return lambda rng: low + (high - low) * rng.random()


def scaled(low, high):
    """Any magnitude between 2**low and 2**high."""
    return lambda rng: math.ldexp(1.0 + rng.random(), low + int((high - low) * rng.random()))


# Function -> where its arguments are in a run, and its exact value.
FUNCTIONS = {
    "exp": (uniform(-16.0, 0.0), EXACT.exp),  # logits below the largest
    "log": (uniform(0.0, 1.0), EXACT.ln),  # probabilities; draws in gauss
    "cos": (uniform(0.0, TWO_PI), lambda x: sin_cos(x)[1]),  # gauss
    "sin": (uniform(0.0, TWO_PI), lambda x: sin_cos(x)[0]),
    "pow 2.0": (scaled(-30, 4), power(2)),  # gradients
    "pow 0.5": (scaled(-60, 8), power(0.5)),  # v_hat
    "pow -1.0": (scaled(0, 8), power(-1)),  # a softmax's total
    "pow -0.5": (scaled(-17, 4), power(-0.5)),  # a mean square
    "pow -1.5": (scaled(-17, 4), power(-1.5)),
    "pow -2.0": (scaled(0, 8), power(-2)),
}


def distance_from_tie(name, x):
    """How far the exact value at x is from the middle between two doubles, in ulp: 0 to 0.5."""
    exact = FUNCTIONS[name][1](Decimal(x))
    nearest = float(exact)
    return 0.5 - float(abs(EXACT.subtract(exact, Decimal(nearest)))) / math.ulp(nearest)


def find(name):
    rng, arguments = random.Random(f"libm {name}"), []
    while len(arguments) < COUNT:
        x = FUNCTIONS[name][0](rng)
        if x and distance_from_tie(name, x) < WINDOW:
            arguments.append(x)
    return arguments


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    check = parser.parse_args().check
    content = json.dumps({name: [x.hex() for x in find(name)] for name in FUNCTIONS}, indent=0) + "\n"
    if not check:
        FILE.write_text(content, encoding="ascii", newline="\n")
    elif FILE.read_text(encoding="ascii") != content:
        sys.exit(f"{FILE} differs from what this program finds")


if __name__ == "__main__":
    main()
