"""Raise the pinned requirements in tools/requirements to the newest releases that their .in files allow.

    pip install uv && python tools/raise_requirements.py

Each NAME.in says in words what is needed; NAME.txt, written here, holds the exact versions and their digests, and is
what the workflows install. After raising: read the diff, run tools/prove.py, and commit both together. pyproject.toml
keeps its ranges, which users and distributions build with.
"""
import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "requirements"


def main():
    os.environ["UV_CUSTOM_COMPILE_COMMAND"] = "python tools/raise_requirements.py"
    for source in sorted(FOLDER.glob("*.in")):
        # For all systems and Pythons at once, from 3.11 on, which the workflows use; build.txt also serves 3.10.
        python = "3.10" if source.stem == "build" else "3.11"
        subprocess.run(["uv", "pip", "compile", "--quiet", "--upgrade", "--universal", "--generate-hashes",
                        "--no-annotate", "--python-version", python, source.name, "-o", f"{source.stem}.txt"],
                       cwd=FOLDER, check=True, stdout=subprocess.DEVNULL)  # fmt: skip
        print(FOLDER / f"{source.stem}.txt")


if __name__ == "__main__":
    sys.exit(main())
