"""What the proofs of tools/prove.py work with: commands that must end well, the Pythons of a machine, and a temporary
folder with copies of the sources, virtual environments, wheels and builds in place, each made when it is first asked for.
"""
import os
import re
import shutil
import subprocess
import sys
from glob import glob
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EPOCH = "1767225600"  # the time in archives that are compared: any will do


class Failed(Exception):
    pass


class Skipped(Exception):
    pass


# ---- running things ----


def sh(*command, cwd=None, env=None, limit=40, ok=(0,), timeout=7200):
    """The output of a command; Failed, with its end, if it did not end well."""
    command = [str(part) for part in command]
    done = subprocess.run(command, cwd=cwd, env=env, text=True, errors="replace", timeout=timeout,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    if done.returncode not in ok:
        end = "\n".join(done.stdout.splitlines()[-limit:])
        raise Failed(f"{' '.join(command)}: status {done.returncode}\n{end}")
    return done.stdout


def need(tool, package=None):
    found = shutil.which(tool)
    if not found:
        raise Skipped(f"{tool} is not installed" + (f" ({package})" if package else ""))
    return found


def environment(**extra):
    """The caller's environment without what could lead Python or the build astray."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "MICROGPT_SIMD", "MICROGPT_BUILD", "CFLAGS", "CC", "VIRTUAL_ENV")
    env = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**env, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_QUIET": "1",
            "PYTHONDONTWRITEBYTECODE": "1", **extra}  # fmt: skip


def find_pythons(given):
    """[(version, path)], one interpreter for each version of CPython from 3.10 on."""
    candidates = list(given)
    if not given:
        for folder in os.get_exec_path():
            candidates += sorted(glob(os.path.join(folder, "python3.[0-9][0-9]")))
            candidates += sorted(glob(os.path.join(folder, "python3.[0-9][0-9]t")))
        if shutil.which("pyenv"):
            root = sh("pyenv", "root").strip()
            candidates += sorted(glob(os.path.join(root, "versions", "3.*", "bin", "python3")))
        candidates.append(sys.executable)
    question = ("import sys, sysconfig; print(sys.implementation.name, *sys.version_info[:2], "
                "'t' if sysconfig.get_config_var('Py_GIL_DISABLED') else '')")  # fmt: skip
    found = {}
    for path in candidates:
        try:
            done = subprocess.run([path, "-c", question], capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            continue
        words = done.stdout.split()
        if done.returncode == 0 and words[0] == "cpython" and (int(words[1]), int(words[2])) >= (3, 10):
            found.setdefault((int(words[1]), int(words[2]), "".join(words[3:])), path)
    return [(f"{key[0]}.{key[1]}{key[2]}", path) for key, path in sorted(found.items())]


class Bench:
    """The temporary folder, and what several proofs need: made when it is first asked for."""

    def __init__(self, folder, pythons, ci=False):
        self.folder, self.pythons, self.ci = Path(folder), pythons, ci
        self._made = {}
        self.only = []  # tests to choose instead of the suite

    def once(self, name, make):
        if name not in self._made:
            try:
                self._made[name] = (make(), None)
            except (Failed, Skipped) as error:
                self._made[name] = (None, error)
        value, error = self._made[name]
        if error:
            raise error
        return value

    def copy(self, name):
        """The sources, as they would be committed, in a folder of that name."""
        target = self.folder / name
        if (ROOT / ".git").exists():
            listed = sh("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=ROOT)
            files = [file for file in listed.split("\0") if file and (ROOT / file).is_file()]
        else:
            keep_out = {"build", "dist", ".venv", "node_modules", "__pycache__", ".git"}
            files = [str(p.relative_to(ROOT)) for p in ROOT.rglob("*")
                     if p.is_file() and not keep_out & set(p.relative_to(ROOT).parts) and p.suffix != ".so"]  # fmt: skip
        for file in files:
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, target / file)
        return target

    @property
    def source(self):
        """A copy of the sources that nothing is built in."""
        return self.once("source", lambda: self.copy("source"))

    def venv(self, name, *requirements, python=None):
        """The bin folder of a new virtual environment with these installed."""

        def make():
            if "--require-hashes" in requirements and sys.version_info < (3, 11):
                raise Skipped("the tools are pinned for Python 3.11 and newer")
            folder = self.folder / f"venv-{name}"
            sh(python or sys.executable, "-m", "venv", folder)
            if requirements:
                sh(folder / "bin/python", "-m", "pip", "install", "-q", *requirements, env=environment(), cwd=ROOT)
            return folder / "bin"

        return self.once(f"venv {name}", make)

    def tools(self):
        return self.venv("tools", "--require-hashes", "-r", ROOT / "tools/requirements/release.txt")

    def sdist(self):
        def make():
            tools, source = self.tools(), self.source
            env = environment(SOURCE_DATE_EPOCH=EPOCH, PIP_CONSTRAINT=str(self.build_constraint()))
            sh(tools / "python", "-m", "build", "--sdist", "--outdir", self.folder / "sdist", source, env=env)
            (found,) = (self.folder / "sdist").glob("*.tar.gz")
            return found

        return self.once("sdist", make)

    def build_wheel(self, python, where, **env):
        """A wheel from the sdist, built in isolation by pip in the folder `where`."""
        folder = self.folder / where
        (folder / "tmp").mkdir(parents=True)
        env = environment(SOURCE_DATE_EPOCH=EPOCH, TMPDIR=str(folder / "tmp"),
                          PIP_CONSTRAINT=str(self.build_constraint()), **env)  # fmt: skip
        bin = self.venv(f"for-{where.replace('/', '-')}", python=python)  # a Python of the system may have no pip
        sh(bin / "python", "-m", "pip", "wheel", "-q", "--no-deps", "--no-cache-dir", "-w", folder, self.sdist(), env=env)
        (found,) = folder.glob("*.whl")
        return found

    def wheel(self, version, python):
        return self.once(f"wheel {version}", lambda: self.build_wheel(python, f"wheel-{version}"))

    def repaired(self, version, python):
        """The wheel under the name of the oldest policy that it meets, as auditwheel gives it."""

        def make():
            tools, folder = self.tools(), self.folder / f"repaired-{version}"
            env = environment(PATH=f"{tools}{os.pathsep}{os.environ['PATH']}", SOURCE_DATE_EPOCH=EPOCH)
            sh(tools / "auditwheel", "repair", "-w", folder, self.wheel(version, python), env=env)
            (found,) = folder.glob("*.whl")
            return found

        return self.once(f"repaired {version}", make)

    def build_in_place(self, name, **env):
        """The folder of sources that are built in place in this environment."""
        source = self.copy("build-" + re.sub(r"[^\w-]+", "-", name))
        python = self.venv("tests", "-r", self.test_requirements()) / "python"
        sh(python, "setup.py", "-q", "build_clib", "build_ext", "--inplace", cwd=source, env=environment(**env))
        return source

    def inplace(self, variant):
        """(folder, python): the sources built in place in a variant of setup.py, with everything to test them."""

        def make():
            folder = self.build_in_place(variant or "plain", MICROGPT_BUILD=variant)
            return folder, self.venv("tests", "-r", self.test_requirements()) / "python"

        return self.once(f"inplace {variant}", make)

    def build_constraint(self):
        """The pinned versions of what compiles the package, for an isolated build, which takes no digests."""
        file = self.folder / "build.txt"
        pins = re.findall(r"^([\w.-]+==[\w.]+)", (ROOT / "tools/requirements/build.txt").read_text(), re.M)
        file.write_text("\n".join(pins) + "\n")
        return file

    def test_requirements(self):
        """Everything that the tests import, and the pinned compiler's packages, in one file."""
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        lists = re.findall(r"^(?:dependencies|test) = \[(.*?)\]", text, re.M | re.S)
        wanted = [item for found in lists for item in re.findall(r'"(.+?)"', found)]
        wanted.append(self.build_constraint().read_text())
        file = self.folder / "tests.txt"
        file.write_text("\n".join(wanted) + "\n")
        return file
