"""The flags of `microgpt train`, and what can be said against them before anything is computed."""
import os

from ..config import DEFAULTS, SCHEDULES, VAL_EVERY, Config, is_rate_high, suitable_rate, thread_count
from ..engines import ENGINES
from . import console as cli

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Given = dict[str, Any]

__all__ = ["PLANNED", "TEXTUAL", "best_path", "check", "check_fraction", "check_plot", "hint_rate", "make_parser",
           "parse", "set_threads"]  # fmt: skip

#: Flags that need plan.py, which is imported for them alone.
PLANNED = {"save", "val", "val_fraction", "log", "plot", "resume"}
#: Flags for which the text is more than lines to train on.
TEXTUAL = {"input", "split", "csv_column", "json_field", "init_from", *PLANNED}

#: What the help says of a setting, beside its default.
WORDS = {
    "seed": "of the random stream: shuffle, initial weights, samples; ",
    "n_embd": "width of the model, numbers per token; ",
    "n_head": "attention heads per layer, a divisor of n_embd; ",
    "n_layer": "layers, each of attention and MLP; ",
    "block_size": "tokens of a document that the model sees; ",
    "learning_rate": "of the first step; ",
    "beta1": "Adam: decay of the mean of the gradients; ",
    "beta2": "Adam: decay of the mean of their squares; ",
    "eps_adam": "Adam: added to the root that a step is divided by; ",
    "init_std": "standard deviation of the initial weights; ",
    "batch_size": "documents per step; ",
    "schedule": "the learning rate after the warmup: linear or cosine to 0 at the last step, or constant; ",
    "warmup": "steps over which the learning rate rises at first; ",
    "clip": "scale the gradient down where its norm is larger than this; ",
    "weight_decay": "reduce every parameter by this, times the learning rate, of itself per step, as AdamW does; ",
}


#: The flags that take a value, and its type. Those that are not here are argparse's.
VALUED: "dict[str, type]" = {
    **dict.fromkeys(("engine", "save", "resume", "val", "save_best", "log", "plot"), str),
    **dict.fromkeys(("steps", "samples", "threads", "save_every", "val_every", "patience", "look_every", "digest_every"), int),
    **dict.fromkeys(("temperature", "val_fraction"), float),
    **{name: type(value) for name, value in DEFAULTS.items() if name != "num_steps" and isinstance(value, (int, float))},
}


def parse(argv: "list[str]", defaults: "Given") -> "Given":
    """Return the arguments; those not given are absent, so that a resumed run knows what was asked for."""
    plain = parse_plain(argv)
    given: Given = vars(make_parser(defaults).parse_args(argv)) if plain is None else plain
    return given


def parse_plain(argv: "list[str]") -> "Given | None":
    """Return what argparse makes of flags that are written out, each followed by its value; None for anything else.

    Python needs as long to import argparse as to start.
    """
    given: Given = {}
    words = iter(argv)
    for word in words:
        name = word[2:].replace("-", "_")
        if word != cli.flag(name):
            return None
        if name == "quiet":
            given[name] = True
            continue
        value = next(words, "-")
        if name == "input" and not value.startswith("-"):
            given.setdefault(name, []).append(value)
            continue
        if name not in VALUED or value.startswith("-") or (name == "engine" and value not in ENGINES):
            return None
        try:
            given[name] = VALUED[name](value)
        except ValueError:
            return None  # argparse says it
    return None if "val" in given and "val_fraction" in given else given


