"""The text that a command reads: its flags, its documents, what is said about it, and where an unknown character is."""
from ..config import DEFAULTS
from ..data import default_source, describe_source, read_text, split_text
from ..errors import CheckpointError, UsageError, printable
from ..reading.passages import SPLITS, find_character, looks_like
from ..reading.records import records
from ..storage.checkpoint import read_about
from . import console as cli

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ..trainer import Trainer

    Given = dict[str, Any]

__all__ = ["FORM", "Text", "add_flags", "form_of", "input_files", "read_training_text", "saved_form"]

#: How a text becomes documents, and what of that a run without these flags has.
FORM = {"split": "lines", "csv_column": None, "json_field": None}

MUCH = 0.25  # of a text beyond the block: then say what to do about it
LONG = 512  # a document for which a block that covers it is not advice: the step would take too long


def add_flags(p: "Any", several: bool) -> None:
    """Add the flags of a text. several: --input takes many files, which it cannot beside a positional argument."""
    p.add_argument("--input", metavar="FILE", action="extend" if several else "append", nargs="+" if several else None,
                   help="UTF-8 text, one document per line; several files, or the flag again, for more; - is standard input "
                   "(default: ./input.txt if it exists, else the names bundled in the package)")  # fmt: skip
    p.add_argument("--split", choices=SPLITS, help="what a document is: a line (default), a paragraph (up to a blank line), "
                   "or a window of block_size characters of running text")  # fmt: skip
    which = p.add_mutually_exclusive_group()
    which.add_argument("--csv-column", metavar="NAME", help="the documents are this column of a CSV file, whose first row "
                       "names the columns")  # fmt: skip
    which.add_argument("--json-field", metavar="NAME", help="the documents are this field of JSON objects, one per line or "
                       "in one list")  # fmt: skip


def form_of(given: "Given", saved: "Given | None" = None) -> "Given":
    """Return how the text of these flags becomes documents; saved: how, unless they say otherwise."""
    form = {**FORM, **(saved or {})}
    if any(given.get(name) is not None for name in ("csv_column", "json_field")):
        form.update(csv_column=None, json_field=None)  # they exclude each other
    form.update({name: given[name] for name in FORM if given.get(name) is not None})
    return form


def saved_form(path: str, extra: "Given") -> "Given":
    """Return the form that the extra data of a checkpoint have, checked."""
    form = extra.get("text_form", {})
    if isinstance(form, dict) and form.get("split", "lines") in SPLITS:
        if form.keys() <= FORM.keys() and all(isinstance(value, str) for value in form.values()):
            return {**FORM, **form}
    raise CheckpointError(f"{path} is damaged or not a checkpoint: its text is read as {printable(form, 50)!r}")


def input_files(paths: "Sequence[str] | None") -> "list[tuple[str, str | int]]":
    """Return the files of --input as `files.find_overlap` takes them; standard input is the file that it is."""
    if paths is None:
        source = default_source()
        return [("--input", source)] if source == "input.txt" else []
    return [("--input", 0 if path == "-" else path) for path in paths]


def read_training_text(given: "Given") -> "Text":
    """Return the text to train on; a resumed run reads it as it was read before."""
    if "resume" not in given:
        block_size = given.get("block_size", DEFAULTS["block_size"])
        if "init_from" in given:
            block_size = read_about(given["init_from"])["config"].block_size
        return Text(given.get("input"), form_of(given), block_size)
    about = read_about(given["resume"])
    saved = saved_form(given["resume"], about["extra"])
    form = form_of(given, saved)
    if form != saved and "allow_other_text" not in given:
        raise UsageError(f"{given['resume']} was begun with {_words(saved)}; it cannot continue with {_words(form)}")
    return Text(given.get("input"), form, about["config"].block_size)


def _words(form: "Given") -> str:
    return " ".join(f"{cli.flag(name)} {value}" for name, value in form.items() if value is not None)


class Text:
    """A text, read: `docs`, its documents, and `source`, in words.

    Parameters
    ----------
    paths : list of str, optional
        The files; by default what `load_docs` reads without one.
    form : dict
        See `FORM`.
    block_size : int
        Length of a chunk.
    """

    def __init__(self, paths: "Sequence[str] | None", form: "Given", block_size: int) -> None:
        self.is_given, self.form, self.block_size = paths is not None, form, block_size
        self.source = describe_source(paths)
        self.parts = [(describe_source(path), read_text(path)) for path in paths or [default_source()]]
        self.docs: list[str] = []
        for name, text in self.parts:
            self.docs += split_text(text, name, block_size=block_size, **form)
        if not self.docs:
            raise ValueError(f"{self.source} {'holds' if len(self.parts) == 1 else 'hold'} no documents")

    @property
    def notes(self) -> "Given":
        """What a checkpoint has to say of the form: nothing of what is as in the script."""
        return {name: value for name, value in self.form.items() if value != FORM[name]}

    def check_characters(self, trainer: "Trainer", vocabulary: str) -> None:
        """Raise UsageError, with file, line and character, if a document has one that is not in the vocabulary."""
        unknown = set().union(*self.docs).difference(trainer.tokenizer.ids)
        if not unknown:
            return
        columns = self.form["csv_column"], self.form["json_field"]
        for name, text in self.parts:
            found = find_character(records(text, name, *columns), unknown, self.form["split"])
            if found is not None:
                line, i, ch = found
                hint = "" if self.is_given else "; --input FILE reads another text"
                raise UsageError(
                    f"{name}, line {line}: character {ch!r} (U+{ord(ch):04X}) at index {i} is not in {vocabulary}{hint}"
                )

    def say_hints(self, trainer: "Trainer") -> None:
        """Say what a text that was given has that its reader may not know."""
        if not self.is_given:
            return
        block_size = trainer.config.block_size
        lengths = [*map(len, self.docs)]
        if sum(n - block_size for n in lengths if n > block_size) > sum(lengths) * MUCH:
            longest = f"--block-size {max(lengths) + 1} covers the longest document; " if max(lengths) < LONG else ""
            cli.say(f"{longest}--split chunks covers all of a running text")
        count = len(trainer.tokenizer.uchars)
        cli.say(f"the vocabulary has {count} character{'s' * (count != 1)}")
        if self.form["csv_column"] is self.form["json_field"] is None:
            for name, text in self.parts:
                found = looks_like(text)
                if found is not None:
                    cli.say(f"{name} looks like {found}, and is read as plain text{_HINTS[found]}")


_HINTS = {
    "CSV": "; --csv-column NAME takes one column of it",
    "JSON": "; --json-field NAME takes one field of it",
    "HTML": ", tags included",
    "XML": ", tags included",
}
