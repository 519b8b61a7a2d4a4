"""Depth and memory, each in a process of its own."""
import subprocess
import sys
from pathlib import Path

import pytest
from children import child, environment
from cycles import CYCLES

pytestmark = [pytest.mark.slow, pytest.mark.measures_memory]


def run(name, *arguments):
    script = Path(__file__).parents[1] / "isolated" / name
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True,
                          env=environment())
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr


# ---- memory that serves something else ----

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (200 << 20, 200 << 20))
from microgpt import Value, linear, rmsnorm, softmax
from microgpt.core.audit import audits
def fill_with_chain():
    x = Value(1.0)
    try:
        while True:
            x = x + 1.0
    except MemoryError:
        return x
def fill_with_layers():
    x, held = [Value(1.0)] * 3000, []
    try:
        while True:
            held.append(softmax(x)[0])
    except MemoryError:
        return held
def small_layers():
    return [rmsnorm([Value(2.0)] * n)[0] for n in range(1, 60)]
def both():
    return small_layers(), fill_with_chain()
def large_layer():
    x = [Value(0.001 * k) for k in range(700)]
    y = linear(softmax(x), [x] * 600)
    y[599].backward()
    assert len(y) == 600 and y[0].data == y[599].data and x[699].grad != 0.0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
@pytest.mark.parametrize("first", ["fill_with_chain", "fill_with_layers", "both"])
@pytest.mark.parametrize("then", ["fill_with_chain", "fill_with_layers", "small_layers", "large_layer"])
def test_what_a_full_tape_frees_serves_anything(first, then):
    """Nodes of operators give way to layers, and layers to nodes, where the tape cannot grow."""
    child(LIMITED + """
first, then = globals()[sys.argv[1]], globals()[sys.argv[2]]
for _ in range(2):
    held = first()
    held = None
    held = then()
    held = None
large_layer()
x = fill_with_chain()
assert x.data > 100_000
x.backward()
""", first, then)


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
def test_every_second_node_of_a_full_tape_is_freed():
    """No two free slots touch: there is room for operators, none for a layer, and nothing breaks."""
    child(LIMITED + """
held = []
try:
    while True:
        held.append(Value(1.0))
except MemoryError:
    pass
held = held[::2]
for _ in range(3):
    try:
        softmax([held[0]] * 5)
    except MemoryError:
        pass
    else:
        raise AssertionError("room for a layer")
    x = held[0]
    for _ in range(1000):
        x = x * 1.0
    x.backward()
    assert held[0].grad == 1.0
    held[0].grad, x = 0.0, None
del held[:]
large_layer()
""")


# ---- cycles ----

@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", CYCLES)
def test_cycles_are_freed(name):
    child("""
import sys
from cycles import CYCLES
from microgpt import Value
import microgpt
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
make = CYCLES[sys.argv[1]]
for _ in range(3000):
    make(Value, microgpt)
before = resident()
for _ in range(12_000 if sys.argv[1] == "a long way" else 100_000):
    make(Value, microgpt)
grown = resident() - before
assert grown < 3 << 20, grown
""", name)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_few_large_cycles_are_freed():
    child("""
from cycles import chain, cycle
from microgpt import Value
def peak():
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("VmHWM")).split()[1]) << 10
cycle(Value(1.0), lambda x: chain(x, 100_000))
before = peak()
for _ in range(60):
    cycle(Value(1.0), lambda x: chain(x, 100_000))
assert peak() - before < 200 << 20, peak() - before  # one of them is 13 MiB
""")
