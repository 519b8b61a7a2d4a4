"""The server of `microgpt play`: one page on the loopback interface, for the browser of the user who started it.

Another program of this machine, and any page that a browser shows, may send requests to the port. So each request must
have the random token in its address, the server's own name in `Host` (a name that a foreign DNS server points to
127.0.0.1 is another) and its own `Origin`. Connections and bodies are bounded; where there are too many connections, a new one
takes the place of the one that has been silent for longest. Every refusal is one JSON object `{"error": "..."}`.
"""

import hmac
import json
import os
import socket
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from secrets import token_urlsafe
from socketserver import TCPServer
from threading import BoundedSemaphore, Lock

from .requests import RequestError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .workbench import Workbench

__all__ = ["ADDRESS", "MAX_BODY", "PlayServer"]

ADDRESS = "127.0.0.1"
MAX_BODY = 1 << 20  # bytes of a request
_MAX_DRAINED = 1 << 24  # bytes of a refused body that are read, so that the client sees the answer
_MAX_CONNECTIONS = 64
_CLOSING = 1  # seconds in which a connection that is closed must end
_HERE = os.path.dirname(os.path.abspath(__file__))

#: Address below the token -> file beside this one, and its type.
_FILES = {
    "": ("play.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "play.css": ("play.css", "text/css; charset=utf-8"),
    "chart.js": ("chart.js", "text/javascript; charset=utf-8"),
    "play_draw.js": ("play_draw.js", "text/javascript; charset=utf-8"),
    "play.js": ("play.js", "text/javascript; charset=utf-8"),
}
_OPENING = "/"  # what `opening_url` asks for
_JSON = "application/json"
_LINES = "application/x-ndjson"
_HEADERS = (
    "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
    "X-Content-Type-Options: nosniff\r\n"
    "Referrer-Policy: no-referrer\r\n"  # the address holds the token
    "Cross-Origin-Opener-Policy: same-origin\r\n"
    "Cross-Origin-Resource-Policy: same-origin\r\n"
    "Cache-Control: no-store\r\n"
)


def _same(given: str, secret: str) -> bool:
    """Compare in a time that says nothing of where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode())


class PlayServer(ThreadingHTTPServer):
    """Listens on 127.0.0.1 alone; port 0: any that is free.

    Attributes
    ----------
    workbench : Workbench
        What trains.
    token : str
        First part of every address.
    url : str
        The address of the page.
    opening_url : str
        An address that leads there once: for the command line of a browser, which other users of the machine may see.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = os.name == "posix"  # on Windows it would let another program take the port over
    allow_reuse_port = False
    request_queue_size = _MAX_CONNECTIONS

    def __init__(self, workbench: "Workbench", token: str, port: int = 0, debug: bool = False) -> None:
        self.workbench, self.token, self.debug = workbench, token, debug
        self._connections = BoundedSemaphore(_MAX_CONNECTIONS)
        #: Connections of which no request is being answered, in the order in which they became so.
        self._silent: dict[socket.socket, None] = {}
        self._changing = Lock()
        super().__init__((ADDRESS, port), _Handler)
        port = self.server_address[1]
        self.url = f"http://{ADDRESS}:{port}/{token}/"
        self._once: str | None = token_urlsafe(18)
        self.opening_url = f"http://{ADDRESS}:{port}/{self._once}"
        names = (ADDRESS, "localhost")
        self.hosts = {f"{name}:{port}" for name in names} | ({*names} if port == 80 else set())
        self.origins = {f"http://{host}" for host in self.hosts}

    def server_bind(self) -> None:
        """Bind without asking a name server for this machine's name, as HTTPServer does. An OSError names the port."""
        try:
            TCPServer.server_bind(self)
        except OSError as error:
            raise OSError(error.errno, error.strerror, "{}:{}".format(*self.server_address)) from None
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def is_opening(self, token: str) -> bool:
        """Return whether token is that of `opening_url`, the first time that it is asked."""
        if self._once is None or not _same(token, self._once):
            return False
        self._once = None
        return True

    def set_silent(self, request: socket.socket, is_silent: bool) -> None:
        """Note whether a connection is waiting for a request, so that it may be closed in favour of another."""
        with self._changing:
            self._silent.pop(request, None)
            if is_silent:
                self._silent[request] = None

    def _close_silent(self) -> bool:
        """Close the connection that has been silent for longest; return whether there is one."""
        with self._changing:
            oldest = next(iter(self._silent), None)
            if oldest is None:
                return False
            del self._silent[oldest]
            try:
                oldest.shutdown(socket.SHUT_RDWR)  # its thread, which waits for a request, ends
            except OSError:
                pass
            return True

    def process_request(self, request: "Any", client_address: "Any") -> None:
        has_place = self._connections.acquire(blocking=False)
        if not has_place and not (self._close_silent() and self._connections.acquire(timeout=_CLOSING)):
            self.shutdown_request(request)
            return
        try:
            self.set_silent(request, True)
            super().process_request(request, client_address)
        except BaseException:
            self.set_silent(request, False)
            self._connections.release()
            raise

    def process_request_thread(self, request: "Any", client_address: "Any") -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.set_silent(request, False)
            self._connections.release()

    def handle_error(self, request: "Any", client_address: "Any") -> None:
        """Write nothing: a client that has left is not our error. With --debug write the traceback."""
        if self.debug and not isinstance(sys.exception() if hasattr(sys, "exception") else sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Checks a request, and answers it with a file or with what the workbench says."""

    server: PlayServer
    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds that a connection may say nothing
    disable_nagle_algorithm = True  # or the last packet of an answer would wait for the client
    wbufsize = -1
    has_begun = False  # whether the answer's head was sent

    def handle_one_request(self) -> None:
        """Answer one request; whatever is wrong with it, in JSON."""
        self.has_begun = False
        self.server.set_silent(self.request, True)
        try:
            super().handle_one_request()
        except OSError:  # the client has left
            self.close_connection = True

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, work: "Callable[[str], None]") -> None:
        """Call work(address after the token), or refuse the request."""
        self.server.set_silent(self.request, False)
        self.body_is_read = self.headers.get("Content-Length") is None and self.headers.get("Transfer-Encoding") is None
        try:
            work(self._checked_name())
        except RequestError as error:
            self._refuse(error.status, str(error))
        except OSError:  # the client has left
            self.close_connection = True
        except Exception:
            self.server.handle_error(self.request, self.client_address)
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error (microgpt play --debug shows it)")

    def _get(self, name: str) -> None:
        if name == "about":
            self._send_json(HTTPStatus.OK, self.server.workbench.about())
            return
        if name == _OPENING:
            self._begin(HTTPStatus.FOUND, _FILES[""][1], f"Location: /{self.server.token}/\r\nContent-Length: 0")
            self.wfile.flush()
            return
        if name not in _FILES:
            raise RequestError("there is no such page", HTTPStatus.NOT_FOUND)
        file, kind = _FILES[name]
        with open(os.path.join(_HERE, file), "rb") as opened:
            self._send(HTTPStatus.OK, kind, opened.read())

    def _post(self, name: str) -> None:
        if name != "run":
            raise RequestError("there is no such page", HTTPStatus.NOT_FOUND)
        self.server.workbench.answer(self._body(), self._send_line)
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _checked_name(self) -> str:
        """Return what is asked for: the address after the token. Raises RequestError for a request from elsewhere."""
        hosts, origins = self.headers.get_all("Host", []), self.headers.get_all("Origin", [])
        if len(hosts) != 1 or hosts[0] not in self.server.hosts:
            raise RequestError("the Host of a request must be this server's own address", HTTPStatus.FORBIDDEN)
        if not self.server.origins.issuperset(origins) or self.command == "POST" and len(origins) != 1:
            raise RequestError("the Origin of a request must be this server's own page", HTTPStatus.FORBIDDEN)
        token, slash, name = self.path.partition("?")[0].removeprefix("/").partition("/")
        if self.command == "GET" and not slash and self.server.is_opening(token):
            return _OPENING
        if not (slash and _same(token, self.server.token)):
            raise RequestError("no such address: open the one that microgpt play wrote", HTTPStatus.NOT_FOUND)
        return name

    def _body(self) -> bytes:
        """Return the body of a POST. Raises RequestError if it is too large, or is not JSON by its type."""
        lengths = self.headers.get_all("Content-Length", [])
        if self.headers.get("Transfer-Encoding") is not None or len(lengths) != 1:
            raise RequestError("a request must have one Content-Length", HTTPStatus.LENGTH_REQUIRED)
        if not (lengths[0].isascii() and lengths[0].isdigit()) or len(lengths[0]) > 15:
            raise RequestError("Content-Length must be a number of bytes")
        size = int(lengths[0])
        if size > MAX_BODY:
            raise RequestError(
                f"a request may have {MAX_BODY:,} bytes, not {size:,}", HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            )
        if self.headers.get("Content-Type", "").partition(";")[0].strip().lower() != _JSON:
            raise RequestError(f"a request must be {_JSON}", HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        try:
            body = self.rfile.read(size)
        except TimeoutError:
            raise RequestError("the request does not end", HTTPStatus.REQUEST_TIMEOUT) from None
        self.body_is_read = True
        if len(body) < size:
            raise RequestError("the request ends before its Content-Length")
        return body

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self._begin(status, kind, f"Content-Length: {len(content)}")
        self.wfile.write(content)
        self.wfile.flush()

    def _begin(self, status: HTTPStatus, kind: str, length: str) -> None:
        self.has_begun = True
        close = "Connection: close\r\n" if self.close_connection else ""
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\n{length}\r\n{close}{_HEADERS}\r\n"
        self.wfile.write(head.encode("ascii"))

    def _send_json(self, status: HTTPStatus, value: "Any") -> None:
        self._send(status, _JSON, json.dumps(value).encode())

    def _send_line(self, value: "Any") -> None:
        """Send one object of an answer in several, as a line of its own. Raises OSError if the client has left."""
        if not self.has_begun:
            self._begin(HTTPStatus.OK, _LINES, "Transfer-Encoding: chunked")
        line = json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
        self.wfile.flush()

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        """Answer with an error; after a body that was not read, close the connection."""
        if self.has_begun:  # half of an answer: only its end can be missing
            self.close_connection = True
            return
        unread = not getattr(self, "body_is_read", False)
        if unread:
            self.close_connection = True
        self._send_json(status, {"error": reason})
        if unread:
            self._drain()

    def _drain(self) -> None:
        """Read what the client still sends: closing at once could take the answer away before it is read."""
        self.server.set_silent(self.request, True)
        try:
            self.request.shutdown(socket.SHUT_WR)
            self.request.settimeout(1)
            left = _MAX_DRAINED
            while left > 0 and (found := self.request.recv(1 << 16)):
                left -= len(found)
        except OSError:
            pass

    def send_error(self, code: int, message: "str | None" = None, explain: "str | None" = None) -> None:
        """Answer what http.server itself refuses: a line or a header that is not HTTP, or an unknown method."""
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self.close_connection = True
        self.body_is_read = False
        self._refuse(status, f"{status.phrase.lower()}: the server knows GET and POST of HTTP/1.1")

    def log_message(self, format: str, *arguments: "Any") -> None:
        """Write nothing: a request is not news."""
