"""Plain data in files: what is written is what is read, and half-written ends do not matter."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeptune.core.digest import digest_of, file_digest, files_below, folder_digest
from keeptune.core.events import cut_broken_end, read_lines
from keeptune.core.exactness import differences
from keeptune.core.files import append_line, atomic_write, json_bytes, jsonable, read_json, write_json
from tests.core.crash import killed_in_a_child, steps_of

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(PLAIN)
def test_plain_data_survives_a_file(plain):
    assert json.loads(json_bytes(plain)) == plain


@given(PLAIN, PLAIN)
def test_digests_are_equal_exactly_for_equal_data(one, other):
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (digest_of(one) == digest_of(other)) == same


def test_half_a_surrogate_pair_can_be_stored():
    assert json.loads(json_bytes({"text": "a\ud83d"})) == {"text": "a\ud83d"}
    assert digest_of("\ud83d") != digest_of("\\ud83d")


def test_a_number_that_is_not_finite_becomes_a_word():
    plain = {"loss": math.nan, "norm": [math.inf, -math.inf], "scale": np.float32("nan"), "ok": np.float64(0.5)}
    assert jsonable(plain) == {"loss": "nan", "norm": ["inf", "-inf"], "scale": "nan", "ok": 0.5}


def test_values_of_libraries_become_plain():
    plain = {1: np.int64(3), "path": Path("a/b"), "set": {2, 1}, "tuple": (1, 2), "flag": np.bool_(True)}
    assert jsonable(plain) == {"1": 3, "path": "a/b", "set": [1, 2], "tuple": [1, 2], "flag": True}


def test_a_kill_at_any_boundary_of_an_atomic_write_leaves_the_old_or_the_new_content(tmp_path):
    path = tmp_path / "state.json"
    for n in range(len(steps_of(lambda: write_json(path, "probe"))) + 1):
        atomic_write(path, "old")
        killed_in_a_child(lambda: atomic_write(path, "new"), n)
        assert path.read_text() in ("old", "new")
    assert path.read_text() == "new"


def test_reading_says_what_is_wrong(tmp_path):
    (tmp_path / "latin").write_bytes(b'"\xe9"')
    with pytest.raises(ValueError, match="utf-8"):
        read_json(tmp_path / "latin")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none")


def test_the_digest_of_a_folder_sees_names_and_content_only(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "b").write_bytes(b"b" * 3_000_000)
        (folder / "a").write_text("a")
    os.utime(other / "a", (0, 0))
    assert files_below(one) == ["a", "deep/b"]
    assert folder_digest(one) == folder_digest(other)
    (other / "a").rename(other / "c")
    assert folder_digest(one) != folder_digest(other)


def test_the_digest_of_a_file_is_the_published_value(tmp_path):
    (tmp_path / "abc").write_text("abc")
    # FIPS 180-2, appendix B.1
    assert file_digest(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("end", [b"", b'{"n": 3, "ki', b'{"n": 3}', b"\0" * 100, b'{"n":\n', b"\xff\xfe\n", b"[1]\n"])
def test_a_broken_end_is_ignored_by_readers_and_cut_before_writing(tmp_path, end):
    path = tmp_path / "events.jsonl"
    for n in range(3):
        append_line(path, {"n": n, "text": "line\u2028separator"})
    with path.open("ab") as file:
        file.write(end)
    assert [row["n"] for row in read_lines(path)] == [0, 1, 2]
    assert cut_broken_end(path) == len(end)
    append_line(path, {"n": 3})
    assert [row["n"] for row in read_lines(path)] == [0, 1, 2, 3]


def test_a_file_that_is_not_there_has_no_lines(tmp_path):
    assert read_lines(tmp_path / "none") == []
    assert cut_broken_end(tmp_path / "none") == 0


def test_every_difference_is_listed_by_its_dotted_key():
    stored = {"seed": 7, "data": {"task": "a1", "gone": 1}, "stages": [{"lr": 1.0}, {"lr": 2.0}], "versions": {}}
    current = {"seed": 7, "data": {"task": "b2"}, "stages": [{"lr": 1.0}, {"lr": 3.0}], "versions": {"torch": "2.13"}}
    assert differences(stored, current) == [
        ("data.gone", 1, "(absent)"),
        ("data.task", "a1", "b2"),
        ("stages[1].lr", 2.0, 3.0),
        ("versions", {}, "(absent)"),
        ("versions.torch", "(absent)", "2.13"),
    ]
    assert differences(stored, stored) == []


@given(st.dictionaries(st.text(min_size=1), PLAIN, max_size=4))
def test_equal_sets_have_no_differences(plain):
    assert differences(plain, json.loads(json.dumps(plain))) == []
