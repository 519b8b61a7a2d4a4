"""What the sessions of noxfile.py work with: commands that must succeed, a temporary folder with copies of the sources, virtual
environments, wheels and builds in place, each made when it is first asked for, and the table at the end.
"""
import atexit
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parents[1]
EPOCH = "1767225600"  # the time in archives that are compared: any will do
SCRATCH = Path(tempfile.mkdtemp(prefix="microgpt-nox-"))
TABLE: "list[tuple[str, str, float, str]]" = []  # session, result, seconds, what it said

@atexit.register
def report():
    shutil.rmtree(SCRATCH, ignore_errors=True)
    if TABLE:
        print(f"\n{platform.platform()}, {platform.machine()}")
    for name, result, seconds, said in TABLE:
        print(f"{name:16} {result:8} {seconds:6.0f} s  {said[:150]}")


def proof(*tags):
    """A session that notes in the table how it ended. It returns what was seen."""

    def register(function):
        @nox.session(name=function.__name__, tags=list(tags), venv_backend="none")
        @functools.wraps(function)
        def timed(session):
            start, result, said = time.monotonic(), "FAILED", ""
            try:
                said, result = function(session), "proved"
            except BaseException as error:
                said = " ".join(str(error).split())
                result = "skipped" if type(error).__name__ == "_SessionSkip" else "FAILED"
                raise
            finally:
                TABLE.append((function.__name__, result, time.monotonic() - start, said))

        return timed

    return register


# ---- what several sessions need, made when it is first asked for ----


def once(function):
    """Keep a function's result for all sessions of this run; the session itself makes no difference."""
    made = {}

    @functools.wraps(function)
    def cached(session, *arguments):
        if arguments not in made:
            made[arguments] = function(session, *arguments)
        return made[arguments]

    return cached


#: For commands of several processes that import the same, or that follow each other: what one has compiled the next one takes.
WRITES_BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}


def run(session, *command, cwd=None, env=None, succeeds=True):
    """Run a command in an environment without what could lead Python or the build astray; return what it wrote."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "MICROGPT_SIMD", "MICROGPT_BUILD", "CFLAGS", "CC", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    # Most of what is installed is never imported, or once: to compile all of it takes longer than to install it.
    given = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_COMPILE": "0", "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
    done = subprocess.run([*map(str, command)], cwd=cwd or source(), env={**kept, **given}, text=True, errors="replace",
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    if succeeds and done.returncode:
        lines = done.stdout.splitlines()
        first = next((i for i, line in enumerate(lines) if "Sanitizer" in line or "runtime error" in line), len(lines))
        shown = [*lines[max(0, first - 5) : first + 30], *lines[-120:]]  # what a sanitizer found comes before a long stack
        print(f"{' '.join(map(str, command))}: status {done.returncode}", *shown, sep="\n")
        session.error(f"{Path(str(command[0])).name} {' '.join(map(str, command[1:4]))}: status {done.returncode}")
    return done.stdout


def need(session, tool):
    if not shutil.which(tool):
        session.skip(f"{tool} is not installed")
    return tool


def last_line(output):
    return next((line for line in reversed(output.splitlines()) if line.strip()), "")


def copy_of_sources(name):
    """Copy the sources, as they would be committed, into a new folder."""
    target = SCRATCH / name
    # Without version control, a file at the top without a suffix is output that was redirected there, except the licence.
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True)
        files = [file for file in listed.stdout.split("\0") if file and (ROOT / file).is_file()]
    else:
        left_out = {"build", "dist", ".venv", ".nox", "node_modules", "__pycache__"}
        files = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file() and path.suffix not in (".so", ".pyc")
                 and not left_out & set(path.relative_to(ROOT).parts) and "egg-info" not in str(path)
                 and (path.parent != ROOT or path.suffix or path.name == "LICENSE")]  # fmt: skip
    for file in files:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, target / file)
    return target


@functools.cache
def source():
    """A copy of the sources in which nothing is built."""
    return copy_of_sources("source")


def pip(session, python):
    """The command of a pip that runs in this Python and can install for others: a Python of the system may have none."""
    if python == sys.executable and find_spec("pip") and [*map(int, metadata.version("pip").split(".")[:2])] >= [22, 3]:
        return [sys.executable, "-m", "pip"]
    return [venv(session, "pip", "pip>=22.3", python=python) / "python", "-m", "pip"]


def venv(session, name, *requirements, python=sys.executable):
    """Return the bin folder of a virtual environment with these installed; kept from run to run in nox's own folder.

    name: "pip" for one that holds pip alone. The others have none of their own, which takes longer than what they are for.
    """
    if "--require-hashes" in requirements and sys.version_info < (3, 11):
        session.skip("the tools are pinned for Python 3.11 and newer")
    files = [Path(r).read_text() if os.path.isfile(r) else str(r) for r in requirements]
    digest = hashlib.sha256("\n".join([str(python), *files]).encode()).hexdigest()[:12]
    folder = Path(session.cache_dir).resolve() / f"{name}-{digest}"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        run(session, python, "-m", "venv", *([] if name == "pip" else ["--without-pip"]), folder)
        if name == "pip":
            run(session, folder / "bin/python", "-m", "pip", "install", "-q", *requirements, cwd=ROOT)
        elif requirements:
            run(session, *pip(session, python), "--python", folder / "bin/python", "install", "-q", *requirements, cwd=ROOT)
        (folder / "complete").touch()
    return folder / "bin"


def tools(session):
    return venv(session, "release", "--require-hashes", "-r", ROOT / "tools/requirements/release.txt")


def building(session):
    """The bin folder of an environment with what compiles the package and makes sdists, and without what tests it."""
    return venv(session, "building", "check-manifest", "build", "pip", "-r", build_constraint())  # build would make a pip for itself


def requirements(extra, *names):
    """Return an extra of pyproject.toml, or "dependencies": all of its requirements, or those with these names."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(rf"^{extra} = \[(.*?)\]", text, re.M | re.S)[1]
    found = re.findall(r'"(.+?)"', re.sub(r"\s*#.*", "", listed))
    return [item for item in found if not names or re.match(r"[\w.-]+", item)[0] in names]


