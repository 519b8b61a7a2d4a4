"""`python -m microgpt.info`: what was built and what runs here."""
import platform
import sys

from . import __version__
from .cli import console as cli

__all__ = ["main", "rows"]


def main(argv: "list[str] | None" = None) -> int:
    """Run the command; returns the exit status."""
    p = cli.parser("info", "Say what was built and what runs here: worth adding to a report.")
    return cli.run(_info, lambda: vars(p.parse_args(argv)))


def rows() -> "dict[str, str]":
    """What was built and what runs here, as name -> text."""
    from .core.simd import build_info, simd_info

    simd = simd_info()
    return {
        "microgpt": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "processor": _processor(),
        "compiler": build_info()["compiler"],
        "libm": " ".join(platform.libc_ver()).strip() or platform.system(),
        "instruction sets": f"{simd['in_use']} in use; compiled: {', '.join(simd['compiled'])}; "
        f"supported by this processor: {', '.join(simd['supported'])}",
        "engines": "fused, graph, reference",
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _info(_: None) -> None:
    for name, value in rows().items():
        cli.write(f"{name + ':':18}{cli.printable(value)}\n")


if __name__ == "__main__":
    sys.exit(main())
