"""Random programs on Value and on the reference at once, random runs of the fused engine, and damaged checkpoints.

    python tools/fuzz.py [--seconds 60] [--seed N] [--program N]

A third of the time is for programs: each builds a graph from random numbers by operators and layers, walks it backward,
changes data, looks inside, drops what it made; whatever can be observed must be the same on both (tests/support/graphs.py). A
third each is for tools/fuzz_engines.py and tools/fuzz_checkpoint.py. The seed is that of the day and is printed; so is
the number of the program that failed, which --program runs alone. Meant for a build with sanitizers or the debug build
(docs/develop/testing.md).
"""
import argparse
import random
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests" / "support"), str(HERE)]

ODD = [0.0, -0.0, 1.0, -1.0, 2, 3, -2, 0.5, 5e-324, -2e-310, 1e300, 1e-200, float("inf"), float("-inf"), float("nan")]


def program_of(seed, number):
    """(numbers, instructions): a program; its number decides everything about it."""
    from graphs import INSTRUCTIONS, LAYERS

    rng = random.Random(f"{seed}/{number}")
    # Mostly ordinary numbers and mostly all instructions; sometimes only layers over each other, or only odd numbers.
    names = rng.choice([INSTRUCTIONS, INSTRUCTIONS, (*LAYERS, "recent", "a+b", "a*b", "backward", "look")])
    odd = rng.choice([0.0, 0.0, 0.1, 0.5])

    def draw():
        return rng.choice(ODD) if rng.random() < odd else rng.gauss(0, 1)

    numbers = [float(draw()) for _ in range(rng.randint(1, 6))]
    length = rng.choice([4, 12, 12, 40])
    return numbers, [
        (rng.choice(names), [rng.randrange(100) for _ in range(rng.randint(3, 20))], draw()) for _ in range(length)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()) // 86400)
    parser.add_argument("--program", type=int, help="run this one alone")
    args = parser.parse_args()
    from graphs import run_both

    if args.program is not None:
        run_both(*program_of(args.seed, args.program))
        print("ok")
        return
    print(f"seed {args.seed}", flush=True)
    end, programs = time.monotonic() + args.seconds / 3, 0
    while time.monotonic() < end:
        try:
            run_both(*program_of(args.seed, programs))
        except BaseException:
            print(f"python tools/fuzz.py --seed {args.seed} --program {programs}", flush=True)
            raise
        programs += 1
    import fuzz_checkpoint
    import fuzz_engines

    cases = fuzz_engines.fuzz(args.seconds / 3, args.seed)
    end, files, turn = time.monotonic() + args.seconds / 3, 0, 0
    while time.monotonic() < end:
        fuzz_checkpoint.fuzz(200, args.seed * 1_000_000 + turn)
        files, turn = files + 200, turn + 1
    made = [f"{programs} programs", *(f"{count} cases of {kind}" for kind, (count, _) in cases.items())]
    print(f"{', '.join(made)}, {files} damaged checkpoints, seed {args.seed}")


if __name__ == "__main__":
    main()
