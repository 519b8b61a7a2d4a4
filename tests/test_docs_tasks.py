"""The pages for tasks: every command and every program in them runs, and the flags are all described somewhere."""
import re
import shlex

import pytest
from conftest import ROOT

from microgpt import Trainer, load_docs
from microgpt.data import BUNDLED

pytestmark = pytest.mark.slow

PAGES = ["train-on-my-text.md", "resume.md", "sample.md", "checkpoints.md", "look-inside.md"]
SHORTER = {"5000": "60", "100000": "60", "1000": "30", "100": "20"}


def blocks(page, language):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


@pytest.fixture
def folder(tmp_path):
    names = load_docs(BUNDLED)
    (tmp_path / "my.txt").write_text("\n".join(names[:300]), encoding="utf-8")
    (tmp_path / "other.txt").write_text("\n".join(names[300:330]), encoding="utf-8")
    trainer = Trainer(names[:300], num_steps=100)
    trainer.run()
    trainer.save(tmp_path / "my.safetensors")
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_programs_run(command, folder, page):
    found = [block for block in blocks(page, "python") if not block.startswith("# needs: torch")]
    assert found
    done = command("-c", "\n".join(found))
    assert done.returncode == 0, done.stderr
    if page == "look-inside.md":
        assert (folder / "attention.png").exists() and "digraph" in done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_commands_run(command, folder, page):
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    assert lines or page == "checkpoints.md"
    for line in lines:
        words = shlex.split(line)
        assert words[:2] == ["python", "-m"]
        done = command(*(SHORTER.get(word, word) for word in words[1:]))
        assert done.returncode == 0, (line, done.stderr)


def test_numpy_program_agrees_with_the_package(command, folder):
    """Up to rounding: it adds in another order."""
    program = blocks("checkpoints.md", "python")[0]
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


def test_every_flag_is_described():
    told = "".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in PAGES)
    for name in ("save", "save-every", "resume", "allow-other-text", "val", "val-fraction", "val-every", "patience",
                 "save-best", "log", "look-every", "digest-every", "plot", "quiet", "top-k", "top-p", "max-length",
                 "logprobs", "prompt", "temperature", "json"):  # fmt: skip
        assert f"--{name}" in told, name


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)", (ROOT / "docs" / page).read_text(encoding="utf-8")):
            assert (ROOT / "docs" / target).exists(), (page, target)
