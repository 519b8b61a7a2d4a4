"""Documents that are strings only when asked for: the same ones, in the same order, shuffled by the same draws."""
import math
import random
from collections.abc import Sequence

import pytest
from texts import TEXTS

from microgpt import Config, Tokenizer, Trainer, data, load_docs
from microgpt.core.documents import Rounds, TextLines, step_lines
from microgpt.core.mt19937 import MT19937

PLAIN = ("plain", "no newline at the end", "many newlines at the end", "one document", "windows", "old mac",
         "mixed newlines", "nul")  # fmt: skip


def bom(folder, content):
    path = folder / "bom.txt"
    path.write_bytes(b"\xef\xbb\xbf" + content)
    return path


@pytest.mark.parametrize("name", TEXTS)
def test_load_lines_is_load_docs(tmp_path, name):
    path = tmp_path / "text.txt"
    path.write_bytes(TEXTS[name])
    lines, docs = data.load_lines(path), load_docs(path)
    assert isinstance(lines, TextLines) == (name in PLAIN)
    assert len(lines) == len(docs) and list(lines) == docs
    if name in PLAIN:
        assert [lines[i] for i in range(-len(docs), 0)] == docs
        assert Tokenizer.of_lines(lines).uchars == Tokenizer(docs).uchars
    assert isinstance(data.load_lines(bom(tmp_path, TEXTS[name])), TextLines) == (name in PLAIN)
    assert list(data.load_lines(bom(tmp_path, TEXTS[name]))) == docs


@pytest.mark.parametrize("index", [3, -4, 2**40])
def test_there_is_nothing_beyond_the_ends(index):
    with pytest.raises(IndexError, match="no such document"):
        TextLines("emma\nolivia\nava")[index]


@pytest.mark.parametrize("before", [0, 1, 62, 63, 64, 200])  # it is read in blocks of 64
def test_only_whole_lines_of_plain_text(before):
    for ch in map(chr, range(256)):
        text = f"{'x' * before}a{ch}b\nc"
        for given in (text, text.encode("latin-1")):
            if ch in "\r\n" or (ch.isascii() and not ch.isspace()):
                assert list(TextLines(given)) == text.split()
            else:
                with pytest.raises(ValueError, match="white space within a line|not an ASCII text"):
                    TextLines(given)
    for wrong in (None, 3, bytearray(b"a")):
        with pytest.raises(TypeError):
            TextLines(wrong)


def test_random_lines():
    rng = random.Random(3)
    for length in [*range(70), 127, 128, 129, *(rng.randrange(5000) for _ in range(100))]:
        ends = rng.choice(["\n", "\n\n\n\n\n", "\r\n", "x\n"])
        text = "".join(rng.choice("ab~\x00\x1b\x7f" + ends) for _ in range(length))
        docs = text.split()
        for given in (text, text.encode()):
            lines = TextLines(given)
            assert list(lines) == docs and lines.text == text and lines.uchars() == sorted({*"".join(docs)})
            for block_size in (0, 1, 3, 2**40):
                beyond = [len(doc) - block_size for doc in docs if len(doc) > block_size]
                assert lines.beyond(block_size) == (len(beyond), sum(beyond))


def test_step_lines_are_the_scripts():
    rng = random.Random(5)
    losses = [0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324, 1e300, 2.0**48, math.nextafter(2.0**48, 0), 9.99995, 99999.99995,
              7, *(n / 32 for n in range(-99, 99)), *(n * 5e-5 for n in range(300))]  # fmt: skip
    losses += [rng.uniform(0, 4) for _ in range(20000)]
    losses += [math.ldexp(rng.uniform(-1, 1), rng.randint(-60, 60)) for _ in range(20000)]
    losses += [math.nextafter(round(rng.uniform(0, 9), 4) + 5e-5, rng.choice([0, 9])) for _ in range(20000)]
    for first, num_steps in ((1, 1000), (9990, 10), (10**17, 2**62), (-3, 5)):
        expected = [f"step {step:4d} / {num_steps:4d} | loss {loss:.4f}\n" for step, loss in enumerate(losses, first)]
        assert step_lines(first, num_steps, losses) == expected
        losses = losses[:50]
    assert step_lines(1, 1, []) == []


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n\n", b"\xef\xbb\xbf"])
def test_no_lines(tmp_path, content):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"text\.txt holds no documents"):
        data.load_lines(path)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 100, 5000])
