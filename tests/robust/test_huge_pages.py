"""Large models ask the system for huge pages, small ones do not."""
from pathlib import Path

import pytest
from children import child

pytestmark = pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no huge pages to ask for")

CODE = """
import sys
from microgpt import GPT, Adam

def asks(array):
    "Whether the mapping at this address is marked so."
    found = False
    for line in open("/proc/self/smaps"):
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            low, high = (int(x, 16) for x in first.split("-"))
            found = low <= array.ctypes.data < high
        elif found and first == "VmFlags:":
            return "hg" in line.split()

model = GPT(27, n_embd=int(sys.argv[1]))
adam = Adam(model)
print(*(asks(array) for array in (model.data, model.grad, adam.m, adam.v)))
"""


@pytest.mark.parametrize("n_embd, expected", [(16, False), (64, True), (128, True)])
def test_huge_pages_are_asked_for_where_they_fit(n_embd, expected):
    assert child(CODE, n_embd).split() == 4 * [str(expected)]
