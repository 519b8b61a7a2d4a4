"""What `microgpt play` computes: the run that a request asks for, and everything that the page draws of it.

One run trains at a time. A newer request cancels it, between two chunks of steps. The last run is kept as it was after its
last step, so that another word, temperature or top-k needs no training: the bits are those of a whole new run.
"""

import os
import time
from http import HTTPStatus
from threading import Lock

from ..data import BUNDLED, read_text, split_docs, split_text
from ..evaluation import Evaluation
from ..storage.runlog import tensor_digests
from ..trainer import Callback, Trainer
from ..trainer.corpus import Corpus
from . import inside
from .requests import DEFAULTS, LIMITS, MAX_WORK, Request, RequestError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    from ..config import Config

    Send: TypeAlias = Callable[[dict[str, Any]], None]

__all__ = ["SAMPLES", "Workbench"]

SAMPLES = 20
_PROGRESS_EVERY = 0.1  # seconds
_VAL_CHUNK = 8  # documents that are measured between two questions whether a newer request has come


class Workbench:
    """Answers requests of the page.

    Parameters
    ----------
    path : str, optional
        The one file that requests may ask for. Raises OSError or ValueError if there is no text in it.
    """

    def __init__(self, path: "str | None" = None) -> None:
        self.path = path
        self._sources = {"names": _Source(read_text(BUNDLED)), "lines": _Source("")}
        if path is not None:
            self._sources["file"] = _Source(read_text(path))
            if not self._sources["file"].documents("lines", 1).docs:
                raise ValueError(f"{path} holds no documents")
        self._counting, self._newest = Lock(), 0
        self._training = Lock()
        self._kept: _Run | None = None

    def about(self) -> "dict[str, Any]":
        """Return what the page must know before its first request."""
        from .. import __version__

        names = self._sources["names"].documents("lines", 1).docs
        texts = {"names": f"{len(names):,} names, bundled"}
        defaults = {**DEFAULTS}
        if self.path is not None:
            docs = self._sources["file"].documents("lines", 1).docs
            texts["file"] = f"{os.path.basename(self.path)} ({len(docs):,} lines)"
            defaults.update(text="file", word=docs[0][:8].strip())
        texts["lines"] = "text that you paste"
        return {"version": __version__, "defaults": defaults, "limits": LIMITS, "max_work": MAX_WORK, "texts": texts}

    def cancel(self) -> None:
        """Let the run that trains end soon."""
        with self._counting:
            self._newest += 1

    def answer(self, body: bytes, send: "Send") -> None:
        """Carry out a request: send its progress now and then, and at last its result.

        Raises RequestError, if nothing was sent yet: for what cannot be carried out, and if a newer request has come.
        """
        request = Request(body)
        text = self._text(request)
        with self._counting:
            self._newest += 1
            turn = self._newest

        def is_newest() -> bool:
            return self._newest == turn

        has_begun = False

        def send_progress(line: "dict[str, Any]") -> None:
            nonlocal has_begun
            has_begun = True
            send(line)

        started = time.perf_counter()
        with self._training:
            try:
                kept = self._kept
                run = self._run(request, text, is_newest, send_progress)
                result = run.result(request)
            except _Cancelled:
                if not has_begun:
                    raise RequestError("a newer request has come", HTTPStatus.CONFLICT) from None
                send({"kind": "cancelled"})
                return
        result["is_new"] = run is not kept
        result["seconds"] = time.perf_counter() - started
        result["command"] = inside.command(request, run.key[2], self.path)
        send({"kind": "result", **result})

    def _text(self, request: Request) -> "_Text":
        if request.text not in self._sources:
            raise RequestError("microgpt play was started without --input FILE")
        if request.text == "lines" and self._sources["lines"].text != request.lines:
            self._sources["lines"] = _Source(request.lines)
        found = self._sources[request.text].documents(request.split, request.config.block_size)
        if not found.docs:
            raise RequestError("there is no text to train on yet: paste some")
        return found

    def _run(self, request: Request, text: "_Text", is_newest: "Callable[[], bool]", send: "Send") -> "_Run":
        if not is_newest():
            raise _Cancelled
        fraction = request.fraction(len(text.docs))
        key = request.config, text, fraction
        if self._kept is not None and self._kept.key == key:
            return self._kept
        corpus, val_docs = text.split(fraction)
        request.check_size(text.vocab_size)
        self._kept = None  # not two in memory
        run = _Run(key, corpus.trainer(request.config), val_docs)
        run.train(is_newest, send)
        self._kept = run
        return run


class _Cancelled(Exception):
    """A newer request has come."""


