"""The benchmarks: tables agree with their data, verdicts are computed from the numbers, noise is reported.

No test asserts a time.
"""
import hashlib
import json
import math
import random
import shutil
import statistics
import sys
from pathlib import Path

import pytest
from conftest import ROOT, hexes

BENCH = ROOT / "bench"
sys.path.insert(0, str(BENCH))

import all as everything  # noqa: E402
import bench_user_code  # noqa: E402
import numpy_gpt  # noqa: E402
import render  # noqa: E402
import tables  # noqa: E402
import user_gpt  # noqa: E402
from harness import arithmetic, bits, cli, contender, contest, edited, measure, peak, report, table, task  # noqa: E402

import microgpt  # noqa: E402
from microgpt import reference  # noqa: E402

NAMES = ["emma", "olivia", "ava", "isabella", "sophia", "charlotte", "mia", "amelia", "harper", "evelyn"]


# ---- tables and data ----


def test_pages_agree_with_their_data():
    for path, now, should_be in render.pages():
        assert now == should_be, f"{path.name} does not agree with bench/results: run python bench/render.py"


def test_render_notices_one_changed_digit(tmp_path):
    page = "<!-- table: sampling -->\n<!-- end table -->\n"
    made = {"name": "fused", "tokens_per_second": 123456.0, "spread": 0.01, "times_reference": 9.0, "compared": 3,
            "same_text": True}  # fmt: skip
    before = rendered_with(tmp_path, page, made)
    assert "| fused | 123,000 | 1.0% | 9.00 | 3 | yes |" in before
    assert rendered_with(tmp_path, before, made) == before
    assert rendered_with(tmp_path, before, {**made, "tokens_per_second": 124456.0}) != before


def test_render_fills_figures_within_a_sentence():
    page = "about <!-- figure: fused-times -->1<!-- end figure -->×"
    row = next(r for r in report.read(BENCH / "results" / "compare.json")["rows"] if r["name"].startswith("fused ("))
    assert render.rendered(page) == page.replace("-->1<", f"-->{table.number(row['times_original'])}<")


def rendered_with(folder, page, row):
    machine = {"processor": "a processor", "pinned_to_core": 0, "python": "CPython 3"}
    made = {"benchmark": "sampling", "command": "a command", "date": "2026-01-01", "machine": machine, "rows": [row]}
    report.write(folder / "sampling.json", made)
    return render.rendered(page, folder)


@pytest.mark.parametrize("page, message", [
    ("<!-- table: sampling -->\n", "1 marks begin a table or figure, 0 end one"),
    ("<!-- table: nothing -->\n<!-- end table -->", "there is no table or figure 'nothing'"),
    ("<!-- table: sampling -->\n<!-- end table -->", "sampling needs bench/results/sampling.json"),
])  # fmt: skip
def test_render_rejects_marks_that_it_cannot_fill(tmp_path, page, message):
    with pytest.raises(ValueError, match=message):
        render.rendered(page, tmp_path)


def test_every_report_names_command_and_machine():
    for path in sorted((BENCH / "results").glob("*.json")):
        made = report.read(path)
        assert made["benchmark"] == path.stem
        assert made["command"].startswith("python bench/") and "/tmp" not in made["command"]
        assert made["machine"]["processor"] and made["machine"]["python"] and isinstance(made["warnings"], list)


# ---- verdicts ----


def test_verdict_notices_one_ulp():
    losses = [3.3, 2.7, 2.5]
    assert bits.verdict(losses, losses)["bits"] is True
    off = bits.verdict([3.3, math.nextafter(2.7, 3), 2.5], losses)
    assert (off["bits"], off["print"], off["same_bits"]) == (False, True, 2)
    assert bits.verdict([3.3, 2.71, 2.5], losses)["print"] is False
    assert bits.verdict(None, losses)["bits"] is None
    assert bits.verdict([-0.0], [0.0])["bits"] is False
    assert bits.verdict(losses, losses, parameters_equal=False)["bits"] is False
    assert bits.verdict(losses, losses, parameters_equal=None)["bits"] is True
    assert bits.digest([1.0, 0.0]) == bits.digest([1, 0.0]) != bits.digest([1.0, -0.0])


def test_same_model_rejects_losses_beyond_the_tolerance():
    assert bits.same_model([1.0, 2.0 + 1e-12], [1.0, 2.0], 1e-9) is None
    assert "the loss of step 2 is 2.1" in bits.same_model([1.0, 2.1], [1.0, 2.0], 1e-9)
    assert "nan" in bits.same_model([float("nan")], [1.0], 1e-3)


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


