"""Running text as documents, and where in a text a character is."""
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

__all__ = ["SPLITS", "chunks", "find_character", "looks_like", "paragraphs"]

SPLITS = ("lines", "paragraphs", "chunks")

_LOOKED_AT = 20  # lines by which a table is recognised


def _with_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def paragraphs(text: str) -> "list[str]":
    r"""Return the paragraphs of a text: what is between blank lines, without white space around.

    Lines within a paragraph stay, with "\n" between them. A line of white space alone is blank.

    Examples
    --------
    >>> paragraphs("roses\nare red\n \nviolets\n")
    ['roses\nare red', 'violets']
    """
    return [part for part in map(str.strip, re.split(r"\n(?:[^\S\n]*\n)+", _with_newlines(text))) if part]


def chunks(text: str, block_size: int) -> "list[str]":
    r"""Return a text in windows of block_size characters, the last of them shorter; each character is in one of them.

    White space around the text is removed, and every line ends with "\n".

    Examples
    --------
    >>> chunks("to be or not to be\n", 8)
    ['to be or', ' not to ', 'be']
    """
    text = _with_newlines(text)
    return [text[i : i + block_size] for i in range(0, len(text), block_size)]


def find_character(
    pieces: "Iterable[tuple[int, str]]", characters: "Collection[str]", split: str
) -> "tuple[int, int, str] | None":
    """Return (line, index in the line, character) of the first of characters in (first line, text) pieces of a file.

    split: how the pieces become documents. A document that is a line begins after white space, which does not count.
    """
    for first, piece in pieces:
        lines = piece.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for number, line in enumerate(lines, first):
            line = line.strip() if split == "lines" else f"{line}\n"
            for i, ch in enumerate(line):
                if ch in characters:
                    return number, i, ch
    return None


def looks_like(text: str) -> "str | None":
    """Return the format that a text seems to have (CSV, JSON, HTML, XML), or None for plain text."""
    start = text[:1000].lstrip()
    if re.match(r"<(!doctype\b|html\b|\?xml\b)", start, re.IGNORECASE):
        return "HTML" if "html" in start.lower() else "XML"
    if re.match(r'(\{|\[\s*[\[{])\s*"', start) and text.rstrip()[-1:] in ("}", "]"):
        return "JSON"
    lines = [line for line in text[:100_000].split("\n", 4 * _LOOKED_AT)[:-1] if line.strip()][:_LOOKED_AT]
    lines = [re.sub('"[^"]*"', '""', line) for line in lines]  # what is quoted may hold delimiters
    for delimiter in ",;\t|":
        counts = {line.count(delimiter) for line in lines}
        # In prose, white space follows a comma, and not every line has as many of them.
        if len(lines) >= 3 and len(counts) == 1 and counts != {0} and not any(f"{delimiter} " in line for line in lines):
            return "CSV"
    return None
