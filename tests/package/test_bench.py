"""The scripts of bench/, each in a process of its own. No test asserts a time."""
import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
from conftest import ROOT

BENCH = ROOT / "bench"
sys.path.insert(0, str(BENCH))

import render  # noqa: E402
import tables  # noqa: E402
import user_gpt  # noqa: E402
from harness import table  # noqa: E402

import microgpt  # noqa: E402
from microgpt import reference  # noqa: E402

# ---- the contest ----

CONTENDER = """
import math
from microgpt import reference
from microgpt.trainer import Trainer

def make(task):
    linear = reference.linear
    def broken(x, w):
        out = linear(x, w)
        out[0].data = {change}
        return out
    reference.linear = broken
    return Trainer(task.docs, task.num_steps, task.seed, "reference", **task.settings)
"""


def run_compare(command, tmp_path, *arguments):
    """Two steps on short documents: most of the time is the reference's."""
    (tmp_path / "short.txt").write_text("\n".join(a + b for a in "abc" for b in "abcdefghi"), encoding="utf-8")
    done = command(BENCH / "compare.py", "--quick", "--steps", 2, "--repeats", 1, "--input", tmp_path / "short.txt",
                   "--json", tmp_path / "c.json", *arguments)  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    return made, {row["name"]: row for row in made["rows"]}, done


@pytest.mark.slow
def test_compare_detects_a_kernel_that_is_one_ulp_off(command, tmp_path):
    """The first output of every matrix product as it is, one ulp off, and far off."""
    changes = {"as it is": "out[0].data", "one ulp": "math.nextafter(out[0].data, 9.0)", "another": "out[0].data + 0.1"}
    arguments = ["--only", ",".join(changes)]
    for name, change in changes.items():
        path = tmp_path / f"{name}.py".replace(" ", "_")
        path.write_text(CONTENDER.format(change=change))
        arguments += ["--contender", f"{name}={path}"]
    made, rows, done = run_compare(command, tmp_path, *arguments)
    assert rows["reference"]["bits"] is True and rows["as it is"]["bits"] is True
    assert rows["one ulp"]["bits"] is False and rows["one ulp"]["print"] is True
    assert rows["as it is"]["parameters"] is True and rows["one ulp"]["parameters"] is False
    assert "another" not in rows and "trains a different model" in made["absent"]["another"]
    line = next(line.split() for line in done.stdout.splitlines() if line.startswith("one ulp"))
    assert line[-3:-1] == ["no", "yes"]


# ---- another version ----


@pytest.fixture
def other(tmp_path):
    """A built copy of the package in a folder of its own, which calls itself another version."""
    folder = tmp_path / "other checkout"
    shutil.copytree(Path(microgpt.__file__).parent, folder / "microgpt", ignore=shutil.ignore_patterns("*.c", "*.pyx"))
    init = folder / "microgpt" / "__init__.py"
    init.write_text(init.read_text(encoding="utf-8") + '\n__version__ = "the other one"\n', encoding="utf-8")
    return folder


@pytest.mark.slow
def test_compare_alternates_with_another_version(command, tmp_path, other):
    """As a checkout and as a wheel; a folder without the package and a Python without it are reported."""
    wheel = Path(shutil.make_archive(str(tmp_path / "other"), "zip", other)).rename(tmp_path / "other.whl")
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexec {sys.executable} -I -S \"$@\"\n", encoding="utf-8")
    python.chmod(0o755)
    arguments = ["--only", "fused ("]
    for name, path in {"checkout": other, "wheel": wheel, "empty": tmp_path / "results", "isolated": python}.items():
        (tmp_path / "results").mkdir(exist_ok=True)
        arguments += ["--other", f"{name}={path}"]
    made, rows, done = run_compare(command, tmp_path, *arguments)
    for name in ("checkout", "wheel"):
        assert rows[name]["versions"]["microgpt"] == "the other one" and rows[name]["bits"] is True
        assert rows[name]["times_other"][name] == 1
    ours = next(row for name, row in rows.items() if name.startswith("fused ("))
    assert ours["versions"]["microgpt"] == microgpt.__version__ and ours["times_other"].keys() == {"checkout", "wheel"}
    assert "has no microgpt that was built in place" in made["absent"]["empty"] or "No module" in made["absent"]["empty"]
    assert "isolated" in made["absent"]
    assert "× checkout" in done.stdout and str(tmp_path) not in json.dumps(rows)


