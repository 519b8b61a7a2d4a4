"""What is compiled for all engines: the tape, `Value`, the model, Adam, the random stream, the fused engine.

the tape     tape (slots), lock, topo (the order of nodes), backward, rewiring; audit walks its invariants in a debug build
Value        value (operators); functions, layers and gpt put the nodes of the script's functions on the tape
the model    model (parameters), adam, optim (over any Values), mt19937 (random numbers), documents, encoded (their tokens),
             simd
the engine   fused: no graph; part: of a batch that several processes share; crew: processes that share memory; the file of
             fused holds other modules, too, those that each run of it loads (_TOGETHER)
compile      recording a call: tracing, traced, symbols, hooks, outside, recorder; replaying programs: dispatch, calls, replay,
             probes
scripts      transfer: numbers between Values and a GPT; elementwise: optimizer loops
"""
import sys as _sys
from _frozen_importlib_external import ExtensionFileLoader as _Loader
from _frozen_importlib_external import spec_from_file_location as _spec
from _imp import extension_suffixes as _extension_suffixes
from os.path import exists as _exists

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

#: Modules that share a file, which has the name of the first of them.
_TOGETHER = (
    "fused simd documents encoded mt19937 tape lock model adam part crew",
    "functions layers gpt topo backward rewiring transfer",
)


def _file_of(name: str, folder: str) -> "str | None":
    for suffix in _extension_suffixes():
        if _exists(path := f"{folder}/{name}{suffix}"):
            return path
    return None


class _Together:
    """Finds the modules that are in the file of another, and that other: see TOGETHER in setup.py.

    path: the file of fused, which tells the folder and the suffix of all.
    """

    def __init__(self, path: str) -> None:
        folder, _, suffix = path.rpartition("fused.")
        self.paths = {f"{__name__}.{name}": f"{folder}{names.split()[0]}.{suffix}" for names in _TOGETHER for name in names.split()}

    def find_spec(self, name: str, path: object = None, target: object = None) -> "ModuleSpec | None":
        file = self.paths.get(name)
        return None if file is None else _spec(name, file, loader=_Loader(name, file))


_path = _file_of("fused", __path__[0])
if _path is None:
    # A source folder that was not built in place: Python looks here first because it was started beside it. The compiled
    # modules are those of the installed package.
    for _entry in filter(None, _sys.path):
        if _found := _file_of("fused", f"{_entry}/microgpt/core"):
            __path__.append(f"{_entry}/microgpt/core")
            _path = _path or _found
    if _path is None:
        raise ImportError(f"microgpt is not built in {__path__[0]}: run pip install -e . in the folder of its setup.py")
# Before others, which may find files of an older build.
_sys.meta_path.insert(0, _Together(_path))
