"""Exceptions of a run, and the words for them."""
import math

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["DivergedError"]


class DivergedError(ValueError, ArithmeticError):
    """A numeric failure of the script's own kind: the model gave a token the probability 0, or a number overflowed.

    step: the step that failed, counted from 1; where a sample failed, the last step that was done. `__cause__` is the
    exception that the script would have raised. It is caught by `except ValueError` and by `except ArithmeticError`,
    because the script's own is one of these. The trainer stands as it stood after the last whole step.
    """

    def __init__(self, message: str, step: int = 0) -> None:
        super().__init__(message)
        self.step = step


def of_step(trainer: "Trainer", error: Exception) -> "DivergedError | None":
    """The DivergedError for a step that failed with error, or None if error is not the arithmetic's."""
    if type(error) is ValueError and str(error) in _domain_errors():
        reason = "the model gave a token of the text the probability 0, which has no logarithm"
    elif type(error) is OverflowError:
        reason = "a number became too large for a double"
    elif type(error) is ZeroDivisionError:
        reason = "a division by zero"
    else:
        return None
    step = trainer.step_index + 1
    advice = f"a learning_rate lower than {trainer.adam.learning_rate}"
    if step == 1:
        advice = f"an init_std lower than {trainer.settings['init_std']}"  # nothing has been learned yet
    return DivergedError(f"the run diverged at step {step}: {reason} ({error.args[-1]}); try {advice}", step)


def of_sample(trainer: "Trainer", error: Exception, temperature: float) -> "ValueError | None":
    """What to raise for a sample that failed with error, or None if error is not the arithmetic's."""
    if type(error) not in (ValueError, OverflowError, ZeroDivisionError):
        return None
    if type(error) is ValueError and not str(error).startswith("Total of weights"):
        return None
    if _is_sound(trainer):
        return ValueError(f"temperature {temperature} is too low for this model: its logits overflow")
    return DivergedError(
        f"the model of step {trainer.step_index} cannot be sampled, because the run has diverged: its probabilities are "
        f"not finite; train with a learning_rate lower than {trainer.adam.learning_rate}",
        trainer.step_index,
    )


def _is_sound(trainer):
    """Whether the model gives finite probabilities at temperature 1."""
    if not all(map(math.isfinite, trainer._engine.get_data().tolist())):
        return False
    decoder = trainer._engine.decoder()
    decoder.feed(trainer.tokenizer.BOS)
    try:
        return all(map(math.isfinite, decoder.probabilities()))
    except (ValueError, ArithmeticError):
        return False


def _domain_errors():
    """The words of the running Python for the logarithm of 0, and ours for the root of a negative second moment."""
    try:
        math.log(0.0)
    except ValueError as error:
        return str(error), "v is negative: its square root is not a real number"
