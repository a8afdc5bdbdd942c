"""Bad inputs 11-21 and 32: each has a code, a place and a remedy; and what is good comes back unchanged."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import string
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeptune.core.errors import DataError
from keeptune.core.spec import validate
from keeptune.data.formats import Format
from keeptune.data.read import read_examples

GOOD = {"prompt": "hello there", "completion": "fine"}


def source(path, **settings):
    return validate(Format, {"format": "prompt_completion", "path": str(path), **settings})


def write(folder, content, name="rows.jsonl"):
    path = folder / name
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def refused(path, **settings):
    with pytest.raises(DataError) as caught:
        read_examples(source(path, **settings), "task")
    error = caught.value
    assert error.where["file"] == str(path)
    return error


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_a_broken_line_is_named_by_line_and_column(tmp_path, name):
    error = refused(write(tmp_path, lines(GOOD) + '{"prompt": "a", completion: "b"}\n' + lines(GOOD), name))
    assert (error.code, error.where["line"], error.where["column"]) == ("E-DATA-JSON", 2, 17)
    assert "completion" in error.what
    assert "skip_bad" in error.fix


@pytest.mark.parametrize("length", range(1, len(json.dumps(GOOD))))
def test_a_cut_last_line_looks_truncated_wherever_it_is_cut(tmp_path, length):
    error = refused(write(tmp_path, lines(GOOD) + json.dumps(GOOD)[:length]))
    assert (error.code, error.where["line"]) == ("E-DATA-TRUNCATED", 2)


def test_a_file_cut_inside_a_letter_looks_truncated(tmp_path):
    whole = lines(GOOD).encode() + '{"prompt": "你'.encode()
    assert refused(write(tmp_path, whole[:-1])).code == "E-DATA-TRUNCATED"


def test_a_cut_gzip_stream_looks_truncated(tmp_path):
    path = write(tmp_path, lines(*[GOOD] * 50), "rows.jsonl.gz")
    path.write_bytes(path.read_bytes()[:-12])
    assert refused(path).code == "E-DATA-TRUNCATED"


def test_a_damaged_or_mislabelled_gzip_file_is_named(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(lines(GOOD).encode())
    assert refused(path).code == "E-DATA-GZIP"
    data = bytearray(gzip.compress(lines(*[GOOD] * 50).encode()))
    data[-6] ^= 255
    path.write_bytes(bytes(data))
    assert refused(path).code == "E-DATA-GZIP"


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.jsonl.gz"])
@pytest.mark.parametrize("content", ["", "\n \n\r\n"])
def test_a_file_without_rows_is_refused(tmp_path, name, content):
    assert refused(write(tmp_path, content, name)).code == "E-DATA-NOROWS"


def test_byte_order_mark_carriage_returns_and_blank_lines_are_accepted_and_counted(tmp_path):
    content = b"\xef\xbb\xbf" + lines(GOOD, GOOD).replace("\n", "\r\n").encode() + b"\r\n"
    reading = read_examples(source(write(tmp_path, content)), "task")
    assert len(reading.examples) == 2
    counts = reading.counts
    assert (counts["bom"], counts["crlf"], counts["blank"], counts["read"], counts["kept"]) == (1, 3, 1, 2, 2)


@pytest.mark.parametrize(("encoding", "text"), [("ISO-8859-1", "café à la crème"), ("GBK", "你好，世界很大")])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_another_encoding_is_named_with_line_and_guess_and_never_replaced(tmp_path, encoding, text, name):
    if name == "rows.csv":
        content = f"prompt,completion\na,b\n{text},d\n"
    else:
        rows = [json.dumps({"prompt": words, "completion": "d"}, ensure_ascii=False) for words in ("a", "b", text)]
        content = "[" + ",\n".join(rows) + "]" if name == "rows.json" else "\n".join(rows) + "\n"
    error = refused(write(tmp_path, content.encode(encoding), name))
    assert (error.code, error.where["line"]) == ("E-DATA-ENCODING", 3)
    assert encoding in error.what
    assert f"iconv -f {encoding}" in error.fix


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_wide_encoding_is_named(tmp_path, encoding):
    error = refused(write(tmp_path, lines(GOOD).encode(encoding)))
    assert error.code == "E-DATA-ENCODING"
    assert encoding.upper() in error.what


@pytest.mark.parametrize("escape", ["\\ud83d", "\\u0000", "\\udc00 x"])
def test_half_a_surrogate_pair_and_nul_are_refused_with_the_row(tmp_path, escape):
    error = refused(write(tmp_path, lines(GOOD) + f'{{"prompt": "ab{escape}", "completion": "x"}}\n'))
    assert (error.code, error.where["line"], error.where["key"]) == ("E-DATA-TEXT", 2, "prompt")
    error.what.encode()


def test_other_control_characters_and_replacement_marks_are_kept_and_counted(tmp_path):
    rows = [{**GOOD, "prompt": "a\x1b[1m"}, {**GOOD, "prompt": "b\ufffd"}]
    reading = read_examples(source(write(tmp_path, lines(*rows))), "task")
    assert reading.examples[0].messages[0].content == "a\x1b[1m"
    assert (reading.counts["control"], reading.counts["replacement"]) == (1, 1)


@pytest.mark.parametrize(
    ("row", "code", "key"),
    [
        ({"promt": "a", "completion": "b"}, "E-DATA-KEY", "prompt"),
        ({"prompt": "a"}, "E-DATA-KEY", "completion"),
        ({"prompt": None, "completion": "b"}, "E-DATA-NULL", "prompt"),
        ({"prompt": "a", "completion": 3}, "E-DATA-TYPE", "completion"),
        ({"prompt": "a", "completion": True}, "E-DATA-TYPE", "completion"),
        ({"prompt": {"text": "a"}, "completion": "b"}, "E-DATA-TYPE", "prompt"),
        ({"prompt": ["a"], "completion": "b"}, "E-DATA-TYPE", "prompt"),
        ({"prompt": "", "completion": "b"}, "E-DATA-EMPTY", "prompt"),
        ({"prompt": "a", "completion": ""}, "E-DATA-EMPTY", "completion"),
        ({"prompt": "a", "completion": " \n\t"}, "E-DATA-EMPTY", "completion"),
        (["a", "b"], "E-DATA-TYPE", None),
        ("a", "E-DATA-TYPE", None),
        ({}, "E-DATA-KEY", "prompt"),
    ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json.gz"])
def test_a_field_that_is_missing_null_of_another_type_or_empty_is_refused_by_name(tmp_path, row, code, key, name):
    content = lines(GOOD, row) if name == "rows.jsonl" else "[\n" + ",".join(map(json.dumps, [GOOD])) + ",\n"
    content = content if name == "rows.jsonl" else content + json.dumps(row) + "]"
    error = refused(write(tmp_path, content, name))
    assert (error.code, error.where.get("key")) == (code, key)
    assert error.where["line"] == (2 if name == "rows.jsonl" else 3)


def test_a_missing_key_names_the_nearest_one_and_the_setting(tmp_path):
    error = refused(write(tmp_path, lines({"promt": "a", "completion": "b"})))
    assert "Did you mean 'promt'?" in error.fix
    assert "completion" in error.fix
    assert "prompt: COLUMN" in error.fix


def test_json_that_cannot_be_held_is_refused(tmp_path):
    assert refused(write(tmp_path, "[" * 100_000 + "\n")).code in ("E-DATA-JSON", "E-DATA-TRUNCATED")
    assert refused(write(tmp_path, '{"a": ' * 100_000 + "\n")).code == "E-DATA-JSON"
    assert refused(write(tmp_path, '{"prompt": ' + "9" * 5000 + "}\n")).code == "E-DATA-JSON"


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_a_row_above_row_bytes_is_refused_without_being_held(tmp_path, name):
    big = "x" * 50_000_000
    content = lines(GOOD, {**GOOD, "prompt": big}) if name == "rows.jsonl" else f"prompt,completion\na,b\n{big},c\n"
    error = refused(write(tmp_path, content, name))
    assert (error.code, error.where["line"]) == ("E-DATA-ROWSIZE", 2 if name == "rows.jsonl" else 3)
    assert "row_bytes" in error.fix


def test_reading_goes_on_behind_a_row_that_is_too_large(tmp_path):
    path = write(tmp_path, lines({**GOOD, "prompt": "x" * 5000}, {**GOOD, "prompt": "after"}))
    reading = read_examples(source(path, row_bytes=1000, skip_bad=1), "task")
    assert [example.messages[0].content for example in reading.examples] == ["after"]
    assert reading.examples[0].line == 2


def test_skip_bad_allows_so_many_rows_and_counts_them(tmp_path):
    path = write(tmp_path, lines(GOOD, {"prompt": "a"}) + "{broken\n" + lines(GOOD))
    assert refused(path, skip_bad=1).where["line"] == 3
    assert "allows 1" in refused(path, skip_bad=1).why
    reading = read_examples(source(path, skip_bad=2), "task")
    assert (reading.counts["read"], reading.counts["kept"], reading.counts["bad"]) == (4, 2, 2)
    assert [error.where["line"] for error in reading.bad] == [2, 3]


def test_check_gathers_every_bad_row(tmp_path):
    path = write(tmp_path, lines(*[{"prompt": "a"}] * 150, GOOD))
    reading = read_examples(source(path), "task", gather=True)
    assert reading.counts["bad"] == 150
    assert len(reading.bad) == 100


@pytest.mark.parametrize("kind", ["folder", "link", "pipe", "device", "missing", "ending"])
def test_what_is_not_a_regular_data_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "rows.jsonl"
    target = write(tmp_path, lines(GOOD), "target.jsonl")
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(target)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = type(path)("/dev/zero")
    elif kind == "ending":
        path = write(tmp_path, lines(GOOD), "rows.docx")
    caught = []
    thread = threading.Thread(target=lambda: caught.append(refused(path)), daemon=True)
    thread.start()
    thread.join(10)
    assert caught, "it hangs"
    wanted = {"missing": "E-DATA-MISSING", "ending": "E-DATA-SUFFIX"}.get(kind, "E-DATA-KIND")
    assert caught[0].code == wanted
    assert caught[0].fix


def test_a_relative_path_is_read_beside_the_recipe(tmp_path):
    write(tmp_path, lines(GOOD))
    assert read_examples(source("rows.jsonl"), "task", folder=tmp_path).counts["kept"] == 1


def test_a_broken_array_is_named_by_its_own_line(tmp_path):
    rows = ",\n".join([json.dumps(GOOD)] * 3)
    error = refused(write(tmp_path, f"[{rows},\n{{'prompt': 1}}]", "rows.json"))
    assert (error.code, error.where["line"], error.where["column"]) == ("E-DATA-JSON", 4, 2)
    assert refused(write(tmp_path, f"[{rows}", "rows.json")).code == "E-DATA-TRUNCATED"
    assert refused(write(tmp_path, f"[{rows[:-8]}", "rows.json")).code == "E-DATA-TRUNCATED"
    assert refused(write(tmp_path, f"[{rows} {rows}]", "rows.json")).code == "E-DATA-JSON"


def test_a_table_with_broken_quotes_or_ragged_rows_is_named_by_line(tmp_path):
    error = refused(write(tmp_path, 'prompt,completion\na,b\nc,"never closed\nd,e\n', "rows.csv"))
    assert (error.code, error.where["line"]) == ("E-DATA-CSV", 3)
    error = refused(write(tmp_path, "prompt,completion\na,b,c\n", "rows.csv"))
    assert (error.code, error.where["line"]) == ("E-DATA-CSV", 2)
    assert refused(write(tmp_path, "prompt,prompt\na,b\n", "rows.csv")).code == "E-DATA-CSV"


@pytest.mark.parametrize(
    ("name", "header", "told"),
    [
        ("rows.csv", "prompt;completion", "semicolon"),
        ("rows.csv", '"prompt";"my completion"', "semicolon"),
        ("rows.csv", "prompt\tcompletion", "tab"),
        ("rows.tsv", "prompt,completion", "comma"),
    ],
)
def test_a_table_that_another_separator_parts_is_named(tmp_path, name, header, told):
    error = refused(write(tmp_path, f"\n{header}\na;b, c\n", name))
    assert (error.code, error.where["line"]) == ("E-DATA-CSV", 2)
    assert f"parted by a {told}" in error.what


@pytest.mark.parametrize("content", [b"PAR1 nothing PAR1", b"not parquet"])
def test_a_broken_parquet_file_is_named(tmp_path, content):
    assert refused(write(tmp_path, content, "rows.parquet")).code == "E-DATA-PARQUET"


def test_ids_are_unique_and_stable(tmp_path):
    rows = [{**GOOD, "id": "a"}, {**GOOD, "id": "a"}, {**GOOD, "id": 7}, GOOD, {**GOOD, "id": ""}]
    path = write(tmp_path, "[" + ",".join(map(json.dumps, rows)) + "]", "rows.json")
    assert [example.id for example in read_examples(source(path), "task").examples] == ["a", "a#2", "7", "1", "1#2"]


TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=30)
ROWS = st.lists(st.tuples(TEXT, TEXT).filter(lambda pair: all(text.strip() for text in pair)), min_size=1, max_size=6)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.tsv", "rows.parquet"])
@pytest.mark.parametrize("zipped", ["", ".gz"])
@settings(max_examples=15, deadline=None)
@given(rows=ROWS)
def test_every_file_type_gives_back_the_rows_that_were_written(tmp_path_factory, name, zipped, rows):
    table = name in ("rows.csv", "rows.tsv")
    if table:
        rows = [tuple("".join(c for c in text if c not in "\r\n\x85") or "x" for text in row) for row in rows]
        rows = [row for row in rows if all(text.strip() for text in row)] or [("a", "b")]
    path = tmp_path_factory.mktemp("rows") / (name + zipped)
    data = encoded(name, rows)
    path.write_bytes(gzip.compress(data) if zipped else data)
    reading = read_examples(source(path), "task")
    assert [(ex.messages[0].content, ex.messages[1].content) for ex in reading.examples] == rows
    assert reading.counts["read"] == reading.counts["kept"] + reading.counts["bad"] == len(rows)


def encoded(name, rows):
    records = [{"prompt": prompt, "completion": completion} for prompt, completion in rows]
    if name == "rows.jsonl":
        return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    if name == "rows.json":
        return json.dumps(records, ensure_ascii=False, indent=1).encode()
    if name == "rows.parquet":
        import pyarrow
        import pyarrow.parquet

        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), buffer)
        return buffer.getvalue()
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter="," if name == "rows.csv" else "\t", lineterminator="\n")
    writer.writerows([("prompt", "completion"), *rows])
    return buffer.getvalue().encode()


def test_a_quoted_field_may_span_lines_and_later_rows_keep_their_line(tmp_path):
    path = write(tmp_path, 'prompt,completion\n"a\nb",c\n\nd,e\n', "rows.csv")
    examples = read_examples(source(path), "task").examples
    assert [(example.messages[0].content, example.line) for example in examples] == [("a\nb", 2), ("d", 5)]


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=80) | st.text(string.printable, max_size=80).map(str.encode))
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet", "rows.xml", "rows.conllu"])
def test_any_bytes_are_read_or_refused_with_a_code(tmp_path_factory, name, data):
    path = tmp_path_factory.mktemp("bytes") / name
    path.write_bytes(data)
    error = outcome(source(path, skip_bad=3))
    assert error is None or (error.code.startswith("E-DATA-") and error.where["file"] == str(path))


def outcome(wanted):
    try:
        read_examples(wanted, "task")
    except DataError as error:
        return error
    return None
