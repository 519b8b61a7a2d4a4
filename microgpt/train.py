"""`python -m microgpt.train`: the original script as a command. Its lines go to stdout, everything else to stderr."""
import sys
import time

from .cli import console as cli
from .trainer import SETTINGS, Trainer

#: The script's own values, and how long to compute before the lines are shown.
DEFAULTS = {"steps": 1000, "seed": 42, **SETTINGS, "temperature": 0.5, "samples": 20, "engine": "fused"}
_SHOW_EVERY = 0.05  # seconds


def main(argv=None):
    """Run the command; returns the exit status."""
    return cli.run(_train, lambda: _arguments(sys.argv[1:] if argv is None else argv))


def _arguments(argv):
    if not argv:
        return {}  # argparse takes a third of the time that Python needs to start
    from .cli.train_flags import parse

    return parse(argv, DEFAULTS)


def _train(given):
    options = {**DEFAULTS, **given}
    cli.check_sampling(options)
    watching, val_docs, fraction = None, None, None
    if given:
        from .cli import train_flags as flags

        flags.check(given)
        if given.keys() & flags.WATCHED:
            from .cli import watching
    docs, source = cli.read_docs(given.get("input"), lines=not given)
    if watching:
        docs, val_docs, fraction = watching.prepare(given, docs, source)
    trainer = _resume(given, options, docs, source) if "resume" in given else _begin(options, docs)
    cli.say(f"{trainer.engine} engine{_instruction_set(trainer)}, {source}")
    cli.say_beyond_block(trainer.docs, trainer.settings["block_size"], "not trained on")

    try:
        _run(trainer, given, options, watching, (source, val_docs, fraction))
    except ValueError as error:
        if type(error).__name__ == "DivergedError" and "save" not in given:  # not imported for a run that goes well
            error.args = (f"{error}; nothing was saved, because there was no --save",)
        raise


def _run(trainer, given, options, watching, validation):
    out, quiet = cli.Output(), "quiet" in given
    if watching:
        with watching.Watchers(trainer, given, *validation) as watchers:
            _begin_output(trainer, out)
            _steps(trainer, out, watchers, quiet)
            watchers.finish()  # within: told to stop in the midst of its last save, a run saves again
    else:
        _begin_output(trainer, out)
        _steps(trainer, out, None, quiet)
    out.write("\n--- inference (new, hallucinated names) ---\n")
    cli.write_samples(trainer, options, _own_characters(trainer, given))


def _begin_output(trainer, out):
    out.write(
        f"num docs: {len(trainer.docs)}\nvocab size: {trainer.tokenizer.vocab_size}\n"
        f"num params: {trainer.model.num_params}\n"
    )


def _own_characters(trainer, given):
    """The characters that the script would print, whatever a terminal makes of them: those of the user's own text.

    A resumed run may have others, from the file.
    """
    return "".join(trainer.docs) if "resume" in given else "".join(trainer.tokenizer.uchars)


def _begin(options, docs):
    settings = {name: options[name] for name in SETTINGS}
    if not isinstance(docs, list):
        return Trainer._of_lines(docs, options["steps"], options["seed"], options["engine"], settings)
    return Trainer(docs, options["steps"], options["seed"], options["engine"], **settings)


def _resume(given, options, docs, source):
    path, other_text = given["resume"], given.get("allow_other_text", False)
    trainer = Trainer.load(path, docs, options["engine"], other_text)
    saved = {"steps": trainer.num_steps, "seed": trainer.seed, **trainer.settings}
    for name, value in saved.items():
        if given.get(name, value) != value:
            raise cli.UsageError(f"{path} was begun with {cli.flag(name)} {value}; it cannot go on with {given[name]}")
    if other_text:
        cli.check_characters(docs, trainer.tokenizer, given.get("input"), f"the vocabulary of {path}")
    if trainer.step_index == trainer.num_steps:
        cli.say(f"{path} is done: all its {trainer.num_steps} steps are behind it, so there is nothing to train, only to sample")
    else:
        cli.say(f"{path} goes on after step {trainer.step_index} of {trainer.num_steps}")
        if "save" not in given:
            cli.say("warning: --resume without --save: what is trained from here on is not saved, not even at Ctrl-C")
    return trainer


def _instruction_set(trainer):
    if trainer.engine != "fused":
        return ""
    from .core.simd import simd_info

    return f" ({simd_info()['in_use']})"


class _Lines:
    """The script's line for each step that is done, written once, whatever interrupts the writing."""

    def __init__(self, trainer, out):
        self.trainer, self.out = trainer, out
        self.queue, self.blocked = [], False

    def begin(self):
        """A run of steps begins."""
        self.first, self.queue = self.trainer.step_index, None

    def show(self):
        """Write the lines of this run's steps that have not been written; called again, it goes on where it was."""
        if self.queue is None:
            done, num_steps = self.trainer.step_index - self.first, self.trainer.num_steps
            losses = enumerate(self.trainer.last_losses[:done], self.first + 1)
            middle = f" / {num_steps:4d} | loss "
            queue = [f"step {step:4d}{middle}{loss:.4f}\n" for step, loss in losses]
            self.queue = [None, *reversed(queue)]
        if self.queue and not self.blocked:
            # Where the reader does not read, an interrupt comes in the midst of it, and then more of it would only wait
            # again; where it has gone, more of it would only fail again.
            self.blocked = True
            self.out.pop_lines(self.queue)
            self.blocked = False


class _Finite:
    """Says once that the loss is not finite any more: the script goes on, and so does the run."""

    said = False

    def look(self, first, losses):
        total = sum(losses)
        if total - total == 0 or self.said:
            return
        for step, loss in enumerate(losses, first + 1):
            if loss - loss != 0:
                self.said = True
                cli.say(f"warning: the loss of step {step} is {loss}: the run has diverged and will not recover; "
                        "a lower --learning-rate may help")  # fmt: skip
                return


def _steps(trainer, out, watchers, quiet):
    """Train to the end, writing the script's line for each step; a line is written only after its step is done."""
    num_steps, chunk, lines, finite = trainer.num_steps, 1, None if quiet else _Lines(trainer, out), _Finite()
    try:
        with cli.progress(num_steps, trainer.step_index, quiet) as advance:
            while trainer.step_index < num_steps and not (watchers and watchers.stop):
                first, started, whole = trainer.step_index, time.perf_counter(), False
                if lines:
                    lines.begin()
                try:
                    trainer.run(min(chunk, watchers.until_next()) if watchers else chunk)
                    whole = True
                finally:
                    if watchers:  # first of all: the write below may be interrupted, where nobody reads
                        watchers.note(first, trainer.last_losses[: trainer.step_index - first])
                    if lines:
                        lines.show()
                    finite.look(first, trainer.last_losses[: trainer.step_index - first])
                    advance(trainer.step_index - first)
                    if watchers:
                        watchers.look(whole)
                done, took = trainer.step_index - first, time.perf_counter() - started
                chunk = max(1, min(done * 4, int(done * _SHOW_EVERY / took) if took > 0 else done * 4))
    except (KeyboardInterrupt, cli.Terminated, ValueError):  # ValueError: it diverged
        if lines:
            lines.show()  # an interrupt may have come before its steps were shown
        raise


if __name__ == "__main__":
    sys.exit(main())
