"""microgpt: Karpathy's microgpt.py, compiled. The same Value, gpt and training loop, the same bits.

    from microgpt import Value, linear, softmax, rmsnorm, gpt      # the script's own functions, on graph nodes
    from microgpt import GPT, Adam, Tokenizer, Trainer, load_docs  # the script's top-level code, as objects

Names are imported when they are first used, so that `import microgpt` costs next to nothing.
"""
import os as _os

__version__ = "0.1.0"

_HOME = {
    "Value": "core.value",
    "GPT": "core.model",
    "gpt": "core.gpt",
    "linear": "core.functions",
    "softmax": "core.functions",
    "rmsnorm": "core.functions",
    "document_loss": "core.gpt",
    "Adam": "core.adam",
    "Tokenizer": "data",
    "load_docs": "data",
    "Trainer": "trainer",
    "DivergedError": "errors",
    "simd_info": "core.simd",
    "evaluate": "eval",
    "draw_graph": "viz.graph",
    "plot_attention": "viz.plots",
    "plot_embeddings": "viz.plots",
    "plot_loss": "viz.plots",
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


if _os.environ.get("MICROGPT_SIMD"):
    try:
        from .core import simd as _simd  # noqa: F401  (an override that is unknown or unsupported fails here, at import)
    except ImportError as error:
        import sys as _sys

        # Our own commands say what is wrong as they say everything: in one line, and with exit status 2.
        _argv = _sys.orig_argv
        _commands = ("microgpt", "microgpt.train", "microgpt.sample", "microgpt.eval", "microgpt.info", "microgpt.report")
        _script = _os.path.splitext(_os.path.basename((_sys.argv or [""])[0]))[0]
        if str(error).startswith("MICROGPT_SIMD: ") and (
            "-m" in _argv and _argv[_argv.index("-m") + 1] in _commands
            or _script in [name.replace(".", "-") for name in _commands]
        ):
            if _sys.stderr is not None:
                print(f"microgpt: error: {error}", file=_sys.stderr)
            raise SystemExit(2) from None
        raise
