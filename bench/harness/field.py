"""The contenders that more than one benchmark runs."""
import sys
import zipfile
from pathlib import Path

from . import cli, machine
from .contender import Worker

BATCH = 16


def trainer(name, engine, folder, core, environment=None, collector=True, **kwargs):
    """Return an engine of microgpt, behind its public Trainer, on the task in a folder."""
    specification = {"kind": "trainer", "engine": engine, "task": str(folder), "core": core, "collector": collector}
    return Worker(name, specification, environment, **kwargs)


def module(name, file, folder, core, options=None, **kwargs):
    """Return the contender that a Python file makes with make(task, **options)."""
    specification = {"kind": "module", "file": str(file), "task": str(folder), "core": core, "options": options or {}}
    return Worker(name, specification, **kwargs)


def pytorch(name, folder, core, python, batches):
    """Return the PyTorch contenders in both precisions; name has the places {dtype} and {precision}."""
    contenders = []
    for batch in batches:
        for dtype, precision, tolerance in (("float64", "f64", 1e-9), ("float32", "f32", 1e-3)):
            full = name.format(dtype=dtype, precision=precision) + (f", batch {batch}" if batch > 1 else "")
            # PyTorch's own Python needs no microgpt.
            contenders.append(module(full, machine.BENCH / "torch_gpt.py", folder, core, {"dtype": dtype, "batch": batch},
                                     python=python, package=None if python != sys.executable else machine.ROOT,
                                     precision=precision, batch=batch, tolerance=tolerance))  # fmt: skip
    return contenders


def add_field_options(p):
    """Add --torch-python and --other."""
    p.add_argument("--torch-python", metavar="PYTHON", default=sys.executable, help="the Python that has PyTorch")
    p.add_argument("--other", action="append", default=[], type=cli.pair, metavar="NAME=PATH", help="another version's fused "
                   "engine: a checkout that was built in place, a wheel, or the Python of an environment")  # fmt: skip


def others(args, folder, core, scratch):
    """Return the fused engine of each --other version, and unpack wheels into the folder `scratch`."""
    contenders = []
    for i, (name, path) in enumerate(args.other):
        package = Path(path).absolute()
        if package.suffix == ".whl":
            unpacked = Path(scratch, f"other-{i}")
            if not unpacked.exists():
                zipfile.ZipFile(package).extractall(unpacked)
            package = unpacked
        if package.is_dir():
            one = trainer(name, "fused", folder, core, package=package)
            one.specification["package"] = str(package)
        else:  # absolute, not resolved: the link to the interpreter is what makes it an environment's
            one = trainer(name, "fused", folder, core, python=str(package), package=None)
        contenders.append(one)
    return contenders
