"""Pictures of sweeps: the loss over a grid."""
import math

import pytest
from small_sweeps import DOCS

import microgpt
from microgpt import run_sweep


def test_picture_of_a_grid(tmp_path):
    results = list(run_sweep(DOCS, {"num_steps": 3, "learning_rate": [0.001, 0.01, 0.1], "n_embd": [8, 16], "seed": range(2)}))
    figure = microgpt.plot_sweep(results, path=tmp_path / "a.svg", title="six names")
    (axes,) = figure.axes
    assert axes.get_xlabel() == "learning_rate" and axes.get_xscale() == "log"
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    assert set(lines) == {"n_embd 8", "n_embd 16"}
    chosen = [r.score for r in results if (r.settings["n_embd"], r.settings["learning_rate"]) == (8, 0.001)]
    assert lines["n_embd 8"][0] == math.fsum(chosen) / 2
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    with pytest.raises(ValueError, match="x must be a setting, not 'engine'"):
        microgpt.plot_sweep(results, x="engine")
    with pytest.raises(ValueError, match="there is no run to draw"):
        microgpt.plot_sweep([r for r in run_sweep(DOCS, {"n_head": 3})])


def test_picture_of_a_grid_shows_where_runs_failed():
    results = list(run_sweep(DOCS, {"num_steps": 9, "learning_rate": [-1, 0.001, 0.1, "x", 1e30, 1e300], "seed": range(2)}))
    (axes,) = microgpt.plot_sweep(results).figure.axes
    mean, failed = axes.get_lines()
    assert [*mean.get_xdata()] == [0.001, 0.1] and axes.get_xscale() == "log"
    assert [*failed.get_xdata()] == [1e30] and failed.get_label() == "failed or diverged"


@pytest.mark.parametrize("grid, words", [
    ({"schedule": ["linear", "cosine"], "seed": [1, 2]}, ["cosine", "linear"]), ({"clip": [None, 1, 0.5]}, ["0.5", "1", "off"]),
    ({"seed": [10**400, 5]}, ["5", "100000000...00000000"]), ({"n_layer": [1, 0], "clip": [None, 1]}, ["0", "1"])])  # fmt: skip
def test_picture_of_a_grid_of_words(grid, words):
    (axes,) = microgpt.plot_sweep(run_sweep(DOCS, {"num_steps": 2, **grid})).figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == words


def test_picture_of_a_grid_has_the_names_of_many_lines_beside_it():
    results = run_sweep(DOCS, {"num_steps": 1, "n_embd": [4, 8, 12, 16], "n_layer": [0, 1], "learning_rate": [0.01, 0.1]})
    figure = microgpt.plot_sweep(results, x="learning_rate")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert axes.get_legend().get_window_extent().x0 > axes.get_window_extent().x1
