"""Names of types, for type checkers alone: no other module imports this one when it runs."""
import os
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from . import reference
from .core import documents, model, value

Path: TypeAlias = str | os.PathLike[str]
Array: TypeAlias = npt.NDArray[np.float64]
Docs = TypeVar("Docs", list[str], documents.TextLines)
#: A model and a node of either kind, compiled or plain Python. The two kinds do not mix in one graph.
AnyGPT: TypeAlias = model.GPT | reference.GPT
AnyValue: TypeAlias = value.Value | reference.Value
#: The keys or the values of a model: for each layer a list of positions, each a list of n_embd nodes.
Cache: TypeAlias = list[list[list[AnyValue]]]
