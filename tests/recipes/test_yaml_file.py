"""Recipes are files that a stranger may have written: bounded, typed, with a line for every complaint."""

from __future__ import annotations

import time

import pytest

from keeptune.core.errors import RecipeError
from keeptune.recipes.yaml_file import MAX_BYTES, parse_yaml, read_yaml


def complaint(text: bytes | str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, "recipe.yaml")
    return caught.value


def test_every_key_knows_its_line():
    plain, lines = parse_yaml("seed: 7\nstages:\n  - name: train\n    epochs: 2\n", "r.yaml")
    assert plain == {"seed": 7, "stages": [{"name": "train", "epochs": 2}]}
    assert lines["stages[0].epochs"] == 4


def test_a_key_is_the_word_that_was_written():
    plain, _ = parse_yaml("losses: [{name: kl_to_base, on: replay, yes: 1, 1: one}]\n", "r.yaml")
    assert plain["losses"][0] == {"name": "kl_to_base", "on": "replay", "yes": 1, "1": "one"}


def test_an_equal_key_twice_is_refused_with_its_line():
    error = complaint("seed: 1\nname: a\nseed: 2\n")
    assert (error.code, error.where["line"]) == ("E-RECIPE-DUPLICATE", 3)


def test_a_python_tag_is_refused_and_nothing_runs(tmp_path):
    witness = tmp_path / "witness"
    error = complaint(f"name: !!python/object/apply:os.system ['touch {witness}']\n")
    assert error.code == "E-RECIPE-TAG"
    assert error.where["line"] == 1
    assert not witness.exists()


def test_an_alias_bomb_is_refused_in_under_a_second():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    start = time.process_time()
    assert complaint("\n".join(lines)).code == "E-RECIPE-SIZE"
    assert time.process_time() - start < 1


def test_ten_thousand_levels_are_refused_in_under_a_second():
    start = time.process_time()
    assert complaint("[" * 10_000 + "]" * 10_000).code == "E-RECIPE-SIZE"
    assert time.process_time() - start < 1


def test_fifty_megabytes_are_refused_without_being_read(tmp_path):
    file = tmp_path / "big.yaml"
    with file.open("wb") as big:
        big.truncate(50 * MAX_BYTES)
    with pytest.raises(RecipeError) as caught:
        read_yaml(file)
    assert caught.value.code == "E-RECIPE-SIZE"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_unicode_encodings_and_windows_line_ends_work(encoding):
    plain, _ = parse_yaml("name: über\r\nseed: 3\r\n".encode(encoding), "r.yaml")
    assert plain == {"name": "über", "seed": 3}


def test_a_tab_is_named_with_its_line():
    error = complaint("model:\n\tname: pocket\n")
    assert (error.code, error.where["line"]) == ("E-RECIPE-YAML", 2)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(RecipeError) as caught:
        read_yaml(tmp_path / "none.yaml")
    assert caught.value.code == "E-RECIPE-FILE"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: 1\n b: 2\n", 2, "Begin the lines of one group in the same column"),
        ("a:\n  - b: 1\n c: 2\n", 3, "Begin the lines of one group in the same column"),
        ("a: [1, 2\nb: 1\n", 2, "Close the bracket"),
        ("a: {b: 1\nc: 2\n", 2, "put a comma between its entries"),
        ('a: "x\n', 2, "Close the quotes."),
        ("a: 1\nb\n", 3, "Write each setting as `key: value`."),
        ("\ta: 1\n", 1, "Indent with spaces, not tabs."),
    ],
)
def test_a_slip_of_the_pen_is_told_with_its_line_and_what_to_do(text, line, said):
    error = complaint(text)
    assert (error.code, error.where["line"]) == ("E-RECIPE-YAML", line)
    assert error.fix.startswith(said) or said in error.fix
