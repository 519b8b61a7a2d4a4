"""The readable reference against the golden traces, and the nets that hold these."""
import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import golden_traces
import pytest
from golden import find_libm_arguments
from golden_traces import CONFIGURATIONS, GOLDEN, LIBM, configuration, libm_arguments, libm_fingerprint, live_trace

NAMES = list(CONFIGURATIONS)


#: A second or so each: the quick round leaves the reference's own large traces to the whole suite.
LARGE = ("default", "short_block", "three_layers_odd_heads", "wide", "long_documents", "non_ascii", "one_step",
         "other_settings")  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in LARGE else ()) for n in NAMES])
def test_reference_makes_the_trace(name):
    config, text, trace = golden_traces.load_trace(name)
    live = live_trace(name)
    for key in trace.keys() | live.keys():
        assert live.get(key) == trace.get(key), key
    # What holds whichever C library runs.
    recorded = golden_traces.read_file(name)["trace"]
    assert live.keys() == recorded.keys()
    for key in "input_sha256", "num_params":
        assert live[key] == recorded[key], key
    assert len(live["losses"]) == len(recorded["losses"]) == config["steps"]
    assert live["stdout"].split("\n")[:3] == recorded["stdout"].split("\n")[:3]


@pytest.mark.parametrize("name", NAMES)
def test_the_trace_hangs_together(name):
    config, text, trace = golden_traces.load_trace(name)
    lines = trace["stdout"].split("\n")
    docs = [line.strip() for line in text.split("\n") if line.strip()]
    vocab_size = len(set("".join(docs))) + 1
    E, L = config["n_embd"], config["n_layer"]
    assert trace["num_params"] == (2 * vocab_size + config["block_size"]) * E + 12 * L * E * E
    assert lines[:3] == [
        f"num docs: {len(docs)}", f"vocab size: {vocab_size}", f"num params: {trace['num_params']}",
    ]
    steps = lines[3 : 3 + config["steps"]]
    for i, (line, loss) in enumerate(zip(steps, trace["losses"], strict=True)):
        assert line == f"step {i + 1:4d} / {config['steps']:4d} | loss {float.fromhex(loss):.4f}"
    rest = lines[3 + config["steps"] :]
    assert rest[:2] == ["", "--- inference (new, hallucinated names) ---"]
    assert [line[:10] for line in rest[2:-1]] == [f"sample {i + 1:2d}:" for i in range(config["samples"])]
    assert rest[-1] == ""
    grads = {f"grads_sha256_step{step}" for step in (0, 1, config["steps"] - 1) if step < config["steps"]}
    assert {key for key in trace if key.startswith("grads")} == grads


def test_every_file_is_used():
    assert {path.stem for path in GOLDEN.glob("*.json")} == {*NAMES, "libm_arguments"}
    # One library made them all. A fingerprint that fits none would let its file lie unread.
    assert len({golden_traces.read_file(name)["libm"] for name in NAMES}) == 1


def test_another_libm_gets_a_live_trace(tmp_path, monkeypatch):
    name = "smallest"
    file = golden_traces.read_file(name)
    file["trace"]["params_sha256"] = "of another library"
    (tmp_path / f"{name}.json").write_text(json.dumps(file), encoding="ascii")
    monkeypatch.setattr(golden_traces, "libm_fingerprint", lambda: file["libm"])
    assert golden_traces.load_trace(name, tmp_path)[2]["params_sha256"] == "of another library"
    monkeypatch.setattr(golden_traces, "libm_fingerprint", lambda: "of this library")
    assert golden_traces.load_trace(name, tmp_path) == (*configuration(name), live_trace(name))


def test_stale_and_missing_files_are_errors(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="^no golden trace smallest: run tests/golden/make_golden.py$"):
        golden_traces.load_trace("smallest", tmp_path)
    monkeypatch.setitem(CONFIGURATIONS, "smallest", (golden_traces.NAMES, dict(n_embd=2, n_head=1)))
    with pytest.raises(ValueError, match="^golden trace smallest is of other settings or libm arguments: "):
        golden_traces.load_trace("smallest")
    monkeypatch.undo()
    golden_traces.load_trace("smallest")
    monkeypatch.setattr(golden_traces, "libm_arguments", lambda: {"exp": [1.0]})
    with pytest.raises(ValueError, match="^golden trace smallest is of other settings or libm arguments: "):
        golden_traces.load_trace("smallest")


# The fingerprint


def test_the_arguments_lie_next_to_ties():
    arguments = libm_arguments()
    assert set(arguments) == set(LIBM) == set(find_libm_arguments.FUNCTIONS)
    for name, xs in arguments.items():
        assert len(set(xs)) == find_libm_arguments.COUNT
        for x in xs:
            assert 0 <= find_libm_arguments.distance_from_tie(name, x) < find_libm_arguments.WINDOW, (name, x.hex())


@pytest.mark.parametrize("name", LIBM)
def test_one_bit_of_one_result_changes_the_fingerprint(name, monkeypatch):
    function, last = LIBM[name], libm_arguments()[name][-1]
    fingerprint = libm_fingerprint.__wrapped__
    assert fingerprint() == libm_fingerprint()
    monkeypatch.setitem(LIBM, name, lambda x: math.nextafter(function(x), 9.0) if x == last else function(x))
    assert fingerprint() != libm_fingerprint()


def has_fma():
    """Whether this is glibc on an x86-64 processor with FMA, where it can be told to do without."""
    if platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc":
        return False
    return " fma " in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")


@pytest.mark.skipif(not has_fma(), reason="needs glibc and an x86-64 processor with FMA")
def test_glibc_without_fma_is_another_libm():
    printed = subprocess.run(
        [sys.executable, "-c", "import golden_traces; print(golden_traces.libm_fingerprint())"],
        env={
            **os.environ,
            "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-FMA,-AVX2,-FMA_Usable,-AVX2_Usable",
            "PYTHONPATH": os.pathsep.join([str(GOLDEN.parent), *sys.path]),
        },
        capture_output=True, check=True, text=True,
    ).stdout.strip()
    # Where this process is told the same, the two are one library.
    assert (printed == libm_fingerprint()) == ("-FMA" in os.environ.get("GLIBC_TUNABLES", ""))
