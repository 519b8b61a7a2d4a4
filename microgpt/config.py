"""The settings of a run: names, defaults, limits, and the shapes of the parameters that follow from them.

No other module knows them. Plain classes rather than dataclasses: `dataclasses` takes longer to import than a short run
takes to train.
"""
from _operator import index as _index

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Sizes(Protocol):
        """What has the sizes of a model: a Config, or a GPT of any engine."""

        @property
        def n_embd(self) -> int: ...
        @property
        def n_layer(self) -> int: ...
        @property
        def block_size(self) -> int: ...


__all__ = ["Config", "SCHEDULES", "VAL_EVERY", "c_size", "check_clip", "check_cuts", "check_schedule", "finite_number", "is_rate_high",
           "real_number", "seed_text", "shapes", "split_parameters", "suitable_rate", "thread_count", "whole_number"]  # fmt: skip

LARGEST_DOUBLE = 1.7976931348623157e308
SCHEDULES = ("linear", "constant", "cosine")
VAL_EVERY = 100  # steps between two measurements of the validation loss
MOST_THREADS = 4096  # each has memory of its own before it has work
DECIMAL_BITS = 2000  # Python's lowest limit on decimal digits is 640, which is 2126 bits


class Config:
    """The settings that decide every bit of a run, beside its documents. Immutable; see `replace`.

    Parameters
    ----------
    num_steps : int
        Length of the whole run, over which the learning rate decays to 0 unless the schedule is constant.
    seed : int
        Any integer.
    n_embd, n_head, n_layer, block_size : int
        Sizes of the model. n_embd must be a multiple of n_head.
    learning_rate, beta1, beta2, eps_adam : float
        Settings of Adam.
    init_std : float
        Standard deviation of the initial parameters.
    batch_size : int
        Documents per step, at least 1. The script has one.
    schedule : {"linear", "constant", "cosine"}
        The learning rate after the warmup: see `microgpt.reference.scheduled_rate`. The script's is linear.
    warmup : int
        Steps over which the learning rate rises, less than num_steps. The script has none.
    weight_decay : float
        At least 0: before Adam's own step every parameter is reduced by learning rate * weight_decay of itself, as in AdamW.
    clip : float or None
        The largest norm of the gradient, greater than 0: see `microgpt.reference.clip_gradients`. None: no limit.

    Raises
    ------
    TypeError
        If a setting is not a number of its kind. NumPy's scalars are converted to int and float, so that every engine
        and every file sees the same numbers; a bool is not a number.
    ValueError
        If a number is outside its limits.

    Examples
    --------
    >>> Config(n_embd=32).num_params(vocab_size=27)
    14528
    """

    __slots__ = ("num_steps", "seed", "n_embd", "n_head", "n_layer", "block_size", "learning_rate", "beta1", "beta2",
                 "eps_adam", "init_std", "batch_size", "schedule", "warmup", "weight_decay", "clip")  # fmt: skip
    num_steps: int
    seed: int
    n_embd: int
    n_head: int
    n_layer: int
    block_size: int
    learning_rate: float
    beta1: float
    beta2: float
    eps_adam: float
    init_std: float
    batch_size: int
    schedule: str
    warmup: int
    weight_decay: float
    clip: "float | None"

    def __init__(
        self,
        num_steps: int = 1000,
        seed: int = 42,
        n_embd: int = 16,
        n_head: int = 4,
        n_layer: int = 1,
        block_size: int = 16,
        learning_rate: float = 0.01,
        beta1: float = 0.85,
        beta2: float = 0.99,
        eps_adam: float = 1e-8,
        init_std: float = 0.08,
        batch_size: int = 1,
        schedule: str = "linear",
        warmup: int = 0,
        weight_decay: float = 0.0,
        clip: "float | None" = None,
    ) -> None:
        put = object.__setattr__
        put(self, "num_steps", c_size("num_steps", num_steps, 0))
        put(self, "seed", whole_number("seed", seed))
        put(self, "n_embd", c_size("n_embd", n_embd, 1))
        put(self, "n_head", c_size("n_head", n_head, 1))
        put(self, "n_layer", c_size("n_layer", n_layer, 0))
        put(self, "block_size", c_size("block_size", block_size, 1))
        put(self, "learning_rate", finite_number("learning_rate", learning_rate))
        if self.learning_rate < 0:
            raise ValueError(f"learning_rate must be at least 0, not {learning_rate}")
        put(self, "beta1", _decay("beta1", beta1))
        put(self, "beta2", _decay("beta2", beta2))
        put(self, "eps_adam", finite_number("eps_adam", eps_adam))
        if not self.eps_adam > 0:
            raise ValueError(f"eps_adam must be greater than 0, not {eps_adam}")
        put(self, "init_std", finite_number("init_std", init_std))
        put(self, "batch_size", c_size("batch_size", batch_size, 1))
        put(self, "schedule", check_schedule(schedule))
        put(self, "warmup", c_size("warmup", warmup, 0))
        if self.warmup and self.warmup >= self.num_steps:
            raise ValueError(f"warmup ({self.warmup}) must be less than num_steps ({self.num_steps})")
        put(self, "weight_decay", finite_number("weight_decay", weight_decay))
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be at least 0, not {weight_decay}")
        put(self, "clip", check_clip(clip))
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd ({self.n_embd}) must be a multiple of n_head ({self.n_head})")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a Config cannot be changed: replace() makes another")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a Config cannot be changed: replace() makes another")

    def replace(self, **changes: "Any") -> "Config":
        """Return a Config with some settings changed. Raises what `Config` raises."""
        return Config(**{**self.as_dict(), **changes})

    def as_dict(self) -> "dict[str, Any]":
        """Return every setting by name, num_steps and seed included."""
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def settings(self) -> "dict[str, Any]":
        """The settings beside num_steps and seed, by name: a new dict, as files and logs have it.

        Those of OPTIONAL, which the script and the first files do not have, are left out where they are off.
        """
        found = {name: getattr(self, name) for name in SETTINGS}
        return {name: value for name, value in found.items() if name not in OPTIONAL or value != DEFAULTS[name]}

    @property
    def model_arguments(self) -> "dict[str, Any]":
        """The settings that a GPT takes."""
        return {name: getattr(self, name) for name in ("n_embd", "n_head", "n_layer", "block_size", "init_std")}

    @property
    def adam_arguments(self) -> "dict[str, Any]":
        """The settings that an Adam takes, by Adam's names: eps_adam is its eps."""
        return {"learning_rate": self.learning_rate, "beta1": self.beta1, "beta2": self.beta2, "eps": self.eps_adam,
                "num_steps": self.num_steps, "schedule": self.schedule, "warmup": self.warmup,
                "weight_decay": self.weight_decay, "clip": self.clip}  # fmt: skip

    def shapes(self, vocab_size: int) -> "dict[str, tuple[int, int]]":
        """Return the shapes of the state dict: see `shapes`."""
        return shapes(vocab_size, self)

    def num_params(self, vocab_size: int) -> int:
        """Return the number of parameters of a model with this vocabulary."""
        return sum(nout * nin for nout, nin in self.shapes(vocab_size).values())

    def __eq__(self, other: object) -> bool:
        return self.as_dict() == other.as_dict() if isinstance(other, Config) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self.as_dict().values()))

    def __reduce__(self) -> "tuple[type[Config], tuple[Any, ...]]":
        return Config, tuple(self.as_dict().values())

    def __repr__(self) -> str:
        words = (seed_text(value) if name == "seed" else repr(value) for name, value in self.as_dict().items())
        return f"Config({', '.join(map('='.join, zip(self.__slots__, words)))})"


