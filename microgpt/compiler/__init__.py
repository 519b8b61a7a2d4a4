"""Compiling users' own functions over `Value`: trace them once for each shape of the arguments, replay in compiled code.

`compile` is the public name (`microgpt.compile`). `rewrite` lets functions record what they do, `compiled` decides when
a call is traced, compared and replayed, `structure` takes arguments and results apart. The modules `script*` are those of
`microgpt run`: what of a script is replaced; they need the others only where a loss is compiled.
"""

__all__ = ["CompileError", "Compiled", "compile"]


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import compiled

    return getattr(compiled, name)
