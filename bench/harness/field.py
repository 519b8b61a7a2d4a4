"""The contenders that more than one benchmark runs."""
import sys
import zipfile
from pathlib import Path

from . import cli, machine
from .contender import Worker

BATCH = 16


def module(name, file, folder, core, options=None, collector=True, **kwargs):
    """Return the contender that a Python file makes with make(task, **options), on the task in a folder."""
    given = {"file": str(file), "task": str(folder), "core": core, "options": options or {}, "collector": collector}
    return Worker(name, given, **kwargs)


def trainer(name, engine, folder, core, options=None, **kwargs):
    """Return an engine of microgpt, behind its public Trainer with these options."""
    return module(name, machine.HARNESS / "engine.py", folder, core, {"engine": engine, **(options or {})}, **kwargs)


def pytorch(name, folder, core, python, batches):
    """Return the PyTorch contenders in both precisions; name has the places {dtype} and {precision}."""
    contenders, file = [], machine.BENCH / "torch_gpt.py"
    package = machine.ROOT if python == sys.executable else None  # PyTorch's own Python needs no microgpt
    for batch in batches:
        for dtype, precision, tolerance in (("float64", "f64", 1e-9), ("float32", "f32", 1e-3)):
            full = name.format(dtype=dtype, precision=precision) + (f", batch {batch}" if batch > 1 else "")
            contenders.append(module(full, file, folder, core, {"dtype": dtype, "batch": batch}, python=python, package=package,
                                     precision=precision, batch=batch, tolerance=tolerance))  # fmt: skip
    return contenders


def add_field_options(p):
    """Add --torch-python and --other."""
    p.add_argument("--torch-python", metavar="PYTHON", default=sys.executable, help="the Python that has PyTorch")
    p.add_argument("--other", action="append", default=[], type=cli.pair, metavar="NAME=PATH", help="another version's fused "
                   "engine: a checkout that was built in place, a wheel, or the Python of an environment")  # fmt: skip


def others(args, folder, core):
    """Return the fused engine of each --other version, and unpack wheels into the task's folder."""
    contenders = []
    for i, (name, path) in enumerate(args.other):
        package = Path(path).absolute()
        if package.suffix == ".whl":
            unpacked = Path(folder, f"other-{i}")
            zipfile.ZipFile(package).extractall(unpacked)
            package = unpacked
        if package.is_dir():
            where = {"options": {"package": str(package)}, "package": package}
        else:  # absolute, not resolved: the link to the interpreter is what makes it an environment's
            where = {"python": str(package), "package": None}
        contenders.append(trainer(name, "fused", folder, core, **where))
    return contenders