def shapes(vocab_size: int, sizes: "Sizes") -> "dict[str, tuple[int, int]]":
    """Return the script's state dict as name -> (nout, nin), in its order (`microgpt.py`, `state_dict = ...`).

    sizes: a Config or a GPT.
    """
    n_embd = sizes.n_embd
    found = {"wte": (vocab_size, n_embd), "wpe": (sizes.block_size, n_embd), "lm_head": (vocab_size, n_embd)}
    for i in range(sizes.n_layer):
        for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo"):
            found[f"layer{i}.{name}"] = (n_embd, n_embd)
        found[f"layer{i}.mlp_fc1"] = (4 * n_embd, n_embd)
        found[f"layer{i}.mlp_fc2"] = (n_embd, 4 * n_embd)
    return found


def split_parameters(flat: "Any", shapes: "dict[str, tuple[int, int]]") -> "dict[str, Any]":
    """Return name -> view [nout, nin] of a flat array [num_params] in the script's order."""
    found, first = {}, 0
    for name, (nout, nin) in shapes.items():
        found[name] = flat[first : first + nout * nin].reshape(nout, nin)
        first += nout * nin
    return found


def thread_count(threads: "Any") -> int:
    """Return how many threads are meant. 0: as many as this process has processors.

    Raises ValueError or TypeError for what is not a number of threads.
    """
    found = whole_number("threads", threads, 0)
    if found > MOST_THREADS:
        raise ValueError(f"threads must be at most {MOST_THREADS}")
    if found:
        return found
    import os

    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def whole_number(name: str, value: "Any", least: "int | None" = None) -> int:
    """Return value as an int; NumPy's integers are accepted.

    Raises TypeError if it is not an integer (a bool or a float is not), ValueError if it is less than least.
    """
    try:
        if type(value).__name__ in ("bool", "bool_"):  # Python's and both names of NumPy's
            raise TypeError
        found = _index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {value!r}") from None
    if least is not None and found < least:
        raise ValueError(f"{name} must be at least {least}, not {found}")
    return found


