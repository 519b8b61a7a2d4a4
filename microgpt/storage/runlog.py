"""The format of a run's log: JSON Lines, one object per step; how to write, read and compare such files.

Every object has `step`, `loss` (decimal, null if it is not finite), `loss_hex` (its bits, as float.hex), `learning_rate`
and `seconds` since the run began. Some have more: `run` (settings and machine; the first object that a run writes),
`val_loss`, `digests` (of every tensor after the step), `samples` and `attention`.
"""
import json
import math

from ..config import seed_text, split_parameters
from ..errors import LogError, NamingFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ..trainer import Trainer

__all__ = ["Comparison", "LogError", "compare", "describe_run", "facts", "format_step", "learning_rate", "length_until",
           "machine", "read_log", "tensor_digests"]  # fmt: skip

FORMAT = 1
_MAX_LINE = 64 * 2**20  # bytes


def learning_rate(trainer: "Trainer", step: int) -> float:
    """Return the rate of the update that makes step (counted from 1), as Adam computes it now."""
    rate: float = trainer.adam.rate(step - 1)
    return rate


def tensor_digests(trainer: "Trainer") -> "dict[str, str]":
    """Return name -> 16 hexadecimal digits that change when any bit of that weight does."""
    from hashlib import blake2b

    matrices = split_parameters(trainer.parameters, trainer.config.shapes(trainer.tokenizer.vocab_size))
    return {name: blake2b(matrix.ravel(), digest_size=8).hexdigest() for name, matrix in matrices.items()}


def machine() -> "dict[str, str]":
    """Return what was built and what runs here, as name -> text: versions, platform, compiler, instruction sets."""
    import platform

    from .. import __version__
    from ..core.simd import build_info, simd_info

    simd = simd_info()
    return {
        "microgpt": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "processor": _processor() or platform.processor() or platform.machine(),
        "compiler": build_info()["compiler"],
        "libm": " ".join(platform.libc_ver()).strip() or platform.system(),
        "square roots": f"by {'the processor' if simd['square_root'] == 'instruction' else 'correcting an estimate'}",
        "products": f"for units {'half as wide' if simd['units'] == 'half' else 'as wide'} as a vector",
        "instruction sets": f"{simd['in_use']} in use; compiled: {', '.join(simd['compiled'])}; "
        f"supported by this processor: {', '.join(simd['supported'])}",
        "engines": "fused, graph, reference",
    }


def _processor() -> str:
    """Return the processor's name, with its family where the name has no number; "" if only `platform` may know it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = file.read().split("\n\n")[0].splitlines()
    except OSError:
        return ""
    info = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = info.get("model name", "")
    if name and "cpu family" in info and not any(map(str.isdigit, name)):
        name += f" (family {info['cpu family']}, model {info.get('model', '?')}, stepping {info.get('stepping', '?')})"
    return name


def describe_run(trainer: "Trainer", source: str, machine: "dict[str, str]", began: str) -> "dict[str, Any]":
    """Return the `run` of a log's first object. source: where the text is from, in words."""
    from ..data import docs_digest

    return {
        "format": FORMAT,
        "began": began,
        "engine": trainer.engine,
        "num_steps": trainer.num_steps,
        "seed": seed_text(trainer.seed),
        "settings": trainer.settings,
        "text": source,
        "docs": len(trainer.docs),
        "docs_sha256": docs_digest(trainer.docs),
        "vocab_size": trainer.tokenizer.vocab_size,
        "num_params": trainer.model.num_params,
        "machine": machine,
    }


def format_step(step: int, loss: float, rate: float, seconds: float, extra: "dict[str, Any]") -> str:
    """Return the line of a step. extra: what else to say of it."""
    line: dict[str, Any] = {
        "step": step,
        "loss": _number(loss),
        "loss_hex": loss.hex(),
        "learning_rate": _number(rate),
        "seconds": seconds,
        **extra,
    }
    if "val_loss" in line:
        line.update(val_loss=_number(line["val_loss"]), val_loss_hex=line["val_loss"].hex())
    return json.dumps(line, separators=(",", ":")) + "\n"


def _number(x: float) -> "float | None":
    return x if math.isfinite(x) else None  # JSON has no nan


def length_until(path: str, step: int) -> int:
    """Return the bytes of a log up to step: what a killed run wrote beyond its checkpoint is left out."""
    length = 0
    for end, record in _records(path):
        if record["step"] > step:
            break
        length = end
    return length


