"""Hypothesis's profiles are those that run: here, under CI, and in the weekly campaign."""
import json
import os
import re

import pytest
from conftest import ROOT
from hypothesis import settings
from profiles import DATABASE, EXAMPLES, PROFILES, chosen, examples

TESTS = ROOT / "tests"
CAMPAIGN = ROOT / ".github" / "workflows" / "campaign.yml"

# In a new process: the profile in force, and how many examples a property of 3 is really tried on. The marks are those
# by which Hypothesis knows a CI, where it loads a profile of its own.
COUNT = """
import json, random, sys
sys.path.insert(0, sys.argv[1])
import conftest
from hypothesis import HealthCheck, given, settings, strategies
from profiles import examples

seen = []

@settings(max_examples=examples(3))
@given(strategies.floats(0, 1))
def try_it(x):
    seen.append(x)

try_it()
s = settings()
asks_the_clock = s.deadline or HealthCheck.too_slow not in s.suppress_health_check
print(json.dumps([s.max_examples, s.derandomize, s.database is None, asks_the_clock, s.print_blob, len(seen), seen[-3:]]))
"""


def run_with(command, **variables):
    env = {"CI": "", "GITHUB_ACTIONS": "", "HYPOTHESIS_PROFILE": "", **variables}
    done = command("-c", COUNT, TESTS, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_ci_tries_the_same_examples_in_every_run(command):
    first, second = (run_with(command, CI="true", GITHUB_ACTIONS="true") for _ in range(2))
    assert first == second
    assert first[:6] == [EXAMPLES, True, True, False, True, 3]


@pytest.mark.slow
def test_dev_tries_other_examples_in_every_run(command):
    first, second = (run_with(command) for _ in range(2))
    assert first[:6] == second[:6] == [EXAMPLES, False, False, False, True, 3]
    assert first[6] != second[6]


@pytest.mark.slow
def test_campaign_tries_a_hundred_times_as_many_from_fresh_seeds_also_under_ci(command):
    made = [run_with(command, CI="true", GITHUB_ACTIONS="true", HYPOTHESIS_PROFILE="campaign") for _ in range(2)]
    for one in made:
        assert one[:6] == [100 * EXAMPLES, False, False, False, True, 300]
    assert made[0][6] != made[1][6]


def test_unknown_profile_is_an_error(command):
    done = command("-c", COUNT, TESTS, env={"HYPOTHESIS_PROFILE": "campain"})
    assert done.returncode and "'campain' is not registered" in done.stderr


def steps_of(workflow):
    """The steps of a workflow, each as its text."""
    return re.split(r"^ +- (?=\w+:)", workflow.read_text(encoding="utf-8"), flags=re.M)


def test_campaign_workflow_runs_the_campaign_profile():
    (step,) = [step for step in steps_of(CAMPAIGN) if "-m pytest" in step]
    variables = dict(re.findall(r"^ +([A-Z_]+): (\S+)$", step, flags=re.M))
    name = chosen({"CI": "true", **variables})
    assert name == "campaign"
    assert PROFILES[name]["max_examples"] == 100 * PROFILES["ci"]["max_examples"]
    assert PROFILES[name]["derandomize"] is False and PROFILES[name]["database"] is not None


def test_campaign_workflow_keeps_the_failing_examples():
    """A machine of a workflow is gone afterwards, and with it .hypothesis."""
    (step,) = [step for step in steps_of(CAMPAIGN) if "upload-artifact" in step]
    assert "if: failure()" in step and f"path: {DATABASE}\n" in step
    assert "include-hidden-files: true" in step


@pytest.mark.parametrize("environment, name", [
    ({}, "dev"), ({"CI": "true"}, "ci"), ({"CI": ""}, "dev"), ({"CI": "1", "HYPOTHESIS_PROFILE": "dev"}, "dev"),
    ({"HYPOTHESIS_PROFILE": "campaign"}, "campaign"), ({"CI": "true", "HYPOTHESIS_PROFILE": ""}, "ci"),
])  # fmt: skip
def test_environment_chooses_the_profile(environment, name):
    assert chosen(environment) == name


def test_number_of_examples_grows_with_the_profile():
    assert examples(400) == 4 * settings().max_examples


def test_no_property_fixes_its_number_of_examples():
    """A plain number would be the same in the campaign."""
    for path in sorted(TESTS.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        for value in re.findall(r"\bsettings\([^)]*?max_examples=(\w+)", source):
            assert value == "examples", f"{path.relative_to(ROOT)}: max_examples={value}"


def test_this_run_uses_the_profile_it_was_told(request):
    name = request.config.getoption("--hypothesis-profile", None) or chosen(os.environ)
    assert settings().max_examples == PROFILES[name]["max_examples"]
    assert settings().derandomize == PROFILES[name]["derandomize"]
