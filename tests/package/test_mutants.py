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


def broken(mutant):
    """Return what is wrong with a mutant: [] if it can be put into the sources and its session can be run."""
    file = ROOT / mutant["file"]
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    sentences = []
    if mutant["old"] not in text or mutant["old"] == mutant["new"]:
        sentences.append(f"{mutant['file']} does not hold what is to be replaced")
    if mutant["session"] not in SESSIONS:
        sentences.append(f"there is no session {mutant['session']}")
    sentences += [f"there is no {test}" for test in mutant["tests"] if not (ROOT / test.partition("::")[0]).is_file()]
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
