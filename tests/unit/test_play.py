"""The page of `microgpt play` from outside: what its server answers, refuses, and computes."""

import http.client
import json
import os
import random
import shlex
import socket
import threading
import time

import pytest
from children import LIMIT

from microgpt import Trainer, load_docs
from microgpt.data import BUNDLED
from microgpt.web import workbench as workbenches
from microgpt.web.requests import DEFAULTS, LIMITS, MAX_WORK, Request, RequestError
from microgpt.web.server import MAX_BODY, PlayServer
from microgpt.web.workbench import SAMPLES, Workbench

TOKEN = "token-of-the-tests"
TEXT = "emma\nolivia\n  ava \r\n\nmia\nzoë sky\n"
SMALL = {"steps": 20, "n_embd": 8, "n_head": 2, "block_size": 8}


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "my text.txt"
    path.write_bytes(TEXT.encode())
    return path


@pytest.fixture(scope="module")
def server(text_file):
    with PlayServer(Workbench(str(text_file)), TOKEN) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.02,))
        thread.start()
        yield found
        found.shutdown()
        thread.join(LIMIT)


def send(server, method="POST", path=f"/{TOKEN}/run", body=b"{}", **headers):
    """Send one request; return (status, headers, body). A header None is left out."""
    own = {"Host": f"127.0.0.1:{server.server_port}"}
    if method == "POST":
        own |= {
            "Origin": f"http://127.0.0.1:{server.server_port}",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
        }
    own |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=LIMIT)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in own.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(body if method == "POST" else None)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def run(server, **settings):
    """Return the result of a run, which is the last line of the answer."""
    status, headers, body = send(server, body=json.dumps({**SMALL, **settings}).encode())
    assert (status, headers["Content-Type"]) == (200, "application/x-ndjson"), body
    return json.loads(body.splitlines()[-1])


def error_of(answer, status):
    assert answer[0] == status, answer
    assert answer[1]["Content-Type"] == "application/json"
    ((name, message),) = json.loads(answer[2]).items()
    assert name == "error" and "\n" not in message and "Traceback" not in message
    return message


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


# ---- what may be asked ----


def test_body_that_is_too_large_is_refused_and_the_answer_arrives(server):
    assert "1,048,576 bytes" in error_of(send(server, body=b"x" * (MAX_BODY + 1)), 413)
    assert "1,048,576 bytes" in error_of(send(server, body=b"", Content_Length=str(10**12)), 413)


@pytest.mark.parametrize("headers, status", [
    ({"Content_Length": None}, 411), ({"Content_Length": "-1"}, 400), ({"Content_Length": "1e3"}, 400), ({"Content_Length": "٣"}, 400),
    ({"Content_Length": "9" * 5000}, 400), ({"Content_Length": None, "Transfer_Encoding": "chunked"}, 411), ({"Content_Type": None}, 415),
    ({"Content_Type": "text/plain"}, 415), ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
])  # fmt: skip
def test_body_of_another_kind_is_refused(server, headers, status):
    if headers.get("Content_Length") == "٣":
        headers = {"Content_Length": "\xb2"}  # a digit to Python, no digit to HTTP
    error_of(send(server, **headers), status)


def test_body_that_does_not_end_is_answered(server, monkeypatch):
    class Impatient(server.RequestHandlerClass):
        def do_POST(self):  # the head has come, however long that took
            assert self.connection.gettimeout() == self.timeout > 1
            self.connection.settimeout(0.02)
            super().do_POST()

    monkeypatch.setattr(server, "RequestHandlerClass", Impatient)
    assert "does not end" in error_of(send(server, body=b"{", Content_Length="9"), 408)
    assert "does not end" in error_of(send(server, body=b"", Content_Length="9"), 408)


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_other_methods_are_refused(server, method):
    status, headers, body = send(server, method, f"/{TOKEN}/run")
    assert status == 405 and (method == "HEAD" or "get and post" in json.loads(body)["error"].lower())


@pytest.mark.parametrize("raw", [b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
                                 b"GET / HTTP/x\r\n\r\n",
                                 b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", b"G" * 70000 + b"\r\n\r\n",
                                 b"GET / HTTP/1.1\r\n" + b"a" * 70000 + b"\r\n\r\n"], ids=range(9))  # fmt: skip
def test_what_is_not_http_is_answered_in_json_or_not_at_all(server, raw):
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=LIMIT) as found:
        found.sendall(raw)
        found.shutdown(socket.SHUT_WR)
        answer = b""
        while part := found.recv(65536):
            answer += part
    if answer:
        head, body = answer.split(b"\r\n\r\n", 1)
        assert head.startswith(b"HTTP/1.1 4") or head.startswith(b"HTTP/1.1 505")
        assert list(json.loads(body)) == ["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b"null", b'"x"', b"\xff", b"[" * 100_000, b'{"steps": NaN}',
                                  b'{"steps": Infinity}',
                                  b'{"seed": ' + b"9" * 5000 + b"}"])  # fmt: skip
def test_body_that_is_no_object_of_json_is_refused(server, body):
    assert "JSON" in error_of(send(server, body=body), 400)


