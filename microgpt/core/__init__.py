"""What is compiled for all engines: the tape, `Value`, the model, Adam, the random stream, the fused engine.

the tape     tape (slots), lock, topo (the order of nodes), backward, rewiring; audit walks its invariants in a debug build
Value        value (operators); functions, layers and gpt put the nodes of the script's functions on the tape
the model    model (parameters), adam, optim (over any Values), mt19937 (random numbers), documents, simd
the engine   fused: no graph
compile      recording a call: tracing, traced, symbols, hooks, outside, recorder; replaying programs: dispatch, calls, replay,
             probes; elementwise: the optimizer loops of scripts
"""
import os as _os
from _imp import extension_suffixes as _extension_suffixes


def _compiled(folder: str) -> bool:
    return any(_os.path.exists(_os.path.join(folder, "simd" + suffix)) for suffix in _extension_suffixes())


if not _compiled(__path__[0]):
    # A source folder that was not built in place: Python looks here first because it was started beside it. The compiled
    # modules are those of the installed package.
    import sys as _sys

    _folders = (_os.path.join(entry, "microgpt", "core") for entry in _sys.path if entry)
    __path__ += [folder for folder in _folders if _compiled(folder)]
    if len(__path__) == 1:
        raise ImportError(f"microgpt is not built in {__path__[0]}: run pip install -e . in the folder of its setup.py")
