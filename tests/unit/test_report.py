"""The report: what it says of one run, where two runs differ, and that the page needs nothing but itself."""
import json
import os
import re
import shutil
import subprocess
import tempfile
from html import unescape

import pytest
from children import LIMIT
from html_pages import WellFormed

from microgpt import RunLogger, Trainer
from microgpt.storage.runlog import compare, read_log
from microgpt.viz.curves import smoothed

NAMES = ["emma", "olivia", "ava", "isabella", "sophia", "charlotte", "mia", "zoë sky"]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Logs of a run with validation, of the same by another engine, of another seed, and of one damaged at step 7."""
    from microgpt import train

    folder = tmp_path_factory.mktemp("logs")
    (folder / "text.txt").write_text("\n".join(NAMES), encoding="utf-8")
    (folder / "val.txt").write_text("mila\n", encoding="utf-8")
    common = ["--input", str(folder / "text.txt"), "--steps", "12", "--n-embd", "4", "--n-head", "2", "--n-layer", "2",
              "--quiet", "--look-every", "4", "--val", str(folder / "val.txt"), "--val-every", "3"]  # fmt: skip
    for name, flags in [("one", []), ("graph", ["--engine", "graph"]), ("seed", ["--seed", "7"])]:
        assert train.main([*common, *flags, "--log", str(folder / f"{name}.jsonl")]) == 0
    return folder


def rewritten(logs, name, change):
    records = read_log(logs / "one.jsonl")
    for record in records:
        change(record)
    path = logs / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_same_run_by_another_engine(logs):
    found = compare(read_log(logs / "one.jsonl"), read_log(logs / "graph.jsonl"))
    assert found.same and found.common == found.digests == 12
    assert str(found) == "the same run: all 12 common steps have the same losses and tensors, bit for bit"
    assert found.settings["engine"] == ("fused", "graph")


def test_first_step_and_tensor_that_differ_are_named(logs):
    def change(record):
        if record["step"] >= 7:
            record["digests"]["layer1.attn_wo"] = record["digests"]["layer1.mlp_fc1"] = "0" * 16
        if record["step"] >= 8:
            record["loss_hex"] = float.fromhex(record["loss_hex"]).hex().replace("p", "1p")

    found = compare(read_log(logs / "one.jsonl"), read_log(rewritten(logs, "seven.jsonl", change)))
    assert not found.same and (found.first_loss, found.first_digest) == (8, 7)
    assert found.tensors == ["layer1.attn_wo", "layer1.mlp_fc1"]
    assert str(found) == (
        "the runs differ first after step 7 in the tensor layer1.attn_wo and 1 more; then at step 8 in the loss"
    )


def test_loss_alone_differs(logs):
    def change(record):
        if record["step"] == 5:
            record["loss_hex"] = "0x1p0"

    found = compare(read_log(logs / "one.jsonl"), read_log(rewritten(logs, "five.jsonl", change)))
    assert str(found) == "the runs differ first at step 5 in the loss"


def test_logs_with_fewer_digests_or_no_step_in_common(logs):
    def change(record):
        if record["step"] % 4:
            del record["digests"]

    found = compare(read_log(logs / "one.jsonl"), read_log(rewritten(logs, "four.jsonl", change)))
    assert "the same losses and, after 3 of them, tensors" in str(found)
    found = compare(read_log(logs / "one.jsonl"), read_log(rewritten(logs, "none.jsonl", lambda r: r.pop("digests"))))
    assert "have the same losses, bit for bit" in str(found)
    shifted = [dict(record, step=record["step"] + 100) for record in read_log(logs / "one.jsonl")]
    assert not compare(read_log(logs / "one.jsonl"), shifted).same


def report(in_process, logs, *arguments, status=0):
    done = in_process("report", *arguments, cwd=logs)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_page_of_one_run(in_process, logs):
    done = report(in_process, logs, "one.jsonl", "-o", "one.html")
    assert "wrote one.html" in done.stderr and done.stdout == ""
    html = (logs / "one.html").read_text(encoding="utf-8")
    page, text = WellFormed(html), None
    text = " ".join(page.text)
    records = read_log(logs / "one.jsonl")
    for heading in ("Loss", "Samples over time", "Attention", "Settings and machine"):
        assert ("h2", {}) in page.tags and heading in page.text
    for record in records:
        if "samples" in record:
            for sample in record["samples"]:
                assert sample in text
    for value in records[0]["run"]["machine"].values():
        assert value in text
    loss, rates, (attention,) = data_of(html)["loss"], data_of(html)["rates"], data_of(html)["attention"]
    assert [curve["name"] for curve in loss] == ["loss of each step", "moving average", "validation"]
    assert loss[0]["x"] == list(range(1, 13)) and loss[0]["y"] == [float(f"{r['loss']:.6g}") for r in records]
    assert loss[2]["x"] == [3, 6, 9, 12] and len(rates[0]["y"]) == 12
    # 4 heads, each a triangle of as many rows as the text has tokens.
    n = len(records[-1]["attention"]["text"]) + 1
    assert attention["labels"][1:] == list(records[-1]["attention"]["text"]) and len(attention["maps"][-1]) == 4
    assert [len(row) for row in attention["maps"][-1][3]] == list(range(1, n + 1))


def data_of(html):
    """What the page's script draws."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])


