"""The contest of the benchmarks: verdicts are computed from the numbers, noise is reported, contenders compute the model.

No test asserts a time.
"""
import math
import random
import statistics
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT, hexes

sys.path.insert(0, str(ROOT / "bench"))

import bench_shapes  # noqa: E402
import numpy_gpt  # noqa: E402
import user_gpt  # noqa: E402
from harness import cli, contender, contest, edited, measure, task  # noqa: E402

from microgpt import Config, reference  # noqa: E402

NAMES = ["emma", "olivia", "ava", "isabella", "sophia", "charlotte", "mia", "amelia", "harper", "evelyn"]


# ---- verdicts ----


def test_verdict_notices_one_ulp():
    losses = [3.3, 2.7, 2.5]
    assert measure.verdict(losses, losses)["bits"] is True
    off = measure.verdict([3.3, math.nextafter(2.7, 3), 2.5], losses)
    assert (off["bits"], off["print"], off["same_bits"]) == (False, True, 2)
    assert measure.verdict([3.3, 2.71, 2.5], losses)["print"] is False
    assert measure.verdict(None, losses)["bits"] is None
    assert measure.verdict([-0.0], [0.0])["bits"] is False
    assert measure.verdict(losses, losses, parameters_equal=False)["bits"] is False
    assert measure.verdict(losses, losses, parameters_equal=None)["bits"] is True
    assert measure.digest([1.0, 0.0]) == measure.digest([1, 0.0]) != measure.digest([1.0, -0.0])


def test_same_model_rejects_losses_beyond_the_tolerance():
    assert measure.same_model([1.0, 2.0 + 1e-12], [1.0, 2.0], 1e-9) is None
    assert "the loss of step 2 is 2.1" in measure.same_model([1.0, 2.1], [1.0, 2.0], 1e-9)
    assert "nan" in measure.same_model([float("nan")], [1.0], 1e-3)


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
    fake, one = Fake("fake", runs), contest.Contest(SimpleNamespace(rounds=2, least=0.0, clock="wall"), None)
    one.warnings.clear()  # of this machine
    rows = one.each(["a case"], lambda case, field: one.play([fake], Fake("judge", [judge]), None, 2))
    return rows, one.absent, one.warnings


def test_contest_takes_the_verdict_of_the_worst_round():
    right, wrong = ((3.0, 2.0, 1.5), "d"), ((3.0, 2.0, math.nextafter(1.5, 2)), "d")
    (row,), absent, warnings = play([right] * 3)
    assert row["bits"] is True and row["rounds"] == [0.5, 0.5] and not absent  # per step
    assert warnings == ["a case: noisy: other processes used the core for more than 10% of the time of fake"]
    (row,), _, warnings = play([right, right, wrong])
    assert row["bits"] is False and warnings[0] == "a case: fake is not reproducible: its losses differ between rounds"
    (row,), _, _ = play([right, right, ((3.0, 2.0, 1.5), "other parameters")])
    assert row["bits"] is False and row["parameters"] is False


def test_contest_does_not_time_a_different_model():
    rows, absent, _ = play([((3.0, 2.1, 1.5), "d")])
    assert rows == [] and "the loss of step 2 is 2.1" in absent["fake, a case"]


def test_first_loss_of_a_batch_is_the_mean_over_its_documents(tmp_path):
    the_task = task.write(tmp_path, NAMES, 4)
    rng, docs = random.Random(42), list(NAMES)
    rng.shuffle(docs)
    model = reference.GPT(the_task.vocab_size, **the_task.settings, rng=rng)
    expected = statistics.fmean(reference.document_loss(tokens, model).data for tokens in the_task.tokens)
    assert contest.batch_loss(the_task, 4) == pytest.approx(expected, abs=1e-12)


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
    assert "".join(name for _, name in measure.turns(["a", "b", "c"], 4)) == "abc" "bca" "cab" "abc"
    assert [i for i, _ in measure.turns(["a", "b"], 2)] == [0, 0, 1, 1] and [*measure.turns([], 2)] == []


def test_contest_drops_a_contender_that_fails_meanwhile():
    """The others go on; it is not run again, and not in the rows."""
    right = ((3.0, 2.0, 1.5), "d")
    failing, other = Fake("failing", [right, right]), Fake("other", [right] * 4)  # the check, and a round

    def run(steps, run=failing.run):
        try:
            return run(steps)
        except StopIteration:
            failing.run = None
            raise contender.Unavailable("its process ended") from None

    failing.run = run
    one = contest.Contest(SimpleNamespace(rounds=3, least=0.0, clock="cpu"), None)
    rows = one.play([failing, other], Fake("judge", [right]), None, 2)
    assert [row["name"] for row in rows] == ["other"] and rows[0]["rounds"] == [0.25] * 3
    assert one.absent == {"failing": "its process ended"}


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
    assert hexes(the_task.params()) == hexes(p.data for p in model.params)
    run = numpy_gpt.make(the_task)
    for tokens in the_task.tokens:
        loss = reference.document_loss(tokens, model)
        loss.backward()
        assert run.forward_backward(tokens) == pytest.approx(loss.data, abs=1e-12)
        assert max(abs(g - p.grad) for g, p in zip(run.grads, model.params)) < 1e-12
        for p in model.params:
            p.grad = 0


def test_the_arithmetic_is_counted_from_the_shape():
    # Forward 2 * (12*16*16 + 27*16) and 4*16 of attention for a document of one position, three times; 14 a parameter.
    assert bench_shapes.flops(1, 27, Config()) == 3 * (2 * 3504 + 64) + 14 * 4192


def test_synthetic_documents_have_one_length_and_every_letter():
    documents = bench_shapes.synthetic_documents(7, 999)
    assert {len(document) for document in documents} == {7} and len(set("".join(documents))) == 999


def test_compiled_user_code_is_replayed_for_every_length(tmp_path):
    """A row "compiled" that fell back to eager would have the same bits, and say something else."""
    run = user_gpt.make(task.write(tmp_path, NAMES, 4), user_gpt.COMPILED)
    assert "run as written" not in run.loss.explain() and run.loss.explain().count("compiled: ") == len(set(map(len, run.task.tokens)))


def test_edited_programs_change_one_thing(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import os\nn_embd = 16     # embedding dimension\nclass Value:\n    x = 1\nprint(Value)\n", encoding="utf-8")
    changed = edited.replaced(script, "\nn_embd = 16 ", "\nn_embd = 64 ", tmp_path / "copy.py").read_text(encoding="utf-8")
    assert changed == script.read_text(encoding="utf-8").replace("16", "64")
    with pytest.raises(SystemExit, match=r"has no '\\nn_embd = 16 '"):
        edited.replaced(tmp_path / "copy.py", "\nn_embd = 16 ", "", tmp_path / "other.py")
    changed = edited.with_imports(script, ("Value",), tmp_path / "copy.py").read_text(encoding="utf-8")
    assert changed == "import os\nn_embd = 16\nfrom microgpt import Value\nprint(Value)"
    with pytest.raises(SystemExit, match="does not define Value, linear once each"):
        edited.with_imports(script, ("Value", "linear"), tmp_path / "copy.py")


def test_pairs_need_a_name_and_a_value():
    assert cli.pair("old=/a=b") == ("old", "/a=b")
    for text in ("old", "old=", "=/a"):
        with pytest.raises(ValueError):
            cli.pair(text)
