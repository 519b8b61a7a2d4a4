"""microgpt: Karpathy's microgpt.py, compiled. The same Value, gpt and training loop, the same bits.

    from microgpt import Value, linear, softmax, rmsnorm, gpt      # the script's own functions, on graph nodes
    from microgpt import GPT, Adam, Tokenizer, Trainer, load_docs  # the script's top-level code, as objects

Names are imported when they are first used, so that `import microgpt` costs next to nothing.
"""
import os as _os
from _imp import extension_suffixes as _extension_suffixes

__version__ = "0.1.0"

_HOME = {
    "Value": "value",
    "GPT": "model",
    "gpt": "model",
    "linear": "model",
    "softmax": "model",
    "rmsnorm": "model",
    "document_loss": "model",
    "Adam": "adam",
    "Tokenizer": "data",
    "load_docs": "data",
    "Trainer": "trainer",
    "simd_info": "simd",
    "evaluate": "eval",
    "draw_graph": "drawing",
    "plot_attention": "plotting",
    "plot_embeddings": "plotting",
    "plot_loss": "plotting",
}

__all__ = [*_HOME, "__version__"]

_HOME["compile"] = "compiler"  # not in __all__: it would hide the builtin


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})


def _compiled(folder):
    return any(_os.path.exists(_os.path.join(folder, "simd" + suffix)) for suffix in _extension_suffixes())


if not _compiled(_os.path.dirname(_os.path.abspath(__file__))):
    # This is a source folder that was not built in place, and Python looks here first because it was started beside
    # it. The compiled modules are those of the installed package; if there is none, say so now.
    import sys as _sys

    __path__ += [path for path in (_os.path.join(entry, "microgpt") for entry in _sys.path if entry) if _compiled(path)]
    if len(__path__) == 1:
        raise ImportError(f"microgpt is not built in {__path__[0]}: run pip install -e . in the folder above it")

if _os.environ.get("MICROGPT_SIMD"):
    try:
        from . import simd as _simd  # noqa: F401  (an override that is unknown or unsupported fails here, at import)
    except ImportError as error:
        import sys as _sys

        # Our own commands say what is wrong as they say everything: in one line, and with exit status 2.
        _argv = _sys.orig_argv
        _commands = ("microgpt", "microgpt.train", "microgpt.sample", "microgpt.eval", "microgpt.info", "microgpt.report")
        if str(error).startswith("MICROGPT_SIMD: ") and "-m" in _argv and _argv[_argv.index("-m") + 1] in _commands:
            print(f"microgpt: error: {error}", file=_sys.stderr)
            raise SystemExit(2) from None
        raise
