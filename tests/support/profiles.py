"""Hypothesis's profiles: how many examples a property is tried on, and from which seeds.

    dev         the default: fresh seeds, failing examples kept in .hypothesis
    ci          the default where CI is set: the same examples in every run, so that a failure belongs to the change
    campaign    a hundred times as many examples from fresh seeds, once a week (.github/workflows/campaign.yml)

HYPOTHESIS_PROFILE chooses one, and so does pytest's --hypothesis-profile. A property that wants another number of
examples than the profile's says `@settings(max_examples=examples(400))`, which grows with the profile.
"""
import os

from hypothesis import HealthCheck, settings
from hypothesis.database import DirectoryBasedExampleDatabase

EXAMPLES = 100  # of a property that says nothing else, in the profiles dev and ci
DATABASE = ".hypothesis/examples"

PROFILES = {
    "dev": dict(max_examples=EXAMPLES, derandomize=False, print_blob=True),
    "ci": dict(max_examples=EXAMPLES, derandomize=True, database=None, print_blob=True),
    "campaign": dict(
        max_examples=100 * EXAMPLES,
        derandomize=False,
        database=DirectoryBasedExampleDatabase(DATABASE),
        print_blob=True,
    ),
}


def chosen(environment):
    """The name of the profile that this environment asks for."""
    return environment.get("HYPOTHESIS_PROFILE") or ("ci" if environment.get("CI") else "dev")


def register_and_load():
    """Put the chosen profile in force, also over the one that Hypothesis itself loads where it finds a CI."""
    for name, values in PROFILES.items():
        # No clock decides: a machine may stand still for a minute.
        settings.register_profile(name, settings.get_profile("default"), deadline=None,
                                  suppress_health_check=[HealthCheck.too_slow], **values)  # fmt: skip
    settings.load_profile(chosen(os.environ))


def examples(count):
    """max_examples of a property that has `count` of them in the profiles dev and ci."""
    return count * settings().max_examples // EXAMPLES
