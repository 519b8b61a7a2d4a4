"""`microgpt play` as a process: its address, its end, its errors; and that other commands do without it."""
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest
from children import LIMIT
from conftest import environment

from microgpt import play


@pytest.fixture
def start(tmp_path):
    """Starts `microgpt play --no-browser ARGUMENTS`; returns (process, address)."""
    started = []

    def run(*arguments):
        process = subprocess.Popen([sys.executable, "-m", "microgpt", "play", "--no-browser", *map(str, arguments)], cwd=tmp_path,
                                   env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
        started.append(process)
        return process, process.stdout.readline().strip()

    yield run
    for process in started:
        process.kill()
        process.communicate()


def ask(url, **settings):
    """The answer to a request of the page; lines of it come as they are sent."""
    origin = "/".join(url.split("/")[:3])
    headers = {"Origin": origin, "Content-Type": "application/json"}
    request = urllib.request.Request(url.partition("#")[0] + "run", json.dumps(settings).encode(), headers)
    return urllib.request.urlopen(request, timeout=LIMIT)


def test_address_is_written_to_stdout_and_answers(start, tmp_path):
    (tmp_path / "my.txt").write_text("emma\nolivia\n", encoding="utf-8")
    (tmp_path / "input.txt").write_text("other\n", encoding="utf-8")  # is not read: no flag names it
    process, url = start("--input", "my.txt", "--settings", "http://127.0.0.1:1/old/#seed=7&lines=a+b%0A<")
    assert url.startswith("http://127.0.0.1:") and url.endswith("/#seed=7&lines=a+b%0A%3C") and len(url.split("/")[3]) >= 20
    with urllib.request.urlopen(url.partition("#")[0] + "about", timeout=LIMIT) as answer:
        about = json.loads(answer.read())
    assert about["defaults"]["text"] == "file" and about["defaults"]["word"] == "emma"
    assert about["texts"]["file"] == "my.txt (2 lines)" and about["texts"]["names"].startswith("32,469")
    with ask(url, text="file", steps=5) as answer:
        (found,) = map(json.loads, answer)
    assert found["docs"] == 2 and found["command"] == ["microgpt train --input my.txt --steps 5"]


def test_two_servers_have_two_tokens(start):
    one, other = start()[1], start()[1]
    assert one.split("/")[3] != other.split("/")[3]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen("/".join([*other.split("/")[:3], *one.split("/")[3:]]), timeout=LIMIT)


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_interrupt_ends_the_server_while_it_trains(start):
    process, url = start()
    with ask(url, steps=20000, n_embd=64, n_layer=2) as answer:
        assert json.loads(answer.readline())["kind"] == "progress"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 130 and errors.splitlines()[-1] == "microgpt: interrupted" and "Traceback" not in errors


def test_what_cannot_be_served_is_one_line(in_process, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for arguments, part in [
            (["--port", "65536"], "--port must be between 0 and 65535"), (["--port", "-1"], "--port must be between"),
            (["--port", "x"], "invalid int value"), (["--input", "none.txt"], "none.txt: No such file"),
            (["--port", str(taken.getsockname()[1])], f"error: 127.0.0.1:{taken.getsockname()[1]}: "),
            (["--prot", "1"], "did you mean --port?"),
            (["--steps", "1"], "unrecognized arguments: --steps 1 (microgpt play --help lists the flags)"),  # not --help for --steps
        ]:  # fmt: skip
            done = in_process("play", "--no-browser", *arguments)
            assert done.returncode == 2 and part in done.stderr.splitlines()[-1] and not done.stdout, done.stderr
            assert "Traceback" not in done.stderr
    (tmp_path / "empty.txt").write_text("\n")
    assert "holds no documents" in in_process("play", "--input", "empty.txt").stderr


def test_browser_is_opened_at_the_address(monkeypatch, capsys):
    import webbrowser

    from microgpt.web.server import PlayServer

    opened = threading.Event()
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.url.append(url) or opened.set())
    opened.url = []
    monkeypatch.setattr(PlayServer, "serve_forever", lambda self: opened.wait(LIMIT))
    assert play.main([]) == 0
    (url,), written = opened.url, capsys.readouterr().out.strip()
    assert url.startswith("http://127.0.0.1:") and url.split("/")[2] == written.split("/")[2]
    assert written.split("/")[3] not in url  # the list of processes shows it


def test_other_commands_do_without_it(command):
    code = ("import sys\nfrom microgpt import train\ntrain.main([])\ntrain.main(['--steps', '1', '--quiet'])\nprint(["
            "m for m in sys.modules if m.startswith(('microgpt.web', 'microgpt.play', 'http', 'socketserver', 'secrets'))])")  # fmt: skip
    done = command("-c", code)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stderr
