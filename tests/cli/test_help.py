"""What the commands say of themselves: a word for every flag, examples that are valid, completion in shells."""
import re
import shlex
import sys
import types
from importlib import import_module

import pytest
from test_cli import one_line_error

from microgpt.__main__ import COMMANDS

PARSERS = {name: import_module(f"microgpt.{name}").make_parser() for name in COMMANDS}


@pytest.mark.parametrize("name", PARSERS)
def test_every_flag_has_a_word_beside_its_default(name):
    for action in PARSERS[name]._actions:
        words = re.sub(r"\(?default: [^)]*\)?", "", action.help or "")
        assert re.search(r"[a-z]{2}", words), f"{name} {action.option_strings or action.dest}: {action.help!r}"


@pytest.mark.parametrize("name", PARSERS)
def test_help_ends_with_two_examples_that_the_command_takes(name, in_process):
    done = in_process("__main__", name, "--help")
    assert done.returncode == 0 and done.stderr == ""
    examples = done.stdout.rstrip().rpartition("examples:\n")[2].split("\n")
    assert len(examples) >= 2
    for example in examples:
        words = shlex.split(re.sub(r"^\s*(MICROGPT_\w+=\w+ )?", "", example))
        assert words[:2] == ["microgpt", name] and PARSERS[name].parse_args(words[2:])


@pytest.fixture
def shtab(monkeypatch):
    """A stand-in that keeps what it is given. The scripts of the library itself are not tested here."""
    made = types.SimpleNamespace(SUPPORTED_SHELLS=["bash", "zsh"], FILE="file", DIRECTORY="folder")
    made.complete = lambda parser, shell: made.__dict__.update(parser=parser) or f"# for {shell}\n"
    monkeypatch.setitem(sys.modules, "shtab", made)
    return made


def test_completion_knows_every_command_and_flag(in_process, shtab):
    done = in_process("__main__", "--completion", "zsh")
    assert (done.returncode, done.stdout, done.stderr) == (0, "# for zsh\n", "")
    commands = next(action for action in shtab.parser._actions if action.choices).choices
    assert list(commands) == list(PARSERS) and shtab.parser.prog == "microgpt"
    for name, parser in PARSERS.items():
        assert set(commands[name]._option_string_actions) == set(parser._option_string_actions)
    kinds = {(name, action.option_strings[-1] if action.option_strings else action.dest): getattr(action, "complete", None)
             for name, parser in commands.items() for action in parser._actions}  # fmt: skip
    for where in (("train", "--input"), ("train", "--init-from"), ("sample", "model"), ("export", "--c"), ("report", "logs"),
                  ("report", "--output"), ("run", "script")):  # fmt: skip
        assert kinds[where] == "file", where
    assert kinds["sweep", "--save-dir"] == "folder"
    assert {kinds["train", flag] for flag in ("--steps", "--csv-column", "--engine", "--quiet")} == {None}


def test_completion_says_what_is_wrong(in_process, monkeypatch, shtab):
    one_line_error(in_process("__main__", "--completion"), "--completion needs the name of a shell")
    one_line_error(in_process("__main__", "--completion", "sh"), "--completion knows bash, zsh, not 'sh'")
    monkeypatch.setitem(sys.modules, "shtab", None)  # as if it were not installed
    one_line_error(in_process("__main__", "--completion", "bash"), "pip install 'microgpt-exact[completion]'")
