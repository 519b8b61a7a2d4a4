"""Files of the user that a script imports: they run as they are written, and Values may go through them."""
import _ast as ast
import os
import sys
from _frozen_importlib_external import PathFinder
from _imp import is_frozen

from .trees import parse, walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MOST = 50  # files that are read
_STARTED = {"abc", "codecs", "encodings", "genericpath", "io", "ntpath", "os", "posixpath", "site", "stat"}  # before any script


class UserModule:
    """One file beside the script.

    name: as it is imported.  file: relative to the script's folder.  tree: its syntax tree.
    """

    def __init__(self, name: str, file: str, tree: ast.Module) -> None:
        self.name, self.file, self.tree = name, file, tree


def user_modules(tree: ast.Module, folder: str) -> "dict[str, UserModule]":
    """The files in the script's folder that it imports, and those that these import; others are not the user's, or not found."""
    found: dict[str, UserModule] = {}
    waiting = list(_imported(tree, ""))
    while waiting and len(found) < MOST:
        name = waiting.pop()
        if name in found or name.partition(".")[0] in sys.stdlib_module_names:
            continue
        module = _read(name, folder)
        if module is not None:
            found[name] = module
            waiting += _imported(module.tree, name if module.file.endswith("__init__.py") else name.rpartition(".")[0])
    return found


def imports_only_library(tree: ast.Module) -> bool:
    """Whether a script imports modules of Python's library only, so that no file beside it can change what it means."""
    return all(name.partition(".")[0] in sys.stdlib_module_names for name in _imported(tree, ""))


def imported_from(source: bytes, folder: str, names: "set[str]") -> "set[str]":
    """Those of some names of Python's modules that a script imports, itself or through its files, and finds in its folder."""
    tree = parse(source)
    trees = [tree, *(module.tree for module in user_modules(tree, folder).values())]
    imported = {name.partition(".")[0] for each in trees for name in _imported(each, "")}
    found = {name: PathFinder.find_spec(name, [folder]) for name in names & imported - _STARTED - {*sys.builtin_module_names}
             if not is_frozen(name)}  # fmt: skip
    return {name for name, spec in found.items() if spec is not None and spec.loader is not None}  # no loader: a folder of anything


def _imported(tree: ast.Module, package: str) -> "Iterator[str]":
    """Names of modules that a file may import. package: that of the file."""
    for node in walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                yield from (".".join(parts[: i + 1]) for i in range(len(parts)))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*filter(None, above), *filter(None, [base])])
            if base:
                yield base
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names)


def _read(name: str, folder: str) -> "UserModule | None":
    parts = name.split(".")
    for file in (os.path.join(*parts) + ".py", os.path.join(*parts, "__init__.py")):
        try:
            with open(os.path.join(folder, file), "rb") as source:
                return UserModule(name, file, parse(source.read()))
        except (OSError, ValueError, SyntaxError):
            continue
    return None


def aliases(trees: "list[ast.Module]", modules: "Mapping[str, UserModule]") -> "tuple[dict[str, str], set[str]]":
    """(local names of what is imported from the user's files under another name -> that name, names of those files)."""
    renamed: dict[str, str] = {}
    names: set[str] = set()
    for node in (n for tree in trees for n in walk(tree)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in modules:
                    names.add(alias.asname or alias.name.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                ends = (node.module or "").split(".")[-1]
                if any(name.split(".")[-1] == alias.name for name in modules):
                    names.add(alias.asname or alias.name)
                elif (node.level or any(name.split(".")[-1] == ends for name in modules)) and alias.asname:
                    renamed[alias.asname] = alias.name
    return renamed, names
