"""Which package is measured, and on what."""
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HARNESS = Path(__file__).resolve().parent

#: One thread each: every contender has one core, and a thread pool on one core only gets in its own way.
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


def find_package():
    """Put the package that is measured on sys.path: the one built in place beside bench/, else the installed one."""
    if _built_in_place():
        sys.path.insert(0, str(ROOT))
    if importlib.util.find_spec("microgpt") is None or importlib.util.find_spec("microgpt.reference") is None:
        sys.exit("microgpt is not installed here: pip install '.[bench]' in the project's folder first")


def _built_in_place():
    return any(ROOT.glob("microgpt/core/*.so")) or any(ROOT.glob("microgpt/core/*.pyd"))


def child_environment(extra=None, own_python=True):
    """The environment of a contender: one thread, UTF-8 and, if it runs under this Python, the same package."""
    env = {**os.environ, **ONE_THREAD, "PYTHONUTF8": "1", "PYTHONHASHSEED": "0", **(extra or {})}
    if own_python and _built_in_place():
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    return env


def choose_core(wanted=None):
    """The core for contenders: the last one allowed, since the first takes most interrupts; None if not possible."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    if wanted is None:
        return allowed[-1]
    if wanted not in allowed:
        sys.exit(f"core {wanted} is not one of those allowed here: {', '.join(map(str, allowed))}")
    return wanted


def pin(core):
    """Pin this process to a core, where the system can."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def memory():
    """The memory this process holds, in bytes; None where the system does not say."""
    return _status("VmRSS")


def _status(field):
    try:
        with open("/proc/self/status") as file:
            return int(re.search(rf"{field}:\s+(\d+) kB", file.read()).group(1)) * 1024
    except (OSError, AttributeError):
        return None


def peak_memory():
    """The most memory this process has held, in bytes; None where the system does not say."""
    if _status("VmHWM"):
        return _status("VmHWM")
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def processor():
    """The processor's name, as it calls itself, with what a virtual machine leaves out."""
    info = _cpuinfo()
    if not info:
        return platform.processor() or platform.machine()
    name = info.get("model name", platform.machine())
    if info.get("cpu family") and not re.search(r"\d", name):  # "Intel(R) Xeon(R) Processor" says too little
        name += f" (family {info['cpu family']}, model {info.get('model', '?')}, stepping {info.get('stepping', '?')})"
    return re.sub(r"\s+", " ", name)


def _cpuinfo():
    try:
        with open("/proc/cpuinfo") as file:
            lines = file.read().split("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def describe(core):
    """What a figure depends on, for the JSON file: processor, system, versions, and where the contenders ran."""
    mhz = _cpuinfo().get("cpu MHz")
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "mhz_at_start": round(float(mhz)) if mhz else None,
        "pinned_to_core": core,
        "system": f"{platform.system()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **package_versions(),
    }


def package_versions():
    """microgpt's version, compiler and instruction set in use; NumPy's version."""
    import microgpt

    versions = {"microgpt": microgpt.__version__}
    try:
        from microgpt.core import simd

        versions["compiler"] = simd.build_info()["compiler"]
        versions["simd"] = simd.simd_info()["in_use"]
    except (ImportError, AttributeError):
        versions["compiler"] = versions["simd"] = None
    try:
        versions["numpy"] = importlib.import_module("importlib.metadata").version("numpy")
    except ImportError:
        versions["numpy"] = None
    return versions


def load_warning():
    """A sentence if other work keeps this machine busy before anything is measured, else None."""
    if not hasattr(os, "getloadavg"):
        return None
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > 0.5 * cores:
        return f"the machine was busy before the start: load {load:.1f} on {cores} core{'s' * (cores > 1)}"
    return None


def tool(name):
    """The version line of a program such as valgrind, or None if it is not installed."""
    if shutil.which(name) is None:
        return None
    return subprocess.run([name, "--version"], capture_output=True, text=True).stdout.strip().splitlines()[0]