class Fake:
    """A contender in this process, with the losses and the digest of each run."""

    def __init__(self, name, runs, batch=1):
        self.name, self.runs, self.batch = name, iter(runs), batch
        self.precision, self.tolerance, self.versions, self.repeat = "f64", 1e-9, {}, 1

    def start(self):
        pass

    def stop(self):
        pass

    def run(self, steps):
        losses, digest = next(self.runs)
        assert steps == len(losses) - 1
        return contender.Result(steps, 1.0, 0.5, [x.hex() for x in losses], None, digest)


def play(runs, judge=((3.0, 2.0, 1.5), "d")):
    """Two rounds of two steps; the first of the runs is the check."""
    fake = Fake("fake", runs)
    return contest.play([fake], Fake("judge", [judge]), None, 2, 2, 0.0, "wall", lambda what: None)


def test_contest_takes_the_verdict_of_the_worst_round():
    right, wrong = ((3.0, 2.0, 1.5), "d"), ((3.0, 2.0, math.nextafter(1.5, 2)), "d")
    (row,), absent, warnings = play([right] * 3)
    assert row["bits"] is True and row["rounds"] == [0.5, 0.5] and not absent  # per step
    assert warnings == ["noisy: other processes used the core for more than 10% of the time of fake"]
    (row,), _, warnings = play([right, right, wrong])
    assert row["bits"] is False and warnings[0] == "fake is not reproducible: its losses differ between rounds"
    (row,), _, _ = play([right, right, ((3.0, 2.0, 1.5), "other parameters")])
    assert row["bits"] is False and row["parameters"] is False


def test_contest_does_not_time_a_different_model():
    rows, absent, _ = play([((3.0, 2.1, 1.5), "d")])
    assert rows == [] and "the loss of step 2 is 2.1" in absent["fake"]


