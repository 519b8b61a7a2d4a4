"""Tables: the same rows as plain text for a terminal, or as Markdown for a README."""
import os
import sys

_ASCII = {"µ": "u", "×": "x", "–": "-", "·": "-"}
_COLOURS = {"yes": "32", "no": "31"}


def text(columns, rows, colour=False):
    """A plain table. columns: [(title, "<" or ">")]; rows: lists of str."""
    rows = [[str(cell) for cell in row] for row in rows]
    width = [
        max(len(title), *(len(row[i]) for row in rows)) if rows else len(title) for i, (title, _) in enumerate(columns)
    ]

    def line(cells, paint=False):
        parts = []
        for cell, w, (_, side) in zip(cells, width, columns):
            part = f"{cell:{side}{w}}"
            if paint and cell in _COLOURS:
                part = f"\x1b[{_COLOURS[cell]}m{part}\x1b[0m"
            parts.append(part)
        return "  ".join(parts).rstrip()

    return "\n".join(
        [line([title for title, _ in columns]), "  ".join("-" * w for w in width)] + [line(row, colour) for row in rows]
    )


def markdown(columns, rows):
    """The same as Markdown."""
    lines = ["| " + " | ".join(title for title, _ in columns) + " |"]
    lines.append("| " + " | ".join("---:" if side == ">" else "---" for _, side in columns) + " |")
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def show(columns, rows):
    """Print a table: in colour on a terminal that wants it, in ASCII where the encoding has nothing else."""
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    print(plain(text(columns, rows, colour)))


def plain(string):
    """The string itself if stdout can take it, else in ASCII."""
    try:
        string.encode(sys.stdout.encoding or "ascii")
        return string
    except UnicodeEncodeError:
        for sign, letter in _ASCII.items():
            string = string.replace(sign, letter)
        return string.encode("ascii", "replace").decode()


def number(value, digits=3):
    """A number with that many significant digits, thousands separated; '–' for None."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    from math import floor, log10

    value = round(value, digits - 1 - floor(log10(abs(value))))
    decimals = max(0, digits - 1 - floor(log10(abs(value))))
    return f"{value:,.{decimals}f}"


def microseconds(seconds):
    return number(None if seconds is None else seconds * 1e6)


def duration(seconds):
    """Seconds in the unit that suits them."""
    unit, size = next((u, s) for u, s in (("s", 1.0), ("ms", 1e-3), ("µs", 0.0)) if seconds >= s)
    return f"{number(seconds / (size or 1e-6))} {unit}"


def percent(share):
    return "–" if share is None else f"{share:.1%}" if share < 0.1 else f"{share:.0%}"


def yes_no(flag):
    return {True: "yes", False: "no", None: "–"}[flag]


def megabytes(count):
    return "–" if count is None else number(count / 1e6)
