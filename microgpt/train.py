"""`python -m microgpt.train`: the original script as a command. Its lines go to stdout, everything else to stderr."""
import sys
import time

if __name__ == "__main__":
    from .cli import rest_collector

    rest_collector()  # before the imports below

from .cli import console as cli
from .config import DEFAULTS as CONFIG
from .config import Config
from .data import Tokenizer, describe_source, load_lines
from .trainer import Callback, Trainer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Given = dict[str, Any]

#: The script's own values.
DEFAULTS = {**CONFIG, "steps": CONFIG["num_steps"], "temperature": 0.5, "samples": 20, "engine": "fused"}


def main(argv: "list[str] | None" = None) -> int:
    """Run the command; return the exit status."""
    words = sys.argv[1:] if argv is None else argv

    def command() -> int:
        return cli.run(_train, lambda: _arguments(words), owns_process=argv is None)

    if "--mpi" not in words:
        return command()
    from .cli.ranks import run_on_ranks

    return run_on_ranks(command, owns_process=argv is None)


def _arguments(argv: "list[str]") -> "Given":
    if not argv:
        return {}  # argparse takes a third of the time that Python needs to start
    from .cli.options import parse

    return parse(argv, DEFAULTS)


def make_parser() -> "Any":
    """Return the argparse.ArgumentParser of the command."""
    from .cli import options

    return options.make_parser(DEFAULTS)


def _train(given: "Given") -> None:
    options = {**DEFAULTS, **given}
    cli.check_sampling(options)
    text, val, fraction, is_planned = None, None, None, False
    if given:
        from .cli import options as flags

        flags.check(given)
        is_planned = bool(given.keys() & flags.PLANNED)
        if given.keys() & flags.TEXTUAL or options["engine"] == "reference":  # random.shuffle takes a list
            from .cli.texts import read_training_text

            text = read_training_text(given)
    docs: Any = text.docs if text else load_lines()
    source = text.source if text else describe_source()
    if text and is_planned:
        from .cli import plan

        docs, val, fraction = plan.prepare(given, text)
    if "mpi" in given:
        docs = list(docs)  # as read: a trainer shuffles lines in place
    if "resume" in given:
        trainer = _resume(given, options, docs, text)
    else:
        trainer = _init_from(given, options, docs) if "init_from" in given else _begin(options, docs)
    cli.say(f"{trainer.engine} engine{_instruction_set(trainer)}, {source}")
    if "mpi" in given:
        from .cli.ranks import lead

        trainer = lead(trainer, docs, given.get("threads", 1))
    else:
        rank, size = cli.launched()
        if size > 1 and not rank:
            cli.say(f"hint: mpiexec has started {size} processes, each of which trains alone; --mpi lets them train together")
    if text:
        trainer.extra.pop("text_form", None)
        trainer.extra.update({"text_form": text.notes} if text.notes else {})
    if "threads" in given:
        flags.set_threads(trainer, given["threads"])
    if "quiet" not in given:
        cli.say_beyond_block(trainer.docs, trainer.config.block_size, "not trained on")
    if given and not given.keys() & {"quiet", "resume"}:
        flags.hint_rate(trainer.config)
    out = cli.Output()
    callbacks: list[Callback] = [StepPrinter(out, "quiet" in given), LossWarning()]
    try:
        if "quiet" in given and cli.is_terminal(sys.stderr):
            from .callbacks import Progress

            progress = Progress()
            cli.show_progress(progress)
            callbacks.insert(0, progress)
        if is_planned:
            callbacks = [*plan.callbacks(trainer, given, source, val, fraction), *callbacks]
        if text and "quiet" not in given:
            text.say_hints(trainer)
        if "mpi" in given:
            from .cli.ranks import let_train

            let_train()
        started = time.perf_counter()
        if "save" in given:
            from .cli.signals import EndingSignals

            with EndingSignals() as signals:
                losses = trainer.run(callbacks=[signals, *callbacks])
        else:
            losses = trainer.run(callbacks=callbacks)
        _say_result(losses, time.perf_counter() - started, [m for c in callbacks for m in getattr(c, "measured", ())])
        out.write("\n--- inference (new, hallucinated names) ---\n")
        cli.write_samples(trainer, options, _own_characters(trainer, given))
    except (ValueError, ArithmeticError) as error:
        from .errors import DivergedError

        if isinstance(error, DivergedError) and "save" not in given:
            error.args = (f"{error}; nothing was saved, because there was no --save",)
        raise


