"""What a sweep found: the result of each run, the file that keeps them, and which configuration is the best."""
import json
import math
import os
from operator import index

from ..config import DEFAULTS, OPTIONAL, seed_text
from ..errors import LogError, NamingFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from .._types import Path
    from ..config import Config

__all__ = ["Ranked", "SweepResult", "rank", "read_results"]

FORMAT = 1
#: Errors that a run has again whenever it is run; a resumed sweep keeps these, and repeats what failed by anything else.
OWN_ERRORS = ("DivergedError", "OverflowError", "TypeError", "ValueError", "ZeroDivisionError")


class SweepResult:
    """What became of one run of a sweep.

    Attributes
    ----------
    settings : dict
        All settings of the run by name, num_steps and seed included.
    engine : str
    final_loss : float
        The loss of the last step, in nats; nan if there was none.
    loss : float
        The mean loss of the last tenth of the steps.
    val_loss : float or None
        The mean loss of the validation documents, if there are any.
    seconds : float
        The time that the run took in its worker.
    path : str or None
        The checkpoint, if one was asked for.
    error : str or None
        If the run failed: the exception's class and message. Then the losses are nan.
    """

    def __init__(
        self,
        settings: "dict[str, Any]",
        engine: str,
        final_loss: float = math.nan,
        loss: float = math.nan,
        val_loss: "float | None" = None,
        seconds: float = 0.0,
        path: "str | None" = None,
        error: "str | None" = None,
    ) -> None:
        self.settings, self.engine, self.path, self.error = settings, engine, path, error
        self.final_loss, self.loss, self.val_loss, self.seconds = final_loss, loss, val_loss, seconds

    @property
    def score(self) -> float:
        """What runs are compared by, lower is better: val_loss, without validation documents loss; nan after an error."""
        return self.loss if self.val_loss is None else self.val_loss

    def as_row(self) -> "dict[str, Any]":
        """Return what a line of the results' file holds. Losses are in it in decimal and, exactly, as float.hex."""
        row = {**_about(self.settings), "engine": self.engine}
        for name in ("final_loss", "loss", "val_loss"):
            value = getattr(self, name)
            if value is not None:
                row[name], row[f"{name}_hex"] = value if math.isfinite(value) else None, value.hex()
        return {**row, "seconds": round(self.seconds, 6), "path": self.path, "error": self.error}

    @classmethod
    def from_row(cls, row: "dict[str, Any]") -> "SweepResult":
        """Return the result of a line. Raises KeyError, TypeError or ValueError for one that `as_row` did not make."""
        # Of a file written before these were settings, they are off.
        settings = {name: row.get(name, DEFAULTS[name]) if name in OPTIONAL else row[name] for name in DEFAULTS}
        if isinstance(row["seed"], str):
            settings["seed"] = _seed(row["seed"])
        final_loss, loss = (float.fromhex(row[f"{name}_hex"]) for name in ("final_loss", "loss"))
        val_loss = float.fromhex(row["val_loss_hex"]) if "val_loss_hex" in row else None
        return cls(settings, row["engine"], final_loss, loss, val_loss, row["seconds"], row["path"], row["error"])

    @property
    def is_final(self) -> bool:
        """Whether a resumed sweep need not repeat the run."""
        return self.error is None or self.error.partition(":")[0] in OWN_ERRORS

    @property
    def words(self) -> str:
        """Which run it is: its settings that are not the script's own."""
        changed = (f"{name}={value}" for name, value in _about(self.settings).items() if value != DEFAULTS[name])
        return ", ".join(changed) or "default settings"

    def __repr__(self) -> str:
        return f"<SweepResult: {self.words}: {self.error or f'{self.score:.4f}'}>"


def _about(settings: "dict[str, Any]") -> "dict[str, Any]":
    """Return settings as JSON and messages can hold them: a whole number beyond 64 bits as its text."""
    large = {name: seed_text(x) for name, x in settings.items() if isinstance(x, int) and abs(x) >= 2**63}
    return {**settings, **large} if large else settings


def _seed(text: str) -> "int | str":
    """Return the seed of a row that has it as text: an int if that is why, or what was given for one."""
    try:
        seed = int(text, 0)
    except ValueError:
        return text
    return seed if abs(seed) >= 2**63 else text


def run_key(settings: "dict[str, Any]", engine: str) -> str:
    """Return a str that is the same for two runs if and only if they are.

    settings: all, of a `Config` or as a file has them (`as_read`). The str is short: a sweep of a million runs has a million.
    """
    return repr([*_about(settings).values(), engine])


def as_read(settings: "dict[str, Any]") -> "dict[str, Any]":
    """Return all settings of a run, whatever they are, as they are in a result that was written to a file and read again."""
    return SweepResult.from_row(json.loads(_line(SweepResult(settings, "").as_row()))).settings


def whole_settings(settings: "dict[str, Any]", config: "Config | Exception") -> "dict[str, Any]":
    """Return all settings of a run by name, of which some are given: as its `Config` has them, or as they are if there is none."""
    return {**DEFAULTS, **settings} if isinstance(config, Exception) else config.as_dict()


