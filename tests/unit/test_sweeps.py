"""Many runs: their bits, their errors, their file, and the command."""
import collections
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from children import environment
from small_sweeps import DOCS, GRID, by_settings, run_main

import microgpt
import microgpt.sweep
import microgpt.train
from microgpt import Config, Trainer, data, run_sweep
from microgpt.parallel import results as results_module
from microgpt.parallel import sweeps
from microgpt.parallel.results import SweepResult, rank, read_results
from microgpt.parallel.sweeps import configurations, run_task
from microgpt.trainer import corpus


def expected(settings, engine="fused"):
    return Trainer(DOCS, engine=engine, **settings).run()


@pytest.fixture
def names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("\n".join(DOCS))
    return tmp_path


def test_every_run_has_the_bits_of_a_trainer():
    results = list(run_sweep(DOCS, GRID))
    assert len(results) == 6
    for result in results:
        losses = expected(result.settings)
        assert (result.final_loss, result.loss, result.error) == (losses[-1], losses[-1], None)


def test_the_loss_is_the_mean_of_the_last_tenth():
    (result,) = run_sweep(DOCS, {"num_steps": 45})
    last = expected(result.settings)[-4:]
    assert result.loss == sum(last) / 4
    (result,) = run_sweep(DOCS, {"num_steps": 0})
    assert math.isnan(result.loss) and math.isnan(result.final_loss)


@pytest.mark.parametrize("engine", ["graph", "reference"])
def test_other_engines_have_the_same_bits(engine):
    grid = {"num_steps": 3, "seed": [1, 2], "n_embd": 8}
    found, fused = (by_settings(run_sweep(DOCS, grid, engine=e)) for e in (engine, "fused"))
    assert found == fused


@pytest.mark.parametrize("docs", [["emma", " ava", "mia "], ["é", "è", "ê"], ["a b", "c\nd", "e"], ["a\nb", "", "c"]])
def test_documents_that_are_no_plain_lines(docs):
    (result,) = run_sweep(docs, {"num_steps": 5})
    assert result.final_loss == Trainer(docs, num_steps=5).run()[-1]


def test_validation_decides_and_is_that_of_the_trainer():
    (result,) = run_sweep(DOCS, {"num_steps": 5}, val_docs=["ava", "mia"])
    trainer = Trainer(DOCS, num_steps=5)
    trainer.run()
    assert result.val_loss == result.score == trainer.evaluate(["ava", "mia"]).loss


def test_checkpoints_are_those_of_the_runs(tmp_path):
    for result in run_sweep(DOCS, {"num_steps": 5, "seed": [1, 2]}, save_dir=tmp_path):
        loaded, trainer = Trainer.load(result.path), Trainer(DOCS, **result.settings)
        trainer.run()
        assert (loaded.parameters == trainer.parameters).all()
    assert len(list(tmp_path.iterdir())) == 2


def test_runs_that_a_file_has_are_repeated_if_their_checkpoint_is_not_there(tmp_path):
    grid, out = {"num_steps": [1, 2], "n_head": [3, 4]}, tmp_path / "runs.jsonl"
    list(run_sweep(DOCS, grid, out=out))
    results = list(run_sweep(DOCS, grid, out=out, save_dir=tmp_path))
    paths = [r.path for r in results if r.error is None]
    assert len(paths) == 2 and all(map(os.path.isfile, paths)) and out.read_text().count("\n") == 1 + 4 + 2
    os.remove(paths[0])
    assert by_settings(run_sweep(DOCS, grid, out=out, save_dir=tmp_path)) == by_settings(results)
    assert os.path.isfile(paths[0]) and out.read_text().count("\n") == 1 + 4 + 3


def test_a_run_that_fails_is_a_result():
    grid = [{"num_steps": 40, "learning_rate": [0.01, 1e6]}, {"n_head": 3}]
    results = sorted(run_sweep(DOCS, grid), key=lambda r: r.error or "")
    assert [r.error is None for r in results] == [True, False, False]
    assert results[1].error.startswith("DivergedError: ") and math.isnan(results[1].score)
    assert results[2].error == "ValueError: n_embd (16) must be a multiple of n_head (3)"
    best = rank(results)[0]
    assert best.settings["learning_rate"] == 0.01 and best.failed == 0


