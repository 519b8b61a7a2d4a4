from .adam import Adam as Adam
from .compiler import compile as compile
from .data import Tokenizer as Tokenizer
from .data import load_docs as load_docs
from .drawing import draw_graph as draw_graph
from .eval import evaluate as evaluate
from .model import GPT as GPT
from .model import document_loss as document_loss
from .model import gpt as gpt
from .model import linear as linear
from .model import rmsnorm as rmsnorm
from .model import softmax as softmax
from .plotting import plot_attention as plot_attention
from .plotting import plot_embeddings as plot_embeddings
from .plotting import plot_loss as plot_loss
from .simd import simd_info as simd_info
from .trainer import Trainer as Trainer
from .value import Value as Value

__all__ = [
    "Value", "GPT", "gpt", "linear", "softmax", "rmsnorm", "document_loss", "Adam", "Tokenizer", "load_docs", "Trainer",
    "simd_info", "evaluate", "draw_graph", "plot_attention", "plot_embeddings", "plot_loss", "__version__",
]  # fmt: skip
__version__: str