def test_shuffle(n):
    docs = [f"{i:x}" for i in range(n)]
    lines, theirs, ours = TextLines("\n".join(docs)), random.Random(7), MT19937(7)
    theirs.shuffle(docs)
    ours.shuffle(lines)
    assert list(lines) == docs
    assert ours.getstate() == theirs.getstate()


def test_copy_of_lines_is_shuffled_apart():
    for text in ("", "a", b"emma\nava\n\nmia"):
        lines = TextLines(text)
        lines.beyond(1)
        MT19937(3).shuffle(lines)
        expected, copy = list(lines), lines.copy()
        assert (list(copy), copy.text, copy.uchars(), copy.beyond(3)) == (expected, lines.text, lines.uchars(), lines.beyond(3))
        for _ in range(9):
            MT19937(5).shuffle(copy)
        assert list(lines) == expected and sorted(copy) == sorted(expected)
    del lines, expected
    assert list(copy)[-1] in ("emma", "ava", "mia")


def test_a_trainer_of_lines_is_a_trainer_of_documents():
    docs: Sequence[str] = load_docs(data.BUNDLED)
    lines = data.load_lines(data.BUNDLED)
    ours = Trainer.from_lines(lines, data.Tokenizer.of_lines(lines), Config(num_steps=50, seed=3, n_embd=8))
    theirs = Trainer(docs, 50, 3, n_embd=8)
    assert ours.run() == theirs.run()
    assert ours.sample(5) == theirs.sample(5)
    assert list(ours.docs) == theirs.docs and ours.tokenizer.uchars == theirs.tokenizer.uchars


def test_text_of_a_subclass_of_str():
    import numpy as np

    class Text(str):
        def isascii(self):
            return True

        def __len__(self):
            return 10**9

        def __str__(self):
            return "z"

    for text in (np.str_("ab\nc\n"), Text("ab\nc\n")):
        lines = TextLines(text)
        assert list(lines) == ["ab", "c"] and type(lines.text) is str and {type(line) for line in lines} == {str}
    with pytest.raises(ValueError, match="not an ASCII text"):
        TextLines(Text("é"))


@pytest.mark.parametrize("length", [0, 2, 4, 10**7])
def test_shuffle_of_lines_that_lie_about_their_number(length):
    class Lying(TextLines):
        def __len__(self):
            return length

    docs, theirs, ours = ["a", "b", "c"], random.Random(7), MT19937(7)
    lines = Lying("a\nb\nc")
    theirs.shuffle(docs)
    ours.shuffle(lines)
    assert [*lines] == docs
    assert ours.getstate() == theirs.getstate()


@pytest.mark.parametrize("documents", [1, 2, 5, 8, 9, 20])
def test_rounds_are_the_documents_over_and_over(documents):
    docs = [chr(ord("a") + i) for i in range(documents)]
    for first in [*range(2 * documents + 1), 10**30]:
        for count in range(2 * documents + 2):
            expected = [docs[i % documents] for i in range(first, first + count)]
            assert list(Rounds(docs, first, count)) == expected
            assert list(Rounds(TextLines("\n".join(docs)), first, count)) == expected
    assert next(Rounds(docs, 0, 10**30)) == "a"


def test_rounds_of_a_list_that_changes():
    docs = list("abcdefghijk")
    rounds, expected = Rounds(docs, 25, 100), (docs[i % len(docs)] for i in range(25, 125))
    for change in (lambda: None, docs.pop, lambda: docs.extend("lmnop"), docs.pop, lambda: docs.__delitem__(slice(2, None))):
        change()
        assert [next(rounds) for _ in range(17)] == [next(expected) for _ in range(17)]
    docs.clear()
    with pytest.raises(IndexError, match="no documents"):
        next(rounds)
    assert list(Rounds(docs, 2, 0)) == []
    with pytest.raises(IndexError, match="no documents"):
        next(Rounds(docs, 2, 1))
