"""Text that may come from anywhere, made safe to show on a terminal."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["printable"]

#: Line and paragraph separators, and the characters that turn the direction of what follows them.
_STEERING = frozenset("\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: object, limit: "int | None" = None, own: "Collection[str]" = ()) -> str:
    r"""Return str(text) as one line in which what steers a terminal is an escape, such as \n, \x1b or \u202e.

    Escaped are control characters (C0 but for the tab, DEL, C1), line and direction controls, and lone surrogates,
    which no file in UTF-8 can hold. Joiners, spaces and marks that texts need stay. A backslash is not doubled, so this
    is for reading, not for parsing. limit: the most characters; what is longer ends in "...". own: characters to keep.
    """
    found = str(text)
    if limit is not None and len(found) > limit:
        found = found[: limit - 3] + "..."
    if found.isprintable():
        return found
    return "".join(ch.encode("unicode_escape").decode() if _steers(ch) and ch not in own else ch for ch in found)


def _steers(ch):
    return ch < " " and ch != "\t" or "\x7f" <= ch <= "\x9f" or "\ud800" <= ch <= "\udfff" or ch in _STEERING