@pytest.mark.slow
def test_shapes_shows_the_ratio_to_another_version(command, tmp_path, other):
    path = tmp_path / "shapes.json"
    arguments = ["--quick", "--repeats", 1, "--only", "n_embd 16", "--other", f"old={other}", "--json", path]
    done = command(BENCH / "bench_shapes.py", *arguments)
    assert done.returncode == 0, done.stderr
    made = json.loads(path.read_text(encoding="utf-8"))
    found = {c["name"]: c for c in made["rows"][0]["contenders"]}
    ratio = found["fused"]["rounds"][0] / found["old"]["rounds"][0]
    columns, (row,) = tables.shapes(made)
    assert row[[title for title, _ in columns].index("fused / old")] == table.number(ratio)
    assert found["old"]["bits"] is True and found["old"]["versions"]["microgpt"] == "the other one"


# ---- the script, unedited ----

LOOP = """
import random
random.seed(42)
docs = open('input.txt').read().split('\\n')
random.shuffle(docs)
uchars = sorted(set(''.join(docs))); BOS = len(uchars)
model = GPT(BOS + 1, rng=random)
adam = Adam(model)
for step in range({steps}):
    loss = document_loss([BOS] + [uchars.index(c) for c in docs[step % len(docs)]] + [BOS], model)
    loss.backward()
    adam.step()
    print(f"step {{step+1:4d}} / 1000 | loss {{loss.data:.4f}}")
"""


@pytest.fixture
def script(tmp_path):
    """A script in the manner of the original: the readable reference and a loop in one file."""
    path = tmp_path / "their_microgpt.py"
    path.write_text(Path(reference.__file__).read_text(encoding="utf-8") + LOOP.format(steps=8), encoding="utf-8")
    return path


@pytest.mark.slow
def test_compare_times_the_script_and_leaves_it_unchanged(command, tmp_path, script):
    before = hashlib.sha256(script.read_bytes()).hexdigest()
    made, rows, done = run_compare(
        command, tmp_path, "--script", script, "--only", "fused,graph,NumPy,Value", "--clock", "cpu"
    )
    assert hashlib.sha256(script.read_bytes()).hexdigest() == before
    for name in ("microgpt.py", "microgpt.py, collector off", "microgpt.py with our Value", "graph"):
        assert rows[name]["bits"] is True, name
        assert rows[name]["compared"] >= 3
    assert all(row["bits"] is True for name, row in rows.items() if name.startswith("fused"))
    assert {f"fused ({isa} forced)" for isa in simd_supported()} <= {*rows, f"fused ({in_use()} forced)"}
    assert rows["NumPy, explicit backward"]["print"] is True
    assert rows["microgpt.py"]["times_original"] == 1 and rows["microgpt.py, collector off"]["times_collector_off"] == 1
    assert made["command"].startswith("python bench/compare.py --quick") and str(tmp_path) not in json.dumps(made)
    assert "times faster than microgpt.py, as shipped and with its garbage collector off" in done.stdout
    assert done.stdout.count("processor time instead of wall time") == 1


def simd_supported():
    from microgpt.core.simd import simd_info

    return simd_info()["supported"]


def in_use():
    from microgpt.core.simd import simd_info

    return simd_info()["in_use"]


@pytest.mark.slow
def test_compare_rejects_a_script_that_ends_too_soon(command, tmp_path, script):
    script.write_text(script.read_text(encoding="utf-8").replace("range(8)", "range(2)"), encoding="utf-8")
    done = command(BENCH / "compare.py", "--quick", "--script", script)
    assert done.returncode == 1 and "the script printed 2 lines that begin with 'step'" in done.stderr