def test_rank_is_by_the_mean_over_seeds_and_puts_failures_last():
    def result(rate, seed, loss, error=None):
        found = microgpt.SweepResult({"learning_rate": rate, "seed": seed}, "fused", loss, loss, error=error)
        return found

    nan = math.nan
    ranked = rank([result(1, 1, 3.0), result(2, 1, 1.0), result(2, 2, nan, "OSError"), result(1, 2, 5.0), result(3, 1, 4.5)])
    assert [(g.settings["learning_rate"], g.score, g.runs, g.failed) for g in ranked] == [
        (1, 4.0, 2, 0), (3, 4.5, 1, 0), (2, math.inf, 2, 1)]  # fmt: skip
    assert ranked[0].spread == math.sqrt(2) and [r.score for r in ranked[0].results] == [3.0, 5.0]
    assert math.isnan(ranked[1].spread)
    other = microgpt.SweepResult({"learning_rate": 1, "seed": 3}, "graph", 6.0, 6.0)
    assert [g.score for g in rank([result(1, 1, 3.0), other, result(1, 2, 5.0)])] == [4.0, 6.0]  # engines are not mixed


def test_configurations_of_a_grid():
    assert configurations({"seed": range(2), "n_embd": (8, 16), "n_head": 4}) == [
        {"seed": 0, "n_embd": 8, "n_head": 4}, {"seed": 0, "n_embd": 16, "n_head": 4},
        {"seed": 1, "n_embd": 8, "n_head": 4}, {"seed": 1, "n_embd": 16, "n_head": 4}]  # fmt: skip
    assert configurations([{"seed": [1, 1]}, {"seed": 1}, {"seed": 2}]) == [{"seed": 1}, {"seed": 2}]
    assert configurations({"seed": ["12", 12]}) == [{"seed": "12"}, {"seed": 12}]  # one that cannot be, and another
    assert configurations({"seed": np.array(3), "warmup": np.arange(2)}) == [{"seed": 3, "warmup": 0}, {"seed": 3, "warmup": 1}]


def test_a_run_that_a_grid_has_in_several_words_is_run_once():
    grid = [{"num_steps": 1, "learning_rate": [0.01, np.float64(0.01), np.float32(0.5), 0.5]}, {"num_steps": np.int8(1), "seed": 42}]
    assert [result.settings["learning_rate"] for result in run_sweep(DOCS, grid, workers=1)] == [0.01, 0.5]


