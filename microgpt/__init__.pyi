from .core.adam import Adam as Adam
from .core.functions import linear as linear
from .core.functions import rmsnorm as rmsnorm
from .core.functions import softmax as softmax
from .core.gpt import document_loss as document_loss
from .core.gpt import gpt as gpt
from .core.model import GPT as GPT
from .core.simd import simd_info as simd_info
from .core.value import Value as Value
from .data import Tokenizer as Tokenizer
from .data import load_docs as load_docs
from .errors import DivergedError as DivergedError
from .eval import evaluate as evaluate
from .trainer import Trainer as Trainer
from .viz.graph import draw_graph as draw_graph
from .viz.plots import plot_attention as plot_attention
from .viz.plots import plot_embeddings as plot_embeddings
from .viz.plots import plot_loss as plot_loss

__all__ = [
    "Value", "GPT", "gpt", "linear", "softmax", "rmsnorm", "document_loss", "Adam", "Tokenizer", "load_docs", "Trainer",
    "DivergedError", "simd_info", "evaluate", "draw_graph", "plot_attention", "plot_embeddings", "plot_loss", "__version__",
]  # fmt: skip
__version__: str
