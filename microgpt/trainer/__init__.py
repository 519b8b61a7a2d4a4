"""The training loop as an object (`microgpt.py`, from the shuffle to the samples), for any of the three engines.

One random stream serves the whole run, in the script's order: it shuffles the documents, draws every parameter, and
then one number for each sampled token. Callbacks (microgpt/callbacks) observe a run; none of them changes a bit of it.
"""
from ..config import Config, thread_count
from ..data import Tokenizer, check_docs
from ..engines import ENGINES, engine_class
from .loop import Callback, Training

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from .._types import Array, Path
    from ..core.documents import TextLines
    from ..evaluation import Evaluation
    from ..storage.checkpoint import State

__all__ = ["ENGINES", "Callback", "Trainer"]


class Trainer(Training):
    """A run of the script: its documents, its model, its optimizer and its random stream.

    Parameters
    ----------
    docs : sequence of str
        The documents; they are copied and shuffled.
    num_steps : int
        Length of the whole run, over which the learning rate decays to 0 unless the schedule is constant.
    seed : int
        Any integer.
    engine : {"fused", "graph", "reference"}
        All three compute the same bits.
    threads : int
        Up to how many threads a step, an evaluation and `sample` use; 0: as many as there are processors. The result does not
        depend on it, and a file does not hold it. The fused engine alone has a use for more than one.
    n_embd, n_head, n_layer, block_size, learning_rate, beta1, beta2, eps_adam, init_std, batch_size, warmup, weight_decay : number
        See `microgpt.config.Config`. NumPy's scalars are welcome.
    schedule : {"linear", "constant", "cosine"}
        The learning rate after the warmup.
    clip : float or None
        The largest norm of the gradient.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks that train together, each with a Trainer of the same arguments: see `run`. The bits are those of one.

    Attributes
    ----------
    config : Config
        The settings. `settings`, `num_steps` and `seed` are views of it.
    model, adam : GPT, Adam
        What trains; settings changed on `adam` are saved as they are.
    tokenizer : Tokenizer
    docs : list of str
        The documents as shuffled; None for a trainer that was loaded without documents.
    step_index : int
        The steps done so far.
    last_losses : list of float
        Of the last `run`.
    extra : dict
        What JSON can hold; saved with the run.

    Raises
    ------
    ValueError, TypeError
        In one line, for settings or documents that no run can have.

    Examples
    --------
    >>> trainer = Trainer(["emma", "ava", "mia"], num_steps=3)
    >>> trainer.run() == [trainer.last_losses[0], *trainer.last_losses[1:]]
    True
    """

    def __init__(
        self,
        docs: "Sequence[str]",
        num_steps: int = 1000,
        seed: int = 42,
        engine: str = "fused",
        *,
        n_embd: int = 16,
        n_head: int = 4,
        n_layer: int = 1,
        block_size: int = 16,
        learning_rate: float = 0.01,
        beta1: float = 0.85,
        beta2: float = 0.99,
        eps_adam: float = 1e-8,
        init_std: float = 0.08,
        batch_size: int = 1,
        schedule: str = "linear",
        warmup: int = 0,
        weight_decay: float = 0.0,
        clip: "float | None" = None,
        threads: int = 1,
        comm: "Any" = None,
    ) -> None:
        config = Config(num_steps, seed, n_embd, n_head, n_layer, block_size, learning_rate, beta1, beta2, eps_adam,
                        init_std, batch_size, schedule, warmup, weight_decay, clip)  # fmt: skip
        self._set_up(check_docs(docs, "train on"), None, config, engine, comm)
        self.threads = threads

    @classmethod
    def from_lines(
        cls, lines: "TextLines | list[str]", tokenizer: Tokenizer, config: Config, engine: str = "fused"
    ) -> "Trainer":
        """Trainer(lines, ...) of documents that are shuffled in place: no strings are made of TextLines; others must be plain str.

        tokenizer: of their characters.
        """
        self = cls.__new__(cls)
        self._set_up(lines, tokenizer, config, engine)
        return self

    def _set_up(
        self,
        docs: "list[str] | TextLines | None",
        tokenizer: "Tokenizer | None",
        config: Config,
        engine: str,
        comm: "Any" = None,
    ) -> None:
        """Seed, shuffle, build the vocabulary and draw the parameters, in the script's order."""
        make = engine_class(engine)
        rng: Any = make.seeded(config.seed)
        if docs is not None:
            rng.shuffle(docs)
        tokenizer = tokenizer or Tokenizer(docs or [])
        super().__init__(str.__str__(engine), make(tokenizer.vocab_size, config, rng), tokenizer, config, rng, docs, comm)

    @property
    def model(self) -> "Any":
        """The GPT that trains: `Trainer.load(path).model` is a saved model as a GPT with Values."""
        return self._engine.model

    @property
    def adam(self) -> "Any":
        """The optimizer that trains; its settings may be changed, and are saved as they are."""
        return self._engine.adam

    @property
    def threads(self) -> int:
        """Up to how many threads a step, an evaluation and `sample` use; may be set, 0 for as many as there are processors."""
        return self._engine.threads

    @threads.setter
    def threads(self, value: int) -> None:
        threads = thread_count(value)
        if threads != self._engine.threads:
            self.exclusively(self._engine.set_threads, threads)

    def shares_steps(self) -> bool:
        """Return whether a step on documents of mean length is long enough for `threads` to share it."""
        docs, block_size = self.docs or [], self.config.block_size
        positions = sum(min(len(doc) + 1, block_size) for doc in docs)
        return self._engine.shares(min(positions * self.config.batch_size // max(1, len(docs)), 2**62))

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.config.seed

    @property
    def settings(self) -> "dict[str, Any]":
        """The settings beside num_steps and seed, by name: a new dict."""
        return self.config.settings

    @property
    def parameters(self) -> "Array":
        """A copy of all parameters, float64 [num_params], in the order of the script's `params`; may be set."""
        return self.exclusively(self._engine.parameters).copy()

    @parameters.setter
    def parameters(self, values: "Array") -> None:
        self.exclusively(self._engine.set_parameters, values)

    def evaluate(self, docs: "Iterable[str]") -> "Evaluation":
        """Measure how well the model predicts documents: see `microgpt.evaluate`."""
        from ..evaluation import evaluate

        return evaluate(self, docs)

    @classmethod
    def from_state(
        cls,
        state: "State",
        docs: "Sequence[str] | None" = None,
        engine: str = "fused",
        allow_other_text: bool = False,
        threads: int = 1,
        comm: "Any" = None,
    ) -> "Trainer":
        """Continue a run from its state, to the bits of one that was never interrupted.

        Parameters
        ----------
        state : State
            What `state` or `microgpt.storage.checkpoint.load` returned.
        docs : sequence of str, optional
            The text that the run was trained on, in its original order. Without it the trainer can only sample.
        engine : str
            Any, whatever engine the state is from.
        allow_other_text : bool
            Accept docs that are not the text of the run.
        threads : int
            As of `Trainer`, and however many the run had.
        comm : mpi4py.MPI.Intracomm, optional
            The ranks that go on together, whatever their number before.

        Raises
        ------
        CheckpointError
            If docs are other text.
        """
        return cls._from_state(state, docs, engine, allow_other_text, threads, "the run", comm)

    @classmethod
    def _from_state(
        cls,
        state: "State",
        docs: "Sequence[str] | None",
        engine: str,
        allow_other_text: bool,
        threads: int,
        name: str,
        comm: "Any",
    ) -> "Trainer":
        from .state import check_same_text, restore

        self = cls.__new__(cls)
        tokenizer = Tokenizer.from_uchars(state.uchars)
        self._set_up(None if docs is None else check_docs(docs, "train on"), tokenizer, state.config, engine, comm)
        if docs is None:
            self._docs_sha256 = state.docs_sha256
        elif not allow_other_text:
            check_same_text(self.docs, state, name)
        restore(self, self._engine, state)
        self.threads = threads
        return self

    def save(self, path: "Path") -> None:
        """Write the whole run to a .safetensors file, atomically: see `microgpt.storage.checkpoint.save`.

        With a comm only rank 0 writes: all have the same state.
        """
        if self._ranks is not None and self._ranks.rank:
            return
        from ..storage import checkpoint

        checkpoint.import_arrays()  # before the trainer is taken: an interrupt waits for it
        self.exclusively(lambda: checkpoint.save(path, self._state()))

    def check_savable(self) -> None:
        """Raise TypeError or ValueError, in one line, if no file could hold this run: before it trains, not after."""
        from ..storage import checkpoint

        checkpoint.import_arrays()
        self.exclusively(lambda: checkpoint.check_savable(self._state()))

    @classmethod
    def load(
        cls,
        path: "Path",
        docs: "Sequence[str] | None" = None,
        engine: str = "fused",
        allow_other_text: bool = False,
        threads: int = 1,
        comm: "Any" = None,
    ) -> "Trainer":
        """Continue a saved run, to the bits of one that was never interrupted.

        Arguments are those of `from_state`; path is a file that `save` wrote. Raises CheckpointError for a file that is
        damaged, not a checkpoint, or of other text, OSError if it cannot be read.
        """
        import os

        from ..storage import checkpoint

        return cls._from_state(checkpoint.load(path), docs, engine, allow_other_text, threads, os.fsdecode(path), comm)

    @classmethod
    def init_from(
        cls,
        source: "Path | State | Trainer",
        docs: "Sequence[str]",
        num_steps: int = 1000,
        seed: int = 42,
        engine: str = "fused",
        threads: int = 1,
        **settings: "Any",
    ) -> "Trainer":
        """Begin a new run with the weights of another, on other documents.

        Nothing but the weights is taken over: seed, shuffle, Adam's moments and the learning rate are those of a new run.
        The vocabulary is the sorted set of the characters of both texts. A new model with this vocabulary is drawn as
        `Trainer` draws it; then each weight that the source has takes the place of the drawn one, rows of `wte` and
        `lm_head` by their character. So the rows of new characters are those of that new model.

        Parameters
        ----------
        source : str, path, State or Trainer
            A file that `save` wrote, or the run itself.
        docs, num_steps, seed, engine, threads
            As of `Trainer`.
        **settings
            Further settings of `Trainer`. n_embd, n_head, n_layer and block_size are those of the source.

        Raises
        ------
        ValueError
            For sizes that are not the source's, and what `Trainer` raises.
        CheckpointError, OSError
            As `Trainer.load`.

        Examples
        --------
        >>> trainer = Trainer(["emma", "ava"], num_steps=3)
        >>> Trainer.init_from(trainer, ["zoë"], num_steps=5).tokenizer.uchars
        ['a', 'e', 'm', 'o', 'v', 'z', 'ë']
        """
        from ..storage import checkpoint
        from ..storage.weights import begin_config, transfer

        state = source.state() if isinstance(source, Trainer) else source
        state = state if isinstance(state, checkpoint.State) else checkpoint.load(state)
        config = begin_config(state, {**settings, "num_steps": num_steps, "seed": seed})
        docs, self = check_docs(docs, "train on"), cls.__new__(cls)
        self._set_up(docs, Tokenizer([*docs, *state.uchars]), config, engine)
        self._engine.set_parameters(transfer(state, self.tokenizer.uchars, self._engine.parameters()))
        self.threads = threads
        return self

    def __reduce_ex__(self, protocol: object) -> "Any":
        raise TypeError("a Trainer cannot be copied or pickled: use save() and Trainer.load()")

    def __repr__(self) -> str:
        c = self.config
        return (
            f"<Trainer: {self.engine} engine, step {self.step_index} of {self.num_steps}, vocabulary of "
            f"{self.tokenizer.vocab_size}, n_embd {c.n_embd}, n_head {c.n_head}, n_layer {c.n_layer}, "
            f"block_size {c.block_size}>"
        )

    def _repr_html_(self) -> str:
        from ..viz.notebook import trainer_html

        return trainer_html(self)
