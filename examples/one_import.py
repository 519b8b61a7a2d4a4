"""Run the original with one import changed: python examples/one_import.py MICROGPT.PY

Replaces the class Value of Karpathy's script by `from microgpt import Value`, in memory, and changes nothing else. The
script prints the same bytes, many times faster (bench/README.md has the figure). It reads input.txt in the current
folder, or downloads it.
"""
import ast
import sys


def with_our_value(source: str) -> str:
    """Return source with its class Value replaced by an import; raise ValueError if it has no such class."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == "Value":
            lines = source.splitlines(keepends=True)
            lines[node.lineno - 1 : node.end_lineno] = ["from microgpt import Value\n"]
            return "".join(lines)
    raise ValueError("the script defines no class Value")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/one_import.py MICROGPT.PY")
    with open(sys.argv[1], encoding="utf-8") as file:
        script = with_our_value(file.read())
    exec(compile(script, sys.argv[1], "exec"), {"__name__": "__main__"})
