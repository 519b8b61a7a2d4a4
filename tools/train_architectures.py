"""The test architectures over many steps, compiled, against the script's class: python tools/train_architectures.py [STEPS [NAME ...]]

Each is trained with Adam and with SGD. Compares every loss, gradient and parameter bit for bit; ends with status 1 at the
first difference. 200 steps take a few minutes.
"""
import gc
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

import architectures  # noqa: E402
import training_runs  # noqa: E402


def main(arguments):
    steps, names = int(arguments[0]) if arguments else 200, arguments[1:]
    warnings.simplefilter("error")  # a program that is not the function warns
    gc.disable()  # the reference's Values form no cycles
    for build in architectures.ALL:
        if names and build.__name__ not in names:
            continue
        for optimizers, word in ((training_runs.ADAM, "Adam"), (training_runs.SGD, "SGD")):
            before = time.perf_counter()
            try:
                compiled = training_runs.assert_same_runs(build, optimizers, steps)
            except Exception as error:
                print(f"{build.__name__}, {word}: {type(error).__name__}: {error}")
                return 1
            replays = sum(entry.replays for entry in compiled.entries.values())
            print(f"{build.__name__:22} {word:5} {steps} steps the same, {replays} replayed, {time.perf_counter() - before:.0f} s",
                  flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
