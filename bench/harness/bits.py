"""Whether losses and parameters are the original's: computed from the numbers, never asserted."""
import hashlib
from array import array


def digest(parameters):
    """SHA-256 of numbers as doubles: two are equal if all bits of all of them are."""
    return hashlib.sha256(array("d", parameters).tobytes()).hexdigest()


def verdict(losses, original, parameters_equal=None):
    """Compare two lists of losses, step by step over those both have.

    losses, original: floats, or None where a program did not say; parameters_equal: whether the parameters after the
    last step have the same bits, None if not known. Returns {"bits", "print", "parameters", "same_bits",
    "same_print", "compared", "largest_difference"}: bits is True if all losses and the parameters have the same bits,
    print if all losses are the same with four decimals, as the script prints them; None if there was nothing to
    compare.

    A last bit that is lost somewhere in a step may take many steps to reach a loss; it reaches a parameter at once.
    """
    pairs = list(zip(losses or [], original or []))
    same_bits = sum(float(a).hex() == float(b).hex() for a, b in pairs)
    same_print = sum(f"{a:.4f}" == f"{b:.4f}" for a, b in pairs)
    return {
        "bits": same_bits == len(pairs) and parameters_equal is not False if pairs else None,
        "print": same_print == len(pairs) if pairs else None,
        "parameters": parameters_equal,
        "same_bits": same_bits,
        "same_print": same_print,
        "compared": len(pairs),
        "largest_difference": max(abs(a - b) for a, b in pairs) if pairs else None,
    }


def printed_verdict(losses, original):
    """The same for losses read off a program's output with four decimals: their bits are not known."""
    return {**verdict(losses, original), "bits": None, "same_bits": 0}


def same_model(losses, original, tolerance):
    """None if every loss is within tolerance of the original's, else a sentence. Taken before anything is timed."""
    for step, (a, b) in enumerate(zip(losses, original), 1):
        if not abs(a - b) <= tolerance:  # not "a - b > tolerance": nan must fail
            difference = f"the loss of step {step} is {a!r}, the original's {b!r} (tolerance {tolerance:g})"
            return f"computes something else: {difference}"
    return None
