"""`microgpt run SCRIPT.py [ARGS...]`: run a script like microgpt.py unedited, with its slow parts replaced.

stdout is the script's, byte for byte. What was replaced, and what runs as written and why, goes to stderr.
"""
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["main"]

_USAGE = """usage: microgpt run [--explain] [--no-compile] [--plain] SCRIPT.py [ARGS...]

Run a script like microgpt.py unedited: its Value, its functions and its loops in compiled code, with the same output.

  --explain      say in full, at the end, what was replaced and what was not, and why
  --no-compile   leave the loss of the training loop as it is written
  --plain        replace nothing
  --debug        show tracebacks with the frames of this package

examples:
  microgpt run microgpt.py
  microgpt run --explain microgpt.py
"""


def main(argv: "list[str] | None" = None) -> int:
    """Run the command; return the exit status. SystemExit of the script goes on to the caller."""
    words = list(sys.argv[1:] if argv is None else argv)
    flags = set()
    while words and words[0].startswith("-") and words[0] != "-":
        word = words.pop(0)
        if word in ("-h", "--help"):
            sys.stdout.write(_USAGE)
            return 0
        if word == "--":
            break
        if word not in ("--explain", "--no-compile", "--plain", "--debug"):
            _say(f"error: unrecognized arguments: {word} (microgpt run --help lists the flags)")
            return 2
        flags.add(word)
    if not words:
        _say("error: which script? (microgpt run --help shows how)")
        return 2
    path = words[0]
    try:
        from .data import read_file

        source = read_file(path)
    except OSError as error:
        _say(f"error: {path}: {error.strerror}")
        return 2
    except ValueError as error:  # it names the file
        _say(f"error: {error}")
        return 2
    try:
        return _run(os.path.abspath(path), source, words, flags)
    except KeyboardInterrupt:  # while it is planned, or when it has ended: one in the script is answered there
        _say("interrupted")
        return 130


