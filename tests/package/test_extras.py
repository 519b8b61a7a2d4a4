"""The extra `test` brings all that the tests import, so none is skipped because a package is missing; skips that remain are few."""
import ast
import functools
import re
import sys

from conftest import ROOT

TESTS = ROOT / "tests"
OURS = {"microgpt", *(path.stem for folder in ("tests", "tools", "bench") for path in (ROOT / folder).rglob("*.py")), "harness", "golden"}


def requirements(name):
    """A list of requirements of pyproject.toml; tomllib would need Python 3.11."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return re.findall(r'"(.+?)"', re.search(rf"^{name} = \[(.*?)\]$", text, re.M | re.S)[1])


def names(listed):
    return {re.match(r"[\w.-]+", requirement)[0] for requirement in listed}


@functools.cache
def sources():
    """[(path, nodes)] of each Python file of the tests."""
    files = sorted(TESTS.rglob("*.py"))
    return [(path.relative_to(ROOT), list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))) for path in files]


def imported(nodes):
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def test_every_package_that_tests_import_is_declared():
    declared = names(requirements("dependencies")) | names(requirements("test"))
    for path, nodes in sources():
        unknown = set(imported(nodes)) - set(sys.stdlib_module_names) - OURS - declared
        assert not unknown, f"{path} imports {', '.join(sorted(unknown))}: add it to the extra `test`"


def test_extra_brings_what_pictures_and_types_need():
    for extra in ("plot", "types", "bench"):
        assert set(requirements(extra)) <= set(requirements("test")), extra


def test_no_test_is_skipped_for_want_of_a_package():
    """A package that is missing must be an error: the extra declares it."""
    for path, nodes in sources():
        for node in nodes:
            found = getattr(node, "attr", getattr(node, "id", None))
            assert found not in ("importorskip", "find_spec"), f"{path}: {found}"
            if isinstance(node, ast.ExceptHandler) and "skip" in ast.dump(node):
                assert "ImportError" not in ast.dump(node) and "ModuleNotFoundError" not in ast.dump(node), path


def skip_reasons(nodes):
    for node in nodes:
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("skip", "skipif", "xfail"):
            reasons = [word.value for word in node.keywords if word.arg == "reason"] or node.args[-1:]
            yield from (ast.literal_eval(reason) for reason in reasons)


def test_every_skip_is_listed_with_its_justification():
    page = (ROOT / "docs" / "develop" / "testing.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(.+?)` \|", page.split("## What is skipped")[1].split("\n## ")[0], re.M))
    used = {reason for _, nodes in sources() for reason in skip_reasons(nodes)}
    assert used - listed == set(), "not in docs/develop/testing.md"
    assert listed - used == set(), "no longer used"
