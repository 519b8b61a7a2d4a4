"""Texts that are not one document per line: how they are divided, columns and fields, and the errors with their lines."""
import io
import sys

import pytest
from texts import TEXTS

from microgpt import load_docs
from microgpt.data import split_text
from microgpt.reading.passages import chunks, find_character, looks_like, paragraphs
from microgpt.reading.records import csv_column, json_field, records

POEM = "\r\nroses\r\nare red \r\n \t\r\n\r\n  violets\r\n\tare blue\r\n\r\n\r\n"


def test_paragraphs_end_at_blank_lines_and_keep_their_lines():
    assert paragraphs(POEM) == ["roses\nare red", "violets\n\tare blue"]
    assert paragraphs("a\rb\r\rc") == ["a\nb", "c"]
    assert paragraphs("a \n b") == ["a \n b"]
    assert paragraphs("a\u2028\n\u2003\nb\u2029\x0cc") == ["a", "b\u2029\x0cc"]
    assert paragraphs(" \n\n ") == paragraphs("") == []


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_chunks_hold_every_character_once_in_windows_of_one_size(size):
    for text in (*(content.decode() for content in TEXTS.values()), POEM):
        found = chunks(text, size)
        assert "".join(found) == text.replace("\r\n", "\n").replace("\r", "\n").strip()
        assert {len(chunk) for chunk in found[:-1]} <= {size} and 0 < len(found[-1]) <= size


def test_lines_are_those_of_load_docs(tmp_path):
    for name, content in TEXTS.items():
        (tmp_path / "text.txt").write_bytes(content)
        assert split_text(content.decode(), split="lines") == load_docs(tmp_path / "text.txt"), name


def test_load_docs_of_every_form(tmp_path):
    (tmp_path / "poem.txt").write_text(POEM, encoding="utf-8", newline="")
    (tmp_path / "names.csv").write_text('name;year\nemma;2017\n"a;""b""\nc";2016\n', encoding="utf-8")
    (tmp_path / "names.jsonl").write_text('{"t": "x y"}\n\n{"t": null}\n{"t": "z\\nz"}', encoding="utf-8")
    poem, table, objects = (tmp_path / name for name in ("poem.txt", "names.csv", "names.jsonl"))
    assert load_docs(poem, split="paragraphs") == paragraphs(POEM)
    assert load_docs(poem, split="chunks", block_size=9) == ["roses\nare", " red \n \t\n", "\n  violet", "s\n\tare bl", "ue"]
    assert load_docs(table, csv_column="name") == ["emma", 'a;"b"', "c"]
    assert load_docs(table, csv_column="name", split="paragraphs") == ["emma", 'a;"b"\nc']
    assert load_docs(objects, json_field="t", split="chunks", block_size=2) == ["x ", "y", "z\n", "z"]
    assert load_docs([poem, str(poem)]) == 2 * load_docs(poem)
    # no chunk holds the end of one file and the beginning of another
    assert load_docs([poem, objects], split="chunks", block_size=40)[1][0] == "{"
    (tmp_path / "empty.txt").write_bytes(b"")
    assert load_docs([tmp_path / "empty.txt", poem]) == load_docs(poem)
    with pytest.raises(ValueError, match=r"^\S+empty.txt, \S+empty.txt hold no documents$"):
        load_docs([tmp_path / "empty.txt"] * 2)


@pytest.mark.parametrize("stream", [io.TextIOWrapper(io.BytesIO("zoë\nava\n".encode()), "latin-1"), io.StringIO("zoë\nava")])
def test_load_docs_of_standard_input(monkeypatch, stream):
    monkeypatch.setattr(sys, "stdin", stream)
    assert load_docs("-") == ["zoë", "ava"]
    with pytest.raises(ValueError, match="^standard input holds no documents$"):
        load_docs("-")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ValueError, match="^there is no standard input$"):
        load_docs("-")


