"""Interleaved rounds, and what may be said of their results."""
import statistics
import time

#: Above this, a figure is not to be trusted to the digits it is printed with.
NOISY = 0.10


def median(values):
    return statistics.median(values)


def spread(values):
    """How far repeats lie apart: the middle half of them (all of them, if fewer than four) as a share of the median."""
    if len(values) < 2:
        return None
    if len(values) < 4:
        return (max(values) - min(values)) / median(values)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / median(values)


def ratio(base, values):
    """How many times faster `values` are than `base`: the median over rounds of the quotients within a round.

    What slows the machine down for a while slows both sides of a quotient down.
    """
    return median([b / v for b, v in zip(base, values)])


def interleave(runners, repeats, progress=None, budget=None):
    """Run every runner once a round, `repeats` rounds, beginning with another one each round.

    runners: {name: function() -> seconds}; one that returns None has failed and is not asked again. budget: seconds
    that all rounds together should take; two are run even so. Returns {name: [seconds of each round]} without the
    failed.
    """
    times, names, started = {name: [] for name in runners}, list(runners), time.perf_counter()
    for i in range(repeats):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            if progress:
                progress.at(f"round {i + 1} of {repeats}: {name}")
            seconds = runners[name]() if name in times else None
            if seconds is None:
                times.pop(name, None)
            else:
                times[name].append(seconds)
            if progress:
                progress.advance()
        done, elapsed = i + 1, time.perf_counter() - started
        if budget and done >= 2 and elapsed * (done + 1) / done > budget:
            break
    return times


def distrust(times, shared=()):
    """Sentences about figures that the machine was too noisy to tell.

    times: {name: [seconds of each round]}; shared: names whose process did not have its core to itself.
    """
    sentences = []
    apart = {name: s for name, values in times.items() if (s := spread(values)) is not None and s > NOISY}
    if apart:
        names = ", ".join(f"{name} ({s:.0%})" for name, s in apart.items())
        sentences.append(f"too noisy to tell: repeats lie more than {NOISY:.0%} apart: {names}")
    if shared:
        sentences.append(f"too noisy to tell: other processes took the core for more than {NOISY:.0%} of the time from "
                         f"{', '.join(shared)}")  # fmt: skip
    return sentences


def halves_disagree(base, values):
    """By how much the ratio of the odd rounds differs from that of the even ones, if by more than NOISY, else None.

    The two halves are two runs of the benchmark made at the same time.
    """
    if len(base) < 4 or len(values) < 4:
        return None
    odd, even = ratio(base[::2], values[::2]), ratio(base[1::2], values[1::2])
    difference = abs(odd - even) / min(odd, even)
    return difference if difference > NOISY else None


def agreement(before, now):
    """Compare two runs' ratios, {name: ratio}. Returns (the largest difference, sentences about those above NOISY)."""
    worst, sentences = 0.0, []
    for name in sorted(before.keys() & now.keys()):
        if before[name] and now[name]:
            difference = abs(now[name] - before[name]) / min(now[name], before[name])
            worst = max(worst, difference)
            if difference > NOISY:
                sentences.append(
                    f"{name} was {before[name]:,.4g} times the original in the run before, now {now[name]:,.4g}"
                )
    return worst, sentences
