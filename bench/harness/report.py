"""The JSON file of a benchmark: its rows, and everything that its figures depend on."""
import json
import os
import re
import sys
from pathlib import Path


def command_line():
    """Return the command that made this report, without the folders of the machine it ran on."""
    words = [f"bench/{os.path.basename(sys.argv[0])}"]
    # /a/b/c and ../b/c become c, also within a word; bench/results/c stays.
    words += [re.sub(r"(?<![\w.}])(\.\.|~)?/([^\s/]+/)*", "", word) for word in sys.argv[1:]]
    return " ".join(["python", *(f"'{word}'" if " " in word else word for word in words)])


def write(path, report):
    """Write the report completely or not at all."""
    from microgpt.files import write_atomically

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())


def read(path):
    """Return the report in a file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def caption(report):
    """Return one line: the command, the processor and the versions behind a table."""
    machine = report["machine"]
    pinned = "not pinned" if machine.get("pinned_to_core") is None else "pinned to one core"
    parts = [f"`{report['command']}`", report["date"], machine["processor"], pinned]
    if "--clock cpu" in report["command"]:
        parts.append("processor time instead of wall time")
    versions = {"": "python", "NumPy ": "numpy", "PyTorch ": "torch", "libc ": "libc", "compiled by ": "compiler"}
    parts += [word + machine[key] for word, key in versions.items() if machine.get(key)]
    return " · ".join(parts)
