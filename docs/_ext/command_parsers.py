"""The argument parsers of the commands, for sphinx-argparse: one function per command.

A command builds its parser inside `main`, because argparse costs start-up time. Each function here calls `main` and
takes the parser at the moment when it would parse the arguments.
"""
import argparse
import re
from importlib import import_module
from unittest import mock

from microgpt.__main__ import COMMANDS


class _Parser(BaseException):
    """Carries the parser out of `main`."""


def _take(parser, args=None, namespace=None):
    raise _Parser(parser)


def parser_of(command: str) -> argparse.ArgumentParser:
    """Return the parser that `microgpt COMMAND` uses."""
    if command == "run":
        return _parser_of_run()
    main = import_module(f"microgpt.{command}").main
    with mock.patch.object(argparse.ArgumentParser, "parse_known_args", _take):
        try:
            main(["--help"])
        except _Parser as taken:
            parser = taken.args[0]
            # Left out when not given (argparse.SUPPRESS), so that a resumed run knows what was asked for. The help
            # text of each flag names its default.
            for action in parser._actions:
                action.default = None
            return parser
    raise AssertionError(f"microgpt {command} parsed no arguments")


def _parser_of_run() -> argparse.ArgumentParser:
    """Return a parser with the flags that the help text of `microgpt run` lists: the command reads them without one."""
    usage = import_module("microgpt.run")._USAGE
    parser = argparse.ArgumentParser(prog="microgpt run", description=usage.split("\n\n")[1].replace("\n", " "))
    for flag, text in re.findall(r"^  (--[\w-]+) +(.+)$", usage, re.M):
        parser.add_argument(flag, action="store_true", help=text)
    parser.add_argument("script", metavar="SCRIPT.py", help="the script")
    parser.add_argument("args", metavar="ARGS", nargs="*", help="its arguments")
    return parser


def __getattr__(name: str):
    if name not in COMMANDS:
        raise AttributeError(name)
    return lambda: parser_of(name)
