"""Text from files that may come from anywhere, made safe to show on a terminal."""

__all__ = ["printable"]


def printable(text: object, limit: "int | None" = None) -> str:
    r"""Return str(text) as one line in which control characters are written as escapes, such as \x1b.

    So is everything else that `str.isprintable` denies: line ends, marks that change the direction of text, lone
    surrogates. limit: the most characters; what is longer ends in "...".
    """
    found = str(text)
    if limit is not None and len(found) > limit:
        found = found[: limit - 3] + "..."
    if found.isprintable():
        return found
    return "".join(ch if ch.isprintable() else ch.encode("unicode_escape").decode() for ch in found)