def make_parser() -> "Any":
    """Return an argparse.ArgumentParser with the flags that the usage lists: `main` reads them without one."""
    import argparse
    import re

    what, examples = _USAGE.split("\n\n")[1], _USAGE[_USAGE.index("examples:") :].rstrip()
    parser = argparse.ArgumentParser(prog="microgpt run", description=what.replace("\n", " "), epilog=examples,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    for flag, text in re.findall(r"^  (--[\w-]+) +(.+)$", _USAGE, re.M):
        parser.add_argument(flag, action="store_true", help=text)
    parser.add_argument("script", metavar="SCRIPT.py", help="the script")
    parser.add_argument("args", metavar="ARGS", nargs="*", help="its arguments")
    return parser


def _say(text: str) -> None:
    try:
        if sys.stderr is not None:
            sys.stderr.write(f"microgpt: {text}\n")
            sys.stderr.flush()
    except (OSError, ValueError):
        pass


def _run(path: str, source: bytes, words: "list[str]", flags: "set[str]") -> int:
    import builtins
    import gc
    import types

    gc.disable()  # a script's tree has thousands of nodes, which live until all is planned
    try:
        code: Any = None
        plan = runtime = None
        if "--plain" not in flags:
            plan, runtime, code = _plan(path, source, flags)
        if code is None:
            code = compile(source, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError) as error:
        sys.excepthook(type(error), error.with_traceback(None), None)
        return 1
    finally:
        gc.freeze()  # nor need its collections visit them while the script runs
        gc.enable()
    folder = os.path.dirname(os.path.realpath(path))  # as Python: a link's modules are beside the file that it points to
    if hidden := _hidden(source, folder):
        if plan is not None:
            whose = "this package" if "microgpt" in hidden else "a module of Python's"
            plan.why = f"it imports a {min(hidden)}.py, whose name is that of {whose}"
            _announce(os.path.basename(path), plan)
        code, plan = compile(source, path, "exec", dont_inherit=True), None
        for name in [name for name in sys.modules if name.partition(".")[0] in hidden]:
            del sys.modules[name]
    module = types.ModuleType("__main__")
    module.__dict__.update(__file__=path, __builtins__=builtins, __spec__=None, __package__=None, __cached__=None)
    sys.modules["__main__"] = module
    sys.argv[:] = words
    if getattr(sys.flags, "safe_path", False) or not sys.path:
        sys.path.insert(0, folder)
    else:
        sys.path[0] = folder  # the folder of this command's own start
    if plan is not None:
        _announce(os.path.basename(path), plan)
        if plan.why is None:
            module.__dict__["__microgpt__"] = runtime
    try:
        exec(code, module.__dict__)
    except SystemExit:
        raise
    except KeyboardInterrupt as error:
        _show(error, path, flags)
        return 130
    except BaseException as error:
        _show(error, path, flags)
        return 1
    finally:
        if plan is not None and runtime is not None:
            _report(plan, runtime, "--explain" in flags)
    return 0


def _hidden(source: bytes, folder: str) -> "set[str]":
    """Names of modules that are loaded here, or that a plan counts on, and that this script imports from its own folder."""
    try:
        beside = {name.partition(".")[0] for name in os.listdir(folder)}
    except OSError:
        return set()
    hidden = set()
    if "microgpt" in beside and b"import microgpt" in source.replace(b"from microgpt", b"import microgpt"):
        hidden = {"microgpt"} if os.path.exists(os.path.join(folder, "microgpt.py")) else set()
    if found := beside & sys.stdlib_module_names:
        from .scripting.modules import imported_from

        hidden |= imported_from(source, folder, found)
    return hidden


def _plan(path: str, source: bytes, flags: "set[str]") -> "tuple[Any, Any, Any]":
    """The plan of what to replace, the runtime, and the code to run; no code where nothing is replaced.

    Nothing is replaced where our own analysis fails. Raises what Python raises for a script that it cannot read.
    """
    from .scripting.plan_cache import PlanCache

    may_compile = "--no-compile" not in flags
    cache = PlanCache(path, source, may_compile)
    plan: Any
    plan, code = cache.read() or (None, None)
    tree: Any = None
    if plan is None:
        from .scripting.trees import parse

        tree = parse(source, path)
    try:
        from .scripting.runtime import Runtime

        if plan is None:
            from .scripting.plan import Plan

            plan = Plan(tree, may_compile, os.path.dirname(os.path.realpath(path)))
        runtime = Runtime(plan.roles, path, plan.tree, plan.updates)
    except Exception as error:
        if "--debug" in flags:
            raise
        _say(f"nothing is replaced: the script is not understood ({type(error).__name__}: {error})")
        return None, None, None
    if code is None and plan.why is None:
        code = compile(plan.tree, path, "exec", dont_inherit=True)
        cache.write(plan, code)
    return plan, runtime, code


def _announce(name: str, plan: "Any") -> None:
    if plan.why is not None:
        _say(f"{name} runs as written: {plan.why}")
        return
    text = f"{name}: compiled: {', '.join(plan.done)}"
    if plan.kept:
        text += f"; as written: {'; '.join(f'{what} ({why})' for what, why in plan.kept)}"
    _say(text)


def _report(plan: "Any", runtime: "Any", in_full: bool) -> None:
    """What turned out while the script ran."""
    for said in runtime.say_kept():
        _say(said)
    if runtime.loss is None:
        return
    if in_full:
        _say(runtime.loss.explain())
        return
    reasons: dict[str, int] = {}
    for entry in runtime.loss.entries.values():
        if entry.why is not None:
            reasons[entry.why] = reasons.get(entry.why, 0) + 1
    if reasons:
        why, count = max(reasons.items(), key=lambda item: item[1])
        _say(f"the loss ran as written for {sum(reasons.values())} of {len(runtime.loss.entries)} shapes: {why}")


def _show(error: BaseException, path: str, flags: "set[str]") -> None:
    """Show the traceback as Python would, beginning with the script's own frame."""
    trace = error.__traceback__
    if "--debug" not in flags:
        while trace is not None and trace.tb_frame.f_code.co_filename != path:
            trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)


if __name__ == "__main__":
    sys.exit(main())