@pytest.mark.parametrize("arguments, message", [
    (["--script", "nowhere.py"], "there is no file nowhere.py"),
    (["--other", "no equals sign"], "invalid NAME=VALUE value"),
    (["--repeats", "0"], "invalid positive whole number value"),
    (["--json", "nowhere/a.json"], "nowhere: No such folder"),
])  # fmt: skip
def test_compare_rejects_impossible_arguments(command, arguments, message):
    done = command(BENCH / "compare.py", *arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


# ---- the other scripts ----


@pytest.mark.parametrize("path, message", [("a.gif", "pictures are .png, .svg or .pdf"), ("nowhere/a.svg", "nowhere: No such folder")])
def test_a_picture_that_cannot_be_drawn_is_refused_before_the_measurements(command, path, message):
    done = command(BENCH / "bench_scale.py", "--picture", path)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr

SCRIPTS = {
    "shapes": ["--repeats", 1, "--torch-python", "nowhere"],
    "value": ["--operator", "exp"],
    "sampling": [],
    "startup": [],
    "workers": ["--repeats", 1, "--torch-python", "nowhere"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_writes_its_report_and_prints_its_tables(command, tmp_path, name):
    path, arguments = tmp_path / f"{name}.json", SCRIPTS[name]
    if name == "sampling":  # which would train the default model first
        trainer = microgpt.Trainer(microgpt.load_docs()[:100], num_steps=20, n_embd=4, n_head=1)
        trainer.run()
        trainer.save(tmp_path / "small.safetensors")
        arguments = ["--model", tmp_path / "small.safetensors"]
    done = command(BENCH / f"bench_{name}.py", "--quick", "--json", path, *arguments)
    assert done.returncode == 0, done.stderr
    made = json.loads(path.read_text(encoding="utf-8"))
    assert made["benchmark"] == name and made["rows"] and str(tmp_path) not in json.dumps(made)
    for row in made["rows"]:
        for one in row.get("contenders", [row]):
            assert one.get("same_text", True) is True
            assert one.get("bits") is not False or one["name"] == "NumPy"
    for _, layout in (found for found in render.TABLES.values() if found[0] == name):
        columns, rows = layout(made)
        assert rows and table.text(columns, rows) in done.stdout


@pytest.mark.slow
def test_user_code_has_the_bits_of_the_original_and_is_compiled(command, tmp_path):
    path = tmp_path / "user_code.json"
    done = command(BENCH / "bench_user_code.py", "--quick", "--repeats", 1, "--json", path)
    assert done.returncode == 0, done.stderr
    made = json.loads(path.read_text(encoding="utf-8"))
    assert [row["name"] for row in made["rows"]] == ["reference", *(f"user code: {way}" for way in user_gpt.WAYS), "graph", "fused"]
    assert all(row["bits"] is True and row["parameters"] is True for row in made["rows"]) and made["absent"] == {}
    assert made["rows"][0]["times_original"] == 1
    columns, rows = tables.user_code({**made, "sizes": [16, 64]})
    assert len(columns) == 7 and rows[0][-3:] == ["–", "–", "–"] and rows[1][3] == "yes"


@pytest.mark.slow
def test_a_changed_architecture_has_the_bits_of_the_program_as_written(command):
    done = command(BENCH / "bench_user_code.py", "--changes", "--quick", "--repeats", 1)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[3 : 4 + len(user_gpt.WAYS)]]
    assert rows[0][:2] == ["as", "written"] and {row[-1] for row in rows} == {"yes"}
    assert [line for line in done.stdout.splitlines() if "GELU" in line]


@pytest.mark.slow
def test_value_measures_the_script_s_class_without_running_the_script(command, tmp_path, script):
    path = tmp_path / "value.json"
    done = command(BENCH / "bench_value.py", "--script", script, "--json", path, "--operator", "a + b", "--quick")
    assert done.returncode == 0, done.stderr
    made = json.loads(path.read_text(encoding="utf-8"))
    assert [row["name"] for row in made["rows"]] == ["microgpt.py", "microgpt.Value"]
    assert all(row["operators"].keys() == {"a + b"} == made["nodes"].keys() for row in made["rows"])
    assert all(row["operators"]["a + b"].keys() == {"forward", "backward", "free"} for row in made["rows"])
