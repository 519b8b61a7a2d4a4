"""Is everything there that is to be published, and nothing else?

    python tools/check_release.py [--complete] [--tag v1.2.3] FILE_OR_FOLDER ...

Each wheel: its files are exactly those that the sources call for, its record agrees, every module is for the platform
that its name says. --complete: the wheels are all of the table in pyproject.toml, one for each Python on each platform, and
there is one sdist. What an sdist holds is checked by check-manifest. Standard library only.
"""
import argparse
import ast
import base64
import hashlib
import re
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
VERSION = re.search(r'^version = "(.+)"$', PYPROJECT, re.M)[1]
NAME = "microgpt_exact"

# The end of a wheel's name, for each platform of the table.
PLATFORMS = {
    "manylinux x86_64": r"manylinux_\d+_\d+_x86_64(\.manylinux\w+)*",
    "manylinux aarch64": r"manylinux_\d+_\d+_aarch64(\.manylinux\w+)*",
    "musllinux x86_64": r"musllinux_\d+_\d+_x86_64",
    "musllinux aarch64": r"musllinux_\d+_\d+_aarch64",
    "macOS arm64": r"macosx_\d+_\d+_arm64",
    "macOS x86_64": r"macosx_\d+_\d+_x86_64",
    "Windows AMD64": r"win_amd64",
    "Windows ARM64": r"win_arm64",
}
PYTHONS = re.search(r'^build = "(.+)"$', PYPROJECT, re.M)[1].replace("-*", "").split()
COMPILED = {".pyc", ".pyx", ".pxd", ".c", ".so", ".pyd"}  # in the folder microgpt, and not for the wheel
MAGIC = {b"\x7fELF": "linux", b"\xcf\xfa\xed\xfe": "macosx", b"MZ": "win"}


def modules():
    """The compiled modules with a file, from the tables in setup.py, which this must not import: it may lack setuptools here."""
    tables = {}
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("MODULES", "TOGETHER"):
            tables[node.targets[0].id] = node.value
    if len(tables) < 2:
        raise SystemExit("setup.py lacks the table MODULES or TOGETHER")
    others = sum(ast.literal_eval(tables["TOGETHER"]).values(), [])  # which are in the file of another
    return [name for name in map(ast.literal_eval, tables["MODULES"].keys) if name not in others]  # the values may be computed


def check_wheel(path):
    """What is wrong with a wheel, as a list of sentences; its size by kind."""
    wrong = []
    match = re.fullmatch(rf"{NAME}-{re.escape(VERSION)}-(cp\d+)-(cp\d+t?)-(manylinux|musllinux|macosx|win).+\.whl", path.name)
    if not match:
        return [f"{path.name}: not the name of a wheel of version {VERSION}"], ""
    abi, system = match[2], match[3]
    with zipfile.ZipFile(path) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        contents = {name: archive.read(name) for name in names}
    package = ROOT / "microgpt"
    # Every file of the package that is neither compiled nor the result of compiling. Not the list in pyproject.toml, so that
    # a file that was forgotten there is reported here.
    expected = {p.relative_to(ROOT).as_posix() for p in package.rglob("*") if p.is_file() and p.suffix not in COMPILED}
    expected -= {name for name in expected if name.startswith("microgpt/core/") and name.endswith(".html")}  # Cython's reports
    info = f"{NAME}-{VERSION}.dist-info"
    expected |= {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "top_level.txt", "entry_points.txt",
                                                  "licenses/LICENSE")}  # fmt: skip
    compiled = {name for name in names if name.endswith((".so", ".pyd"))}
    for module in modules():
        digits = abi[2:]
        tag = {"win": rf"\.{abi}-win_\w+\.pyd", "macosx": rf"\.cpython-{digits}-darwin\.so"}
        pattern = rf"microgpt/core/{module}" + tag.get(system, rf"\.cpython-{digits}-[\w-]+\.so")
        found = [name for name in compiled if re.fullmatch(pattern, name)]
        if len(found) != 1:
            wrong.append(f"{path.name}: module {module} is there {len(found)} times")
        for name in found:
            expected.add(name)
            kind = next((MAGIC[magic] for magic in MAGIC if contents[name].startswith(magic)), "unknown")
            if kind != {"manylinux": "linux", "musllinux": "linux"}.get(system, system):
                wrong.append(f"{path.name}: {name} is for {kind}")
    wrong += [f"{path.name}: lacks {name}" for name in sorted(expected - names)]
    wrong += [f"{path.name}: holds {name} as well" for name in sorted(names - expected)]
    recorded = dict(line.rsplit(",", 2)[:2] for line in contents[f"{info}/RECORD"].decode().splitlines())
    for name, content in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        if recorded.get(name) != (f"sha256={digest}" if not name.endswith("/RECORD") else ""):
            wrong.append(f"{path.name}: the record of {name} is wrong")
    if (ROOT / "LICENSE").read_bytes() != contents.get(f"{info}/licenses/LICENSE"):
        wrong.append(f"{path.name}: the licence is not the repository's")
    kilobytes = sum(map(len, (contents[name] for name in compiled))) // 1024
    return wrong, f"{path.stat().st_size // 1024} kB, {len(names)} files, modules unpacked {kilobytes} kB"


def check_complete(wheels, sdists):
    wrong = []
    promised = int(re.search(r"^# (\d+) wheels: ", PYPROJECT, re.M)[1])
    if len(PYTHONS) * len(PLATFORMS) != promised:
        wrong.append(f"pyproject.toml speaks of {promised} wheels, its table has {len(PYTHONS)} x {len(PLATFORMS)}")
    for python in PYTHONS:
        for platform, pattern in PLATFORMS.items():
            name = rf"{NAME}-{re.escape(VERSION)}-{python.rstrip('t')}-{python}-{pattern}\.whl"
            found = [wheel for wheel in wheels if re.fullmatch(name, wheel.name)]
            if len(found) != 1:
                wrong.append(f"{python} on {platform}: {len(found)} wheels")
    if len(wheels) != promised:
        wrong.append(f"{len(wheels)} wheels, not {promised}")
    if len(sdists) != 1:
        wrong.append(f"{len(sdists)} sdists, not 1")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--complete", action="store_true", help="all wheels of the table must be there, and one sdist")
    parser.add_argument("--tag", help="the tag that is released, to be v and the version")
    args = parser.parse_args()
    files = [f for path in args.paths for f in (sorted(path.iterdir()) if path.is_dir() else [path])]
    wheels = [f for f in files if f.suffix == ".whl"]
    sdists = [f for f in files if f.name.endswith(".tar.gz")]
    wrong = [f"{f.name}: neither a wheel nor an sdist" for f in files if f not in wheels and f not in sdists]
    if not files:
        wrong.append("there is nothing to check")
    for path in wheels:
        found, about = check_wheel(path)
        wrong += found
        print(f"{path.name}: {about}")
    if args.complete:
        wrong += check_complete(wheels, sdists)
    if args.tag and args.tag != f"v{VERSION}":
        wrong.append(f"the tag {args.tag} is not v{VERSION}")
    print(*wrong, sep="\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