def _say_result(losses: "list[float]", seconds: float, measured: "list[tuple[int, float]]") -> None:
    """Say in one line what training has come to. measured: (step, validation loss) of each measurement."""
    if not losses:
        return
    last = losses[-max(1, len(losses) // 10) :]
    of_last = f"mean loss of the last {len(last)}" if len(last) > 1 else "last loss"
    found = f"; validation loss {measured[-1][1]:.4f}" if measured else ""
    cli.say(f"{len(losses)} step{'s' * (len(losses) != 1)} in {_duration(seconds)}; {of_last} {sum(last) / len(last):.4f}{found}")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} h" if minutes >= 60 else f"{minutes}:{seconds:02d} min"


def _own_characters(trainer: Trainer, given: "Given") -> str:
    """Return the characters that the script would print, whatever a terminal makes of them: those of the user's text.

    A run that begins with a file may have others, from there.
    """
    return "".join(trainer.docs) if given.keys() & {"resume", "init_from"} else "".join(trainer.tokenizer.uchars)


def _begin(options: "Given", docs: "Any") -> Trainer:
    config = Config(**{**{name: options[name] for name in CONFIG}, "num_steps": options["steps"]})
    if not isinstance(docs, list):
        return Trainer.from_lines(docs, Tokenizer.of_lines(docs), config, options["engine"])
    return Trainer(docs, engine=options["engine"], **config.as_dict())


def _init_from(given: "Given", options: "Given", docs: "Sequence[str]") -> Trainer:
    """Begin a new run with the weights of a file."""
    from .storage import checkpoint
    from .storage.weights import SIZES

    path = given["init_from"]
    state = checkpoint.load(path)
    for name in SIZES:
        found = getattr(state.config, name)
        if given.get(name, found) != found:
            raise cli.UsageError(f"{path} has {name} {found}; a run with {cli.flag(name)} {given[name]} cannot begin with it")
    settings = {name: options[name] for name in CONFIG if name not in (*SIZES, "num_steps", "seed")}
    trainer = Trainer.init_from(state, docs, options["steps"], options["seed"], options["engine"], **settings)
    new = sorted({*trainer.tokenizer.uchars}.difference(state.uchars))
    shown = "".join(f" {ch!r}" for ch in new[:20]) + (" ..." if len(new) > 20 else "")
    characters = f"{len(new)} new character{'s' * (len(new) > 1)}:{shown}" if new else "no new characters"
    cli.say(f"{path}: a new run begins with its weights of step {state.step_index}; {characters}")
    return trainer


def _resume(given: "Given", options: "Given", docs: "Sequence[str]", text: "Any") -> Trainer:
    path, other_text = given["resume"], given.get("allow_other_text", False)
    trainer = Trainer.load(path, docs, options["engine"], other_text)
    for name, value in trainer.config.as_dict().items():
        if given.get(name, value) != value:
            begun = f"without {cli.flag(name)}" if value is None else f"with {cli.flag(name)} {value}"
            raise cli.UsageError(f"{path} was begun {begun}; it cannot continue with {given[name]}")
    if "steps" in given:
        _set_steps(trainer, path, given["steps"])
    if other_text:
        text.check_characters(trainer, f"the vocabulary of {path}")
    if trainer.step_index == trainer.num_steps:
        cli.say(f"{path} is finished: all its {trainer.num_steps} steps are done, so there is nothing to train, only to sample; "
                f"--init-from {path} begins a new run with its weights")  # fmt: skip
    else:
        cli.say(f"{path} continues after step {trainer.step_index} of {trainer.num_steps}")
        if "save" not in given:
            cli.say("warning: --resume without --save: what is trained from here on is not saved, not even at Ctrl-C")
    return trainer


def _set_steps(trainer: Trainer, path: str, steps: int) -> None:
    """Let a resumed run have this many steps, if its learning rate does not depend on them."""
    if steps == trainer.num_steps:
        return
    begun = f"{path} was begun with --steps {trainer.num_steps}; it cannot continue with {steps}"
    if trainer.adam.schedule != "constant":
        raise cli.UsageError(f"{begun}, because its learning rate falls over all steps, except with --schedule constant; "
                             f"--init-from {path} begins a new run with its weights")  # fmt: skip
    if steps < trainer.step_index:
        raise cli.UsageError(f"{begun}, because it is at step {trainer.step_index} already")
    trainer.num_steps = steps


def _instruction_set(trainer: Trainer) -> str:
    if trainer.engine != "fused":
        return ""
    from .core.simd import in_use

    return f" ({in_use()})"


class StepPrinter(Callback):
    """Writes what the script prints before and during training. A line is written after its step is done, and once."""

    def __init__(self, out: cli.Output, quiet: bool) -> None:
        self.out, self.quiet = out, quiet
        self.queue: list[str | None] = []
        self.blocked = False

    def on_train_begin(self, trainer: Trainer) -> None:
        self.queued = trainer.step_index  # the last step whose line was queued
        self.out.write(
            f"num docs: {len(trainer.docs)}\nvocab size: {trainer.tokenizer.vocab_size}\n"
            f"num params: {trainer.model.num_params}\n"
        )

    def on_steps(self, trainer: Trainer, first: int, losses: "list[float]") -> None:
        self.flush(trainer, {})

    def flush(self, trainer: Trainer, record: "dict[str, Any]") -> None:
        """Write the lines that were not written; called again after an interrupt, go on where it was."""
        if self.quiet:
            return
        losses = trainer.losses_after(self.queued)
        if losses:
            from .core.documents import step_lines

            queue = step_lines(self.queued + 1, trainer.num_steps, losses)
            self.queue, self.queued = [None, *reversed(queue)], self.queued + len(queue)
        if self.queue and not self.blocked:
            # If the reader does not read, an interrupt comes during the write, and another write would only wait again;
            # if it has gone, another would only fail again.
            self.blocked = True
            self.out.pop_lines(self.queue)
            self.blocked = False


class LossWarning(Callback):
    """Warns once if the loss is no longer finite: the script continues, and so does the run."""

    warned = False

    def on_steps(self, trainer: Trainer, first: int, losses: "list[float]") -> None:
        total = sum(losses)
        if total - total == 0 or self.warned:
            return
        for step, loss in enumerate(losses, first + 1):
            if loss - loss != 0:
                self.warned = True
                cli.say(f"warning: the loss of step {step} is {loss}: the run has diverged and will not recover; "
                        "a lower --learning-rate may help")  # fmt: skip
                return


if __name__ == "__main__":
    from .cli import end

    end(main())
