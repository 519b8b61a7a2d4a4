"""The argument parsers of the commands, for sphinx-argparse: one function per command.

A command builds its parser inside `main`, because argparse costs start-up time. Each function here calls `main` and
takes the parser at the moment when it would parse the arguments.
"""
import argparse
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
        return _for_page(import_module("microgpt.run").make_parser())
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
            return _for_page(parser)
    raise AssertionError(f"microgpt {command} parsed no arguments")


def _for_page(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Return the parser with its examples as a literal block."""
    if parser.epilog:
        head, *lines = parser.epilog.split("\n")
        parser.epilog = "\n".join([head.capitalize() + ":", "", *(f"    {line.strip()}" for line in lines)])
    return parser


def __getattr__(name: str):
    if name not in COMMANDS:
        raise AttributeError(name)
    return lambda: parser_of(name)