@pytest.mark.parametrize("settings, part", [
    ({"steps": 0}, "steps must be between 1 and 20,000"), ({"steps": 1e9}, "steps must be a whole number"),
    ({"steps": "5"}, "whole number"),
    ({"steps": True}, "whole number"), ({"steps": None}, "whole number"), ({"steps": [1]}, "whole number"), ({"steps": 10**30}, "between"),
    ({"learning_rate": -1}, "between"), ({"learning_rate": 1e400}, "JSON"), ({"learning_rate": "x" * 1000}, "must be a number"),
    ({"temperature": 0}, "between"), ({"temperature": None}, "must be a number"), ({"top_k": 0}, "between"), ({"top_k": 2.5}, "whole"),
       ({"n_embd": 10, "n_head": 3}, "n_embd (10) must be a multiple of n_head (3)"), ({"val_fraction": 1}, "between"),
    ({"schedule": "fast"}, "schedule must be one of linear, constant, cosine"), ({"schedule": None}, "schedule must be text"),
    ({"warmup": 20}, "warmup (20) must be less than num_steps (20)"), ({"warmup": -1}, "between"), ({"warmup": 0.5}, "whole"),
    ({"weight_decay": -1}, "between"), ({"weight_decay": None}, "must be a number"), ({"clip": 0}, "between"), ({"clip": "1"}, "number"),
    ({"text": "passwd"}, "text must be one of"), ({"text": "lines", "lines": " \n\t\n"}, "no text to train on"),
    ({"lines": 5}, "must be text"), ({"split": "words"}, "split must be one of"), ({"val_fraction": "all"}, "must be a number"),
    ({"word": None}, "must be text"), ({"word": "\ud800"}, "surrogate"), ({"no\nsuch": 1}, "there is no setting"),
    ({"text": "lines", "lines": "ab\ncd", "val_fraction": 0.5}, "leaves none"),
    ({"n_embd": 256, "n_head": 1, "n_layer": 8, "block_size": 256}, "too large"),
])  # fmt: skip
def test_settings_outside_the_limits_are_refused(server, settings, part):
    body = json.dumps({**SMALL, **settings}).replace("Infinity", "1e400").encode()
    if settings.get("learning_rate") == 1e400:
        part = "between"  # JSON may write it; it is infinite
    assert part in error_of(send(server, body=body), 400)


def test_file_is_known_only_where_one_was_given():
    with pytest.raises(RequestError, match="without --input"):
        Workbench().answer(b'{"text": "file"}', None)


def test_limits_leave_room_for_every_default():
    for name, (least, most) in LIMITS.items():
        assert DEFAULTS[name] is None or least <= DEFAULTS[name] <= most
    assert Request(b"{}").config.num_params(27) * 16 < MAX_WORK


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


# ---- whatever comes ----


def random_request(rng, server):
    """A request that must be refused, or whose settings are at most slightly wrong."""
    host, origin = f"127.0.0.1:{server.server_port}", f"http://127.0.0.1:{server.server_port}"
    junk = "".join(rng.choice('abc/%.:\\ \t"{}[]0123456789-_~') for _ in range(rng.randrange(20))).strip() or "x"
    kind = rng.randrange(6)
    request = {"method": "POST", "path": f"/{TOKEN}/run", "body": b"{}"}
    if kind == 0:
        request["path"] = "/" + junk.replace(" ", "").replace("\t", "") + "/run"
    elif kind == 1:
        request["Host"] = rng.choice([junk, "evil.example", host + "0", host[:-1]])
    elif kind == 2:
        request["Origin"] = rng.choice([junk, "null", origin + "0", "http://evil.example"])
    elif kind == 3:
        request |= {"body": b"", "Content_Length": rng.choice([str(MAX_BODY + rng.randrange(1, 10**9)), "-5", "x" + junk])}
    elif kind == 4:
        request["body"] = rng.choice(
            [junk.encode(), rng.randbytes(rng.randrange(60)), b"[" * rng.randrange(3000), b'{"steps": ' + junk.encode()]
        )
    else:
        wrong = rng.choice([-1, 0.5, 10**30, -1e308, "x", None, True, [], {}, "\x00"])
        name = rng.choice([*LIMITS, "schedule", "text", "lines", "word", junk])
        while (
            wrong is None
            and name in ("top_k", "val_fraction", "clip")
            or name in ("seed", "top_k", "val_fraction", "learning_rate", "temperature", "weight_decay", "clip")
            or (name in ("lines", "word") and isinstance(wrong, str))
        ):  # what would be right
            name = rng.choice([*LIMITS, "schedule", "text", "lines", "word", junk])
        request["body"] = json.dumps({name: wrong}).encode()
    return request


def refuse_many(server, count, seed):
    rng = random.Random(seed)
    for i in range(count):
        request = random_request(rng, server)
        status, headers, body = send(server, **request)
        assert 400 <= status < 500, (i, request, body)
        ((name, message),) = json.loads(body).items()
        assert (
            name == "error"
            and message
            and "\n" not in message
            and "Traceback" not in message
            and "internal" not in message
        ), (request, body)


def test_random_requests_are_refused_in_one_line(server, capfd):
    refuse_many(server, 300, 1)
    assert capfd.readouterr() == ("", "")
    assert len(run(server)["losses"]) == 20  # and the server lives


@pytest.mark.slow
def test_many_random_requests_are_refused_in_one_line(server, capfd):
    refuse_many(server, 3_000, 2)
    assert capfd.readouterr() == ("", "")
    assert len(run(server)["losses"]) == 20
