"""bench/bench_scale.py: what it measures, and the formula by which it predicts."""
import json
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "bench"))
import bench_scale as scale  # noqa: E402

COSTS = {"token": 2e-10, "gradient": 1e-10, "adam": 5e-9, "exchange": 1e-4}


def seconds(ranks, batch=512, latency=0.0, bandwidth=1e30, **costs):
    return scale.predict({**COSTS, **costs}, scale.SHAPE, batch, ranks, latency, bandwidth)


def test_one_rank_sends_nothing():
    assert seconds(1, latency=1.0, bandwidth=1.0, exchange=1.0) == seconds(1)
    params = 801_536 + 2 * 27 * 128 - 2 * 27 * 128  # of the shape, with 27 tokens
    tokens = 512 * 64
    assert seconds(1) == pytest.approx(params * (tokens * 3e-10 + 5e-9), rel=1e-9)


def test_what_more_ranks_cost():
    free = {"adam": 0.0, "exchange": 0.0, "gradient": 0.0}
    assert seconds(1, **free) / seconds(4, **free) == pytest.approx(4)
    assert seconds(4, **free, latency=1e-3) > seconds(4, **free) + 1e-3
    assert seconds(4, bandwidth=1e9) - seconds(4) > 2 * 8 * 801_536 / 1e9
    assert seconds(64, adam=1.0) > 801_536  # every rank does Adam in full
    assert seconds(17, batch=16, **free) == seconds(16, batch=16, **free)  # a document is not divided


def test_ranks_of_one_machine_divide_documents_and_the_update():
    costs = {"wall": 0.1, "update": 0.02}
    assert scale.predict_together(costs, 16, 1) == pytest.approx(0.1)
    assert scale.predict_together(costs, 16, 2) == pytest.approx(0.05)
    assert scale.predict_together(costs, 16, 3) == pytest.approx(6 / 16 * 0.08 + 0.02 / 3)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="MPI is tested on Linux")
def test_it_measures_predicts_and_draws(command, tmp_path):
    done = command(ROOT / "bench" / "bench_scale.py", "--quick", "--repeats", "1", "--json", "scale.json", "--picture", "scale.svg")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "scale.json").read_text(encoding="utf-8"))
    assert set(found["jobs"]) == {"1", "2", "3"} and set(found["speedups"]) == set(scale.CASES)
    assert all(job["wall"] > 0 for job in found["jobs"].values()) and found["machine"]["processor"]
    assert (tmp_path / "scale.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert "2 ranks: " in done.stdout and "2 ranks by messages: " in done.stdout