def test_seeds_of_any_size(tmp_path):
    grid = {"num_steps": 1, "seed": [10**5000, -(10**5000), 1]}
    results = list(run_sweep(DOCS, grid, out=tmp_path / "runs.jsonl", save_dir=tmp_path))
    assert {r.settings["seed"] for r in results} == set(grid["seed"]) and all(os.path.isfile(r.path) for r in results)
    assert sorted(map(repr, read_results(tmp_path / "runs.jsonl"))) == sorted(map(repr, results))
    (failed,) = run_sweep(DOCS, {"n_embd": 10**5000}, out=tmp_path / "runs.jsonl")
    assert failed.error == "ValueError: n_embd must be less than 2**63"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((DOCS, {"learning_rat": 1}), "'learning_rat' is no setting; a grid may have num_steps, seed, "),
        ((DOCS, {"seed": []}), "the grid has no values of seed"),
        (([], {"seed": 1}), "there are no documents to train on"),
        (("emma", {"seed": 1}), "docs must be a sequence of str, not one str"),
        ((DOCS, "seed=1"), "a grid must be a mapping of settings to their values, or several of them, not 'seed=1'"),
        ((DOCS, None), "a grid must be a mapping .* not None"),
        ((DOCS, [("seed", [1, 2])]), "a grid must be a mapping .* not \\('seed', "),
        ((DOCS, {"seed": 1}, "threads"), "executor must be a concurrent.futures.Executor, not 'threads'"),
        ((DOCS, {"seed": 1}, ThreadPoolExecutor), "executor must be a concurrent.futures.Executor, not <class"),
    ],
)
def test_arguments_that_no_sweep_can_have_are_refused_at_once(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        run_sweep(*arguments)


def test_keywords_that_no_sweep_can_have_are_refused_at_once(tmp_path):
    for keywords in ({"engine": "fast"}, {"workers": 0}, {"workers": 1.5}, {"val_docs": []}):
        with pytest.raises((ValueError, TypeError)):
            run_sweep(DOCS, GRID, **keywords)
    with pytest.raises(NotADirectoryError):
        run_sweep(DOCS, GRID, save_dir=tmp_path / "none")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that even root cannot write to")
def test_a_folder_that_cannot_be_written_to_is_refused_before_the_first_run(names, capfd):
    with pytest.raises(OSError):
        run_sweep(DOCS, GRID, save_dir="/proc/self")
    status, out, err = run_main(capfd, "--grid", "seed=1", "--save-dir", "/proc/self")
    assert (status, out) == (2, "") and err.startswith("microgpt: error: /proc/self") and err.count("\n") == 1


# ---- the file of results ----


def test_an_interrupted_sweep_continues_where_it_was(tmp_path, monkeypatch):
    out = tmp_path / "runs.jsonl"
    sweep = run_sweep(DOCS, GRID, workers=1, out=out)
    first = [next(sweep), next(sweep)]
    sweep.close()
    kept = read_results(out)
    with open(out, "ab") as file:
        file.write(b'{"num_steps": 12, "se\xff\0')  # killed within a line, or the machine was
    computed = []
    monkeypatch.setattr("microgpt.parallel.sweeps.run_task", lambda *task: computed.append(task[0]) or run_task(*task))
    results = list(run_sweep(DOCS, GRID, out=out))
    assert len(computed) == 6 - len(kept)
    assert by_settings(results) == by_settings(run_sweep(DOCS, GRID))
    assert by_settings(results[: len(kept)]) == by_settings(kept) and by_settings(first).items() <= by_settings(kept).items()
    assert all(json.loads(line) for line in out.read_text().splitlines())
    more = {**GRID, "seed": range(4)}
    assert by_settings(run_sweep(DOCS, more, out=out)) == by_settings(run_sweep(DOCS, more))


OWN_ERRORS = "DivergedError", "OverflowError", "TypeError", "ValueError", "ZeroDivisionError"


@pytest.mark.parametrize("name, engine, repeated", [
    *((name, "fused", 0) for name in OWN_ERRORS), ("ValueError", "graph", 1), ("ValueErrors", "fused", 1), ("OSError", "fused", 1),
    ("MemoryError", "fused", 1), ("BrokenProcessPool", "fused", 1), ("RuntimeError", "fused", 1),
])  # fmt: skip
def test_runs_that_would_fail_again_are_not_repeated(tmp_path, monkeypatch, name, engine, repeated):
    out, computed = tmp_path / "runs.jsonl", []
    list(run_sweep(DOCS, {"num_steps": 1}, out=out))
    out.write_text(out.read_text().replace('"error": null', f'"error": "{name}: in words"'))
    monkeypatch.setattr("microgpt.parallel.sweeps.run_task", lambda *task: computed.append(task[0]) or run_task(*task))
    (result,) = run_sweep(DOCS, {"num_steps": 1}, out=out, engine=engine, save_dir=tmp_path)  # without a checkpoint
    assert len(computed) == repeated and result.engine == engine and (result.error is None) == bool(repeated)


def test_results_survive_the_file_exactly(tmp_path):
    out = tmp_path / "runs.jsonl"
    grid = [{"num_steps": 0}, {"num_steps": 3, "seed": [2**70, -(2**64)]}, {"n_head": 3}, {"num_steps": 40, "learning_rate": 1e6}]
    results = list(run_sweep(DOCS, grid, out=out, val_docs=["ava"]))
    assert sorted(map(repr, read_results(out))) == sorted(map(repr, results))
    size = out.stat().st_size
    again = list(run_sweep(DOCS, grid, out=out, val_docs=["ava"]))
    assert sorted(map(repr, again)) == sorted(map(repr, results)) and out.stat().st_size == size


@pytest.mark.parametrize("settings", [
    {"seed": "abc"}, {"seed": ["12", 12]}, {"seed": np.arange(2), "n_head": 3}, {"n_head": [True, 1.0, 1, "1", None, math.nan]},
    {"n_head": [np.int8(3), np.float64(3.0), np.float32(3.0), (3,)]}, {"seed": [2**63, -(2**63), "0x8000000000000000"]},
    {"learning_rate": [0.0, -0.0]},
])  # fmt: skip
def test_runs_that_cannot_be_are_found_in_the_file_as_well(tmp_path, settings):
    out, grid = tmp_path / "runs.jsonl", {"num_steps": 1, **settings}
    results = list(run_sweep(DOCS, grid, out=out))
    size = out.stat().st_size
    again = list(run_sweep(DOCS, grid, out=out))
    assert sorted(map(repr, again)) == sorted(map(repr, results)) and out.stat().st_size == size
    assert len(read_results(out)) == len(results) == len(configurations(grid))


def test_a_file_of_other_text_or_of_something_else_stays_as_it_is(tmp_path):
    out = tmp_path / "runs.jsonl"
    list(run_sweep(DOCS, {"num_steps": 1}, out=out))
    for content, message in (
        (out.read_text(), "holds a sweep of other text"),
        ("emma\nava\n", "line 1: not a line of a sweep's results"),
        ("emma ava", "line 1: not a line of a sweep's results"),
        ('{"loss": 2.5}', "line 1: not a line of a sweep's results"),
        ('{"microgpt sweep": 2}\n', "line 1: not a line"),
        ("\udcff\n", "line 1: not a line"),
        (out.read_text() + "{}\n", "other text"),
    ):
        out.write_bytes(content.encode("utf-8", "surrogateescape"))
        with pytest.raises(microgpt.LogError, match=message):
            run_sweep(["anna"], {"num_steps": 1}, out=out)
        assert out.read_bytes() == content.encode("utf-8", "surrogateescape")
    with pytest.raises(microgpt.LogError, match="line 3: not a line"):
        read_results(out)


def test_validation_documents_are_part_of_the_text(tmp_path):
    list(run_sweep(DOCS, {"num_steps": 1}, out=tmp_path / "runs.jsonl", val_docs=["ava"]))
    for val_docs in (None, ["mia"]):
        with pytest.raises(microgpt.LogError, match="holds a sweep of other text"):
            run_sweep(DOCS, {"num_steps": 1}, out=tmp_path / "runs.jsonl", val_docs=val_docs)


@pytest.mark.parametrize("length", [1, 10, 60])
def test_a_sweep_that_was_killed_within_the_first_line_begins_again(tmp_path, length):
    out = tmp_path / "runs.jsonl"
    list(run_sweep(DOCS, {"num_steps": 1}, out=out))
    out.write_bytes(out.read_bytes()[:length])
    assert read_results(out) == [] and len(list(run_sweep(DOCS, {"num_steps": 1}, out=out))) == len(read_results(out)) == 1


def test_two_sweeps_that_begin_a_file_at_the_same_time_both_keep_their_results(tmp_path, monkeypatch):
    out, parse = tmp_path / "runs.jsonl", results_module._parse

    def parse_while_another_begins(*arguments):
        monkeypatch.setattr(results_module, "_parse", parse)
        found = parse(*arguments)
        list(run_sweep(DOCS, {"num_steps": 1}, out=out))
        return found

    monkeypatch.setattr(results_module, "_parse", parse_while_another_begins)
    list(run_sweep(DOCS, {"num_steps": 2}, out=out))
    assert [result.settings["num_steps"] for result in read_results(out)] == [1, 2]


@pytest.mark.skipif(sys.platform == "win32", reason="a limit of POSIX")
@pytest.mark.parametrize("size", [1, 500])
def test_a_full_disk_is_an_error_with_the_name_of_the_file(names, size):
    code = (f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
            "from microgpt.sweep import main; sys.exit(main())")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, "--input", "names.txt", "--grid", "seed=1..9", "--steps", "1", "--out",
                           "runs.jsonl"], capture_output=True, text=True, env=environment())  # fmt: skip
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("microgpt: error: runs.jsonl: "), done.stderr
    results = list(run_sweep(DOCS, {"num_steps": 1, "seed": range(1, 10)}, out="runs.jsonl"))
    assert len(results) == 9 and by_settings(read_results("runs.jsonl")) == by_settings(results)