def make_parser(defaults: "Given") -> "Any":
    """Return the parser of the command. Flags that are not given are absent, so that a resumed run knows what was asked for."""
    from . import parsing, texts

    p = parsing.parser("train", "Train a GPT on the lines of a text and let it write new ones: microgpt.py, to the same bits.",
                       ["microgpt train --steps 2000 --n-embd 32 --learning-rate 0.005 --save names.safetensors",
                        "microgpt train --input novel.txt --split chunks --block-size 64 --val-fraction 0.1"], sparse=True)  # fmt: skip
    texts.add_flags(p.add_argument_group("text"), several=True)
    p.add_argument("--steps", type=int, metavar="N", help=f"steps to train; default: {defaults['steps']}")
    for name, default in DEFAULTS.items():
        what = f"{WORDS.get(name, '')}default: {'off' if default is None else default}"
        if name == "schedule":
            p.add_argument("--schedule", choices=SCHEDULES, help=what)
        elif name != "num_steps":
            kind, letter = (int, "N") if isinstance(default, int) else (float, "X")
            p.add_argument(cli.flag(name), type=kind, metavar=letter, help=what)
    parsing.add_sampling(p, defaults)
    p.add_argument("--engine", choices=ENGINES, help="fused: explicit forward and backward in compiled kernels "
                   "(default); graph: the scalar graph, built and walked in Cython; reference: plain Python. "
                   "All three print the same bytes")  # fmt: skip
    p.add_argument("--threads", type=int, metavar="N", help="threads that share a step, where one is long enough, and a "
                   "validation; 0: one for each processor. The same bytes for any number (default: 1)")  # fmt: skip
    p.add_argument("--mpi", action="store_true", help="share the documents of each step among the ranks that mpiexec has "
                   "started; prints the same bytes for any number of them (needs mpi4py)")  # fmt: skip
    p.add_argument("--quiet", action="store_true", help="no line for each step")
    _add_saving(p.add_argument_group("saving"))
    _add_validation(p.add_argument_group("validation (changes no bit of the training)"))
    _add_observation(p.add_argument_group("observation (changes no bit of the training)"))
    return p


def _add_saving(p: "Any") -> None:
    p.add_argument("--save", metavar="FILE", help="write the run to one .safetensors file at the end, "
                   "and when something else ends it (Ctrl-C, SIGTERM, SIGHUP, divergence, a reader that leaves)")  # fmt: skip
    p.add_argument("--save-every", type=int, metavar="N", help="with --save: every N steps as well")
    which = p.add_mutually_exclusive_group()
    which.add_argument("--init-from", metavar="FILE", help="begin a new run with the weights of a saved one, which sets the "
                       "sizes of the model; characters that it does not have are initialised")  # fmt: skip
    which.add_argument("--resume", metavar="FILE", help="continue a saved run; it ends with the bits of one that was "
                   "never interrupted")  # fmt: skip
    p.add_argument("--allow-other-text", action="store_true", help="with --resume: even if the text has changed")


def _add_validation(p: "Any") -> None:
    which = p.add_mutually_exclusive_group()
    which.add_argument("--val", metavar="FILE", help="measure the loss on the documents of this text as well")
    which.add_argument("--val-fraction", type=float, metavar="X", help="hold out this part of the documents, do not "
                       "train on it, and measure the loss on it; which ones depends on their text alone")  # fmt: skip
    p.add_argument("--val-every", type=int, metavar="N", help=f"measure every N steps (default: {VAL_EVERY}), "
                   "and after the last")  # fmt: skip
    p.add_argument("--patience", type=int, metavar="N", help="stop when the loss on them has not fallen "
                   "for N measurements")  # fmt: skip
    p.add_argument("--save-best", metavar="FILE", help="keep the run as it was when that loss was lowest "
                   "(default with --save X.safetensors: X.best.safetensors)")  # fmt: skip


def _add_observation(p: "Any") -> None:
    p.add_argument("--log", metavar="FILE", help="write one JSON object per step: its loss, a digest of every tensor, "
                   "and now and then samples and attention; python -m microgpt.report shows it")  # fmt: skip
    p.add_argument("--look-every", type=int, metavar="N", help="with --log: samples and attention every N steps "
                   "(default: a tenth of the run)")  # fmt: skip
    p.add_argument("--digest-every", type=int, metavar="N", help="with --log: digests every N steps (default: 1)")
    p.add_argument("--plot", metavar="FILE", help="draw the losses and the learning rate "
                   "(.png, .svg or .pdf; needs matplotlib)")  # fmt: skip