def test_head_line_has_the_moving_average_and_the_validation_loss(in_process, logs):
    report(in_process, logs, "one.jsonl", "-o", "one.html")
    records = read_log(logs / "one.jsonl")
    text = " ".join(WellFormed((logs / "one.html").read_text(encoding="utf-8")).text)
    average = smoothed([record["loss"] for record in records])[-1]
    measured = [(record["val_loss"], record["step"]) for record in records if "val_loss" in record]
    assert f"moving average of the loss {average:.4f}, validation loss {measured[-1][0]:.4f}" in text
    lowest, step = min(measured)
    assert (f"(lowest {lowest:.4f}, at step {step})" in text) == (lowest != measured[-1][0])


def test_any_number_of_runs(in_process, logs):
    done = report(in_process, logs, "one.jsonl", "graph.jsonl", "seed.jsonl", "-o", "three.html")
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and lines[0].startswith("one.jsonl and graph.jsonl: the same run: all 12 common steps")
    assert lines[1].startswith("one.jsonl and seed.jsonl: the runs differ first at step 1 in the loss")
    html = (logs / "three.html").read_text(encoding="utf-8")
    page, data = WellFormed(html), data_of(html)
    assert [attrs.get("class") for tag, attrs in page.tags if tag == "p" and "verdict" in attrs.get("class", "")][:2] == [
        "verdict same", "verdict differ"]  # fmt: skip
    assert [curve["kind"] for curve in data["loss"]] == ["run0", "val run0", "run1", "val run1", "run2", "val run2"]
    assert len(data["rates"]) == len(data["attention"]) == 3
    report(in_process, logs, *["one.jsonl"] * 9, "-o", "nine.html")
    assert "one.jsonl and 8 more runs" in (logs / "nine.html").read_text(encoding="utf-8")


def test_attention_of_runs_on_one_text_is_of_the_same_word(in_process, logs):
    report(in_process, logs, "one.jsonl", "seed.jsonl", "-o", "two.html")
    attention = data_of((logs / "two.html").read_text(encoding="utf-8"))["attention"]
    assert attention[0]["labels"] == attention[1]["labels"] == ["·", *"olivia"]
    assert attention[0]["maps"] != attention[1]["maps"]


def test_page_needs_no_network(in_process, logs):
    report(in_process, logs, "one.jsonl", "graph.jsonl", "-o", "both.html")
    html = (logs / "both.html").read_text(encoding="utf-8")
    page = WellFormed(html)
    for tag, attrs in page.tags:
        assert not {"src", "href", "action", "data", "srcset"} & set(attrs), (tag, attrs)
        assert tag not in ("link", "iframe", "object", "embed", "img", "base", "form")
    assert "default-src 'none'" in html and "http" not in html.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert "@import" not in html and "url(" not in html
    assert "unsafe" not in html and html.count("'sha256-") == 2


