"""Finds the file in the current folder that was imported in place of a module which the package needs.

`python -m` looks for modules in the current folder first, so a user's random.py is what every module gets that imports random.
"""
import os
import sys
from _frozen_importlib_external import PathFinder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

__all__ = ["explain_hiding"]


def explain_hiding(error: BaseException, may_be_elsewhere: bool) -> "str | None":
    """Return a sentence about the file that made error by hiding a module; None if there is none.

    may_be_elsewhere: error may come from a module that lacks what the hidden one has, which is seen in no frame of its own.
    """
    folder = os.path.realpath(os.curdir)
    files = [*_files_of(error), *(_files_of_modules() if may_be_elsewhere else ())]
    for file in files:
        found = _inside(file, folder)
        name = "" if found is None else found.partition(os.sep)[0].partition(".")[0]
        if not found or name == __name__.partition(".")[0]:
            continue
        is_pythons = name in sys.stdlib_module_names
        if is_pythons or _is_elsewhere(name, folder):
            owner = "Python's own module" if is_pythons else "the package"
            return f"{found} hides {owner} of this name: rename it, or use the command microgpt instead of python -m"
    return None


def _files_of(error: BaseException) -> "Iterator[str]":
    """Yield the files that error came through, and those of the errors that it came from."""
    chain, seen = [error], set[int]()
    while chain:
        each = chain.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, SyntaxError) and each.filename:
            yield each.filename
        trace = each.__traceback__
        while trace is not None:
            yield trace.tb_frame.f_code.co_filename
            trace = trace.tb_next
        chain += filter(None, (each.__cause__, each.__context__))


def _files_of_modules() -> "Iterator[str]":
    modules: list[tuple[str, ModuleType]] = sorted(sys.modules.items(), key=lambda item: item[0])
    for name, module in modules:
        file = getattr(module, "__file__", None)
        if name != "__main__" and "." not in name and isinstance(file, str):
            yield file


def _inside(file: str, folder: str) -> "str | None":
    """Return file relative to folder, if it is a module there, or in a package that is there."""
    path = os.path.realpath(file)
    if not path.startswith(os.path.join(folder, "")):
        return None
    inside = os.path.relpath(path, folder)
    top = inside.partition(os.sep)[0]
    return inside if top == inside or os.path.exists(os.path.join(folder, top, "__init__.py")) else None


def _is_elsewhere(name: str, folder: str) -> bool:
    """Return whether there is a module of this name in another folder of sys.path."""
    others = [path for path in sys.path if os.path.realpath(path or os.curdir) != folder]
    return PathFinder.find_spec(name, others) is not None
