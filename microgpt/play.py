"""`python -m microgpt.play [--input FILE]`: a page that trains the whole run again whenever a setting changes."""

import sys

from .cli import console as cli
from .cli import parsing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main(argv: "list[str] | None" = None) -> int:
    """Run the command; return the exit status."""

    def arguments() -> "dict[str, Any]":
        given: dict[str, Any] = vars(make_parser().parse_args(argv))
        return {**given, "show_errors": "debug" in given}

    return cli.run(_play, arguments, owns_process=argv is None)


def make_parser() -> "Any":
    """Return the argparse.ArgumentParser of the command."""
    p = parsing.parser("play", "Open a page in the browser on which every change of a setting trains the whole run again. "
                       "Its address is for this machine alone and holds a random token; Ctrl-C ends the server.",
                       ["microgpt play", "microgpt play --input my.txt --port 8000 --no-browser"])  # fmt: skip
    p.add_argument("--input", metavar="FILE", help="UTF-8 text, to choose on the page beside the bundled "
                   "names and text that is pasted; no other file is read")  # fmt: skip
    p.add_argument("--port", type=int, default=0, metavar="N", help="port on 127.0.0.1 (default: any that is free)")
    p.add_argument("--no-browser", action="store_true", help="write the address, and open no browser")
    p.add_argument("--settings", metavar="LINK", help="begin with the settings of a link that the page gave")
    return p


def _play(given: "dict[str, Any]") -> None:
    from secrets import token_urlsafe
    from urllib.parse import quote

    from .web.server import PlayServer
    from .web.workbench import Workbench

    if not 0 <= given["port"] < 65536:
        raise cli.UsageError(f"--port must be between 0 and 65535, not {given['port']}")
    workbench = Workbench(given["input"])
    fragment = quote((given["settings"] or "").rpartition("#")[2], safe="=&%+-._~*")
    with PlayServer(workbench, token_urlsafe(18), given["port"], given["show_errors"]) as server:
        end = f"#{fragment}" if fragment else ""
        cli.write(f"{server.url}{end}\n")
        cli.Output().flush()
        cli.say("open this address in a browser of this machine; Ctrl-C ends the server")
        if not given["no_browser"]:
            _open(server.opening_url + end)
        try:
            server.serve_forever()
        finally:
            workbench.cancel()


def _open(url: str) -> None:
    """Open the browser, without waiting for it."""
    import webbrowser
    from threading import Thread

    Thread(target=webbrowser.open, args=(url,), daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
