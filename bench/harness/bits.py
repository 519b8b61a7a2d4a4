"""Compare losses and parameters with the original's: verdicts are computed from the numbers."""
import hashlib
from array import array


def digest(parameters):
    """Return the SHA-256 of numbers as doubles: equal if and only if all bits are."""
    return hashlib.sha256(array("d", parameters).tobytes()).hexdigest()


def verdict(losses, original, parameters_equal=None):
    """Compare two lists of losses over the steps that both have; None if nothing is known.

    Returns a dict. "bits": whether all losses, and the final parameters unless parameters_equal is None, have the same bits;
    "print": whether all losses are equal in the four decimals that the script prints; both are None if there was nothing to
    compare. The parameters count because rounding differences inside a step reach a loss only after many steps, but a
    parameter at once.
    """
    pairs = list(zip(losses or [], original or []))
    same_bits = sum(float(a).hex() == float(b).hex() for a, b in pairs)
    return {"bits": same_bits == len(pairs) and parameters_equal is not False if pairs else None,
            "print": all(f"{a:.4f}" == f"{b:.4f}" for a, b in pairs) if pairs else None,
            "parameters": parameters_equal, "same_bits": same_bits, "compared": len(pairs)}  # fmt: skip


def same_model(losses, original, tolerance):
    """Return None if every loss is within the tolerance of the original's, else a sentence."""
    for step, (a, b) in enumerate(zip(losses, original), 1):
        if not abs(a - b) <= tolerance:  # false for nan, too
            return f"trains a different model: the loss of step {step} is {a!r}, the original's {b!r} (tolerance {tolerance:g})"
    return None