def c_size(name: str, value: "Any", least: int) -> int:
    """Return value as an int that C's int64 can hold."""
    if type(value) is int and least <= value < 2**63:
        return value  # a sweep asks for millions
    found = whole_number(name, value, least)
    if found >= 2**63:
        raise ValueError(f"{name} must be less than 2**63")
    return found


def real_number(name: str, value: "Any") -> float:
    """Return value as a float, an int beyond all floats as an infinity; NumPy's scalars are accepted.

    Without the conversion numpy.float32 would spread: a float times a float32 is a float32, which has fewer bits.
    Raises TypeError for what is not a number: a bool, a str, an array of one dimension or more.
    """
    kind = type(value)
    is_number = hasattr(kind, "__float__") or hasattr(kind, "__index__")
    if is_number and kind.__name__ not in ("bool", "bool_") and not getattr(value, "ndim", 0):
        try:
            return float(value)
        except OverflowError:
            return float("inf") if value > 0 else -float("inf")
        except TypeError:
            pass
    raise TypeError(f"{name} must be a number, not {value!r}")


def finite_number(name: str, value: "Any") -> float:
    """Return value as a finite float. Raises TypeError as `real_number` does, ValueError for inf and nan."""
    if type(value) is float and -LARGEST_DOUBLE <= value <= LARGEST_DOUBLE:
        return value
    found = real_number(name, value)
    if not abs(found) <= LARGEST_DOUBLE:  # false for nan as well
        if hasattr(type(value), "__index__"):  # str() may refuse to write so many digits
            raise ValueError(f"{name} must be finite, not beyond the largest double")
        raise ValueError(f"{name} must be finite, not {value}")
    return found


def _decay(name: str, value: "Any") -> float:
    found = finite_number(name, value)
    if not 0 <= found < 1:
        raise ValueError(f"{name} must be at least 0 and less than 1, not {value}")
    return found


def check_schedule(schedule: "Any") -> str:
    """Return schedule as a plain str. Raises ValueError for one that is not in SCHEDULES."""
    if not isinstance(schedule, str) or schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, not {schedule!r}")
    return str.__str__(schedule)


def check_clip(clip: "Any") -> "float | None":
    """Return clip as a float, or None. Raises TypeError or ValueError for what is not the norm of a gradient."""
    if clip is None:
        return None
    found = finite_number("clip", clip)
    if not found > 0:
        raise ValueError(f"clip must be greater than 0, not {clip}")
    return found


def suitable_rate(n_embd: int) -> float:
    """Return about the learning rate that suits a model of this size, by the measurements in docs/howto/sweeps.md."""
    return 0.16 / n_embd


def is_rate_high(config: Config) -> bool:
    """Return whether the learning rate is far above what suits the model's size.

    By the same measurements three times as much learns worse than the smallest model does. They are of one document per
    step; larger batches bear more.
    """
    return config.batch_size == 1 and config.learning_rate > 3 * suitable_rate(config.n_embd)


def check_cuts(top_k: "Any", top_p: "Any") -> "tuple[int | None, float | None]":
    """Return top_k and top_p as an int and a float; None stays None.

    Raises TypeError for what is not a number, ValueError for a top_k below 1 or a top_p outside (0, 1].
    """
    if top_k is not None:
        top_k = whole_number("top_k", top_k, 1)
    if top_p is not None:
        given, top_p = top_p, real_number("top_p", top_p)
        if not 0 < top_p <= 1:  # false for nan as well
            raise ValueError(f"top_p must be greater than 0 and at most 1, not {given}")
    return top_k, top_p


def seed_text(seed: int) -> str:
    """Return a seed in decimal, or in hexadecimal if it has so many digits that Python may refuse to write them."""
    return str(seed) if seed.bit_length() <= DECIMAL_BITS else hex(seed)


#: Every setting with the script's value; the names of those beside num_steps and seed; and of those, what the script does
#: not have.
DEFAULTS = Config().as_dict()
SETTINGS = Config.__slots__[2:]
OPTIONAL = SETTINGS[SETTINGS.index("batch_size") :]
