"""No subject grows, however often it is repeated: tests/isolated/growth.py, each in a process of its own."""
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import environment

pytestmark = [pytest.mark.slow, pytest.mark.measures_memory]

# Steps that would show a leak of 16 bytes in each as growth beyond what is allowed, or of a whole object where a step is
# long. Operators: more than a million operations.
STEPS = {"operators": 100_000, "fused": 40_000, "graph": 8_000, "objects": 10_000, "errors": 200_000, "checkpoints": 400,
         "compilations": 1_000}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("subject", STEPS)
def test_growth(subject):
    script = Path(__file__).parents[1] / "isolated" / "growth.py"
    done = subprocess.run([sys.executable, str(script), subject, str(STEPS[subject])], env=environment(),
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