# ---- the command ----


def test_the_best_command_trains_the_best_run(names, capfd):
    status, out, err = run_main(capfd, "--input", "names.txt", "--grid", "learning-rate=0.01,0.05 seed=1..2", "--steps", "20",
                                "--out", "runs.jsonl")  # fmt: skip
    assert status == 0 and "4 runs on names.txt" in err
    best = min(read_results("runs.jsonl"), key=lambda r: (r.score, 0))
    group = [r for r in read_results("runs.jsonl") if r.settings["learning_rate"] == float(out.splitlines()[1].split()[0])]
    assert min(r.score for r in group) == best.score or len(group) == 2
    command = out.splitlines()[-1].removeprefix("best: microgpt ").split()
    found = subprocess.run([sys.executable, "-m", "microgpt", *command], capture_output=True, text=True, env=environment())
    loss = min(r.final_loss for r in group if r.score == min(g.score for g in group))
    assert found.returncode == 0 and f"step   20 /   20 | loss {loss:.4f}" in found.stdout


def test_the_best_command_has_numbers_that_argparse_reads(names, capfd):
    status, out, _ = run_main(capfd, "--input", "names.txt", "--grid", "init_std=-1e-5", "--steps", "1")
    command = out.splitlines()[-1].removeprefix("best: microgpt train ").split()
    assert status == 0 and microgpt.train.main([*command, "--quiet", "--samples", "0"]) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals, limits and permissions of POSIX")