def test_python(session):
    """Return a Python with everything that the tests import, and the pinned compiler's packages; not the package itself."""
    wanted = SCRATCH / "tests.txt"
    wanted.write_text("\n".join([*requirements("dependencies"), *requirements("test"), build_constraint().read_text()]))
    return venv(session, "tests", "--compile", "-r", wanted) / "python"


def build_constraint():
    """The pinned versions of what compiles the package, for an isolated build, which takes no digests."""
    file = SCRATCH / "build.txt"
    pins = re.findall(r"^([\w.-]+==[\w.]+)", (ROOT / "tools/requirements/build.txt").read_text(), re.M)
    file.write_text("\n".join(pins) + "\n")
    return file


@once
def pythons(session):
    """[(version, path)]: for CI and mutants this interpreter, otherwise each CPython from 3.10 on that is on PATH or in pyenv."""
    paths = [sys.executable]
    if "ci" not in (session._runner.global_config.tags or ()) and os.environ.get("PROVE_PYTHONS") != "1":
        folders = [*os.get_exec_path(), *map(str, Path.home().glob(".pyenv/versions/3.*/bin"))]
        paths += [str(path) for folder in folders for path in sorted(Path(folder).glob("python3.[0-9][0-9]"))]
    question = "import sys; print(sys.implementation.name, *sys.version_info[:2])"
    found = {}
    for path in paths:
        words = subprocess.run([path, "-c", question], capture_output=True, text=True).stdout.split()
        if words[:1] == ["cpython"] and (int(words[1]), int(words[2])) >= (3, 10):
            found.setdefault((int(words[1]), int(words[2])), path)
    return [(f"{major}.{minor}", path) for (major, minor), path in sorted(found.items())]


@once
def sdist(session):
    env = {"SOURCE_DATE_EPOCH": EPOCH, "PIP_CONSTRAINT": str(build_constraint()), **WRITES_BYTECODE}
    run(session, building(session) / "python", "-m", "build", "--sdist", "--outdir", SCRATCH / "sdist", source(), env=env)
    (found,) = (SCRATCH / "sdist").glob("*.tar.gz")
    return found


def build_wheel(session, python, where, **env):
    """Return a wheel from the sdist, built in isolation by pip in a folder of that name."""
    folder = SCRATCH / where
    (folder / "tmp").mkdir(parents=True)
    env = {"SOURCE_DATE_EPOCH": EPOCH, "TMPDIR": str(folder / "tmp"), "PIP_CONSTRAINT": str(build_constraint()),
           **WRITES_BYTECODE, **env}  # fmt: skip
    run(session, *pip(session, python), "wheel", "-q", "--no-deps", "--no-cache-dir", "-w", folder, sdist(session), env=env)
    (found,) = folder.glob("*.whl")
    return found


@once
def wheel(session, version, python):
    return build_wheel(session, python, f"wheel-{version}")


@once
def repaired(session, version, python):
    """Return the wheel under the name of the oldest policy that it meets, as auditwheel gives it."""
    folder, bin = SCRATCH / f"repaired-{version}", tools(session)
    env = {"PATH": f"{bin}{os.pathsep}{os.environ['PATH']}", "SOURCE_DATE_EPOCH": EPOCH}
    run(session, bin / "auditwheel", "repair", "-w", folder, wheel(session, version, python), env=env)
    (found,) = folder.glob("*.whl")
    return found


def kept_builds(session):
    """The environment in which builds take from caches what is as it was, by content: ccache, if it is installed, and Cython's."""
    folder = Path(session.cache_dir).resolve() / "cython"
    env = {"CYTHON_CACHE_DIR": str(folder)}
    if ccache := shutil.which("ccache"):
        links = SCRATCH / "ccache"
        links.mkdir()
        for name in ("cc", "gcc", "clang", "musl-gcc", "aarch64-linux-gnu-gcc", "s390x-linux-gnu-gcc"):
            if shutil.which(name):
                (links / name).symlink_to(ccache)
        env.update(PATH=f"{links}{os.pathsep}{os.environ['PATH']}", CCACHE_BASEDIR=tempfile.gettempdir(), CCACHE_NOHASHDIR="1")
    return env


def built_in_place(session, name, **env):
    """Return a folder of sources that are built in place in this environment."""
    folder = copy_of_sources("build-" + re.sub(r"[^\w-]+", "-", name))
    run(session, test_python(session), "setup.py", "-q", "build_clib", "build_ext", "--inplace", cwd=folder, env=env)
    return folder


@once
def variant(session, name):
    return built_in_place(session, name or "plain", MICROGPT_BUILD=name)


def pytest(session, build, *arguments, python_options=(), **env):
    """Run tests on a variant of setup.py; return what pytest wrote."""
    return run(session, test_python(session), *python_options, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments,
               cwd=variant(session, build), env=env)  # fmt: skip
