"""Contents of text files: line ends, white space and characters of every kind, by what is special about them."""

TEXTS = {
    "plain": b"emma\nolivia\nava\n",
    "no newline at the end": b"emma\nolivia",
    "many newlines at the end": b"emma\nolivia\n\n\n",
    "one document": b"emma",
    "windows": b"emma\r\nolivia\r\n\r\nava\r\n",
    "old mac": b"emma\rolivia\r\rava\r",
    "windows, several words": b"emma lou\r\nolivia\r\n\r\nava\r\n",
    "old mac, several words": "zo\u00eb\remma lou\r\rava\r".encode(),
    "mixed newlines": b"emma\n\rolivia\r\r\nava\r\n\nmia",
    "white space around": b"  emma\t\n\t olivia\n \t \nava  ",
    "white space inside": b"emma  lou\nmary\tann\n",
    "unicode white space around": "\u00a0emma\u2003\n\u3000olivia\x1f\n\u2028\n\x0b\x0c\nava\x85\n".encode(),
    "line ends that are none": "em\u2028ma\nol\u2029ivia\na\x0bv\x0ca\x1c\x1d\x1e\x85mia\n".encode(),
    "non-ascii": "zoë\nΆλφα\nЮлия\n美咲\n🙂🙃\n".encode(),
    "composed and not": "zo\u00eb\nzoe\u0308\n".encode(),
    "nul": b"em\0ma\n\0\nava\n",
    "zero width": "em\u200bma\n\u200b\nava\ufeff\n".encode(),
}
