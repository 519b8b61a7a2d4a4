"""The benchmarks: their tables are their data, their verdicts are computed, and they say when not to trust them.

Nothing here asserts a time.
"""
import hashlib
import json
import math
import random
import shutil
import sys
from pathlib import Path

import pytest
from conftest import ROOT, hexes

BENCH = ROOT / "bench"
sys.path.insert(0, str(BENCH))

import numpy_gpt  # noqa: E402
import render  # noqa: E402
import tables  # noqa: E402
from harness import arithmetic, bits, contender, measure, peak, report, table, task  # noqa: E402

from microgpt import reference  # noqa: E402

NAMES = ["emma", "olivia", "ava", "isabella", "sophia", "charlotte", "mia", "amelia", "harper", "evelyn"]


# ---- tables and data ----


def test_the_pages_agree_with_their_data():
    for path, now, should_be in render.pages():
        assert now == should_be, f"{path.name} is not what bench/results says: run python bench/render.py"


def test_a_page_that_disagrees_is_seen(tmp_path):
    """One digit in the data, and the page is no longer right."""
    page = "<!-- table: sampling -->\n<!-- end table -->\nthen <!-- figure: sampling-tokens --><!-- end figure -->."
    made = {"name": "fused", "tokens_per_second": 123456.0, "spread": 0.01, "times_reference": 9.0, "compared": 3,
            "same_text": True}  # fmt: skip
    before = rendered_with(tmp_path, page, made)
    assert (
        "| fused | 123,000 | 1.0% | 9.00 | 3 | yes |" in before
        and "then <!-- figure: sampling-tokens -->123,000<" in before
    )
    assert rendered_with(tmp_path, before, made) == before
    assert rendered_with(tmp_path, before, {**made, "tokens_per_second": 124456.0}) != before


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
def test_a_mark_that_cannot_be_filled(tmp_path, page, message):
    with pytest.raises(ValueError, match=message):
        render.rendered(page, tmp_path)


def test_every_report_says_what_its_figures_depend_on():
    for path in sorted((BENCH / "results").glob("*.json")):
        made = report.read(path)
        assert made["benchmark"] == path.stem
        assert made["command"].startswith("python bench/") and "/tmp" not in made["command"]
        assert made["machine"]["processor"] and made["machine"]["python"] and isinstance(made["warnings"], list)


# ---- verdicts ----


def test_one_ulp_turns_the_verdict():
    losses = [3.3, 2.7, 2.5]
    assert bits.verdict(losses, losses)["bits"] is True
    off = bits.verdict([3.3, math.nextafter(2.7, 3), 2.5], losses)
    assert (off["bits"], off["print"], off["same_bits"]) == (False, True, 2)
    assert bits.verdict([3.3, 2.71, 2.5], losses)["print"] is False
    assert bits.verdict(None, losses)["bits"] is None
    assert bits.verdict([-0.0], [0.0])["bits"] is False
    assert bits.verdict(losses, losses, parameters_equal=False)["bits"] is False
    assert bits.digest([1.0, 0.0]) == bits.digest([1, 0.0]) != bits.digest([1.0, -0.0])


def test_a_model_that_is_another_is_refused():
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
    done = command(
        BENCH / "compare.py", "--quick", "--steps", 2, "--repeats", 1, "--json", tmp_path / "c.json", *arguments
    )
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    return made, {row["name"]: row for row in made["rows"]}, done


@pytest.mark.slow
def test_a_kernel_broken_by_one_ulp_is_told(command, tmp_path):
    """From end to end: the first output of every matrix product, as it is, one ulp off, and far off."""
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
    assert "another" not in rows and "computes something else" in made["absent"]["another"]
    line = next(line.split() for line in done.stdout.splitlines() if line.startswith("one ulp"))
    assert line[-3:-1] == ["no", "yes"]


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
def test_the_script_is_timed_and_not_touched(command, tmp_path, script):
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
    assert "here microgpt.py, as shipped and with its garbage collector off" in done.stdout
    assert done.stdout.count("the processor's time, not the clock's") == 1


@pytest.mark.slow
def test_the_script_with_its_class_swapped(command, tmp_path, script):
    """To its end, with each class: the same output; and its first steps, timed."""
    path = tmp_path / "value.json"
    arguments = ["--script", script, "--only", "microgpt.Value", "--quick", "--repeats", 1, "--whole", "--json", path]
    done = command(BENCH / "bench_value.py", *arguments)
    assert done.returncode == 0, done.stderr
    made = json.loads(path.read_text(encoding="utf-8"))
    assert [row["name"] for row in made["whole"]] == ["microgpt.py", "microgpt.py with microgpt.Value"]
    assert all(row["same_output"] for row in made["whole"])
    assert len(made["script"]) == 4 and all(row["bits"] for row in made["script"])
    assert [row["name"] for row in made["rows"]] == ["microgpt.py", "microgpt.Value"]
    assert made["rows"][0]["operators"].keys() == made["nodes"].keys()