def test_page_of_two_runs(in_process, logs):
    done = report(in_process, logs, "one.jsonl", "seed.jsonl", "-o", "two.html")
    verdict = r"the runs differ first at step 1 in the loss; then after step 1 in the tensor wte and \d+ more\n"
    assert re.fullmatch(verdict, done.stdout)
    page = WellFormed((logs / "two.html").read_text(encoding="utf-8"))
    assert "The runs differ first at step 1" in " ".join(page.text)
    assert ("tr", {"class": "differs"}) in page.tags and "layer1.mlp_fc2" in page.text
    same = report(in_process, logs, "one.jsonl", "graph.jsonl", "-o", "same.html")
    assert same.stdout.startswith("the same run: all 12 common steps")
    page = WellFormed((logs / "same.html").read_text(encoding="utf-8"))
    assert any(attrs.get("class") == "verdict same" for _, attrs in page.tags)


def test_text_of_a_log_cannot_become_markup(in_process, logs):
    def change(record):
        if "samples" in record:
            record["samples"] = ["</script><script>alert(1)</script>"] * 3
        if "attention" in record:
            n = len(record["attention"]["text"])
            record["attention"]["text"] = "<b>&\""[:n].ljust(n, "<")
        if "run" in record:
            record["run"]["text"] = "<img src=x onerror=alert(1)>"

    path = rewritten(logs, "<b>nasty.jsonl" if os.name == "posix" else "nasty.jsonl", change)
    report(in_process, logs, path, "-o", "nasty.html")
    page = WellFormed((logs / "nasty.html").read_text(encoding="utf-8"))
    tags = [tag for tag, _ in page.tags]
    assert "img" not in tags and tags.count("script") == 2  # the data and the script


def test_data_for_the_script_cannot_end_its_element():
    from microgpt.web.report_page import _embedded

    assert "<" not in _embedded({"text": "</script><b>"}) and json.loads(_embedded({"text": "<"})) == {"text": "<"}


@pytest.mark.parametrize("value", [None, 1, "x", [], {}, {"text": "ab", "weights": [[[[1]]]]},
                                   {"text": 1, "weights": []}, {"text": "", "weights": [[[["x"]]]]},
                                   {"text": "", "weights": [[[[9]]]]}])  # fmt: skip
def test_odd_logs_make_a_page_all_the_same(in_process, logs, value):
    def change(record):
        record.update(attention=value, samples=value, loss=value, learning_rate=value, val_loss=value, digests=value)

    report(in_process, logs, rewritten(logs, "odd.jsonl", change), "-o", "odd.html")
    WellFormed((logs / "odd.html").read_text(encoding="utf-8"))


def test_what_cannot_be_reported(in_process, logs):
    (logs / "notes.txt").write_text("no log\n", encoding="utf-8")
    for arguments, part in [
        (["nowhere.jsonl"], "nowhere.jsonl: No such file"),
        (["notes.txt", "-o", "x.html"], "notes.txt is not the log of a run: line 1 is not a step"),
        (["one.jsonl", "-o", "no/folder.html"], "no"),
        (["one.jsonl", "-o", "one.jsonl"], "would overwrite the log"),
    ]:
        before = {name: (logs / name).read_bytes() for name in os.listdir(logs)}
        done = report(in_process, logs, *arguments, status=2)
        assert part in done.stderr.splitlines()[-1]
        assert {name: (logs / name).read_bytes() for name in os.listdir(logs)} == before


