"""Requests of wrong kinds to the server of `microgpt play`: each is refused in one line of JSON."""
import json
import random
import socket

import pytest
from children import LIMIT
from play_server import SMALL, TOKEN, error_of, run, send, serving, write_text

from microgpt.web.requests import DEFAULTS, LIMITS, MAX_WORK, Request, RequestError
from microgpt.web.server import MAX_BODY
from microgpt.web.workbench import Workbench


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(write_text(tmp_path_factory.mktemp("text"))) as found:
        yield found


# ---- one at a time ----


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


# ---- at random ----


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
