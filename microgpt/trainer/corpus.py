"""Documents of which many runs are made: they are read once, and every run shuffles a copy."""
from ..core.documents import TextLines
from ..data import Tokenizer
from . import Trainer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config import Config

__all__ = ["Corpus"]


class Corpus:
    """Documents, their characters, and the engine that trains on them. A pickle holds no more than the text, if that is enough.

    Parameters
    ----------
    docs : list of str
        As `microgpt.data.check_docs` returns them.
    engine : {"fused", "graph", "reference"}
        The fused engine makes no strings of documents that are plain lines.
    """

    def __init__(self, docs: "list[str]", engine: str = "fused") -> None:
        self.engine = engine
        self.docs: list[str] | TextLines = docs
        if engine == "fused":
            try:
                lines = TextLines("\n".join(docs))
            except ValueError:
                pass
            else:
                self.docs = lines if list(lines) == docs else docs
        self.uchars = Tokenizer(docs).uchars

    def trainer(self, config: "Config") -> Trainer:
        """Return Trainer(docs, engine=engine, **config.as_dict())."""
        return Trainer.from_lines(self.docs.copy(), Tokenizer.from_uchars(self.uchars), config, self.engine)

    def __getstate__(self) -> "tuple[str, str, str | list[str]]":
        return self.engine, "".join(self.uchars), self.docs.text if isinstance(self.docs, TextLines) else self.docs

    def __setstate__(self, state: "tuple[str, str, str | list[str]]") -> None:
        self.engine, uchars, docs = state
        self.uchars, self.docs = list(uchars), TextLines(docs) if isinstance(docs, str) else docs
