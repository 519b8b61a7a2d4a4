"""The page of `microgpt play` from outside: what its server answers, refuses, and computes."""
import json
import os
import shlex
import socket
import threading
import time

import pytest
from children import LIMIT
from play_server import SMALL, TEXT, TOKEN, error_of, run, send, serving, write_text

from microgpt import Trainer, load_docs
from microgpt.data import BUNDLED
from microgpt.web import workbench as workbenches
from microgpt.web.requests import RequestError
from microgpt.web.server import PlayServer
from microgpt.web.workbench import SAMPLES, Workbench


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def server(text_file):
    with serving(text_file) as found:
        yield found


# ---- who may ask ----


def test_page_and_its_files_are_served_and_load_nothing_else(server):
    kinds = {".js": "text/javascript", ".css": "text/css"}
    for name in ("", "play.js", "play_draw.js", "chart.js", "page.css", "play.css", "about"):
        kind = kinds.get(os.path.splitext(name)[1], "application/json" if name else "text/html")
        status, headers, body = send(server, "GET", f"/{TOKEN}/{name}")
        assert status == 200 and headers["Content-Type"].startswith(kind) and body
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'") and "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
        assert b"http:" not in body.replace(b"http://www.w3.org/2000/svg", b"") and b"https:" not in body
        if name == "":
            assert b"<script>" not in body and b"style=" not in body and b" onclick" not in body


@pytest.mark.parametrize("path", ["/", f"/{TOKEN}", f"/{TOKEN[:-1]}/", f"/{TOKEN}x/", f"/{TOKEN.upper()}/", "*", "/%C3%BC/",
                                  f"http://evil/{TOKEN}/"])  # fmt: skip
def test_address_without_the_token_is_refused(server, path):
    assert "no such address" in error_of(send(server, "GET", path), 404)


@pytest.mark.parametrize("name", ["names.txt", "../play.py", "..%2fplay.py", "play.html", "server.py", "run"])
def test_no_other_file_is_served(server, name):
    assert "no such page" in error_of(send(server, "GET", f"/{TOKEN}/{name}"), 404)


@pytest.mark.parametrize("host", [None, "", "evil.example", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{port}", "[::1]:{port}",
                                  "0.0.0.0:{port}", "user@127.0.0.1:{port}"])  # fmt: skip
def test_foreign_host_is_refused(server, host):
    host = host and host.format(port=server.server_port)
    for method, path in (("GET", f"/{TOKEN}/"), ("POST", f"/{TOKEN}/run")):
        assert "Host" in error_of(send(server, method, path, Host=host), 403)


@pytest.mark.parametrize(
    "origin",
    [None, "null", "http://evil.example", "https://127.0.0.1:{port}", "http://127.0.0.1", "http://127.0.0.1:1"],
)
def test_foreign_origin_is_refused(server, origin):
    origin = origin and origin.format(port=server.server_port)
    assert "Origin" in error_of(send(server, Origin=origin), 403)
    if origin is not None:
        assert "Origin" in error_of(send(server, "GET", f"/{TOKEN}/", Origin=origin), 403)


def test_localhost_is_this_server_too(server):
    name = f"localhost:{server.server_port}"
    assert send(server, "GET", f"/{TOKEN}/", Host=name)[0] == 200
    assert send(server, body=json.dumps(SMALL).encode(), Host=name, Origin=f"http://{name}")[0] == 200


def test_server_listens_on_the_loopback_interface_alone(server):
    assert server.socket.getsockname()[0] == "127.0.0.1" and server.socket.family == socket.AF_INET


def test_address_for_the_browser_s_command_line_leads_to_the_page_once(text_file):
    with PlayServer(Workbench(str(text_file)), TOKEN) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.02,))
        thread.start()
        path = "/" + found.opening_url.rpartition("/")[2]
        error_of(send(found, "GET", path, Host="evil.example"), 403)  # and it is not used up
        error_of(send(found, "POST", path), 404)
        status, headers, body = send(found, "GET", path)
        assert (status, headers["Location"], body) == (302, f"/{TOKEN}/", b"")
        error_of(send(found, "GET", path), 404)
        found.shutdown()
        thread.join(LIMIT)


# ---- what is computed ----


def test_result_has_the_losses_and_samples_of_a_trainer(server):
    found = run(server, text="names", word="emma")
    trainer = Trainer(load_docs(BUNDLED), num_steps=20, n_embd=8, n_head=2, block_size=8)
    assert found["losses"] == trainer.run()
    assert found["samples"] == trainer.sample(SAMPLES) and found["kind"] == "result"
    assert found["num_params"] == trainer.model.num_params and found["docs"] == 32469
    word = found["word"]
    assert word["labels"] == ["·", "e", "m", "m", "a"] and len(word["attention"]) == 2
    assert [len(row) for row in word["attention"][0]] == [1, 2, 3, 4, 5] and abs(
        sum(word["attention"][1][4]) - 1
    ) < 1e-3
    assert len(word["next"]) == 5 and word["next"][0][0][1] >= word["next"][0][1][1]
    assert len(found["embeddings"]["x"]) == 27 and len(found["average"]) == 20