def _records(path: str) -> "Iterator[tuple[int, dict[str, Any]]]":
    """Yield (where its line ends, the object) for each whole line; a last line that was cut short is left out."""
    with open(path, "rb") as file, NamingFile(path):
        number = end = 0
        while line := file.readline(_MAX_LINE):
            number += 1
            try:
                record = json.loads(line)
                valid = isinstance(record, dict) and type(record["step"]) is int and isinstance(record["loss_hex"], str)
                float.fromhex(record["loss_hex"])
            except (ValueError, LookupError, RecursionError, TypeError, OverflowError):
                valid = False
            if not valid:
                if number > 1 and not line.endswith(b"\n"):
                    return
                raise LogError(f"{path} is not the log of a run: line {number} is not a step")
            end += len(line)
            yield end, record


def read_log(path: str) -> "list[dict[str, Any]]":
    """Return the objects of a log, one per step, in order. Raises LogError for another file, OSError if it cannot be read."""
    found = [record for _, record in _records(path)]
    if not found or not isinstance(found[0].get("run"), dict):
        reason = "its first step does not say which run" if found else "it is empty"
        raise LogError(f"{path} is not the log of a run: {reason}")
    return found


class Comparison:
    """Where two runs first differ.

    common: the number of steps that both logs have.  first_loss: the first of them whose losses differ in any bit, or
    None.  first_digest: the first, of those for which both logs have digests, after which a tensor differs, or None.
    tensors: the names of those tensors, in the script's order.  digests: how many steps have digests in both.
    settings: name -> (one, other) where they differ.
    """

    def __init__(self) -> None:
        self.common = self.digests = 0
        self.first_loss: int | None = None
        self.first_digest: int | None = None
        self.tensors: list[str] = []
        self.settings: dict[str, tuple[str, str]] = {}

    @property
    def same(self) -> bool:
        """Whether nothing that both logs have differs; false if they have no step in common."""
        return self.common > 0 and self.first_loss is None and self.first_digest is None

    def __str__(self) -> str:
        if not self.common:
            return "the two logs have no step in common"
        if self.same:
            what = "losses and tensors" if self.digests == self.common else "losses"
            if 0 < self.digests < self.common:
                what = f"losses and, after {self.digests} of them, tensors"
            return f"the same run: all {self.common} common steps have the same {what}, bit for bit"
        parts = []
        if self.first_digest is not None:
            more = f" and {len(self.tensors) - 1} more" if len(self.tensors) > 1 else ""
            parts.append(f"after step {self.first_digest} in the tensor {self.tensors[0]}{more}")
        if self.first_loss is not None:
            parts.append(f"at step {self.first_loss} in the loss")
        if self.first_loss is not None and (self.first_digest is None or self.first_loss <= self.first_digest):
            parts.reverse()
        return f"the runs differ first {parts[0]}" + (f"; then {parts[1]}" if parts[1:] else "")


def compare(one: "list[dict[str, Any]]", other: "list[dict[str, Any]]") -> Comparison:
    """Compare two logs, each as `read_log` returned it."""
    found, others = Comparison(), {record["step"]: record for record in other}
    for record in one:
        twin = others.get(record["step"])
        if twin is None:
            continue
        found.common += 1
        if found.first_loss is None and record["loss_hex"] != twin["loss_hex"]:
            found.first_loss = record["step"]
        a, b = record.get("digests"), twin.get("digests")
        if isinstance(a, dict) and isinstance(b, dict):
            found.digests += 1
            names = [name for name in {**a, **b} if a.get(name) != b.get(name)]
            if names and found.first_digest is None:
                found.first_digest, found.tensors = record["step"], names
    a, b = facts(one), facts(other)
    found.settings = {name: (a.get(name, ""), b.get(name, "")) for name in {**a, **b} if a.get(name) != b.get(name)}
    return found


def facts(records: "list[dict[str, Any]]") -> "dict[str, str]":
    """The settings and the machine of a log, as name -> text; of a resumed run, those it was begun with."""
    run = records[0]["run"]
    settings, machine = run.get("settings"), run.get("machine")
    names = ("engine", "num_steps", "seed", "text", "docs", "docs_sha256", "vocab_size", "num_params", "began")
    return {
        **{name: str(run[name]) for name in names if name in run},
        **{name: str(value) for name, value in (settings.items() if isinstance(settings, dict) else ())},
        **{f"machine: {name}": str(value) for name, value in (machine.items() if isinstance(machine, dict) else ())},
    }