def test_default_page_replaces_a_report_and_nothing_else(in_process, logs):
    page = logs / "one.html"
    page.unlink(missing_ok=True)
    report(in_process, logs, "one.jsonl")
    report(in_process, logs, "one.jsonl", "seed.jsonl")  # its own page again
    for content in (b"<html>mine</html>", b"", b"\xff" * 600):
        page.write_bytes(content)
        done = report(in_process, logs, "one.jsonl", status=2)
        assert "one.html exists and is no report; give -o one.html" in done.stderr and page.read_bytes() == content
    report(in_process, logs, "one.jsonl", "-o", "one.html")
    assert page.read_bytes().startswith(b"<!DOCTYPE html>")


def test_page_that_is_a_log_is_refused_however_it_is_spelled(in_process, logs):
    shutil.copy(logs / "one.jsonl", logs / "log.html")
    spellings = ["log.html", "./log.html", str(logs / "log.html")]
    if os.name == "posix":
        (logs / "link.html").symlink_to("log.html")
        os.link(logs / "log.html", logs / "hard.html")
        spellings += ["link.html", "hard.html"]
    before = (logs / "log.html").read_bytes()
    for spelling in spellings:
        assert "would overwrite the log" in report(in_process, logs, "log.html", "-o", spelling, status=2).stderr
        assert "would overwrite the log" in report(in_process, logs, "one.jsonl", "log.html", "-o", spelling, status=2).stderr
    assert "would overwrite the log" in report(in_process, logs, "log.html", status=2).stderr
    for output in ("", "no/", "."):
        report(in_process, logs, "one.jsonl", "-o", output, status=2)
    assert (logs / "log.html").read_bytes() == before


def test_names_of_a_foreign_log_cannot_command_the_terminal(in_process, logs):
    def change(record):
        record["digests"] = {"\x1b]0;owned\x07\n\u202e": record["step"]}

    done = report(in_process, logs, "one.jsonl", rewritten(logs, "foreign.jsonl", change), "-o", "foreign.html")
    assert done.stdout.count("\n") == 1 and done.stdout[:-1].isprintable()
    assert "after step 1 in the tensor wte and" in done.stdout
    done = report(in_process, logs, rewritten(logs, "foreign.jsonl", change), "one.jsonl", "-o", "foreign.html")
    assert r"in the tensor \x1b]0;owned\x07\n\u202e and" in done.stdout


@pytest.mark.slow
def test_log_of_very_many_steps_makes_a_page_of_bounded_size(in_process, logs):
    first = read_log(logs / "one.jsonl")[0]
    with open(logs / "long.jsonl", "w", encoding="utf-8") as file:
        for step in range(1, 60001):
            record = {**(first if step == 1 else {}), "step": step, "loss": 3 - step / 60000, "loss_hex": "0x1p0",
                      "learning_rate": 0.01}  # fmt: skip
            file.write(json.dumps(record) + "\n")
    report(in_process, logs, "long.jsonl", "-o", "long.html")
    assert (logs / "long.html").stat().st_size < 300_000


def test_page_that_cannot_be_written_leaves_the_old_one(logs, monkeypatch, capsys):
    from microgpt import report

    def full(*_):
        raise OSError(28, "No space left on device")

    (logs / "kept.html").write_text("old", encoding="utf-8")
    monkeypatch.setattr(os, "fsync", full)
    assert report.main([str(logs / "one.jsonl"), "-o", str(logs / "kept.html")]) == 2
    assert "kept.html: No space left on device" in capsys.readouterr().err
    assert (logs / "kept.html").read_text(encoding="utf-8") == "old"


