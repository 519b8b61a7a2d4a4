"""Compiling users' own functions over `Value`: trace them once for each shape of the arguments, replay in compiled code.

`compile` is the public name (`microgpt.compile`). `rewrite` lets functions record what they do, `record` records one call,
`compiled` decides when a call is traced, compared and replayed, `structure` takes arguments and results apart.
"""
from .compiled import Compiled, CompileError, compile

__all__ = ["CompileError", "Compiled", "compile"]
