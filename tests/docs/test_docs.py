"""The documentation: its code runs, its links lead somewhere, its site builds without a warning."""
import re
import runpy
import subprocess
import sys

import pytest
import run_page
from children import LIMIT
from conftest import ROOT, environment

from microgpt import Trainer, load_docs
from microgpt.data import BUNDLED

DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
#: Pages whose commands build, install or run for minutes: of these only the Python is run.
COMMANDS_NOT_RUN = {"develop"}
#: Everything that is written for GitHub, where links to files are followed.
TEXTS = [*PAGES, *ROOT.glob("*.md"), ROOT / "bench" / "README.md", *ROOT.glob("csrc/**/README.md")]


def text_of(path):
    return path.read_text(encoding="utf-8")


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@pytest.fixture
def folder(tmp_path):
    """What the pages speak of: my.txt, other.txt and a model of the first."""
    names = load_docs(BUNDLED)
    (tmp_path / "my.txt").write_text("\n".join(names[:300]), encoding="utf-8")
    (tmp_path / "other.txt").write_text("\n".join(names[300:330]), encoding="utf-8")
    trainer = Trainer(names[:300], num_steps=100)
    trainer.run()
    trainer.save(tmp_path / "my.safetensors")
    return tmp_path


# ---- the code of the pages ----


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_code_of_a_page_runs_and_prints_what_the_page_shows(command, folder, page):
    languages = "python" if page.parent.name in COMMANDS_NOT_RUN else "python|bash|console"
    done = command(ROOT / "tests" / "support" / "run_page.py", page, *languages.split("|"))
    assert done.returncode == 0, done.stderr
    runnable = re.findall(rf"^```(?:{languages})\n(?!# needs: )", text_of(page), re.M)
    assert done.stdout.splitlines()[-1] == f"{len(runnable)} blocks"
    if page.name == "look-inside.md":
        assert all((folder / name).exists() for name in ("attention.png", "embeddings.png", "loss.png", "run.html", "both.html"))


@pytest.mark.parametrize(("expected", "found", "same"), [
    ("a\nb\n", "a\nb\n", True), ("a\n", "a\nb\n", False), ("a\nb\n", "a\n", False), ("a\n...\n", "a\nb\nc\n", True),
    ("a\n...\nd\n", "a\nb\nc\nd\n", True), ("a\n...\nd\n", "a\nb\nc\n", False), ("loss ...\n", "loss 1.5\n", True),
    ("loss ...\n", "gain 1.5\n", False), ("1.5\n", "1x5\n", False),
])  # fmt: skip
def test_output_is_compared_line_by_line_except_where_dots_stand(expected, found, same):
    assert run_page.matches(expected, found) is same


@pytest.mark.parametrize(("block", "message"), [
    ("```python\nprint(1)\n```\n\n```text\n2\n```\n", "line 2: the page shows"),
    ("```python\n1 / 0\n```\n", "line 2: division by zero"),
    ("```python\n>>> 1 + 1\n3\n```\n", "line 2: "),
    ("```bash\npython -c 'raise SystemExit(4)'\n```\n", "exit status 4"),
    ("```console\n$ python -c 'print(1)'\n2\n```\n", "line 2: the page shows"),
])  # fmt: skip
def test_a_page_whose_code_fails_is_an_error_with_its_line(command, tmp_path, block, message):
    (tmp_path / "page.md").write_text(block, encoding="utf-8")
    done = command(ROOT / "tests" / "support" / "run_page.py", "page.md")
    assert done.returncode == 1 and message in done.stderr


def test_numpy_program_agrees_with_the_package(command, folder):
    """Up to rounding: it adds in another order."""
    program = next(text for _, language, text in run_page.blocks(text_of(DOCS / "howto" / "checkpoints.md")) if language == "python")
    check = """
from microgpt import Trainer
from microgpt.viz.activations import forward
t = Trainer.load("my.safetensors")
tokens = t.tokenizer.encode("kamala")[:-1]
assert np.abs(logits(tokens) - forward(t.model, tokens)["logits"]).max() < 1e-12
print("agrees")
"""
    done = command("-c", program + check)
    assert done.stdout.splitlines()[-1] == "agrees", done.stderr


def test_readme_shows_what_the_default_command_prints(command):
    """Its first lines and samples, for the default run on the bundled names."""
    shown = next(text for _, language, text in run_page.blocks(text_of(ROOT / "README.md")) if language == "console")
    assert shown.startswith("$ microgpt train\n")
    printed = command("-m", "microgpt.train").stdout
    assert run_page.matches(shown.split("\n", 1)[1], printed), printed[:200]


# ---- links and paths ----


