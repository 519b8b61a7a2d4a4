"""Depth and memory, each in a process of its own."""
import subprocess
import sys
from pathlib import Path

import pytest
from graphs import child_environment

pytestmark = pytest.mark.slow


def run(name, *arguments):
    script = Path(__file__).parent / "isolated" / name
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True,
                          env=child_environment())
    assert done.returncode == 0, done.stdout + done.stderr


def test_ten_million_nodes():
    run("deep_chain.py")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_hundred_thousand_steps():
    run("small_steps.py", "100000")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_address_space_may_be_short(tmp_path):
    """A limit on addresses leaves a smaller tape, and running out of it is a MemoryError that leaves it usable."""
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))\n"
        "from microgpt.core.value import Value\n"
        "held = x = Value(1.0)\n"
        "try:\n"
        "    while True:\n"
        "        x = x + 1.0\n"
        "except MemoryError:\n"
        "    n = x.data\n"
        "assert n > 100_000, n\n"
        "x = held\n"
        "y = x * 3.0\n"
        "y.backward()\n"
        "assert x.grad == 3.0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=child_environment())
    assert done.returncode == 0, done.stdout + done.stderr
