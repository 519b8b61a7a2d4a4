from .callbacks import Callback as Callback
from .callbacks import Checkpointer as Checkpointer
from .callbacks import LossPlot as LossPlot
from .callbacks import Progress as Progress
from .callbacks import RunLogger as RunLogger
from .callbacks import Validator as Validator
from .compiler import compile as compile
from .config import Config as Config
from .core.adam import Adam as Adam
from .core.functions import linear as linear
from .core.functions import rmsnorm as rmsnorm
from .core.functions import softmax as softmax
from .core.gpt import document_loss as document_loss
from .core.gpt import gpt as gpt
from .core.model import GPT as GPT
from .core.optim import SGD as SGD
from .core.simd import simd_info as simd_info
from .core.value import Value as Value
from .data import Tokenizer as Tokenizer
from .data import load_docs as load_docs
from .data import split_docs as split_docs
from .errors import CheckpointError as CheckpointError
from .errors import DivergedError as DivergedError
from .errors import LogError as LogError
from .errors import MicrogptError as MicrogptError
from .errors import NoThreadError as NoThreadError
from .errors import UsageError as UsageError
from .evaluation import evaluate as evaluate
from .generation import generate as generate
from .info import show_versions as show_versions
from .parallel.results import SweepResult as SweepResult
from .parallel.sweeps import run_sweep as run_sweep
from .storage.values import load_values as load_values
from .storage.values import save_values as save_values
from .trainer import Trainer as Trainer
from .viz.graph import draw_graph as draw_graph
from .viz.grid import plot_sweep as plot_sweep
from .viz.plots import plot_attention as plot_attention
from .viz.plots import plot_embeddings as plot_embeddings
from .viz.plots import plot_loss as plot_loss

__all__ = [
    "Value", "GPT", "gpt", "linear", "softmax", "rmsnorm", "document_loss", "Adam", "SGD", "save_values", "load_values",
    "simd_info", "Config", "Tokenizer",
    "load_docs", "split_docs", "Trainer", "SweepResult", "run_sweep", "evaluate", "generate", "show_versions", "Callback",
    "Checkpointer", "LossPlot", "Progress", "RunLogger", "Validator", "MicrogptError", "CheckpointError", "DivergedError",
    "LogError", "NoThreadError", "UsageError",
    "draw_graph", "plot_attention", "plot_embeddings", "plot_loss", "plot_sweep", "__version__",
]  # fmt: skip
__version__: str