def printed_by(in_process, commands, cwd):
    """The losses and samples that the commands of the page print."""
    lines = []
    for line in commands:
        words = shlex.split(line)
        assert words[0] == "microgpt"
        done = in_process(*words[1:], cwd=cwd)
        assert done.returncode == 0, done.stderr
        lines += done.stdout.splitlines()
    losses = [line.split("loss ")[1] for line in lines if line.startswith("step")]
    return losses, [line.split(": ", 1)[1] for line in lines if line.startswith("sample ")]


@pytest.mark.parametrize("settings", [
    {"text": "names"}, {"text": "file", "seed": -3, "learning_rate": 0.02, "temperature": 0.75},
    {"text": "file", "top_k": 2}, {"text": "lines", "lines": TEXT, "n_layer": 2}, {"text": "names", "val_fraction": 0.003},
    {"text": "names", "val_fraction": 0.01, "top_k": 3, "temperature": 2.0, "steps": 11},
    {"text": "file", "schedule": "cosine", "warmup": 3, "weight_decay": 0.5, "clip": 0.25}, {"text": "file", "schedule": "constant"},
], ids=range(8))  # fmt: skip
def test_command_of_the_page_prints_what_the_page_shows(server, in_process, tmp_path, settings):
    found = run(server, **settings)
    (tmp_path / "lines.txt").write_text(settings.get("lines", ""), encoding="utf-8")
    losses, samples = printed_by(in_process, found["command"], tmp_path)
    assert losses == [f"{loss:.4f}" for loss in found["losses"]]
    assert samples == [text.rstrip() if text.isspace() else text for text in found["samples"]] and len(samples) == 20


def test_command_names_the_bundled_text_where_another_would_be_read(server, tmp_path, monkeypatch):
    (tmp_path / "input.txt").write_text("other\n")
    monkeypatch.chdir(tmp_path)
    assert "--input" in run(server, text="names")["command"][0]


def test_validation_is_that_of_the_command(server, in_process, tmp_path):
    found = run(server, text="names", val_fraction=0.003)
    assert [step for step, _ in found["validation"]] == list(range(4, 21, 4)) and found["val_docs"] > 50
    words = shlex.split(found["command"][0])
    in_process(*words[1:], "--log", "run.jsonl", cwd=tmp_path)
    records = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert found["validation"] == [[r["step"], r["val_loss"]] for r in records if "val_loss" in r]
    assert found["digests"] == records[-1]["digests"]


def test_pasted_lines_are_read_as_a_file_is(server):
    pasted, file = run(server, text="lines", lines=TEXT), run(server, text="file")
    for name in ("losses", "samples", "digests", "docs", "vocab_size"):
        assert pasted[name] == file[name]


def test_another_word_or_temperature_has_the_bits_of_a_new_run(server):
    first = run(server, text="file", temperature=1.0)
    for change in ({"temperature": 0.3}, {"top_k": 2}, {"word": "ava"}, {"temperature": 1.0}):
        kept = run(server, text="file", **change)
        other = Workbench(server.workbench.path)
        lines = []
        other.answer(json.dumps({**SMALL, "text": "file", **change}).encode(), lines.append)
        new = json.loads(json.dumps(lines[-1]))
        for name in ("losses", "samples", "digests", "word", "command"):
            assert kept[name] == new[name]
        assert new["is_new"] and not kept["is_new"]
    assert kept["samples"] == first["samples"]


POEM = "Roses are red,\nviolets are blue.\n\nSugar is sweet\nand so are you.\n" * 4