@pytest.mark.parametrize("arguments, message", [
    (dict(split="words"), "split must be one of lines, paragraphs, chunks, not 'words'"),
    (dict(split="chunks", block_size=0), "block_size must be at least 1, not 0"),
    (dict(csv_column="a", json_field="a"), "csv_column and json_field exclude each other"),
])
def test_impossible_forms_are_refused(arguments, message):
    with pytest.raises(ValueError) as caught:
        load_docs(**arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize("delimiter", ",;\t|")
def test_csv_delimiter_is_the_one_with_which_the_column_is_there(delimiter):
    text = delimiter.join(["id", "name, or; not\tthis|one".replace(delimiter, " "), "text"]) + "\r\n" + delimiter.join("123")
    assert csv_column(text, "text") == ["3"]
    assert csv_column("\n\n" + text + "\n\n", "id") == ["1"]


def test_csv_cell_may_be_longer_than_the_limit_of_the_library():
    import csv

    before = csv.field_size_limit()
    assert csv_column(f'a,b\n1,"{"x" * 200_000}"', "b") == ["x" * 200_000]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("text, message", [
    ("", "t.csv holds no documents"),
    ("nome,year\n", "t.csv has no column 'name'; did you mean 'nome'? (its first row is 'nome', 'year')"),
    (",".join(map(str, range(20))), "t.csv has no column 'name' (its first row is '0', '1', '2', '3', '4', '5', '6', '7' and 12 more)"),
    ("year,name\n1,a\n\n2\n", "t.csv, line 4: no 'name': the row has 1 of 2 columns"),
    ('year,name\n1,"a\nb"\n2\n', "t.csv, line 4: no 'name': the row has 1 of 2 columns"),
    ('name\na\n"b\nc\n', "t.csv, line 3: unexpected end of data"),
    ('name\na\n"b"c\n', "t.csv, line 3: ',' expected after '\"'"),
])
def test_csv_errors_have_file_and_line(text, message):
    with pytest.raises(ValueError) as caught:
        csv_column(text, "name", "t.csv")
    assert str(caught.value) == message


def test_json_is_one_object_per_line_or_one_list():
    assert json_field('{"t": "a\\u2028b"}\r\n{"x": 1, "t": "c\u2028d"}', "t") == ["a\u2028b", "c\u2028d"]
    assert json_field('[\n {"t": "a"},\n {"t": null} , {"t": "b"}\n]\n', "t") == ["a", "b"]
    assert json_field(" [ ] ", "t") == json_field("", "t") == []
    text = '[{"t":\n"a"},\n\n{"t": "b"}]'
    assert list(records(text, "x", json_field="t")) == [(1, "a"), (4, "b")]


@pytest.mark.parametrize("text, message", [
    ('{"t": "a"}\n{"t": }\n', "line 2: not JSON: Expecting value"),
    ('{"t": "a"} x\n', "line 1: not JSON: something follows the value at character 11"),
    ('{"t": "a"}\n["b"]\n', "line 2: a list, not an object with the field 't'"),
    ('{"s": "a", "u": 1}\n', "line 1: no field 't' (it has 's', 'u')"),
    ("{}\n", "line 1: no field 't' (it has none)"),
    ('{"t": ["a"]}', "line 1: the field 't' is a list, not a string"),
    ('\n{"t": 1}', "line 2: the field 't' is a number, not a string"),
    ('[{"t": "a"},\n{"t": true}]', "line 2: the field 't' is true or false, not a string"),
    ('[{"t": "a"}\n{"t": "b"}]', "line 1: not JSON: a list without ',' between its values, or without its end"),
    ('[{"t": "a"},\n]', "line 2: not JSON: Expecting value"),
    ('[{"t":\n\n}]', "line 3: not JSON: Expecting value"),
    ('[{"t": "a"}]\n[]', "line 1: not JSON: something follows the list"),
    ("[" * 200_000, "line 1: not JSON: "),
    ('{"t": ' + "9" * 10_000 + "}", "line 1: "),
])
def test_json_errors_have_file_and_line(text, message):
    with pytest.raises(ValueError) as caught:
        json_field(text, "t", "t.jsonl")
    assert str(caught.value).startswith(f"t.jsonl, {message}")


def test_unknown_character_is_found_in_the_line_of_the_file():
    assert find_character([(1, "\r\n  emX \r\nX")], "X", "lines") == (2, 2, "X")
    assert find_character([(1, "\r\n  emX \r\nX")], "X", "chunks") == (2, 4, "X")
    assert find_character([(1, "a\nb")], "\n", "paragraphs") == (1, 1, "\n")
    table = 'id,t\n1,"a\nb"\n2,"c\nX"\n'
    assert find_character(records(table, "t", csv_column="t"), "X", "lines") == (5, 0, "X")
    assert find_character(records(table, "t", csv_column="t"), "Y", "lines") is None


@pytest.mark.parametrize("text, expected", [
    ("id,name\n1,emma\n2,ava\n", "CSV"), ("a;b\n1;2\n3;4\n", "CSV"), ("a\tb\n1\t2\n3\t4\n", "CSV"),
    ('id,text\n1,"a, b"\n2,"c"\n', "CSV"), ('{"a": 1}\n{"a": 2}\n', "JSON"), ('[\n  {"a": 1}\n]\n', "JSON"),
    ('["a", "b"]', None), ("<!DOCTYPE html><p>", "HTML"), ("\n<html>", "HTML"), ('<?xml version="1.0"?><a/>', "XML"),
    ("emma\nolivia\nava\n", None), ("roses are red, violets\nsugar is sweet, and\nso, are you\n", None),
    ("one, two\nthree, four\nfive, six\n", None), ("a,b\nc,d\n", None), ("", None), ("[Chorus]\nla la\n", None),
    ("{ a set }\n", None), ("<3 you\n", None), *((content.decode(), None) for content in TEXTS.values()),
])
def test_formats_are_recognised(text, expected):
    assert looks_like(text) == expected