@pytest.mark.parametrize("name", [b"a", b"-", b"-x", b"-x y", b"two words'", b"caf\xe9", "zo\u00eb".encode(), b"a\nb", b"%s\\$x\x1b"])
def test_the_best_command_names_any_file_as_a_shell_reads_it(name):
    path = os.fsdecode(name)
    given = dict.fromkeys(["split", "csv_column", "json_field", "val_fraction"]) | {"input": [path, path], "json_field": path}
    command = microgpt.sweep.command(SweepResult(Config(seed=-5).as_dict(), "fused"), given)
    shell = f"printf '%s\\0' {command.removeprefix('microgpt train ')}"
    words = subprocess.run(["sh", "-c", os.fsencode(shell)], capture_output=True, check=True).stdout.split(b"\0")[:-1]
    found = microgpt.train.make_parser().parse_args([os.fsdecode(word) for word in words])
    assert (found.input, found.json_field, found.seed) == ([path, path], path, -5) and command.isprintable()


def test_what_is_printed_does_not_depend_on_the_order_in_which_runs_end(names, capfd, monkeypatch):
    arguments = ["--input", "names.txt", "--grid", "n_head=1,3,5,7 seed=1..3", "--steps", "0"]
    printed = [run_main(capfd, *arguments)]
    monkeypatch.setattr("microgpt.parallel.sweeps.run_sweep", lambda *a, **k: reversed([*run_sweep(*a, **k)]))
    assert [run_main(capfd, *arguments)] == printed


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--grid", "learning_rat=1"], "'learning_rat' is no setting; did you mean learning_rate?"),
        (["--grid", "seed=a"], "the values of seed are whole numbers such as 1,2,5 or 1..20, not 'a'"),
        (["--grid", "seed=1..x"], "whole numbers"),
        (["--grid", "seed=5..1"], "seed=5..1 is an empty range"),
        (["--grid", "eps_adam=1..2"], "the values of eps_adam are numbers"),
        (["--grid", "seed"], "seed has no values; write seed=42"),
        (["--grid", "seed="], "seed has no values"),
        (["--grid", "seed=1,"], "whole numbers"),
        (["--grid", "seed=1", "--grid", "seed=2"], "seed is there twice"),
        (["--grid", "steps=1", "--steps", "2"], "--steps and the grid both say"),
        (["--grid", "seed=1", "--workers", "0"], "--workers must be at least 1, not 0"),
        (["--grid", "seed=1", "--executor", "thread"], "not 'thread'; did you mean threads?"),
        (["--grid", "seed=1", "--val-fraction", "2"], "error: --val-fraction must be greater than 0 and less than 1"),
        (["--grid", "seed=1", "--out", "names.txt"], "--out names.txt would overwrite --input: it is the same file"),
        (["--grid", "seed=1", "--out", "a", "--plot", "./a"], "--plot ./a would overwrite --out a: they are the same file"),
        (["--grid", "seed=0..99999999999999999999"], "is more runs than a sweep can have (1000000)"),
        (["--grid", "seed=0..99999 n_embd=4..40"], "3700000 runs are more than a sweep can have (1000000)"),
        (["--grid", "learning_rate=0.1,nan"], "the values of learning_rate are numbers such as 0.003,0.01, not 'nan'"),
        (["--grid", "clip=inf"], "the values of clip are numbers"),
        (["--grid", "seed=1", "--plot", "a.txt"], "--plot draws .png, .svg or .pdf"),
        (["--grid", "seed=1", "--out", "none/a.jsonl"], "No such f"),
        (["--grid", "seed=1", "--save-dir", "none"], "error: none: No such folder"),
        (["--grid", "seed=1", "--save-dir", "names.txt"], "error: names.txt: Not a directory"),
        ([], "which runs? --grid"),
        (["--grid", " "], "which runs? --grid"),
        (["--n-embd", "8"], "settings of the runs are in the grid: --grid n_embd=8"),
        (["--grid", "seed=1", "--n_embd=8,16"], "--grid n_embd=8,16"),
        (["--grid", "seed=1", "--clip", "--quiet"], "--grid clip=off"),
        (["--grid", "seed=1", "--n-embed", "8"], "unrecognized arguments: --n-embed 8"),
    ],
)
def test_bad_input_ends_in_one_line(names, capfd, arguments, message):
    status, out, err = run_main(capfd, "--input", "names.txt", *arguments)
    assert (status, out) == (2, "") and message in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("microgpt: error: ") and sorted(os.listdir()) == ["names.txt"]