@pytest.mark.parametrize("split", ["lines", "paragraphs", "chunks"])
def test_text_may_be_split_as_the_command_splits_it(server, in_process, tmp_path, split):
    found = run(server, text="lines", lines=POEM, split=split, val_fraction=None)
    (tmp_path / "lines.txt").write_text(POEM, encoding="utf-8")
    losses, _ = printed_by(in_process, found["command"], tmp_path)
    assert losses == [f"{loss:.4f}" for loss in found["losses"]]
    assert ("--split" in found["command"][0]) == (split != "lines")
    assert found["docs"] == {"lines": 16, "paragraphs": 5, "chunks": -(-len(POEM.strip()) // 8)}[split]
    assert split == "lines" or "⏎" in found["embeddings"]["labels"]


@pytest.mark.parametrize("text, expected", [
    ({"text": "names"}, 0.003), ({"text": "lines", "lines": TEXT}, None), ({"text": "lines", "lines": "ab\nba\n" * 10}, 0.1),
])  # fmt: skip
def test_automatic_fraction_depends_on_the_number_of_documents(server, text, expected):
    command = run(server, val_fraction="auto", **text)["command"][0]
    assert (f"--val-fraction {expected}" in command) if expected else "--val" not in command


@pytest.mark.parametrize("settings, part", [({"word": "emmañ"}, "'ñ'"), ({"word": "emmaemmaemma"}, "block_size 8"), ({"word": ""}, None),
                                            ({"n_layer": 0}, None)])  # fmt: skip
def test_word_that_the_model_cannot_read_is_said_and_the_rest_is_drawn(server, settings, part):
    found = run(server, **settings)
    assert (part is None) != ("error" in found["word"]) and len(found["samples"]) == 20
    if part:
        assert part in found["word"]["error"]


def test_run_that_diverges_is_said(server):
    found = run(server, text="names", learning_rate=1.0)
    assert len(found["losses"]) == 2 and found["diverged"].startswith("the run diverged at step 3")
    found = run(server, text="names", steps=2, learning_rate=10.0, n_layer=3, temperature=0.01)
    json.dumps(found, allow_nan=False)
    assert found["samples"] == [] or len(found["samples"]) == 20


# ---- one training at a time ----


def test_newer_request_cancels_the_run_that_trains(server):
    progress, ended = threading.Event(), {}

    def long_run():
        def note(line):
            progress.set()
            ended.setdefault("lines", []).append(line)

        server.workbench.answer(json.dumps({"steps": 20000, "n_embd": 64, "n_layer": 2}).encode(), note)

    thread = threading.Thread(target=long_run)
    thread.start()
    assert progress.wait(LIMIT)
    found = run(server, text="file")
    thread.join(LIMIT)
    assert not thread.is_alive() and ended["lines"][-1] == {"kind": "cancelled"}
    assert ended["lines"][0]["kind"] == "progress" and len(ended["lines"][0]["losses"]) == ended["lines"][0]["step"]
    assert len(found["losses"]) == 20


def test_request_that_waited_for_its_turn_is_refused_if_a_newer_one_came(server, monkeypatch):
    workbench, answers = Workbench(), []
    with workbench._training:
        threads = []
        for seed in range(3):

            def ask(seed=seed):
                try:
                    workbench.answer(json.dumps({**SMALL, "seed": seed}).encode(), answers.append)
                except RequestError as error:
                    answers.append(error.status.value)

            threads.append(threading.Thread(target=ask))
            threads[-1].start()
            while workbench._newest <= seed:
                time.sleep(0.001)
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(map(str, answers))[:2] == ["409", "409"] and len(answers) == 3


def test_client_that_leaves_ends_its_run(server, monkeypatch):
    ended, answer = threading.Event(), server.workbench.answer

    def noted(*request):
        try:
            answer(*request)
        finally:
            ended.set()

    monkeypatch.setattr(server.workbench, "answer", noted)
    monkeypatch.setattr(workbenches, "_PROGRESS_EVERY", 0.0)
    body = json.dumps({"steps": 20000, "n_embd": 128, "n_layer": 2}).encode()
    with socket.create_connection(("127.0.0.1", server.server_port)) as found:
        head = (f"POST /{TOKEN}/run HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\nOrigin: http://127.0.0.1:{server.server_port}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n")  # fmt: skip
        found.sendall(head.encode() + body)
        found.recv(100)
    assert ended.wait(LIMIT) and server.workbench._kept is None  # as it would be after its last step


def test_silent_connections_make_room_for_a_request_and_do_not_end_a_run(server, monkeypatch):
    begun, go_on, answer = threading.Event(), threading.Event(), server.workbench.answer

    def slow(*request):
        begun.set()
        assert go_on.wait(LIMIT)
        answer(*request)

    monkeypatch.setattr(server.workbench, "answer", slow)
    answers, silent = [], []
    run = threading.Thread(target=lambda: answers.append(send(server, body=b'{"steps": 1}')))
    run.start()
    try:
        assert begun.wait(LIMIT)
        for i in range(100):
            silent.append(socket.create_connection(("127.0.0.1", server.server_port), timeout=LIMIT))
            silent[-1].sendall((b"", b"GET / HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n", b"G" * 70000 + b"\r\n")[i % 4])
        for _ in range(3):
            assert send(server, "GET", f"/{TOKEN}/about")[0] == 200
    finally:
        go_on.set()
        run.join(LIMIT)
        for connection in silent:
            connection.close()
    assert answers[0][0] == 200 and b'"kind":"result"' in answers[0][2]
