"""One field of every record of a table: a column of CSV, or a field of JSON. The standard library reads both."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["csv_column", "json_field", "records"]

LARGEST_FIELD = 2**31 - 1  # characters; csv takes 2**17 of its own accord
_DELIMITERS = ",;\t|"
_SHOWN = 8  # columns that a message names


def records(
    text: str, name: str, csv_column: "str | None" = None, json_field: "str | None" = None
) -> "Iterator[tuple[int, str]]":
    """Return (line, text) of one field of each record of a file, or of the whole file, which begins at line 1."""
    if csv_column is not None:
        return _csv_column(text, csv_column, name)
    if json_field is not None:
        return _json_field(text, json_field, name)
    return iter([(1, text)])


def csv_column(text: str, column: str, name: str = "the text") -> "list[str]":
    """Return the cells of a column of a CSV text, in order.

    The first row names the columns. The delimiter is the first of comma, semicolon, tab and vertical bar with which it
    names this one. A cell in quotes may hold delimiters and line ends. Empty rows are left out.

    Parameters
    ----------
    text : str
        The text of the file.
    column : str
        Name of the column.
    name : str
        The file's, for messages.

    Raises
    ------
    ValueError
        With the file and the line: if there is no such column, a row does not reach it, or a quote is wrong.

    Examples
    --------
    >>> csv_column("name;year\\nemma;2017\\n", "name")
    ['emma']
    """
    return [cell for _, cell in _csv_column(text, column, name)]


def _csv_column(text: str, column: str, name: str) -> "Iterator[tuple[int, str]]":
    import csv
    from io import StringIO

    line, limit = 1, csv.field_size_limit(LARGEST_FIELD)
    try:
        heads: list[list[str]] = []
        for delimiter in _DELIMITERS:
            reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
            try:
                head = next((row for row in reader if row), [])
            except csv.Error as error:
                raise ValueError(f"{name}, line {reader.line_num}: {error}") from None
            heads.append([word.strip() for word in head])
            if column in heads[-1]:
                break
        else:
            raise ValueError(_no_column(max(heads, key=len), column, name))
        index, line = heads[-1].index(column), reader.line_num + 1
        for row in reader:
            if row and index >= len(row):
                raise ValueError(f"{name}, line {line}: no {column!r}: the row has {len(row)} of {len(heads[-1])} columns")
            if row:
                yield line, row[index]
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{name}, line {line}: {error}") from None
    finally:
        csv.field_size_limit(limit)


def _no_column(head: "list[str]", column: str, name: str) -> str:
    from difflib import get_close_matches

    if not head:
        return f"{name} holds no documents"
    close = get_close_matches(column, head, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{name} has no column {column!r}{hint} (its first row is {_names(head)})"


def _names(words: "list[str]") -> str:
    """Return a list of names for a message: not all of many, and not all of a long one."""
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(f"{word!r:.40}" for word in words[:_SHOWN]) + more


def json_field(text: str, field: str, name: str = "the text") -> "list[str]":
    """Return a field of every object of a JSON text: one object per line, or one list of objects.

    A field that is null is left out.

    Parameters
    ----------
    text : str
        The text of the file.
    field : str
        Name of the field.
    name : str
        The file's, for messages.

    Raises
    ------
    ValueError
        With the file and the line: if it is not JSON, not an object, has no such field, or the
        field is not a string.

    Examples
    --------
    >>> json_field('{"name": "emma"}\\n{"name": "ava"}\\n', "name")
    ['emma', 'ava']
    """
    return [value for _, value in _json_field(text, field, name)]


def _json_field(text: str, field: str, name: str) -> "Iterator[tuple[int, str]]":
    import json

    decoder, objects = json.JSONDecoder(), _in_list if text.lstrip()[:1] == "[" else _in_lines
    line = 1
    try:
        for line, found in objects(text, decoder):
            yield from _field(found, field, f"{name}, line {line}", line)
    except _Wrong as wrong:
        raise ValueError(f"{name}, line {wrong.args[0]}: not JSON: {wrong.args[1]}") from None


class _Wrong(Exception):
    """(line, what is wrong there)"""


def _in_lines(text: str, decoder: "Any") -> "Iterator[tuple[int, Any]]":
    """Yield (line, value) of JSON Lines. They end with a newline alone: U+2028 may be part of a string."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            value, end = _decode(decoder, line, _skip(line, 0), number)
            if line[end:].strip():
                raise _Wrong(number, f"something follows the value at character {end + 1}")
            yield number, value


def _in_list(text: str, decoder: "Any") -> "Iterator[tuple[int, Any]]":
    """Yield (line, value) of each value of a list. One by one, because the decoder of a list does not say where they are."""
    line, end = 1, 0
    position, closes = _skip(text, text.index("[") + 1), True
    while True:
        line, end = line + text.count("\n", end, position), position
        if closes and text[position : position + 1] == "]":
            break
        value, end = _decode(decoder, text, position, line)
        yield line, value
        line, position = line + text.count("\n", position, end), _skip(text, end)
        closes = text[position : position + 1] == "]"
        if not closes:
            if text[position : position + 1] != ",":
                raise _Wrong(line, "a list without ',' between its values, or without its end")
            position = _skip(text, position + 1)
    if text[position + 1 :].strip():
        raise _Wrong(line, "something follows the list")


def _skip(text: str, position: int) -> int:
    """Return the position of the next character that is not white space of JSON."""
    while text[position : position + 1] in (" ", "\t", "\n", "\r"):
        position += 1
    return position


def _decode(decoder: "Any", text: str, position: int, line: int) -> "tuple[Any, int]":
    try:
        return decoder.raw_decode(text, position)  # type: ignore[no-any-return]  # decoder is Any
    except (ValueError, RecursionError) as error:  # ValueError: of an int with too many digits, too
        raise _Wrong(line + text.count("\n", position, getattr(error, "pos", position)), getattr(error, "msg", error)) from None


def _field(found: "Any", field: str, where: str, line: int) -> "Iterator[tuple[int, str]]":
    if not isinstance(found, dict):
        raise ValueError(f"{where}: {_kind(found)}, not an object with the field {field!r}")
    if field not in found:
        raise ValueError(f"{where}: no field {field!r} (it has {_names(list(found)) or 'none'})")
    value = found[field]
    if value is not None:
        if not isinstance(value, str):
            raise ValueError(f"{where}: the field {field!r} is {_kind(value)}, not a string")
        yield line, value


def _kind(value: object) -> str:
    """Return JSON's word for the type of a value."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else "true or false"
    kinds: dict[type, str] = {dict: "an object", list: "a list", str: "a string"}
    return kinds.get(type(value), "a number")
