"""Reading documents and building the vocabulary: everything as in the script, and the errors that it does not have."""
import hashlib
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest
from texts import TEXTS

from microgpt.data import BUNDLED, Tokenizer, default_source, describe_source, load_docs, load_lines


def script_docs(path):
    return [l.strip() for l in open(path, encoding="utf-8").read().strip().split("\n") if l.strip()]


def script_uchars(docs):
    return sorted(set("".join(docs)))


@pytest.fixture
def write(tmp_path):
    def write(content, name="text.txt"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("content", TEXTS.values(), ids=TEXTS)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the script leaves its file open
def test_documents_and_vocabulary_are_the_scripts(write, content):
    path = write(content)
    docs = load_docs(path)
    assert docs == script_docs(path)
    tokenizer = Tokenizer(docs)
    assert tokenizer.uchars == script_uchars(docs)
    assert tokenizer.BOS == len(tokenizer.uchars)
    assert tokenizer.vocab_size == len(tokenizer) == len(tokenizer.uchars) + 1


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_every_character_within_a_line_is_as_in_the_script(write):
    # All of Latin-1, and what else Unicode calls white space or a line end.
    for ch in [*map(chr, range(256)), *"\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"]:
        path = write(f"a{ch}b\n{ch}c{ch}\nd".encode())
        assert load_docs(path) == script_docs(path), ascii(ch)


def test_what_the_script_reads_in_so_many_words(write):
    # The comparison above would pass if both sides were wrong.
    assert load_docs(write(TEXTS["windows"])) == load_docs(write(TEXTS["old mac"])) == ["emma", "olivia", "ava"]
    assert load_docs(write(TEXTS["windows, several words"])) == ["emma lou", "olivia", "ava"]
    assert load_docs(write(TEXTS["old mac, several words"])) == ["zo\u00eb", "emma lou", "ava"]
    assert load_docs(write(TEXTS["mixed newlines"])) == ["emma", "olivia", "ava", "mia"]
    assert load_docs(write(TEXTS["white space around"])) == ["emma", "olivia", "ava"]
    assert load_docs(write(TEXTS["unicode white space around"])) == ["emma", "olivia", "ava"]
    assert load_docs(write(TEXTS["line ends that are none"])) == [
        "em\u2028ma", "ol\u2029ivia", "a\x0bv\x0ca\x1c\x1d\x1e\x85mia",
    ]
    assert load_docs(write(TEXTS["composed and not"])) == ["zo\u00eb", "zoe\u0308"]
    assert load_docs(write(TEXTS["nul"])) == ["em\0ma", "\0", "ava"]


def test_a_byte_order_mark_is_dropped_at_the_start_only(write):
    assert load_docs(write(b"\xef\xbb\xbfemma\nava")) == ["emma", "ava"]
    assert load_docs(write(b"\xef\xbb\xbf  emma\r\nava")) == ["emma", "ava"]
    assert load_docs(write(b"emma\n\xef\xbb\xbfava")) == ["emma", "\ufeffava"]
    assert load_docs(write(b"\xef\xbb\xbf\xef\xbb\xbfemma")) == ["\ufeffemma"]


@pytest.mark.parametrize("kind", [str, Path, lambda path: str(path).encode()], ids=["str", "Path", "bytes"])
def test_path_types(write, kind):
    assert load_docs(kind(write(b"emma"))) == ["emma"]
    for content in b"", b"\xff":
        path = write(content)
        with pytest.raises(ValueError) as caught:
            load_docs(kind(path))
        assert str(caught.value).startswith(str(path))


def test_the_locale_does_not_matter(write):
    path = write("zoë\n美咲\n".encode())
    code = "import sys; from microgpt.data import load_docs; print(ascii(load_docs(sys.argv[1])))"
    printed = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code, str(path)],
        env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(Path(BUNDLED).parent.parent)},
        capture_output=True, check=True, text=True,
    ).stdout
    assert printed == "['zo\\xeb', '\\u7f8e\\u54b2']\n"


# Errors


@pytest.mark.parametrize(
    "content", [b"", b"\n", b" \t\r\n \n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n ", "\u2003\n\u2028".encode()],
    ids=["empty", "newline", "white space", "byte-order mark", "mark and blanks", "unicode white space"],
)
def test_no_documents(write, content):
    path = write(content)
    with pytest.raises(ValueError) as caught:
        load_docs(path)
    assert str(caught.value) == f"{path} holds no documents"


@pytest.mark.parametrize(
    "content, where", [
        (b"emma\nol\xffivia\n", "byte 0xff at offset 7 (line 2)"),
        (b"emma\nzo\xeb\n", "byte 0xeb at offset 7 (line 2)"),  # Latin-1
        (b"emma\xe2\x82", "byte 0xe2 at offset 4 (line 1)"),  # cut off within a character
        (b"\xef\xbb\xbfemma\xc0\x80", "byte 0xc0 at offset 7 (line 1)"),  # an overlong NUL, after a byte-order mark
        (b"em\xed\xa0\x80ma", "byte 0xed at offset 2 (line 1)"),  # half of a surrogate pair
    ], ids=["invalid", "latin-1", "cut off", "overlong", "surrogate"],
)
def test_not_utf8(write, content, where):
    path = write(content)
    with pytest.raises(ValueError) as caught:
        load_docs(path)
    assert type(caught.value) is ValueError
    assert str(caught.value) == f"{path} is not UTF-8 text: {where}"
    assert caught.value.__suppress_context__


