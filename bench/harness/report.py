"""The end of each script: the JSON file, with all that its figures depend on, and what is printed of it."""
import json
import os
import re
import sys
from datetime import date
from pathlib import Path

from . import table


def command_line():
    """Return the command that made this report, without the folders of the machine it ran on."""
    words = [f"bench/{os.path.basename(sys.argv[0])}"]
    # /a/b/c and ../b/c become c, also within a word; bench/results/c stays.
    words += [re.sub(r"(?<![\w.}])(\.\.|~)?/([^\s/]+/)*", "", word) for word in sys.argv[1:]]
    return " ".join(["python", *(f"'{word}'" if " " in word else word for word in words)])


def finish(name, args, described, warnings, layouts, notes, absent=None, **content):
    """Build the report and write it to the JSON file; print its tables, the notes, what did not run, and the warnings.

    layouts: functions of the report, of tables.py; absent: {contender: why it did not run}.
    """
    new = {"benchmark": name, "command": command_line(), "date": date.today().isoformat(), "machine": described,
           **content, "absent": absent or {}, "warnings": warnings}  # fmt: skip
    if args.json:
        from microgpt.files import write_atomically

        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(args.json, (json.dumps(new, indent=1, ensure_ascii=False) + "\n").encode())
    for layout in layouts:
        print(f"\n{table.text(*layout(new))}")
    print("", *notes, *(f"not run: {name}: {why}" for name, why in new["absent"].items()), caption(new).replace("`", ""),
          *(f"WARNING: {sentence}" for sentence in warnings), sep="\n")  # fmt: skip


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
