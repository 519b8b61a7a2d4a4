"""What was planned for a script, kept as Python keeps the code of a module: in `__pycache__`, unless that is turned off.

To read, plan and compile the original takes longer than its 1,000 steps. The file says for which script, place, flags, Python and
state of the analysis it is; one that is for anything else, or damaged, is as good as none.
"""
import marshal
import os
import sys
from _frozen_importlib_external import SourceFileLoader, cache_from_source
from _imp import source_hash

from .. import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

__all__ = ["PLANNED_BY", "KeptPlan", "PlanCache"]

#: The modules of this folder that decide what a plan is: a file of an older state of them is not used.
PLANNED_BY = ("definitions", "flow", "formats", "loss", "modules", "names", "optimizer", "plan", "trees", "value_class")
_SUM = 8  # bytes of source_hash


class KeptPlan:
    """What `microgpt run` asks a Plan for: see there."""

    why = None
    tree = None  # a plan that needs its tree while the script runs is not kept
    updates = ()

    def __init__(self, done: "list[str]", kept: "list[tuple[str, str]]", roles: "dict[str, dict[str, str]]") -> None:
        self.done, self.kept, self.roles = done, kept, roles


class PlanCache:
    """The file in which the plan of a script is kept; there may be none.

    path, source: of the script.  may_compile: see Plan.
    """

    def __init__(self, path: str, source: bytes, may_compile: bool) -> None:
        self.path, self.source, self.file = path, source, ""
        try:
            if not path.endswith(".py") or not os.path.isfile(path):  # a pipe has no folder of its own
                return
            folder = os.path.dirname(__file__)
            stats = [os.stat(f"{folder}/{name}.py") for name in PLANNED_BY]
            self.file = cache_from_source(path).removesuffix(".pyc") + ".microgpt.pyc"
        except (OSError, NotImplementedError):
            return
        state = tuple((stat.st_mtime_ns, stat.st_size) for stat in stats)
        self.key = (source, path, may_compile, __version__, sys.version, state)

    def read(self) -> "tuple[KeptPlan, CodeType] | None":
        """Return the plan and the code to run; None if there is no file, or one of something else."""
        if not self.file:
            return None
        try:
            with open(self.file, "rb") as file:
                content = file.read()
            if content[:_SUM] != source_hash(0, content[_SUM:]):
                return None
            key, code, *plan = marshal.loads(content[_SUM:])
        except (OSError, EOFError, ValueError, TypeError):
            return None
        return (KeptPlan(*plan), code) if key == self.key else None

    def write(self, plan: "Any", code: "CodeType") -> None:
        """Keep a plan, if it is one that depends on nothing else, and if Python may write its own such files."""
        if not self.file or sys.dont_write_bytecode or plan.why is not None or plan.needs_tree or plan.updates:
            return
        if not plan.imports_only_library or _warns(self.source, self.path):
            return
        content = marshal.dumps((self.key, code, plan.done, plan.kept, plan.roles))
        # Whole or not at all, for those who may read the script; where it cannot be written there is none.
        loader: Any = SourceFileLoader("", self.path)
        loader._cache_bytecode(self.path, self.file, source_hash(0, content) + content)


def _warns(source: bytes, path: str) -> bool:
    """Whether Python warns of something in a script, which it does each time that it reads it."""
    import warnings

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        compile(source, path, "exec", dont_inherit=True)
    return bool(warned)