def anchors(text):
    """The anchors that GitHub and MyST make of the headings of a page."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


def links(text):
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_links_lead_to_a_file_and_a_heading(page):
    for link in links(text_of(page)):
        target, _, anchor = link.partition("#")
        if target.startswith(("http:", "https:", "mailto:")):
            assert target.startswith("https:"), link
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{name_of(page)} links to {link}"
        if anchor:
            assert anchor in anchors(text_of(path)), f"{name_of(page)} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_images_are_files_and_described(page):
    for text, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text_of(page)):
        assert text and (page.parent / target).is_file(), target


def sources():
    """Every file of the repository that may mention a page."""
    folders = ("microgpt", "csrc", "tests", "tools", "bench", "examples", "docs", ".github")
    kinds = {".py", ".pyx", ".pxd", ".pyi", ".c", ".h", ".md", ".yml", ".toml", ".txt", ".in"}
    top = [path for path in ROOT.iterdir() if path.is_file()]
    found = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    skipped = {"node_modules", "_build", "__pycache__"}
    for path in [*top, *found]:
        generated = path.suffix == ".c" and path.parent.name == "core"
        if path.suffix in kinds and path.is_file() and not skipped & set(path.parts) and not generated:
            yield path


def test_pages_that_sources_mention_exist():
    """A comment that says docs/explain/exactness.md must not outlive the page."""
    wrong = {}
    for path in sources():
        for page in set(re.findall(r"(?<!tests/)\bdocs/[\w/-]+\.(?:md|svg|py)\b", text_of(path))):
            if not (ROOT / page).exists():
                wrong.setdefault(page, []).append(name_of(path))
    assert not wrong


def test_tests_that_pages_mention_exist():
    """Each difference from the script is pinned by a test, named beside it."""
    names = {file.name: set(re.findall(r"^(?:    )?def (test_\w+)", text_of(file), re.M)) for file in (ROOT / "tests").rglob("*.py")}
    for page in [*PAGES, *ROOT.glob("*.md")]:
        for file, name in re.findall(r"`(?:tests/)?(?:(test_\w+\.py)(?:::))?(test_\w+)`", text_of(page)):
            known = names.get(file, set()) if file else set().union(*names.values())
            assert name in known, f"{name_of(page)}: {name}"


# ---- what the pages must cover ----


def parsers():
    found = runpy.run_path(str(DOCS / "_ext" / "command_parsers.py"))
    return {name: found["parser_of"](name) for name in found["COMMANDS"]}


def test_every_command_is_in_the_reference():
    page = text_of(DOCS / "reference" / "commands.md")
    assert re.findall(r":func: (\w+)", page) == list(parsers())


def test_flags_of_the_how_to_pages_exist():
    known = {flag for parser in parsers().values() for action in parser._actions for flag in action.option_strings}
    for page in PAGES:
        if page.parent.name == "howto":
            text = re.sub(r"`python bench/[^`]*`", "", text_of(page))  # other programs' flags
            for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", text):
                assert flag in known, f"{name_of(page)}: {flag}"


def test_every_public_name_is_in_the_reference():
    import microgpt

    page = text_of(DOCS / "reference" / "api.md")
    listed = set(re.findall(r"^\.\. auto\w+:: (?:microgpt\.)?([\w.]+)", page, re.M))
    assert {name for name in microgpt.__all__ if not name.startswith("__")} - listed == set()


def test_every_page_is_in_the_table_of_contents():
    listed = set(re.findall(r"^(\w+/[\w-]+)$", text_of(DOCS / "index.md"), re.M))
    assert listed == {page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES} - {"index"}


# ---- pictures and site ----


@pytest.mark.parametrize("picture", sorted(DOCS.glob("images/*.svg")), ids=name_of)
def test_pictures_have_a_title_and_a_dark_variant(picture):
    from xml.etree import ElementTree

    root = ElementTree.fromstring(text_of(picture))
    assert root.find("{http://www.w3.org/2000/svg}title").text
    assert "prefers-color-scheme: dark" in text_of(picture)


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", DOCS, tmp_path / "html"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, encoding="utf-8", timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    api = text_of(tmp_path / "html" / "reference" / "api.html")
    for name in ("microgpt.Value", "microgpt.Value.backward", "microgpt.linear", "microgpt.Trainer.run"):
        assert f'id="{name}"' in api, name
    commands = text_of(tmp_path / "html" / "reference" / "commands.html")
    for flag in ("--val-fraction", "--top-k", "--save-every", "--json", "--output"):
        assert flag in commands, flag
    broken = [link for page in (tmp_path / "html").rglob("*.html") for link in missing_targets(page)]
    assert not broken


def missing_targets(page):
    """Links and images of a built page to files that the site does not have."""
    for target in re.findall(r'(?:href|src)="([^"#:?]+)[^":]*"', text_of(page)):
        if not (page.parent / target).exists():
            yield f"{page.name}: {target}"


def test_map_names_files_that_exist():
    """From the repository's folder, or from that of the package."""
    paths = re.findall(r"`([\w/]+(?:\.\w+|/))`", text_of(DOCS / "develop" / "map.md"))
    assert len(paths) > 40
    assert [path for path in paths if not (ROOT / path).exists() and not (ROOT / "microgpt" / path).exists()] == []
