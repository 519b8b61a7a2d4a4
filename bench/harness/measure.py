"""Interleaved rounds, their statistics, when to distrust them; and whether losses and parameters are the original's."""
import hashlib
import statistics
from array import array

#: Above this spread, a figure is not reliable to the digits it is printed with.
NOISY = 0.10
median = statistics.median


def spread(values):
    """Return the interquartile range (the full range of fewer than four values) as a share of the median."""
    if len(values) < 2:
        return None
    low, _, high = statistics.quantiles(values, method="inclusive") if len(values) > 3 else (min(values), 0, max(values))
    return (high - low) / median(values)


def ratio(base, values):
    """Return how many times faster `values` are than `base`: the median over rounds of the quotient within a round.

    A slow phase of the machine slows both sides of a quotient.
    """
    return median([b / v for b, v in zip(base, values)])


def turns(names, rounds):
    """Yield (i, name) for every name in each round i; each round begins with the next one."""
    for i in range(rounds):
        first = i % max(1, len(names))
        yield from ((i, name) for name in names[first:] + names[:first])


def distrust(spreads, shared=()):
    """Return warnings; shared: names of the processes that did not have their core to themselves."""
    warnings = []
    apart = sorted(((s, name) for name, s in spreads.items() if s is not None and s > NOISY), reverse=True)
    if apart:
        worst = ", ".join(f"{name} ({s:.0%})" for s, name in apart[:5]) + f" and {len(apart) - 5} others" * (len(apart) > 5)
        warnings.append(f"noisy: repeats differ by more than {NOISY:.0%}: {worst}")
    if shared:
        warnings.append(f"noisy: other processes used the core for more than {NOISY:.0%} of the time of {', '.join(shared)}")
    return warnings


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