WORDS = "emma lou\nolivia\nava\n"
RUSSIAN = "\u0430\u043d\u043d\u0430 \u043c\u0430\u0440\u0438\u044f\n\u043e\u043b\u044c\u0433\u0430\n"  # in UTF-16 also valid as UTF-8


@pytest.mark.parametrize(
    "content, kind", [
        *[(text.encode(encoding), f"it is {encoding} (iconv -f {encoding} -t UTF-8 converts it)")
          for text in (WORDS, RUSSIAN, "a") for encoding in ("UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE")],
        *[(("\ufeff" + text).encode(encoding), f"it is {encoding[:6]} (iconv -f {encoding[:6]} -t UTF-8 converts it)")
          for text in (WORDS, RUSSIAN) for encoding in ("UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE")],
        ("zo\u00eb \u2014 zoe\n".encode("utf-16-le") * 9, "it is UTF-16LE (iconv -f UTF-16LE -t UTF-8 converts it)"),
        (b"emma\n" + bytes(300) + b"ava\n", "it is binary"),
        (b"\x1f\x8b\x08\x00", "it is compressed by gzip"),
        (b"PK\x03\x04\xff", "it is a zip archive, as the documents of office programs are"),
    ],
)  # fmt: skip
def test_what_is_no_utf8_text(write, content, kind):
    path = write(content)
    for read in load_docs, load_lines:
        with pytest.raises(ValueError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path} is not UTF-8 text: ")
        assert str(caught.value).endswith(kind)


@pytest.mark.parametrize("content", [b"./names/emma\0./names/olivia\0.", b"em\0ma\nava\n", "em\0ma\nзоя\n".encode(), b"a\0\0\0b"])
def test_single_zeros_are_characters(write, content):
    path = write(content)
    assert load_docs(path) == list(load_lines(path)) == content.decode().split()


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no /dev/zero here")
@pytest.mark.parametrize("name", ["/dev/zero", "/dev/urandom", "/dev/full"])
def test_devices_are_refused(name):
    with pytest.raises(ValueError, match=f"^{name} is a device, not a text$"):
        load_docs(name)
    with pytest.raises(ValueError, match="^/dev/null holds no documents$"):
        load_docs(os.devnull)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name here")
def test_a_pipe_is_read_to_its_end_unless_it_has_none(tmp_path, monkeypatch):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write(content):
        with suppress(BrokenPipeError):
            pipe.write_bytes(content)

    def send(content):
        writer = Thread(target=write, args=(content,))
        writer.start()
        try:
            return load_docs(pipe)
        finally:
            writer.join()

    assert send(b"emma\nava\n") == ["emma", "ava"]
    monkeypatch.setattr("microgpt.reading.content._memory", lambda: 8 << 20)
    assert send(b"emma\n" * 400_000) == ["emma"] * 400_000
    with pytest.raises(ValueError, match=r"pipe does not end, or is more than the memory can hold: 3,145,728 bytes were read$"):
        send(b"emma\n" * 650_000)


def test_a_file_larger_than_the_memory(tmp_path):
    with open(tmp_path / "large.txt", "wb") as file:
        try:
            file.truncate(1 << 42)
        except OSError:
            pytest.skip("no file with so large a hole here")
    with pytest.raises(OSError, match="not enough memory to read it") as caught:
        load_docs(tmp_path / "large.txt")
    assert Path(caught.value.filename).name == "large.txt"


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load_docs(tmp_path / "missing.txt")
    assert Path(caught.value.filename).name == "missing.txt"


def test_a_directory(tmp_path):
    with pytest.raises(OSError) as caught:  # IsADirectoryError, or PermissionError on Windows
        load_docs(tmp_path)
    assert Path(caught.value.filename) == tmp_path


# Which file


