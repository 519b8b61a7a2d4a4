"""The bytes of a text: of a pipe or a device, which may never end; and what a file that is not UTF-8 text is."""
import os
import re
import stat
from io import UnsupportedOperation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ["kind_of", "read_stream"]

_PIECE = 1 << 20
_LOOKED_AT = 1 << 16  # bytes by which an encoding is recognised; a multiple of 4
#: The share of the machine's memory that a stream may fill: its bytes are in memory three times, as a str and as documents, too.
_SHARE = 4
_PADDING = b"\0" * 8  # no text has so many in a row

#: How files that are given for a text begin, and what they are.
_FORMATS = (
    (b"PK\x03\x04", "a zip archive, as the documents of office programs are"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"BZh", "compressed by bzip2"),
    (b"\xfd7zXZ\0", "compressed by xz"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (b"%PDF-", "a PDF"),
    (b"\xd0\xcf\x11\xe0", "a document of an office program"),
)


def read_stream(file: "BinaryIO", name: str) -> bytes:
    """Return all bytes of a pipe, a terminal, or another file that may be of any size. name: for messages.

    Raises ValueError for a device, and for a stream that is more than the memory can hold; MemoryError for such a file.
    """
    try:
        found = os.fstat(file.fileno())
        if stat.S_ISREG(found.st_mode) and found.st_size:
            if found.st_size > _memory():  # the system might promise it all the same
                raise MemoryError
            return file.read()
        is_device = stat.S_ISBLK(found.st_mode) or stat.S_ISCHR(found.st_mode) and not file.isatty()
        if is_device and found.st_rdev != os.stat(os.devnull).st_rdev:
            raise ValueError(f"{name} is a device, not a text")
    except UnsupportedOperation:
        return file.read()  # what a program has put there
    pieces, left = [], _memory() // _SHARE
    while piece := file.read(_PIECE):
        pieces.append(piece)
        left -= len(piece)
        if left < 0:
            raise ValueError(f"{name} does not end, or is more than the memory can hold: {sum(map(len, pieces)):,} bytes were read")
    return b"".join(pieces)


def _memory() -> int:
    """Return the bytes of memory of the machine; what most have, where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 1 << 34


def kind_of(content: bytes) -> "str | None":
    """Return what these bytes are, in words, if they are not UTF-8 text though they may be valid as such.

    None also for bytes of which nothing is known.
    """
    for begin, kind in _FORMATS:
        if content.startswith(begin):
            return kind
    encoding = _wide_encoding(content)
    if encoding is not None:
        return f"{encoding} (iconv -f {encoding} -t UTF-8 converts it)"
    return "binary" if _PADDING in content else None


def _wide_encoding(content: bytes) -> "str | None":
    """Return UTF-16 or UTF-32, with the order of bytes unless a mark at the start has it; None for other bytes."""
    from codecs import BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE, getincrementaldecoder

    if content.startswith((BOM_UTF32_LE, BOM_UTF32_BE)):
        return "UTF-32"
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return "UTF-16"
    for encoding in ("UTF-32LE", "UTF-32BE", "UTF-16LE", "UTF-16BE"):
        if len(content) % (int(encoding[4:6]) // 8) == 0:
            try:
                # The last character may be cut in two.
                text = getincrementaldecoder(encoding)().decode(content[:_LOOKED_AT])
            except UnicodeDecodeError:
                continue
            if _is_likely(text):
                return encoding
    return None


def _is_likely(text: str) -> bool:
    """Return whether a text was not decoded by mistake: it has white space, digits or Latin, and few other scripts."""
    blocks = {ord(ch) >> 8 for ch in text}
    return (
        0 in blocks
        and len(blocks) <= max(2, min(6, len(text) // 8))
        and re.sub(r"[\t\n\r\f\v\ufeff\u2028\u2029]|[^\S\n]", "", text).isprintable()
    )