def check(given: "Given") -> None:
    """Raise UsageError or OSError for flags that cannot be carried out."""
    _check_needs(given, "save", "save_every")
    _check_needs(given, "resume", "allow_other_text")
    _check_needs(given, "log", "look_every", "digest_every")
    if not given.keys() & {"val", "val_fraction", "resume"}:
        for name in ("val_every", "patience", "save_best"):
            if name in given:
                raise cli.UsageError(f"{cli.flag(name)} needs --val or --val-fraction")
    for name in ("save_every", "val_every", "patience", "look_every", "digest_every"):
        if given.get(name, 1) < 1:
            raise cli.UsageError(f"{cli.flag(name)} must be at least 1, not {given[name]}")
    check_fraction(given.get("val_fraction"))
    thread_count(given.get("threads", 1))
    _check_files(given)
    if given.keys() & {"save", "resume", "init_from", "log", "plot", "mpi"}:
        from ..storage.checkpoint import import_arrays

        import_arrays()
    if "plot" in given:
        check_plot(given["plot"])


def hint_rate(config: Config) -> None:
    """Say so if the learning rate is far above what suits the model's size."""
    if is_rate_high(config):
        cli.say(f"hint: --learning-rate {config.learning_rate} is high for --n-embd {config.n_embd}; about "
                f"{suitable_rate(config.n_embd):.2g} should learn better (microgpt sweep finds out)")  # fmt: skip


def set_threads(trainer: "Any", threads: int) -> None:
    """Let trainer use so many threads; say so if it uses fewer."""
    trainer.threads = threads
    if trainer.engine != "fused" and threads != 1:
        cli.say(f"--threads {threads}: the {trainer.engine} engine uses one")
    elif trainer.threads > 1 and not trainer.shares_steps():
        cli.say(f"--threads {threads}: steps are too short to share, so one thread takes them; a larger --batch-size or "
                "model has longer ones")  # fmt: skip


def _check_needs(given: "Given", needed: str, *names: str) -> None:
    for name in names:
        if name in given and needed not in given:
            raise cli.UsageError(f"{cli.flag(name)} needs {cli.flag(needed)}")


def check_fraction(fraction: "float | None") -> None:
    """Raise UsageError for what --val-fraction cannot be."""
    if fraction is not None and not 0 < fraction < 1:
        raise cli.UsageError(f"--val-fraction must be greater than 0 and less than 1, not {fraction}")


def check_plot(path: str) -> None:
    """Raise UsageError if no picture can be drawn, or none of this kind."""
    from ..viz.plots import need_matplotlib

    suffix = os.path.splitext(path)[1].lower()
    if suffix not in (".png", ".svg", ".pdf"):
        raise cli.UsageError(f"--plot draws .png, .svg or .pdf, not {suffix or 'a file without a suffix'}")
    try:
        need_matplotlib()
    except ImportError as error:
        raise cli.UsageError(str(error)) from None


def best_path(path: str) -> str:
    """Return where the best model is kept beside path: run.safetensors -> run.best.safetensors."""
    stem = path.removesuffix(".safetensors")
    return f"{stem}.best{path[len(stem):]}"


def _check_files(given: "Given") -> None:
    """Raise for an output that is an input or another output, or that cannot be written; nothing is left behind."""
    outputs = [(cli.flag(name), given[name]) for name in ("save", "save_best", "log", "plot") if name in given]
    if not outputs:
        return
    from . import texts
    from .outputs import check_outputs

    best = "the best model of --save"
    if given.get("save") and "save_best" not in given and _validates(given):
        outputs.append((best, best_path(given["save"])))
    inputs = texts.input_files(given.get("input"))
    inputs += [(cli.flag(name), given[name]) for name in ("val", "resume", "init_from") if name in given]
    # A run may be saved over the checkpoint it continues, which a save replaces as a whole.
    check_outputs(outputs, inputs, ["--log"], [(name, "--resume") for name in ("--save", "--save-best", best)])
    if "save" in given and not given["save"].endswith(".safetensors") and os.path.splitext(given["save"])[1]:
        cli.say(f"{given['save']} will be a safetensors file, whatever its name ends in")


def _validates(given: "Given") -> bool:
    """Return whether this run measures a validation loss, as far as its flags and its checkpoint say."""
    if given.keys() & {"val", "val_fraction"}:
        return True
    if "resume" not in given:
        return False
    from ..storage.checkpoint import CheckpointError, read_about

    try:
        return "val_fraction" in read_about(given["resume"])["extra"]
    except (CheckpointError, OSError):
        return False  # loading it says why
