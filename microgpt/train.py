"""`python -m microgpt.train`: the original script as a command. Its lines go to stdout, everything else to stderr."""
import sys
import time

from . import cli
from .trainer import SETTINGS, Trainer

#: The script's own values, and how long to compute before the lines are shown.
DEFAULTS = {"steps": 1000, "seed": 42, **SETTINGS, "temperature": 0.5, "samples": 20, "engine": "fused"}
_SHOW_EVERY = 0.05  # seconds


def main(argv=None):
    """Run the command; returns the exit status."""
    return cli.run(_train, _arguments(sys.argv[1:] if argv is None else argv))


def _arguments(argv):
    if not argv:
        return {}  # argparse takes a third of the time that Python needs to start
    from .flags import parse

    return parse(argv, DEFAULTS)


def _train(given):
    options = {**DEFAULTS, **given}
    cli.check_sampling(options)
    watching = None
    if given:
        from . import flags

        flags.check(given)
        if given.keys() & flags.WATCHED:
            from . import watching
    docs, source = cli.read_docs(given.get("input"), lines=not given)
    if watching:
        docs, val_docs, fraction = watching.prepare(given, docs)
    trainer = _resume(given, options, docs) if "resume" in given else _begin(options, docs)
    cli.say(f"{trainer.engine} engine{_instruction_set(trainer)}, {source}")

    out, quiet = sys.stdout, "quiet" in given
    watchers = watching.Watchers(trainer, given, source, val_docs, fraction) if watching else None
    out.write(
        f"num docs: {len(trainer.docs)}\nvocab size: {trainer.tokenizer.vocab_size}\n"
        f"num params: {trainer.model.num_params}\n"
    )
    if watchers:
        with watchers:
            _steps(trainer, out, watchers, quiet)
            watchers.finish()  # within: told to stop in the midst of its last save, a run saves again
    else:
        _steps(trainer, out, None, quiet)
    out.write("\n--- inference (new, hallucinated names) ---\n")
    cli.write_samples(trainer, options)


def _begin(options, docs):
    settings = {name: options[name] for name in SETTINGS}
    if not isinstance(docs, list):
        return Trainer._of_lines(docs, options["steps"], options["seed"], options["engine"], settings)
    return Trainer(docs, options["steps"], options["seed"], options["engine"], **settings)


def _resume(given, options, docs):
    path = given["resume"]
    trainer = Trainer.load(path, docs, options["engine"], given.get("allow_other_text", False))
    saved = {"steps": trainer.num_steps, "seed": trainer.seed, **trainer.settings}
    for name, value in saved.items():
        if given.get(name, value) != value:
            raise cli.UsageError(f"{path} was begun with {cli.flag(name)} {value}; it cannot go on with {given[name]}")
    return trainer


def _instruction_set(trainer):
    if trainer.engine != "fused":
        return ""
    from .simd import simd_info

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
            # One call that takes a line off the queue and writes it: an interrupt comes before or after, or, where the
            # reader does not read, in the midst of it, and then more of it would only wait again.
            self.blocked = True
            self.out.writelines(iter(self.queue.pop, None))
            self.out.flush()
            self.blocked = False


def _steps(trainer, out, watchers, quiet):
    """Train to the end, writing the script's line for each step; a line is written only after its step is done."""
    num_steps, chunk, lines = trainer.num_steps, 1, None if quiet else _Lines(trainer, out)
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
                    advance(trainer.step_index - first)
                    if watchers:
                        watchers.look(whole)
                done, took = trainer.step_index - first, time.perf_counter() - started
                chunk = max(1, min(done * 4, int(done * _SHOW_EVERY / took) if took > 0 else done * 4))
    except (KeyboardInterrupt, cli.Terminated):
        if lines:
            lines.show()  # an interrupt may have come before its steps were shown
        raise


if __name__ == "__main__":
    sys.exit(main())
