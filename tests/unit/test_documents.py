"""Documents that are strings only when asked for: the same ones, in the same order, shuffled by the same draws."""
import random
from collections.abc import Sequence

import pytest
from texts import TEXTS

from microgpt import Config, Tokenizer, Trainer, data, load_docs
from microgpt.core.documents import Rounds, TextLines
from microgpt.core.mt19937 import MT19937

PLAIN = ("plain", "no newline at the end", "many newlines at the end", "one document", "windows", "old mac",
         "mixed newlines", "nul")  # fmt: skip


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


@pytest.mark.parametrize("index", [3, -4, 2**40])
def test_there_is_nothing_beyond_the_ends(index):
    with pytest.raises(IndexError, match="no such document"):
        TextLines("emma\nolivia\nava")[index]


def test_only_whole_lines_of_plain_text():
    for ch in map(chr, range(256)):
        text = f"a{ch}b\nc"
        if ch in "\r\n" or (ch.isascii() and not ch.isspace()):
            assert list(TextLines(text)) == text.split()
        else:
            with pytest.raises(ValueError, match="white space within a line|not an ASCII text"):
                TextLines(text)
    with pytest.raises(TypeError):
        TextLines(None)


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


def test_a_trainer_of_lines_is_a_trainer_of_documents():
    docs: Sequence[str] = load_docs(data.BUNDLED)
    ours = Trainer.from_lines(data.load_lines(data.BUNDLED), Config(num_steps=50, seed=3, n_embd=8))
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
