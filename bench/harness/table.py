"""Tables: the same rows as plain text for a terminal, or as Markdown for a page."""
from decimal import Decimal


def text(columns, rows):
    """Return a plain table. columns: [(title, "<" or ">")]; rows: lists of str or int."""
    lines = [[title for title, _ in columns], *([str(cell) for cell in row] for row in rows)]
    width = [max(map(len, cells)) for cells in zip(*lines)]
    lines.insert(1, ["-" * w for w in width])
    return "\n".join("  ".join(f"{cell:{side}{w}}" for cell, w, (_, side) in zip(line, width, columns)).rstrip() for line in lines)


def markdown(columns, rows):
    """Return the same table as Markdown."""
    rule = ["---:" if side == ">" else "---" for _, side in columns]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in ([title for title, _ in columns], rule, *rows))


def number(value, digits=3, scale=1):
    """Return value × scale with that many significant digits, thousands separated; '–' for None."""
    if value is None:
        return "–"
    return "0" if value == 0 else f"{Decimal(f'{value * scale:#.{digits}g}'):,f}"


def duration(seconds):
    """Return seconds in the unit that suits them; '–' for None."""
    if seconds is None:
        return "–"
    unit, size = next((u, s) for u, s in (("s", 1.0), ("ms", 1e-3), ("µs", 0.0)) if seconds >= s)
    return f"{number(seconds / (size or 1e-6))} {unit}"


def percent(share):
    return "–" if share is None else f"{share:.1%}" if share < 0.1 else f"{share:.0%}"


def yes_no(flag):
    return {True: "yes", False: "no", None: "–"}[flag]
