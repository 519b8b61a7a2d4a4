"""The pages of the benchmarks: tables agree with their data, and what they look like."""
import ast
import json
import re
import shutil
import sys

import pytest
from conftest import ROOT

BENCH = ROOT / "bench"
sys.path.insert(0, str(BENCH))

import render  # noqa: E402
import tables  # noqa: E402
from harness import machine, report, table  # noqa: E402


def test_pages_agree_with_their_data():
    for path, now, should_be in render.pages():
        assert now == should_be, f"{path.name} does not agree with bench/results: run python bench/render.py"


def test_render_notices_one_changed_digit(tmp_path):
    page = "<!-- table: sampling -->\n<!-- end table -->\n"
    made = {"name": "fused", "seconds": 1 / 123456.0, "spread": 0.01, "times": 1 / 9, "compared": 3, "same_text": True}
    before = rendered_with(tmp_path, page, made)
    assert "| fused | 123,000 | 1.0% | 9.00 | 3 | yes |" in before
    assert rendered_with(tmp_path, before, made) == before
    assert rendered_with(tmp_path, before, {**made, "seconds": 1 / 124456.0}) != before


def test_render_fills_figures_within_a_sentence():
    page = "about <!-- figure: fused-times -->1<!-- end figure -->×"
    row = next(r for r in report.read(BENCH / "results" / "compare.json")["rows"] if r["name"].startswith("fused ("))
    assert render.rendered(page) == page.replace("-->1<", f"-->{table.number(row['times_original'])}<")


def rendered_with(folder, page, row):
    machine = {"processor": "a processor", "pinned_to_core": 0, "python": "CPython 3"}
    made = {"benchmark": "sampling", "command": "a command", "date": "2026-01-01", "machine": machine, "rows": [row]}
    (folder / "sampling.json").write_text(json.dumps(made), encoding="utf-8")
    return render.rendered(page, folder)


@pytest.mark.parametrize("page, message", [
    ("<!-- table: sampling -->\n", "1 marks begin a table or figure, 0 end one"),
    ("<!-- table: nothing -->\n<!-- end table -->", "there is no table 'nothing'"),
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
        _, script, *words = made["command"].split()
        source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / script, *(BENCH / "harness").glob("*.py")))
        assert [word for word in words if word.startswith("--") and f'"{word}"' not in source] == [], path.name


def test_every_table_is_measured_by_the_session():
    """nox -s bench knows every report that a page needs, every script that there is, and no option that a script does not have."""
    text = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    known = ast.literal_eval(re.search(r"^REPORTS = (\{.*?\})", text, re.M | re.S)[1])
    assert {file for kind in (render.TABLES, render.FIGURES) for file, *_ in kind.values()} <= set(known)
    scripts = {name: BENCH / (f"{name}.py" if name == "compare" else f"bench_{name}.py") for name in known}
    assert sorted(scripts.values()) == sorted([*BENCH.glob("bench_*.py"), BENCH / "compare.py"])
    for name, options in known.items():
        source = scripts[name].read_text(encoding="utf-8")
        takes_torch = "add_field_options" in source or "add_torch_option" in source
        assert ('"--script"' in source, takes_torch) == ("--script" in options, "--torch-python" in options)


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


def test_exact_peak_is_measured_and_gives_the_share(monkeypatch):
    if shutil.which("cc"):
        assert machine.exact_peak(None) > 0
    monkeypatch.setenv("CC", "no-such-compiler")
    assert machine.exact_peak(None) is None
    file = json.loads((BENCH / "results" / "shapes.json").read_text(encoding="utf-8"))
    rate = file["rows"][0]["flops"] / file["rows"][0]["contenders"][0]["seconds_per_document"]
    for found, cells in ((None, []), (rate * 4, ["25%"])):
        columns, rows = tables.shapes({**file, "exact_flops": found})
        assert [cell for (name, _), cell in zip(columns, rows[0]) if name == "of the exact peak"] == cells