def test_input_txt_wins_over_the_bundled_names(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_source() == BUNDLED
    assert describe_source() == "the names bundled with microgpt"
    assert load_docs() == load_docs(BUNDLED)
    write(b"my own\ntext", "input.txt")
    assert default_source() == describe_source() == "input.txt"
    assert load_docs() == ["my own", "text"]
    # A path that is given wins over both.
    path = write(b"another")
    assert load_docs(path) == ["another"]
    assert describe_source(path) == str(path)


def test_an_input_txt_that_cannot_be_read_is_not_passed_over(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(b"", "input.txt")
    with pytest.raises(ValueError, match=r"^input\.txt holds no documents$"):
        load_docs()
    (tmp_path / "input.txt").unlink()
    (tmp_path / "input.txt").mkdir()
    with pytest.raises(OSError):
        load_docs()


# The bundled names


def test_the_bundled_names():
    content = Path(BUNDLED).read_bytes()
    # What tools/make_names.py writes; it alone changes the file, and then this line.
    assert hashlib.sha256(content).hexdigest() == "91691165b471c338ee35387260590f0fdc23fcb50509b9ccfe1c879c7ac39a1e"
    names = load_docs(BUNDLED)
    assert content == "".join(name + "\n" for name in names).encode("ascii")
    assert len(names) == 32469
    assert Tokenizer(names).uchars == list("abcdefghijklmnopqrstuvwxyz")
    girls, boys = names[:18309], names[18309:]
    assert girls[:5] == ["emma", "olivia", "ava", "isabella", "sophia"]
    assert boys[:5] == ["liam", "noah", "william", "james", "logan"]
    # Once for girls, once for boys; 2,559 names are both.
    assert len(set(girls)) == len(girls)
    assert len(set(boys)) == len(boys)
    assert len(set(girls) & set(boys)) == 2559
    # Names of one count follow the alphabet: the last of either part, each given to five children, from end to end.
    for part, rarest in (girls, 2516), (boys, 1990):
        assert part[-rarest:] == sorted(part[-rarest:])
        assert part[-rarest - 1] > part[-rarest]


# Tokenizer


@pytest.mark.parametrize("content", TEXTS.values(), ids=TEXTS)
def test_encode_is_the_scripts_and_decode_turns_it_back(write, content):
    docs = load_docs(write(content))
    tokenizer, uchars = Tokenizer(docs), script_uchars(docs)
    BOS = len(uchars)
    for doc in docs:
        tokens = [BOS] + [uchars.index(ch) for ch in doc] + [BOS]
        assert tokenizer.encode(doc) == tokens
        assert tokenizer.decode(tokens) == doc
    assert tokenizer.encode("") == [BOS, BOS]
    assert tokenizer.decode([]) == tokenizer.decode([BOS, BOS]) == ""


@pytest.mark.parametrize("docs", [["a"], ["aaa", "a"], ["~\x7f\0"], ["\x7f\x80"], ["zyx", "cba", "zéa"], []])
def test_uchars_are_sorted_and_unique(docs):
    assert Tokenizer(docs).uchars == script_uchars(docs)


def test_decode_skips_bos_wherever_it_stands():
    tokenizer = Tokenizer(["ab"])
    assert tokenizer.decode(iter([2, 0, 2, 2, 1, 1])) == "abb"


@pytest.mark.parametrize("doc, message", [
    ("aéb", "character 'é' (U+00E9) at index 1 is not in the vocabulary"),
    ("abA", "character 'A' (U+0041) at index 2 is not in the vocabulary"),
    ("\n", "character '\\n' (U+000A) at index 0 is not in the vocabulary"),
])
def test_encode_names_a_character_that_it_does_not_know(doc, message):
    with pytest.raises(ValueError) as caught:
        Tokenizer(["ab"]).encode(doc)
    assert str(caught.value) == message


@pytest.mark.parametrize("ids, wrong", [([0, 3], 3), ([-1], -1), ([1, 10**30], 10**30)])
def test_decode_names_an_id_that_it_does_not_know(ids, wrong):
    with pytest.raises(ValueError) as caught:
        Tokenizer(["ab"]).decode(ids)
    assert str(caught.value) == f"token id {wrong} is not in the vocabulary (0 to 2)"


def test_from_uchars():
    tokenizer = Tokenizer(["zoë", "🙂"])
    for uchars in (tokenizer.uchars, "".join(tokenizer.uchars), iter(tokenizer.uchars)):
        same = Tokenizer.from_uchars(uchars)
        assert (same.uchars, same.BOS, same.vocab_size) == (tokenizer.uchars, tokenizer.BOS, tokenizer.vocab_size)
        assert same.encode("zoë") == tokenizer.encode("zoë")
    assert repr(Tokenizer(["ba"])) == "Tokenizer.from_uchars('ab')"
    # The list given is not the list kept.
    given = ["a", "b"]
    kept = Tokenizer.from_uchars(given)
    given.append("c")
    assert kept.uchars == ["a", "b"]


@pytest.mark.parametrize("uchars", [["ab"], [""], [1], [b"a"], [None]])
def test_from_uchars_wants_single_characters(uchars):
    with pytest.raises(ValueError, match="^a vocabulary consists of single characters$"):
        Tokenizer.from_uchars(uchars)


@pytest.mark.parametrize("uchars", ["ba", "aa", "acb"])
def test_from_uchars_wants_them_in_order(uchars):
    with pytest.raises(ValueError, match="^the characters of a vocabulary must be in order and without repetition$"):
        Tokenizer.from_uchars(uchars)


def test_the_public_names():
    import microgpt

    assert microgpt.Tokenizer is Tokenizer
    assert microgpt.load_docs is load_docs


def test_data_imports_nothing():
    code = "import os, sys; before = set(sys.modules); import microgpt.data; print(sorted(set(sys.modules) - before))"
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(BUNDLED).parent.parent,
        env={name: value for name, value in os.environ.items() if name != "MICROGPT_SIMD"},
        capture_output=True, check=True, text=True,
    ).stdout
    assert printed.strip() == "['microgpt', 'microgpt.data']"
