"""Fixtures: every engine, every instruction set that runs here, and the command in a process of its own."""
import contextlib
import gc
import io
import os
import signal
import subprocess
import sys
import threading
import warnings
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# `python -m pytest` puts this folder's parent first on the path. The package there has no compiled modules unless it
# was built in place, and then the installed one is meant.
if not list(ROOT.glob("microgpt/core/value.*.so")) and not list(ROOT.glob("microgpt/core/value.*.pyd")):
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != ROOT]

# Where the tests are run as a background job, SIGINT is ignored, and children inherit that; some are there to be interrupted.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):  # ignored under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

import oracle  # noqa: E402
import profiles  # noqa: E402
import pytest  # noqa: E402
from children import LIMIT, environment  # noqa: E402

from microgpt.core.simd import simd_info  # noqa: E402
from microgpt.trainer import ENGINES  # noqa: E402

profiles.register_and_load()

#: The engines that are compared with the reference. To compare the reference with itself would show nothing.
COMPILED = tuple(name for name in ENGINES if name != "reference")


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow if name == "reference" else ()) for name in ENGINES])
def engine(request):
    """The name of an engine; a test that takes it runs on all of them. The collector is off for the reference."""
    if request.param == "reference":
        with oracle.collector_off():
            yield request.param
    else:
        yield request.param


@pytest.fixture
def collector_off():
    """For tests that run the reference themselves and do not ask which engine: see oracle.py."""
    with oracle.collector_off():
        yield


@pytest.fixture(params=COMPILED)
def compiled_engine(request):
    """The name of an engine that is compared with the reference."""
    return request.param


@pytest.fixture(params=simd_info()["supported"])
def isa(request):
    """An instruction set of this processor, in force while the test runs."""
    from microgpt.core import simd

    before = simd_info()["in_use"]
    simd._use(request.param)
    assert simd_info()["in_use"] == request.param
    yield request.param
    simd._use(before)


@pytest.fixture(
    scope="module",
    params=[(isa, half) for isa in simd_info()["supported"] for half in ((0, 1) if isa == "avx512" else (0,))],
    ids=lambda way: way[0] + " half units" * way[1],
)
def kernels(request):
    """The kernels of an instruction set of this processor, AVX-512 with both kinds of tiles."""
    from kernels import Kernels, half_units

    isa, half = request.param
    chosen = half_units(isa, -1)
    half_units(isa, half)
    assert half_units(isa, -1) == half
    yield Kernels(isa)
    half_units(isa, chosen)


@pytest.fixture
def no_warnings():
    """A warning is an error: a compiled program that is not its function warns, and is not replayed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def share_all(monkeypatch):
    """Threads share every step, however short it is."""
    from microgpt.core import fused

    monkeypatch.setattr(fused, "LEAST_SHARED_WORK", 0.0)


@pytest.fixture
def command(tmp_path):
    """Runs `python ARGUMENTS` in an empty folder, as a user would; the result has .returncode, .stdout, .stderr."""

    def run(*arguments, cwd=tmp_path, env=None, text=True, **kwargs):
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            env=environment(env),
            capture_output=True,
            text=text,
            encoding="utf-8" if text else None,
            timeout=LIMIT,
            **kwargs,
        )

    return run


@pytest.fixture
def in_process(tmp_path):
    """As `command("-m", "microgpt.MODULE", ...)`, without a process: for what a command reads, prints and writes.

    Where the process is the subject (its streams, signals, imports and exit), `command` starts one.
    """

    def run(module, *arguments, cwd=tmp_path):
        main = import_module(f"microgpt.{module}").main
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\n", write_through=True) for _ in range(2))
        before = os.getcwd()
        os.chdir(cwd)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), oracle.collector_off():
                status = main([str(argument) for argument in arguments])
        finally:
            os.chdir(before)
        out, err = (stream.buffer.getvalue().decode() for stream in (out, err))
        return subprocess.CompletedProcess([module, *arguments], status, out, err)

    return run


def in_threads(*functions):
    """Calls them all at once, each in a thread of its own. The exceptions that they raised."""
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(f,)) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    return errors


def hexes(numbers):
    """Numbers as float.hex, so that a comparison is of bits and its message can be read."""
    if hasattr(numbers, "tolist"):  # an array: five times as fast as to iterate over it
        numbers = numbers.tolist()
    return list(map(float.hex, map(float, numbers)))


#: Folders whose tests all have the folder's name as their marker.
MARKERS = ("exact", "cli")


def pytest_configure(config):
    """Let pytest-xdist take the files in their order. By default those of few tests come last, and they are the longest."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    for item in items:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        if folder in MARKERS:
            item.add_marker(folder)


@pytest.fixture(autouse=True, scope="module")
def what_was_there_before_is_not_collected():
    """Keep the garbage collector away from pytest's own objects and from caches: every collection of a test would visit them."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)  # by default 700: the reference makes some hundred thousand objects a document