def test_first_loss_of_a_batch_is_the_mean_over_its_documents(tmp_path):
    the_task = task.write(tmp_path, NAMES, 4)
    rng, docs = random.Random(42), list(NAMES)
    rng.shuffle(docs)
    model = reference.GPT(the_task.vocab_size, **the_task.settings, rng=rng)
    expected = statistics.fmean(reference.document_loss(tokens, model).data for tokens in the_task.tokens)
    assert contest.batch_loss(the_task, 4) == expected


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
])  # fmt: skip
def test_compare_rejects_impossible_arguments(command, arguments, message):
    done = command(BENCH / "compare.py", *arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


# ---- what to distrust ----


def test_distrust_reports_noise():
    assert measure.spread([1.0, 1.01, 0.99, 1.0, 1.0]) == 0 and measure.spread([1.0]) is None
    assert measure.spread([1.0, 1.3, 0.8, 1.0, 1.25]) == pytest.approx(0.25)
    assert measure.distrust({"a": 0.09, "b": None}) == []
    assert measure.distrust({"a": 0.0, "b": 0.25}) == ["noisy: repeats differ by more than 10%: b (25%)"]
    (sentence,) = measure.distrust({str(i): i / 10 for i in range(9)})
    assert sentence.endswith("8 (80%), 7 (70%), 6 (60%), 5 (50%), 4 (40%) and 2 others")
    assert "other processes used the core" in measure.distrust({"a": 0.0}, ["a"])[0]


def test_ratio_is_taken_within_rounds():
    """A round in which the machine is half as fast has the same quotient."""
    assert measure.ratio([10.0, 20.0, 10.0], [1.0, 2.0, 1.0]) == 10.0


def test_contenders_take_turns():
    order, failed = [], iter([1.0, None])
    runners = {"a": lambda: order.append("a") or 1.0, "b": lambda: next(failed), "c": lambda: order.append("c") or 3.0}
    times = measure.interleave(runners, 3, lambda what: None)
    assert order == ["a", "c", "c", "a", "c", "a"]
    assert times == {"a": [1.0] * 3, "c": [3.0] * 3}


# ---- the contenders compute the model ----


@pytest.mark.parametrize(
    "settings", [{}, {"n_layer": 2, "n_embd": 8, "n_head": 2}, {"block_size": 4, "n_embd": 6, "n_head": 3}]
)
@pytest.mark.usefixtures("collector_off")
def test_numpy_s_gradient_is_the_reference_s(tmp_path, settings):
    the_task = task.write(tmp_path, NAMES, 3, **settings)
    rng, docs = random.Random(42), list(NAMES)
    rng.shuffle(docs)
    model = reference.GPT(the_task.vocab_size, **the_task.settings, rng=rng)
    weights = [x for _, _, flat in the_task.state_dict().values() for x in flat]
    assert hexes(weights) == hexes(p.data for p in model.params)
    run = numpy_gpt.make(the_task)
    for tokens in the_task.tokens:
        loss = reference.document_loss(tokens, model)
        loss.backward()
        assert run.forward_backward(tokens) == pytest.approx(loss.data, abs=1e-12)
        assert max(abs(g - p.grad) for g, p in zip(run.grads, model.params)) < 1e-12
        for p in model.params:
            p.grad = 0


def test_the_arithmetic_is_counted_from_the_shape():
    model = {"vocab_size": 27, "n_embd": 16, "n_layer": 1, "block_size": 16}
    assert arithmetic.num_params(**model) == 4192
    # Forward 2 * (12*16*16 + 27*16) and 4*16 of attention for a document of one position, three times; 14 a parameter.
    assert arithmetic.flops(1, **model) == 3 * (2 * 3504 + 64) + 14 * 4192


def test_synthetic_documents_have_one_length_and_every_letter():
    import bench_shapes

    documents = bench_shapes.synthetic_documents(7, 999)
    assert {len(document) for document in documents} == {7} and len(set("".join(documents))) == 999


# ---- the other scripts ----

#: One short process per measurement.
PYPERF = ["--processes", 1, "--values", 1, "--warmups", 0, "--loops", 1]
SCRIPTS = {
    "shapes": ["--quick", "--repeats", 1, "--torch-python", "nowhere"],
    "value": [*PYPERF, "--operator", "exp"],
    "sampling": PYPERF,
    "startup": PYPERF,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_writes_its_report_and_prints_its_tables(command, tmp_path, name):
    path = tmp_path / f"{name}.json"
    done = command(BENCH / f"bench_{name}.py", "--json", path, *SCRIPTS[name])
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
    assert [row["name"] for row in made["rows"]] == ["reference", *bench_user_code.WAYS.values(), "graph", "fused"]
    assert all(row["bits"] is True and row["parameters"] is True for row in made["rows"]) and made["absent"] == {}
    assert made["rows"][0]["times_original"] == 1
    columns, rows = tables.user_code({**made, "sizes": [16, 64]})
    assert len(columns) == 7 and rows[0][-3:] == ["–", "–", "–"] and rows[1][3] == "yes"


@pytest.mark.slow
def test_a_changed_architecture_has_the_bits_of_the_program_as_written(command):
    done = command(BENCH / "bench_user_code.py", "--changes", "--quick", "--repeats", 1)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith("GELU") and done.stdout.rstrip().endswith("True")


@pytest.mark.slow
def test_compiled_user_code_is_replayed_for_every_length(tmp_path):
    """A row "compiled" that fell back to eager would have the same bits, and say something else."""
    run = user_gpt.make(task.write(tmp_path, NAMES, 4), "compiled")
    assert "run as written" not in run.loss.explain() and run.loss.explain().count("compiled: ") == len(set(map(len, run.task.tokens)))


def test_edited_programs_change_one_thing(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import os\nn_embd = 16     # embedding dimension\nclass Value:\n    x = 1\nprint(Value)\n", encoding="utf-8")
    assert edited.with_n_embd(script, 16, tmp_path / "copy.py") == script
    changed = edited.with_n_embd(script, 64, tmp_path / "copy.py").read_text(encoding="utf-8")
    assert changed == script.read_text(encoding="utf-8").replace("16", "64")
    with pytest.raises(SystemExit, match="no line that begins with 'n_embd = 16'"):
        edited.with_n_embd(tmp_path / "copy.py", 64, tmp_path / "other.py")
    changed = edited.with_imports(script, ("Value",), tmp_path / "copy.py").read_text(encoding="utf-8")
    assert changed == "import os\nn_embd = 16\nfrom microgpt import Value\nprint(Value)"
    with pytest.raises(SystemExit, match="does not define Value, linear once each"):
        edited.with_imports(script, ("Value", "linear"), tmp_path / "copy.py")


def test_every_table_is_measured_by_the_one_command(command):
    """Every report that a page needs, and every script that there is."""
    assert {file for kind in (render.TABLES, render.FIGURES) for file, _ in kind.values()} <= set(everything.SCRIPTS)
    scripts = {path.name for path in BENCH.glob("bench_*.py")} | {"compare.py"}
    assert {script for script, _ in everything.SCRIPTS.values()} == scripts
    done = command(BENCH / "all.py")
    assert done.returncode == 2 and "--script is needed" in done.stderr


@pytest.mark.slow
def test_value_measures_the_script_s_class_without_running_the_script(command, tmp_path, script):
    path = tmp_path / "value.json"
    done = command(BENCH / "bench_value.py", "--script", script, "--json", path, "--operator", "a + b", *PYPERF)
    assert done.returncode == 0, done.stderr
    made = json.loads(path.read_text(encoding="utf-8"))
    assert [row["name"] for row in made["rows"]] == ["microgpt.py", "microgpt.Value"]
    assert all(row["operators"].keys() == {"a + b"} == made["nodes"].keys() for row in made["rows"])
    # A node of the compiled class takes 64 bytes.
    assert made["rows"][1]["operators"]["a + b"]["bytes"] == pytest.approx(64, rel=0.1)
    assert made["rows"][0]["operators"]["a + b"]["bytes"] > 100


def test_functions_belong_to_parts():
    import bench_breakdown

    assert bench_breakdown.part_of("libm.so.6", "__ieee754_pow_fma") == "exp and powers"
    assert bench_breakdown.part_of("simd.cpython-311.so", "exp_array") == "exp and powers"
    assert bench_breakdown.part_of("simd.cpython-311.so", "linear_backward_input") == "backward"
    assert bench_breakdown.part_of("simd.cpython-311.so", "linear_forward") == "forward"
    assert bench_breakdown.part_of("fused.cpython-311.so", "mg_adam_step") == "Adam"
    assert bench_breakdown.part_of("fused.cpython-311.so", "mg_train") == "the engine's own work"
    assert bench_breakdown.part_of("fused.cpython-311.so", "__pyx_pw_8microgpt_train") == "Python and the rest"
    assert bench_breakdown.part_of("python3.11", "_PyEval_EvalFrameDefault") == "Python and the rest"


# ---- what it looks like ----


def test_a_table_survives_a_terminal_without_its_characters(command):
    columns, rows = [("µs", "<"), ("× original", ">")], [["a", "1,000"], ["long name", "–"]]
    assert table.text(columns, rows).splitlines()[2:] == ["a               1,000", "long name           –"]
    assert table.markdown(columns, rows).splitlines()[1] == "| --- | ---: |"
    code = f"import sys; sys.path.insert(0, {str(BENCH)!r}); from harness import cli, table; "
    code += f"cli.run(lambda: print(table.text({columns}, {rows})))"
    done = command("-c", code, env={"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and done.stdout.splitlines()[0] == "?s         ? original"


@pytest.mark.parametrize(
    "value, shown", [(12345.6, "12,300"), (0.0012345, "0.00123"), (9.996, "10.0"), (0, "0"), (None, "–")]
)
def test_numbers_have_three_digits(value, shown):
    assert table.number(value) == shown


def test_durations_choose_their_unit():
    assert [table.duration(x) for x in (1.5, 0.25, 8.25e-6)] == ["1.50 s", "250 ms", "8.25 µs"]


def test_command_line_hides_the_machine_s_folders(monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["/a/b/compare.py", "--script", "/home/x/microgpt.py", "--json", "bench/results/compare.json",
                      "--input=../y/z.txt", "--command", "other=/opt/bin/other {steps} {input}"]
    )  # fmt: skip
    assert report.command_line() == (
        "python bench/compare.py --script microgpt.py --json bench/results/compare.json --input=z.txt "
        "--command 'other=other {steps} {input}'"
    )


def test_exact_peak_is_measured_and_gives_the_limits(monkeypatch):
    if shutil.which("cc"):
        assert peak.measure(None)["exact_flops"] > 0
    monkeypatch.setenv("CC", "no-such-compiler")
    assert peak.measure(None) is None
    file = json.loads((BENCH / "results" / "breakdown.json").read_text(encoding="utf-8"))
    for found, titles in ((None, []), ({"exact_flops": 1e9}, ["limit, µs"])):
        columns, rows = tables.breakdown({**file, "peak": found})
        assert [name for name, _ in columns if "limit" in name] == titles
        if titles:  # operations at a billion per second
            assert rows[0][-1] == table.number(file["parts"][0]["flops"] / 1e9 * 1e6, 2)


def test_pairs_need_a_name_and_a_value():
    assert cli.pair("old=/a=b") == ("old", "/a=b")
    for text in ("old", "old=", "=/a"):
        with pytest.raises(ValueError):
            cli.pair(text)
