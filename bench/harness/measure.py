"""Interleaved rounds, their statistics, and when to distrust them."""
import statistics

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


def interleave(runners, rounds, progress):
    """Run every runner once per round, beginning with the next one in each round.

    runners: {name: function() -> seconds, or None if it failed; a failed one is not run again}.
    progress: called with a name before each run. Returns {name: [seconds of each round]} without the failed ones.
    """
    times, names = {name: [] for name in runners}, list(runners)
    for i in range(rounds):
        first = i % max(1, len(names))
        for name in names[first:] + names[:first]:
            progress(f"round {i + 1} of {rounds}: {name}")
            seconds = runners[name]() if name in times else None
            if seconds is None:
                times.pop(name, None)
            else:
                times[name].append(seconds)
    return times


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
