"""tools/mutants.json: each mistake can still be made, and names a session and tests that exist."""
import ast
import json
import re

import pytest
from conftest import ROOT

MUTANTS = json.loads((ROOT / "tools" / "mutants.json").read_text(encoding="utf-8"))
SESSIONS = {
    node.name
    for node in ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8")).body
    if isinstance(node, ast.FunctionDef) and node.decorator_list
}
TARGETS = re.findall(r'Target\("(.+?)"', (ROOT / "tools" / "targets.py").read_text(encoding="utf-8"))


def broken(mutant):
    """Return what is wrong with a mutant: [] if it can be put into the sources and its session can be run."""
    file = ROOT / mutant["file"]
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    sentences = []
    if mutant["old"] not in text or mutant["old"] == mutant["new"]:
        sentences.append(f"{mutant['file']} does not hold what is to be replaced")
    if mutant["session"] not in SESSIONS:
        sentences.append(f"there is no session {mutant['session']}")
    for test in mutant["tests"]:  # a file or a test of it, or a name in tools/targets.py
        file, _, function = test.partition("::")
        is_test = (ROOT / file).is_file() and f"def {function}" in (ROOT / file).read_text(encoding="utf-8")
        if not is_test and test not in TARGETS:
            sentences.append(f"there is no {test}")
    re.compile(mutant["says"])
    return sentences


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant["name"])
def test_mutant_applies_to_the_present_sources(mutant):
    assert broken(mutant) == []


def test_mutant_that_does_not_apply_is_noticed():
    wrong = {**MUTANTS[0], "old": "this is nowhere", "session": "nothing", "tests": ["tests/test_nothing.py"]}
    assert len(broken(wrong)) == 3


def test_names_of_mutants_are_different():
    assert len({mutant["name"] for mutant in MUTANTS}) == len(MUTANTS) > 0
