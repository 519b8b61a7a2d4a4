"""`microgpt export`: a C program that samples with the same bits, and JSON with the same numbers."""
import json
import os
import shlex
import shutil
import subprocess

import numpy as np
import pytest

from microgpt import Trainer
from microgpt.export import main
from microgpt.sample import main as sample
from microgpt.viz.activations import forward

SHAPES = {
    "names": (["emma", "olivia", "ava"], dict(n_embd=8, n_head=2, n_layer=1, block_size=6)),
    "no layers": (["ab", "cd"], dict(n_embd=4, n_head=1, n_layer=0, block_size=3)),
    "two layers, odd heads": (["emma", "mia", "zoë", "안나"], dict(n_embd=9, n_head=3, n_layer=2, block_size=17)),
    "what steers a terminal": (['a"\\?', "b\x1b[2J", "c\u202e\x00", "d\ttab?"], dict(n_embd=4, n_head=2, block_size=8)),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def saved(name, steps=30, path="m.safetensors"):
    docs, shape = SHAPES[name]
    trainer = Trainer(docs, num_steps=steps, **shape)
    trainer.run()
    trainer.save(path)
    return trainer


def compiled(source):
    command = shlex.split(os.environ.get("CC", "cc"))
    if not shutil.which(command[0]):
        pytest.skip("no C compiler")
    flags = ["-std=gnu11", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*command, *flags, "-o", "model", source, "-lm"], check=True)
    return lambda *words: subprocess.run(["./model", *map(str, words)], capture_output=True, encoding="utf-8")


@pytest.mark.skipif(os.name != "posix", reason="a shell, signals and devices of POSIX")
@pytest.mark.parametrize("name", SHAPES)
def test_the_program_prints_what_sample_prints(folder, capfd, name):
    saved(name)
    assert main(["m.safetensors", "--c", "m.c"]) == 0
    run = compiled("m.c")
    capfd.readouterr()
    for words, flags in (([], []), ([7, 1.25], ["--samples", "7", "--temperature", "1.25"]),
                         ([30, 2, 0], ["--samples", "30", "--temperature", "2", "--seed", "0"]),
                         ([5, 0.5, 2**40 + 3], ["--samples", "5", "--seed", str(2**40 + 3)]),
                         *(([5, 0.5, seed], ["--samples", "5", f"--seed={seed}"])
                           for seed in (-3, 2**64, -(2**64) - 7, 10**40, 2**2048 - 1))):  # fmt: skip
        assert sample(["m.safetensors", *flags]) == 0
        done = run(*words)
        assert (done.returncode, done.stdout, done.stderr) == (0, capfd.readouterr().out, "")
    for words in ([1, 0], [1, 1, 1, 1], ["--help"], ["x"], [""], ["1x"], [-1], [1, "x"], *(
            [1, 0.5, seed] for seed in ("seed", "-", "1.5", "1_0", 2**2048))):  # fmt: skip
        done = run(*words)
        assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("usage: "), words
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            done = subprocess.run(["./model", "3"], stdout=full, stderr=subprocess.PIPE, encoding="utf-8")
        assert done.returncode == 2 and done.stderr.startswith("standard output: ")


#: The program with another main, which prints the logits of every position of a text.
LOGITS = """#define main sample_main
#include "m.c"
#undef main
int main(void)
{
    const int tokens[] = {%s};
    double logits[VOCAB];
    for (int p = 0; p < (int)(sizeof tokens / sizeof *tokens); p++) {
        gpt(tokens[p], p, logits);
        for (int i = 0; i < VOCAB; i++) printf("%%a ", logits[i]);
    }
    return 0;
}
"""


@pytest.mark.skipif(os.name != "posix", reason="a shell, signals and devices of POSIX")
@pytest.mark.parametrize("name", SHAPES)
def test_the_programs_logits_have_the_bits_of_the_model(folder, name):
    """A sample hides a last bit; these do not."""
    trainer = saved(name)
    assert main(["m.safetensors", "--c", "m.c"]) == 0
    tokens = [trainer.tokenizer.BOS, *range(trainer.tokenizer.BOS)][: trainer.config.block_size]
    (folder / "logits.c").write_text(LOGITS % ", ".join(map(str, tokens)))
    printed = compiled("logits.c")().stdout.split()
    assert list(map(float.fromhex, printed)) == forward(trainer, tokens)["logits"].ravel().tolist()


def test_json_has_the_numbers(folder):
    trainer = saved("two layers, odd heads")
    assert main(["m.safetensors", "--json", "m.json"]) == 0
    model = json.loads((folder / "m.json").read_text(encoding="utf-8"))
    assert model["characters"] == trainer.tokenizer.uchars and model["bos"] == trainer.tokenizer.BOS
    flat = np.concatenate([np.array(rows).ravel() for rows in model["weights"].values()])
    assert flat.tobytes() == trainer.parameters.tobytes()
    assert {name: (len(rows), len(rows[0])) for name, rows in model["weights"].items()} == trainer.config.shapes(len(trainer.tokenizer))
    assert [model[name] for name in ("n_embd", "n_head", "n_layer", "block_size")] == [9, 3, 2, 17]


@pytest.mark.parametrize("arguments, message", [
    (["m.safetensors"], "export needs --c FILE.c or --json FILE.json"),
    (["m.safetensors", "--c", "m.safetensors"], "--c m.safetensors would overwrite the model: it is the same file"),
    (["m.safetensors", "--c", "a", "--json", "./a"], "--json ./a would overwrite --c a: they are the same file"),
    (["none.safetensors", "--c", "m.c"], "none.safetensors: No such file or directory"),
    (["m.safetensors", "--c", "none/m.c"], "No such folder"),
])  # fmt: skip
def test_bad_input_ends_in_one_line(folder, capfd, arguments, message):
    saved("names", 1)
    before = sorted(os.listdir())
    assert main(arguments) == 2
    err = capfd.readouterr().err.splitlines()
    assert len(err) == 1 and message in err[0] and sorted(os.listdir()) == before


def test_a_diverged_model_is_refused(folder, capfd):
    trainer = saved("names", 1)
    trainer.parameters = trainer.parameters * float("inf")
    trainer.save("bad.safetensors")
    for flag in ("--c", "--json"):
        assert main(["bad.safetensors", flag, "bad"]) == 2
        assert "not finite" in capfd.readouterr().err and not os.path.exists("bad")
