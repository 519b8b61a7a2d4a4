"""A server of `microgpt play` for tests, and how they ask it."""
import contextlib
import http.client
import json
import threading

from children import LIMIT

from microgpt.web.server import PlayServer
from microgpt.web.workbench import Workbench

TOKEN = "token-of-the-tests"
TEXT = "emma\nolivia\n  ava \r\n\nmia\nzoë sky\n"
SMALL = {"steps": 20, "n_embd": 8, "n_head": 2, "block_size": 8}


def write_text(folder):
    """Write the text that the server trains on; return its path."""
    path = folder / "my text.txt"
    path.write_bytes(TEXT.encode())
    return path


@contextlib.contextmanager
def serving(path):
    """A server that answers while the context lasts."""
    with PlayServer(Workbench(str(path)), TOKEN) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
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