# ---- the file of results ----


class ResultsFile:
    """A file of results, open to append."""

    def __init__(self, path: "Path") -> None:
        from ..files import open_in_place

        self.path = os.fsdecode(path)
        self.file = open(open_in_place(path), "a+b")

    def write(self, row: "dict[str, Any]") -> None:
        """Write a line, whole or, if the process is killed, not at all as `_parse` sees it. Raises OSError with the file's name."""
        try:
            self.file.write(_line(row).encode("ascii") + b"\n")
            self.file.flush()
        except OSError as error:
            self.close()
            raise OSError(error.errno, error.strerror, self.path) from None

    def close(self) -> None:
        """Close it. What was not written was an error already."""
        try:
            self.file.close()
        except OSError:
            pass


def _line(row: "dict[str, Any]") -> str:
    """Return a row as JSON. A setting that is not JSON's, of a run that cannot be, is there as an int, or as its repr."""
    return json.dumps(row, default=lambda x: index(x) if hasattr(type(x), "__index__") else repr(x))


def open_results(path: "Path", digest: str) -> "tuple[list[SweepResult], ResultsFile]":
    """Return the results that a file has, and the file, open to append. Its first line says which text they are of."""
    opened = ResultsFile(path)
    try:
        with NamingFile(path):
            opened.file.seek(0)
            found, length, rest = _parse(opened.file, opened.path, digest)
        if rest:
            opened.file.truncate(length)
        if not length:
            opened.write(_header(digest))
    except BaseException:
        opened.close()
        raise
    return found, opened


def _header(digest: str) -> "dict[str, Any]":
    """Return what the first line holds: which text the results are of."""
    return {"microgpt sweep": FORMAT, "docs_sha256": digest}


def _parse(file: "Any", path: str, digest: "str | None") -> "tuple[list[SweepResult], int, bytes]":
    """Return the results of a file of bytes, how many its whole lines take, and half a line behind them, of a sweep that was killed.

    digest: of the text it must be of. The first line may be there again: of a sweep that began at the same time.
    """
    found: list[SweepResult] = []
    length = 0
    for number, line in enumerate(iter(file.readline, b""), 1):
        try:
            if not line.endswith(b"\n"):
                begin = json.dumps(_header("")).encode("ascii")[:-2]
                if number == 1 and line[: len(begin)] != begin[: len(line)]:
                    raise ValueError  # another file, of one line
                return found, length, line
            row = json.loads(line)
            if number == 1 or "microgpt sweep" in row:
                if row["microgpt sweep"] != FORMAT:
                    raise ValueError
                if digest not in (None, row["docs_sha256"]):
                    raise LogError(f"{path} holds a sweep of other text; give another file")
            else:
                found.append(SweepResult.from_row(row))
        except LogError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError):
            raise LogError(f"{path}, line {number}: not a line of a sweep's results") from None
        length += len(line)
    return found, length, b""


def record(file: "ResultsFile | None", result: SweepResult) -> SweepResult:
    """Write a result's line, if there is a file; return the result."""
    if file is not None:
        file.write(result.as_row())
    return result


def read_results(path: "Path") -> "list[SweepResult]":
    """Return the results that `run_sweep` wrote to a file: of a run that was repeated the last.

    Raises LogError if it is not such a file, OSError if it cannot be read.
    """
    with open(path, "rb") as file, NamingFile(path):
        found = _parse(file, os.fsdecode(path), None)[0]
    return list({run_key(result.settings, result.engine): result for result in found}.values())


# ---- which configuration is the best ----


class Ranked:
    """The runs of one configuration, which differ in their seeds alone.

    Attributes
    ----------
    settings : dict
        By name, without the seed.
    results : list of SweepResult
        The best first; without those that failed.
    failed : int
        Number of runs that failed.
    score : float
        The mean of their scores; infinite if any run failed or diverged.
    spread : float
        The standard deviation of a run's score; nan for less than two runs.
    """

    def __init__(self, results: "Sequence[SweepResult]") -> None:
        self.results = sorted((r for r in results if r.error is None and r.score == r.score), key=lambda r: r.score)
        self.failed = len(results) - len(self.results)
        self.settings = {name: value for name, value in results[0].settings.items() if name != "seed"}
        scores = [result.score for result in self.results]
        mean = math.fsum(scores) / len(scores) if scores else math.inf
        self.score = math.inf if self.failed else mean
        squares = math.fsum((score - mean) ** 2 for score in scores)
        self.spread = math.sqrt(squares / (len(scores) - 1)) if len(scores) > 1 else math.nan

    @property
    def runs(self) -> int:
        """Number of runs, those that failed included."""
        return len(self.results) + self.failed


def rank(results: "Iterable[SweepResult]") -> "list[Ranked]":
    """Return the configurations, best first: by the mean score over their seeds. One that failed for a seed is last."""
    groups: dict[Any, list[SweepResult]] = {}
    for result in results:
        settings = result.settings.copy()
        settings.pop("seed", None)
        groups.setdefault((repr(settings), result.engine), []).append(result)
    return sorted(map(Ranked, groups.values()), key=lambda group: group.score)
