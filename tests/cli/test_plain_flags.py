"""Flags that are written out are read without argparse, and mean what argparse would make of them."""
import random

import pytest

from microgpt.cli import options
from microgpt.train import DEFAULTS

VALUES = {
    int: ["0", "7", "007", "+3", " 12 ", "1_000", "99999999999999999999"],
    float: ["0", "0.5", "1e-3", "inf", "nan", ".5", "1_0.5"],
    str: ["file", "", "a b", "a=b", "@file", "ü", "x-y", "a--b"],
}
WRONG = {int: ["", "x", "1.5", "1e3", "9" * 5000], float: ["", "x", "1,5", "0x1p3"], str: []}


def flag(name):
    return "--" + name.replace("_", "-")


def by_argparse(argv):
    """Return what argparse makes of argv, items in order; None if it rejects it or writes help."""
    try:
        return list(vars(options.make_parser(DEFAULTS).parse_args(argv)).items())
    except SystemExit:
        return None


def by_bits(items):
    """The same, comparable where a value is nan."""
    return items and [(name, type(value), value.hex() if isinstance(value, float) else value) for name, value in items]


def values_of(name):
    if name == "engine":
        return ["fused", "graph", "reference"]
    return VALUES[str if name == "input" else options.VALUED[name]]


def agree(argv):
    """Whether argv is plain; then argparse makes the same of it."""
    plain = options.parse_plain(argv)
    if plain is not None:
        assert by_bits(list(plain.items())) == by_bits(by_argparse(argv))
    return plain is not None


@pytest.mark.parametrize("name", [*options.VALUED, "input"])
def test_every_value_of_a_flag(name):
    for value in values_of(name):
        assert agree([flag(name), value])
    for value in [] if name == "input" else WRONG[options.VALUED[name]]:
        assert not agree([flag(name), value]) and by_argparse([flag(name), value]) is None


def test_many_flags_in_any_order():
    rng = random.Random(1)
    for _ in range(300):
        names = rng.sample([*options.VALUED, "input", "quiet"], rng.randint(0, 8))
        names += rng.sample(names, rng.randint(0, min(2, len(names))))  # the last one counts
        argv = []
        for name in names:
            argv += ["--quiet"] if name == "quiet" else [flag(name), rng.choice(values_of(name))]
        assert agree(argv) or {"val", "val_fraction"} <= {*names}


@pytest.mark.parametrize("argv", [
    ["--steps"], ["--steps", "-1"], ["--steps", "--quiet"], ["--steps=3"], ["--step", "3"], ["--n_embd", "3"], ["steps", "3"],
    ["-h"], ["--help"], ["--debug"], ["--steps", "3", "--debug"], ["--quiet=1"], ["--quiet", "1"], ["--", "--steps", "3"],
    ["--steps", "3", "4"], ["--engine", "fast"], ["--engine", ""], ["--val", "a", "--val-fraction", "0.5"], [""], ["-"],
    ["--"], ["--input", "-"], ["--input", "a", "b"], ["--split", "lines"], ["--input", "--steps"], ["--input", "-x y"],
    ["---steps", "3"], ["--Steps", "3"],
])  # fmt: skip
def test_everything_else_is_left_to_argparse(argv):
    assert options.parse_plain(argv) is None


def test_random_words():
    rng = random.Random(2)
    words = ["--steps", "--n-embd", "--input", "--temperature", "--engine", "--quiet", "--save", "--val", "--val-fraction", "3",
             "0.5", "x", "", "-1", "--", "-", "--steps=3", "fused", "--debug", "--allow-other-text", "--n_embd"]  # fmt: skip
    plain = sum(agree(rng.choices(words, k=rng.randint(1, 5))) for _ in range(3000))
    assert plain > 50


def test_run_with_plain_flags_does_without_argparse(command):
    code = (
        "import gc, sys, microgpt.train as t; sys.argv[1:] = ['--steps', '1', '--samples', '1', '--engine', 'fused']; s = t.main(); "
        "print(s, gc.get_freeze_count() > 0, *sorted(sys.modules), file=sys.stderr)"
    )
    done = command("-c", code)
    status, is_frozen, *loaded = done.stderr.splitlines()[-1].split()
    assert status == "0" and is_frozen == "True"
    for heavy in ("argparse", "re", "enum", "gettext", "locale", "shutil", "lzma", "numpy", "random", "typing",
                  "microgpt.callbacks", "microgpt.cli.plan", "microgpt.storage.checkpoint", "microgpt.core.value"):  # fmt: skip
        assert heavy not in loaded


def test_call_from_a_program_leaves_its_collector_alone(command):
    code = "import gc, microgpt.train as t; t.main(['--steps', '0', '--samples', '0']); print(gc.get_freeze_count())"
    assert command("-c", code).stdout.splitlines()[-1] == "0"


def test_engines_print_the_same_with_plain_flags(in_process, tmp_path):
    """The documents are lines for the compiled engines, and strings for random.shuffle."""
    (tmp_path / "text.txt").write_text("emma\nava\nmia\nolivia\n", encoding="utf-8")
    (tmp_path / "other.txt").write_text(" emma\r\nava\u2028mia\n\nü\n", encoding="utf-8")
    for name in ("text.txt", "other.txt"):
        flags = ["--input", name, "--steps", "2", "--samples", "2", "--n-embd", "4", "--block-size", "5"]
        printed = {in_process("train", *flags, "--engine", engine).stdout for engine in ("fused", "graph", "reference")}
        assert len(printed) == 1 and "num docs: " in printed.pop()
