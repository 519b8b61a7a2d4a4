"""The weights of a saved model as the beginning of another run, whose vocabulary may be wider."""
from ..config import DEFAULTS, Config, split_parameters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from .._types import Array
    from .checkpoint import State

__all__ = ["SIZES", "begin_config", "transfer"]

#: The settings that a model with these weights cannot have otherwise.
SIZES = ("n_embd", "n_head", "n_layer", "block_size")


def begin_config(state: "State", settings: "dict[str, Any]") -> Config:
    """Return the Config of a run that begins with a state's weights: its sizes, and the defaults, unless settings differ.

    Raises ValueError for sizes that are not those of the weights, and what `Config` raises.
    """
    config = Config(**{**DEFAULTS, **{name: getattr(state.config, name) for name in SIZES}, **settings})
    for name in SIZES:
        given, found = getattr(config, name), getattr(state.config, name)
        if given != found:
            raise ValueError(f"the weights have {name} {found}; a model with {name} {given} cannot begin with them")
    return config


def transfer(state: "State", uchars: "Sequence[str]", drawn: "Array") -> "Array":
    """Return the parameters of a new model with the weights of a state.

    Rows of wte and lm_head go to the same character, that of BOS to BOS. The rows of characters that the state does not
    have stay as they are drawn.

    Parameters
    ----------
    state : State
        The weights; its characters are all in uchars.
    uchars : sequence of str
        The vocabulary of the new model.
    drawn : float64 array [num_params]
        The parameters of the new model, as it was initialised.
    """
    import numpy as np

    found = np.array(drawn)
    new = split_parameters(found, state.config.shapes(len(uchars) + 1))
    old = split_parameters(state.params, state.config.shapes(state.vocab_size))
    ids = {ch: i for i, ch in enumerate(uchars)}
    rows = [*(ids[ch] for ch in state.uchars), len(uchars)]
    for name, matrix in new.items():
        matrix[rows if name in ("wte", "lm_head") else slice(None)] = old[name]
    return found