@pytest.mark.parametrize("grid, expected, message", [
    ("n_head=3,5", 2, "error: 2 of 2 runs failed; the first, num_steps=3, n_head=3: ValueError: n_embd (16)"),
    ("init_std=1e300 seed=1,2", 3, "error: 2 of 2 runs diverged: their loss is not finite"),
    ("steps=0 seed=1,2", 2, "error: 2 of 2 runs have no step, and so no loss"), ("steps=0,3", 0, "1 of 2 runs have no step"),
    ("n_head=3,4 init_std=1e300", 2, "1 of 2 runs diverged"), ("init_std=1e300,0.1", 0, "1 of 2 runs diverged")])  # fmt: skip
def test_status_of_a_sweep_without_a_result(names, capfd, grid, expected, message):
    steps = [] if "steps" in grid else ["--steps", "3"]
    status, out, err = run_main(capfd, "--input", "names.txt", "--grid", grid, *steps)
    assert status == expected and message in err and "failed" in out and "Traceback" not in err


def test_failed_runs_are_said_and_the_rest_is_shown(names, capfd):
    status, out, err = run_main(capfd, "--input", "names.txt", "--grid", "n_head=3,4", "--steps", "3", "--plot", "loss.png")
    assert status == 0 and "1 of 2 runs failed; the first, num_steps=3, n_head=3: ValueError: n_embd (16)" in err
    assert out.splitlines()[1].split()[0] == "4" and out.splitlines()[2].split() == ["3", "1", "failed"]
    assert (names / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_settings_of_a_run_are_checked_once(monkeypatch):
    made, check = [], Config.__init__
    monkeypatch.setattr(Config, "__init__", lambda self, **settings: made.append(settings) or check(self, **settings))
    grid = {"num_steps": 1, "n_embd": 8, "n_head": [1, 3], "seed": range(2)}
    assert len(list(run_sweep(DOCS, grid, workers=1))) == len(made) == 4


@pytest.mark.parametrize("engine, docs", [("fused", DOCS), ("fused", [*DOCS, "zoë"]), ("graph", DOCS)])
def test_the_documents_of_a_sweep_are_read_once(monkeypatch, engine, docs):
    counts = collections.Counter()
    for place, name in ((data, "_unique_characters"), (sweeps, "check_docs"), (corpus, "TextLines")):
        work = getattr(place, name)
        if name != "TextLines" or engine == "fused":  # isinstance asks for the class
            monkeypatch.setattr(place, name, lambda *a, name=name, work=work: counts.update([name]) or work(*a))
    results = list(run_sweep(docs, {"num_steps": 1, "seed": range(5)}, engine=engine))
    assert len(results) == 5 and set(counts.values()) == {1} and counts["_unique_characters"]


def test_a_sweep_that_is_done_plans_once_and_says_so_if_it_is_large(names, capfd, monkeypatch):
    arguments = ["--input", "names.txt", "--grid", "n_head=1,3 seed=1..3", "--steps", "1", "--out", "runs.jsonl", "--quiet"]
    first = run_main(capfd, *arguments)
    counts = collections.Counter()
    for place, name in ((results_module, "run_key"), (sweeps, "run_key"), (Config, "__init__")):
        work = getattr(place, name)
        monkeypatch.setattr(place, name, lambda *a, name=name, work=work, **k: counts.update([name]) or work(*a, **k))
    monkeypatch.setattr("microgpt.sweep.SLOW_PLAN", 6)
    done = run_main(capfd, *arguments)
    assert done[:2] == first[:2] and "planning 6 runs\n" in done[2] and "planning" not in first[2]
    assert counts["__init__"] <= 6 + 1 and counts["run_key"] <= 2 * 6  # once each for the plan and the file
