"""Verifiers against worked answers, Python's own arithmetic, a table of edit distances, and code that misbehaves."""

from __future__ import annotations

import json
import time
from fractions import Fraction
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeptune.core.errors import DataError, RecipeError
from keeptune.core.example import Example, Message
from keeptune.core.spec import validate
from keeptune.data.edit_distance import edit_distance
from keeptune.data.verifiers import Verifier
from keeptune.data.verifiers._arithmetic import value
from keeptune.data.verifiers.number import Number, final_number, holds


def asked(answer: str) -> Example:
    return Example("one", (Message("user", "?"), Message("assistant", answer)), line=3)


expressions = st.recursive(
    st.integers(0, 999).map(str) | st.decimals(0, 99, places=2).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
    max_leaves=6,
)


@given(expressions)
def test_arithmetic_is_that_of_python(text):
    try:
        expected = eval(text)  # made above, of digits and operators
    except (ZeroDivisionError, SyntaxError):
        return
    found = value(text)
    if found is not None:
        assert float(found) == pytest.approx(float(expected), rel=1e-9, abs=1e-9)
    else:
        assert abs(expected) > 1e17 or len(text) > 60


@pytest.mark.parametrize("text", [
    "__import__('os').system('x')", "().__class__", "2**999", "9" * 300, "1/0", "", "two", "1 if 1 else 2", "[1]",
    "lambda: 1", "1e400", "(" * 150 + "1" + ")" * 150, "a+1", "True", "'5'", "1,2,3)",
])  # fmt: skip
def test_what_is_no_arithmetic_has_no_value(text):
    assert value(text) is None


@pytest.mark.parametrize(("text", "number"), [
    ("$1,200*5%", 60), ("007", 7), ("0.5", Fraction(1, 2)), ("10 x 3", 30), ("-4+.5", Fraction(-7, 2)),
    ("100.05", Fraction(2001, 20)),
])  # fmt: skip
def test_numbers_are_read_as_people_write_them(text, number):
    assert value(text) == number


@pytest.mark.parametrize(("answer", "fault"), [
    ("6*7 = <<6*7=42>>42\n#### 42", None),
    ("#### 42.0", None),
    ("#### $42", None),
    ("6*7 = <<6*7=42>>42\n#### 41", "wrong number"),
    ("6*7 = <<6*7=43>>43\n#### 42", "wrong equation"),
    ("<<6*7=42=41>>\n#### 42", "wrong equation"),
    ("<<seven=7>>\n#### 42", "wrong equation"),
    ("forty-two", "no final number"),
    ("####", "no final number"),
    ("#### 42\n#### 41", None),  # the first one counts
])  # fmt: skip
def test_a_worked_answer_is_right_with_the_number_and_every_equation(answer, fault):
    assert Number().fault(asked("...\n#### 42"), answer) == fault


def test_equations_need_not_hold_where_that_is_switched_off():
    assert Number(equations=False).fault(asked("#### 42"), "<<6*7=43>>#### 42") is None


def test_a_question_without_a_number_cannot_be_verified():
    with pytest.raises(DataError) as caught:
        Number().fault(asked("forty-two"), "#### 42")
    assert caught.value.code == "E-VERIFY-ROW"
    assert caught.value.where["line"] == 3


def test_answers_with_the_same_equations_go_the_same_way():
    way = Number().way
    assert way("first <<6 * 7=42>> #### 42") == way("then <<6*7=42>> so #### 42") == "6*7=42"
    assert way("<<6*7=42>>") != way("<<7*6=42>>")
    assert way("It is 42. #### 42") == way("it IS 42 #### 42")
    assert way("It is 42") != way("It must be 42")


def test_a_thousand_is_written_with_a_comma_and_holds():
    assert final_number("#### 1,042 dollars", "####") == 1042
    assert holds("1,000+42=1,042")


def slow_distance(a: str, b: str) -> int:
    @cache
    def d(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(d(i - 1, j) + 1, d(i, j - 1) + 1, d(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return d(len(a), len(b))


@given(st.text("abcé𝄞", max_size=12), st.text("abcé𝄞", max_size=12))
def test_edit_distance_is_the_recursion(a, b):
    assert edit_distance(a, b) == edit_distance(b, a) == slow_distance(a, b)


def test_json_is_held_against_a_schema():
    rules = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}
    verifier = validate(Verifier, {"name": "json_schema", "rules": rules})
    gold = asked('{"city": "Ulm"}')
    assert verifier.fault(gold, '{"city": "Bonn"}') is None
    assert verifier.fault(gold, '{"city": 5}') == "another form"
    assert verifier.fault(gold, "the city is Ulm") == "no JSON"
    same = validate(Verifier, {"name": "json_schema", "same": True})
    assert same.fault(gold, '{"city": "Bonn"}') == "another value"
    assert same.fault(gold, ' {"city":"Ulm"}') is None
    assert same.way('{"b": 1, "a": 2}') == same.way('{"a":2,"b":1}')
    with pytest.raises(RecipeError) as caught:
        validate(Verifier, {"name": "json_schema", "rules": {"type": "objekt"}}).fault(gold, "{}")
    assert caught.value.code == "E-VERIFY-SCHEMA"


def test_exact_match_forgives_case_and_punctuation():
    verifier = validate(Verifier, "exact_match")
    assert verifier.fault(asked("Yes."), "yes") is None
    assert verifier.fault(asked("Yes."), "no") == "wrong answer"


@pytest.fixture
def unit_tests(tmp_path):
    (tmp_path / "tests.json").write_text(json.dumps({"one": "assert add(2, 3) == 5"}))
    settings = {"name": "unit_tests", "tests": str(tmp_path / "tests.json"), "seconds": 1.0, "megabytes": 256}
    return validate(Verifier, settings)


@pytest.mark.parametrize(("code", "fault"), [
    ("def add(a, b):\n    return a + b", None),
    ("Sure:\n```python\ndef add(a, b):\n    return a + b\n```\nDone.", None),
    ("def add(a, b):\n    print('noise' * 1000)\n    return a + b", None),
    ("def add(a, b):\n    return a - b", "tests failed"),
    ("def add(a, b) return", "no Python"),
    ("import sys\nsys.exit(0)", "tests failed"),
    ("import os\nos._exit(0)", "tests failed"),
    ("while True:\n    pass", "tests failed"),
    ("x = bytearray(10**9)\ndef add(a, b):\n    return a + b", "tests failed"),
    ("open('big', 'wb').write(bytes(10**8))\ndef add(a, b):\n    return a + b", "tests failed"),
    ("import time\ntime.sleep(60)", "tests failed"),
])  # fmt: skip
def test_code_is_right_when_its_tests_pass_within_its_bounds(unit_tests, code, fault):
    start = time.monotonic()
    assert unit_tests.fault(asked(""), code) == fault
    assert time.monotonic() - start < 15


def test_code_sees_nothing_of_this_process(unit_tests, monkeypatch):
    monkeypatch.setenv("A_SECRET", "5")
    looks = "    assert 'A_SECRET' not in os.environ\n    assert os.listdir('.') == []\n"
    code = f"import os\ndef add(a, b):\n{looks}    return a + b"
    assert unit_tests.fault(asked(""), code) is None


def test_comments_and_layout_are_no_other_way(unit_tests):
    assert unit_tests.way("x = 1  # one") == unit_tests.way("x=1")
    assert unit_tests.way("x = 1") != unit_tests.way("y = 1")


def test_a_row_without_tests_is_named(unit_tests):
    with pytest.raises(DataError) as caught:
        unit_tests.fault(Example("two", ()), "x = 1")
    assert caught.value.where["key"] == "two"