PROBE = """<script>
  const pick = (id, x, y) => { // what is read out under the pointer, at this part of an element's width and height
    const node = document.querySelector(id), box = node.getBoundingClientRect();
    node.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + x * box.width, clientY: box.top + y}));
    return node;
  };
  const slider = document.getElementById("look"), found = {errors: window.errors, ready: document.documentElement.dataset.ready};
  const readout = document.querySelector(".readout");
  document.querySelector("canvas.maps").dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowDown"}));
  found.before = readout.textContent;
  slider.value = 0; slider.dispatchEvent(new Event("input"));
  found.after = readout.textContent;
  const chart = pick("#loss .plot", 0.5, 9);
  Object.assign(found, {looked: document.getElementById("looked").textContent, at: document.querySelector("#loss .where").textContent,
    loss: document.querySelector("#loss output").textContent, said: chart.getAttribute("aria-valuetext"),
    curves: document.querySelectorAll("#loss .plot path").length,
    axes: [...document.querySelectorAll("#loss .axis")].map((n) => n.textContent),
    ticks: [...document.querySelectorAll("#loss .tick")].map((n) => n.textContent),
    wide: document.documentElement.scrollWidth <= window.innerWidth, height: chart.getBoundingClientRect().height});
  const out = document.createElement("pre"); out.id = "found"; out.textContent = JSON.stringify(found);
  document.body.append(out);
</script></body>"""


def in_chromium(page, *flags):
    """The document of a page after its scripts have run."""
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # a sanitizer is for us alone
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars",
                   f"--user-data-dir={profile}"]  # fmt: skip
        return subprocess.run([CHROMIUM, *options, *flags, page.as_uri()], env=env, capture_output=True, text=True,
                              encoding="utf-8", timeout=LIMIT, check=True).stdout  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
@pytest.mark.parametrize("scheme, width", [("light", 1400), ("dark", 500)])
def test_page_in_a_browser(in_process, logs, scheme, width):
    """Rendered: the scripts run to their end under the page's own policy, and slider and pointer work."""
    report(in_process, logs, "one.jsonl", "seed.jsonl", "-o", "browser.html")
    html = (logs / "browser.html").read_text(encoding="utf-8")
    flags = [f"--window-size={width},1600", *["--force-dark-mode"] * (scheme == "dark")]
    assert 'data-ready="yes"' in in_chromium(logs / "browser.html", *flags, "--dump-dom")
    if scheme == "light":
        changed = html.replace('"use strict";', '"use strict"; ', 1)  # one byte, and the policy forbids the script
        (logs / "changed.html").write_text(changed, encoding="utf-8")
        assert 'data-ready="yes"' not in in_chromium(logs / "changed.html", *flags, "--dump-dom")
    catch = "<script>window.errors = []; window.onerror = (m) => { window.errors.push(m); };</script></head>"
    probe = re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", html).replace("</head>", catch).replace("</body>", PROBE)
    (logs / "probe.html").write_text(probe, encoding="utf-8")
    dom = in_chromium(logs / "probe.html", *flags, "--dump-dom")
    picture = logs / f"{scheme}.png"
    in_chromium(logs / "browser.html", *flags, f"--screenshot={picture}")
    found = json.loads(unescape(re.search(r'<pre id="found">(.*?)</pre>', dom, re.S)[1]))
    looks = [record for record in read_log(logs / "one.jsonl") if "attention" in record]
    weights = [record["attention"]["weights"][0][0][1][0] for record in looks]
    assert found["ready"] == "yes" and found["errors"] == [] and found["wide"] and found["height"] > 200
    for text, weight in ((found["before"], weights[-1]), (found["after"], weights[0])):
        assert text == f"layer 0, head 0: reading “o”, it attends to “·” with {weight:.3f}"
    assert weights[0] != weights[-1] and found["looked"] == str(looks[0]["step"])
    assert re.fullmatch(r"at step [67]", found["at"]) and float(found["loss"]) > 1 and found["said"].startswith(found["at"])
    assert found["axes"] == ["step", "loss (nats per token)"] and found["curves"] == 6 and {"3", "10"} <= {*found["ticks"]}
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000


def test_trainer_s_own_log(tmp_path):
    """From Python, without the command."""
    trainer, log = Trainer(NAMES, num_steps=3, n_embd=4, n_head=2), RunLogger(tmp_path / "run.jsonl")
    for _ in range(3):
        trainer.run(1, callbacks=[log])
    assert [record["step"] for record in read_log(tmp_path / "run.jsonl")] == [1, 2, 3]