class _Source:
    """A text, and its documents as they were asked for last."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._documents: tuple[tuple[str, int], _Text] | None = None

    def documents(self, split: str, block_size: int) -> "_Text":
        """Return its documents; block_size is the length of chunks."""
        key, found = (split, block_size if split == "chunks" else 0), self._documents
        if found is None or found[0] != key:
            self._documents = found = key, _Text(split_text(self.text, split=split, block_size=block_size))
        return found[1]


class _Text:
    """Documents, and the last part of them that was held out."""

    def __init__(self, docs: "list[str]") -> None:
        self.docs, corpus = docs, Corpus(docs)
        self.vocab_size = len(corpus.uchars) + 1
        self._fraction: float | None = None
        self._parts: tuple[Corpus, list[str]] = corpus, []

    def split(self, fraction: "float | None") -> "tuple[Corpus, list[str]]":
        """Return documents to train on and documents held out. Raises RequestError if either would be none."""
        if self._fraction != fraction:
            parts: tuple[list[str], list[str]] = self.docs, []
            if fraction is not None:
                try:
                    parts = split_docs(self.docs, fraction)
                except ValueError as error:
                    raise RequestError(str(error)) from None
            self._fraction, self._parts = fraction, (Corpus(parts[0]), parts[1])
        return self._parts


class _Watch(Callback):
    """Measures the validation loss, reports progress, and ends the run if a newer request has come."""

    every: int

    def __init__(self, run: "_Run", is_newest: "Callable[[], bool]", send: "Send") -> None:
        self.run, self.is_newest, self.send = run, is_newest, send
        self.every = run.val_every or run.trainer.num_steps
        self.tokens = [run.trainer.tokenizer.encode(doc) for doc in run.val_docs]
        self.sent, self.when = 0, time.perf_counter()

    def is_due(self, trainer: Trainer) -> bool:
        return bool(self.tokens) and (super().is_due(trainer) or trainer.step_index == trainer.num_steps)

    def on_check(self, trainer: Trainer, record: "dict[str, Any]") -> None:
        found: list[list[float]] = []
        for i in range(0, len(self.tokens), _VAL_CHUNK):
            self._check_turn()
            found += trainer.position_losses(self.tokens[i : i + _VAL_CHUNK])
        loss = Evaluation(found, [len(doc) for doc in self.run.val_docs]).loss
        self.run.validation.append((trainer.step_index, loss))

    def on_steps(self, trainer: Trainer, first: int, losses: "list[float]") -> None:
        self.run.losses += losses
        self._check_turn()
        if time.perf_counter() - self.when >= _PROGRESS_EVERY:
            new = inside.finite(self.run.losses[self.sent :])
            self.send({"kind": "progress", "step": trainer.step_index, "steps": trainer.num_steps, "losses": new,
                       "validation": inside.finite_pairs(self.run.validation)})  # fmt: skip
            self.sent, self.when = len(self.run.losses), time.perf_counter()

    def _check_turn(self) -> None:
        if not self.is_newest():
            raise _Cancelled


class _Run:
    """A run, as it is after its last step."""

    def __init__(self, key: "tuple[Config, _Text, float | None]", trainer: Trainer, val_docs: "list[str]") -> None:
        self.key, self.trainer, self.val_docs = key, trainer, val_docs
        self.val_every = inside.val_every(trainer.num_steps) if val_docs else None
        self.losses: list[float] = []
        self.validation: list[tuple[int, float]] = []
        self.diverged: str | None = None

    def train(self, is_newest: "Callable[[], bool]", send: "Send") -> None:
        """Do all steps. Raises _Cancelled."""
        started = time.perf_counter()
        try:
            self.trainer.run(callbacks=[_Watch(self, is_newest, send)])
        except (ValueError, ArithmeticError) as error:  # DivergedError is both
            self.diverged = str(error)
        self.seconds = time.perf_counter() - started
        self.stream = self.trainer.rng.getstate()
        self.digests = tensor_digests(self.trainer)

    def result(self, request: Request) -> "dict[str, Any]":
        """Return what the page draws."""
        trainer = self.trainer
        trainer.rng.setstate(self.stream)
        samples, samples_error = [], None
        try:
            samples = trainer.sample(SAMPLES, request.temperature, top_k=request.top_k)
        except (ValueError, ArithmeticError) as error:
            samples_error = str(error)
        return {
            "losses": inside.finite(self.losses),
            "average": inside.average(self.losses),
            "validation": inside.finite_pairs(self.validation),
            "diverged": self.diverged,
            "samples": samples,
            "samples_error": samples_error,
            "word": inside.word(trainer, request),
            "embeddings": inside.embeddings(trainer),
            "digests": self.digests,
            "docs": len(trainer.docs),
            "val_docs": len(self.val_docs),
            "vocab_size": trainer.tokenizer.vocab_size,
            "num_params": trainer.model.num_params,
            "train_seconds": self.seconds,
        }
