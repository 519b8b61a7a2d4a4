"""`microgpt COMMAND`, which is `python -m microgpt COMMAND` and `python -m microgpt.COMMAND`."""
import sys

from . import __version__
from .cli import console as cli

#: The commands, each a module with a `main(argv)`.
COMMANDS = {
    "train": "train on names or on your own text, and sample",
    "sample": "sample from a saved model",
    "eval": "measure how well a saved model predicts a text",
    "report": "show a logged run, or compare several, as one page",
    "play": "train in the browser: every change of a setting trains again",
    "sweep": "train a model for each point of a grid of settings",
    "export": "write a saved model as a C program or as JSON",
    "run": "run a script like microgpt.py, unedited, in compiled code",
    "info": "say what was built and what runs",
}


def main(argv: "list[str] | None" = None) -> int:
    """Run the command that the first argument names; return the exit status."""
    words = sys.argv[1:] if argv is None else argv
    if argv is None:  # the process is this command's
        from .cli import rest_collector

        rest_collector()
    if words and words[0] == "run":  # stdout and errors are the script's from here on
        from .run import main as run

        return run(words[1:])
    return cli.run(_dispatch, lambda: list(sys.argv[1:] if argv is None else argv), owns_process=argv is None)


def _dispatch(words: "list[str]") -> "int | None":
    debug = "--debug" in words[:1]
    words = words[debug:]
    if not words or words[0] in ("-h", "--help"):
        cli.write(_usage())
        return None
    if words[0] == "--version":
        cli.write(f"microgpt {__version__}\n")
        return None
    if words[0] == "--completion":
        _write_completion(words[1:])
        return None
    if words[0] not in COMMANDS:
        from .cli.parsing import closest

        found = closest(words[0], COMMANDS)
        hint = f"; did you mean {found[0]}?" if found else ""
        raise cli.UsageError(f"there is no command {words[0]!r}{hint} (microgpt --help lists the commands)")
    from importlib import import_module

    # Of `microgpt train` without flags, train.main decides what is imported.
    module = import_module(f".{words[0]}", __package__)
    status: int = module.main([*words[1:], *["--debug"] * debug])
    return status


def _write_completion(words: "list[str]") -> None:
    from importlib import import_module

    from .cli.completion import completion

    if len(words) != 1:
        raise cli.UsageError("--completion needs the name of a shell: bash, zsh, fish or tcsh")
    modules = {name: import_module(f".{name}", __package__) for name in COMMANDS}
    commands = {name: (COMMANDS[name], module.make_parser()) for name, module in modules.items()}
    cli.write(completion(words[0], commands))


def _usage() -> str:
    lines = [f"    {name:8}{what}\n" for name, what in COMMANDS.items()]
    return (
        "usage: microgpt COMMAND [FLAGS]        (or python -m microgpt COMMAND, or python -m microgpt.COMMAND)\n\n"
        f"{''.join(lines)}\nEach command takes --help, and --debug to show the traceback of an error.\n"
        "microgpt --version writes the version, microgpt --completion SHELL a script that completes words in bash, zsh, fish or tcsh.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