def simd_supported():
    from microgpt.core.simd import simd_info

    return simd_info()["supported"]


def in_use():
    from microgpt.core.simd import simd_info

    return simd_info()["in_use"]


@pytest.mark.slow
def test_a_script_that_ends_too_soon_is_told(command, tmp_path, script):
    script.write_text(script.read_text(encoding="utf-8").replace("range(8)", "range(2)"), encoding="utf-8")
    done = command(BENCH / "compare.py", "--quick", "--script", script)
    assert done.returncode == 1 and "the script printed 2 lines that begin with 'step'" in done.stderr


@pytest.mark.parametrize("arguments, message", [
    (["--script", "nowhere.py"], "there is no file nowhere.py"),
    (["--command", "no equals sign"], "is not of the form NAME=..."),
    (["--repeats", "0"], "invalid positive whole number value"),
])  # fmt: skip
def test_arguments_that_cannot_be(command, arguments, message):
    done = command(BENCH / "compare.py", *arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_any_program_is_timed_at_two_counts(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, time\n"
        "for i in range(int(sys.argv[1])):\n"
        "    time.sleep(1e-4); sum(range(9999))\n"
        "    print(f'step {i + 1:4d} / 9 | loss {1 / (i + 1):.4f}')"
    )
    one = contender.Command("program", f"{sys.executable} {program} {{steps}}", None, "input.txt")
    one.ENOUGH = 0.05
    one.calibrate(10)
    assert one.run(10).by_clock["wall"] > 1e-4 and one.run(10).by_clock["cpu"] > 0
    assert one.printed_losses(4) == [1.0, 0.5, 0.3333, 0.25]
    with pytest.raises(contender.Unavailable, match="does not say {steps}"):
        contender.Command("program", "program", None, "input.txt")
    with pytest.raises(contender.Unavailable, match="ended with status 3"):
        contender.Command("p", f"{sys.executable} -c 'import sys; sys.exit(3)' {{steps}}", None, "i").calibrate(1)


def test_losses_are_read_off_lines_like_the_script_s():
    text = "num docs: 9\nstep    1 / 1000 | loss 3.3660\nstep    2 / 1000 | loss 3.4243\nsample  1: anna 1.5\n"
    assert contender.read_losses(text) == [3.3660, 3.4243]
    assert contender.read_losses("step=3, loss=-0.5") == [-0.5]
    assert contender.read_losses("done") is None


# ---- what to distrust ----


def test_noise_is_told():
    quiet, noisy = [1.0, 1.01, 0.99, 1.0, 1.0], [1.0, 1.3, 0.8, 1.0, 1.25]
    assert measure.distrust({"a": quiet}) == []
    assert "b (25%)" in measure.distrust({"a": quiet, "b": noisy})[0]
    assert "other processes took the core" in measure.distrust({"a": quiet}, ["a"])[0]
    assert measure.halves_disagree([1.0] * 6, [1.0] * 6) is None
    assert measure.halves_disagree([1.0] * 6, [1.0, 1.2] * 3) == pytest.approx(0.2)
    worst, sentences = measure.agreement({"a": 100.0, "b": 10.0}, {"a": 105.0, "b": 12.0, "c": 1.0})
    assert worst == pytest.approx(0.2) and len(sentences) == 1 and sentences[0].startswith("b was 10 times")


def test_a_ratio_is_taken_within_rounds():
    """A round in which the machine is half as fast says the same as the others."""
    assert measure.ratio([10.0, 20.0, 10.0], [1.0, 2.0, 1.0]) == 10.0


def test_contenders_take_turns():
    order, failed = [], iter([1.0, None])
    runners = {"a": lambda: order.append("a") or 1.0, "b": lambda: next(failed), "c": lambda: order.append("c") or 3.0}
    times = measure.interleave(runners, 3)
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


def test_positions_that_no_document_reaches_are_no_work():
    from bench_scaling import _arithmetic

    shape = {"vocab_size": 27, "n_embd": 16, "n_layer": 1, "positions": 8}
    short, long = (_arithmetic({**shape, "block_size": block_size}) for block_size in (8, 4096))
    assert long.pop("num_params") - short.pop("num_params") == 16 * (4096 - 8)
    assert long == short


# ---- the other scripts ----

SCRIPTS = {
    "value": ["--only", "microgpt.Value"],
    "scaling": ["--only", "fused"],
    "shapes": ["--torch-python", "nowhere"],
    "sampling": [],
    "startup": [],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_ends_well_and_says_what_it_did(command, tmp_path, name):
    path = tmp_path / f"{name}.json"
    done = command(BENCH / f"bench_{name}.py", "--quick", "--repeats", 1, "--json", path, *SCRIPTS[name])
    assert done.returncode == 0, done.stderr
    made = json.loads(path.read_text(encoding="utf-8"))
    assert made["benchmark"] == name and made["rows"] and str(tmp_path) not in json.dumps(made)
    for row in made["rows"]:
        for one in row.get("contenders", [row]):
            assert one.get("same_text", True) is True
            assert one.get("bits") is not False or one["name"] == "NumPy"
    printed = {
        key for key, (file, _) in render.TABLES.items() if file == name and key not in ("value-script", "value-whole")
    }
    for key in printed:
        columns, rows = render.TABLES[key][1](made)
        assert rows and table.text(columns, rows) in done.stdout


def test_functions_belong_to_parts(tmp_path):
    import bench_breakdown

    assert bench_breakdown.part_of("libm.so.6", "__ieee754_pow_fma") == "exp and powers"
    assert bench_breakdown.part_of("simd.cpython-311.so", "exp_array") == "exp and powers"
    assert bench_breakdown.part_of("simd.cpython-311.so", "linear_backward_input") == "backward"
    assert bench_breakdown.part_of("simd.cpython-311.so", "linear_forward") == "forward"
    assert bench_breakdown.part_of("fused.cpython-311.so", "mg_adam_step") == "Adam"
    assert bench_breakdown.part_of("fused.cpython-311.so", "mg_train") == "the engine's own work"
    assert bench_breakdown.part_of("fused.cpython-311.so", "__pyx_pw_8microgpt_train") == "Python and the rest"
    assert bench_breakdown.part_of("python3.11", "_PyEval_EvalFrameDefault") == "Python and the rest"
    file = tmp_path / "callgrind.out"
    file.write_text(
        "events: Ir\nob=/lib/libm.so.6\nfl=x\nfn=pow\n12 7\ncfn=exp\ncalls=1 0\n13 500\n14 3\nfn=exp'2\n1 500\n"
    )
    assert bench_breakdown.read_callgrind(file) == {("libm.so.6", "pow"): 10, ("libm.so.6", "exp"): 500}


# ---- what it looks like ----


def test_a_table_is_plain_where_it_must_be(command):
    columns, rows = [("µs", "<"), ("× original", ">")], [["a", "1,000"], ["long name", "–"]]
    assert table.text(columns, rows).splitlines()[2:] == ["a               1,000", "long name           –"]
    assert table.markdown(columns, rows).splitlines()[1] == "| --- | ---: |"
    code = f"import sys; sys.path.insert(0, {str(BENCH)!r}); from harness import table; table.show({columns}, {rows})"
    done = command("-c", code, env={"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and done.stdout.splitlines()[0] == "us         x original"


@pytest.mark.parametrize(
    "value, shown", [(12345.6, "12,300"), (0.0012345, "0.00123"), (9.996, "10.0"), (0, "0"), (None, "–")]
)
def test_numbers_have_three_digits(value, shown):
    assert table.number(value) == shown


def test_durations_choose_their_unit():
    assert [table.duration(x) for x in (1.5, 0.25, 8.25e-6)] == ["1.50 s", "250 ms", "8.25 µs"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compare", "scaling"])
def test_pictures_are_drawn_from_the_data(tmp_path, name):
    import plots

    made = report.read(BENCH / "results" / f"{name}.json")
    getattr(plots, name)(made, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_command_is_kept_without_the_machine_s_folders(monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["/a/b/compare.py", "--script", "/home/x/microgpt.py", "--json", "bench/results/compare.json",
                      "--input=../y/z.txt", "--command", "other=/opt/bin/other {steps} {input}"]
    )  # fmt: skip
    assert report.command_line() == (
        "python bench/compare.py --script microgpt.py --json bench/results/compare.json --input=z.txt "
        "--command 'other=other {steps} {input}'"
    )


def test_the_exact_peak_is_measured_and_not_taken_from_numpys(monkeypatch):
    """Half of a matrix product's speed is no bound: some processors add and multiply at once as fast as they fuse."""
    measured = peak.measure(None)
    assert measured.keys() == {"flops", "exact_flops", "bytes"}
    if shutil.which("cc"):
        assert measured["exact_flops"] > 0
    monkeypatch.setenv("CC", "no-such-compiler")
    assert peak.exact_flops() is None
    file = json.loads((BENCH / "results" / "breakdown.json").read_text(encoding="utf-8"))
    for exact_flops, column in ((None, []), (1e9, ["limit, µs"])):
        columns, rows = tables.breakdown({**file, "peak": {"flops": 8e9, "exact_flops": exact_flops}})
        assert [name for name, _ in columns if "limit" in name] == column
        if column:  # operations at a billion a second
            assert rows[0][-1] == table.number(file["parts"][0]["flops"] / 1e9 * 1e6, 2)
