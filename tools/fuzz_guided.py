"""Fuzzing guided by coverage, with atheris (libFuzzer): the reader of checkpoints, or programs on Value.

    pip install atheris && python tools/fuzz_guided.py checkpoints|programs [libFuzzer's options, such as -max_total_time=60]

checkpoints: any bytes as a file; Trainer.load must refuse it with CheckpointError, or load a run that samples or says
why not. programs: the bytes become a program that runs on `Value` and on the reference at once and must agree to the
bit (tests/support/graphs.py). tools/fuzz.py needs no atheris and no guidance; this looks where that does not get by chance.
"""
import sys
import tempfile
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests" / "support"), str(HERE)]

with atheris.instrument_imports(include=["microgpt", "graphs"]):
    import fuzz_checkpoint
    import graphs


def load_checkpoint(data):
    PATH.write_bytes(data)
    fuzz_checkpoint.outcome(PATH)


def run_program(data):
    provider = atheris.FuzzedDataProvider(data)
    numbers = [provider.ConsumeFloat() for _ in range(provider.ConsumeIntInRange(1, 6))]
    program = []
    while provider.remaining_bytes() and len(program) < 40:
        name = provider.PickValueInList(list(graphs.INSTRUCTIONS))
        choices = [provider.ConsumeIntInRange(0, 99) for _ in range(provider.ConsumeIntInRange(3, 20))]
        program.append((name, choices, provider.ConsumeFloat()))
    graphs.run_both(numbers, program)


if __name__ == "__main__":
    targets = {"checkpoints": load_checkpoint, "programs": run_program}
    if len(sys.argv) < 2 or sys.argv[1] not in targets:
        sys.exit(__doc__.split("\n\n")[1].strip())
    with tempfile.TemporaryDirectory() as folder:
        PATH = Path(folder) / "x.safetensors"
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        if sys.argv[1] == "checkpoints":
            for i, content in enumerate(fuzz_checkpoint.good_files()):
                (corpus / str(i)).write_bytes(content)
        atheris.Setup([sys.argv[0], *sys.argv[2:], str(corpus)], targets[sys.argv[1]])
        atheris.Fuzz()
