"""microgpt: Karpathy's microgpt.py, compiled. The same Value, gpt and training loop, the same bits.

    from microgpt import Value, linear, softmax, rmsnorm, gpt      # the script's own functions, on graph nodes
    from microgpt import GPT, Adam, Tokenizer, Trainer, load_docs  # the script's top-level code, as objects

Names are imported when they are first used, so that `import microgpt` costs next to nothing.
"""
import os as _os

__version__ = "0.1.0"

#: Each public name, and the module that defines it.
_HOME = {
    "Value": "core.value",
    "GPT": "core.model",
    "gpt": "core.gpt",
    "linear": "core.functions",
    "softmax": "core.functions",
    "rmsnorm": "core.functions",
    "document_loss": "core.gpt",
    "Adam": "core.adam",
    "SGD": "core.optim",
    "save_values": "storage.values",
    "load_values": "storage.values",
    "simd_info": "core.simd",
    "Config": "config",
    "Tokenizer": "data",
    "load_docs": "data",
    "split_docs": "data",
    "Trainer": "trainer",
    "SweepResult": "parallel.results",
    "run_sweep": "parallel.sweeps",
    "evaluate": "evaluation",
    "generate": "generation",
    "show_versions": "info",
    "Callback": "callbacks",
    "Checkpointer": "callbacks",
    "LossPlot": "callbacks",
    "Progress": "callbacks",
    "RunLogger": "callbacks",
    "Validator": "callbacks",
    "MicrogptError": "errors",
    "CheckpointError": "errors",
    "DivergedError": "errors",
    "LogError": "errors",
    "NoThreadError": "errors",
    "UsageError": "errors",
    "draw_graph": "viz.graph",
    "plot_attention": "viz.plots",
    "plot_embeddings": "viz.plots",
    "plot_loss": "viz.plots",
    "plot_sweep": "viz.grid",
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
    return sorted({*globals(), *_HOME})


if _os.environ.get("MICROGPT_SIMD"):
    try:
        from .core import simd as _simd  # noqa: F401  (fails if the override is unknown or not supported here)
    except ImportError as _error:
        if str(_error).startswith("MICROGPT_SIMD: "):
            from .errors import exit_if_command as _exit_if_command

            _exit_if_command(_error)
        raise
