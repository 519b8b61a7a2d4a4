"""Progress on stderr: a bar on a terminal, otherwise a line now and then."""
import sys
import time

EVERY = 15  # seconds between two lines where there is no terminal


class Progress:
    """Counts `total` pieces of work; `at` says what is being done. Use as a context."""

    def __init__(self, total, label):
        self.total, self.label, self.done = total, label, 0
        self.bar, self.last = None, time.monotonic()
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, desc=label, file=sys.stderr, leave=False)

    def at(self, what):
        if self.bar is not None:
            self.bar.set_postfix_str(what)
        elif time.monotonic() - self.last > EVERY:
            self.last = time.monotonic()
            say(f"{self.label}: {self.done} of {self.total}, {what}")

    def advance(self, n=1):
        self.done += n
        if self.bar is not None:
            self.bar.update(n)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.bar is not None:
            self.bar.close()


def say(message):
    """A line on stderr."""
    print(message, file=sys.stderr, flush=True)
