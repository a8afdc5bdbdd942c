"""The Chinese page: every sentence has its translation, the numbers and the user's texts stay as they are."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from string import Formatter

import pytest

import keeptune.report
from keeptune.report.chinese import CHINESE
from keeptune.report.language import retell, say, speaking
from keeptune.report.luck import DEPLOYED, KINDS
from keeptune.report.page import certificate_page
from keeptune.report.run_files import read_run
from keeptune.report.sentence import verdict_sentence
from keeptune.stages._diagnosis import SENTENCES
from keeptune.statistics.admission import admit
from keeptune.statistics.noninferiority import compare_continuous
from tests.report.test_page import CERTIFICATE, Balance, run  # noqa: F401

PAGES = (
    "curves", "diagnosis", "flips", "forest", "gain", "luck", "on_task", "page", "plane", "sections", "sentence",
    "words",
)  # fmt: skip


def sentences():
    """Every literal that a `say` of the certificate's page is given."""
    for name in PAGES:
        tree = ast.parse((Path(keeptune.report.__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            said = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "say" and node.args
            if said and isinstance(node.args[0], ast.Constant):
                yield node.args[0].value


def holes(text):
    return sorted(name for _, name, _, _ in Formatter().parse(text) if name)


def test_every_sentence_is_translated_with_the_same_holes():
    found = set(sentences())
    assert len(found) > 80
    assert found <= CHINESE.keys(), found - CHINESE.keys()
    assert all(holes(text) == holes(CHINESE[text]) for text in found)
    assert {*SENTENCES.values(), *KINDS.values(), *DEPLOYED.values()} <= CHINESE.keys()


def test_english_is_spoken_unless_told_otherwise_and_again_afterwards():
    with speaking("zh"):
        assert say("verdict") == "判定"
        with speaking("en"):
            assert say("verdict") == "verdict"
        assert say("no such sentence") == "no such sentence"
    assert say("verdict") == "verdict"


def test_the_chinese_page_says_the_same_with_the_same_numbers(run):  # noqa: F811
    page = certificate_page(read_run(run), language="zh")
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert '<html lang="zh">' in page
    assert "未通过" in page
    with speaking("zh"):
        assert verdict_sentence(CERTIFICATE).startswith("目标任务的标签准确率由 12% 变为 83%，但88% 的无关指令")
    english = certificate_page(read_run(run))
    for shown in (
        "−5.0 (−6.2, −3.8)",
        "lookup &lt;b&gt;",
        "&lt;script&gt;x&lt;/script&gt;",
        "adapted answer",
        "copying",
    ):
        assert shown in page
        assert shown in english
    assert re.findall(r"<h2>(.*?)</h2>", page) == [CHINESE[title] for title in re.findall(r"<h2>(.*?)</h2>", english)]


@pytest.mark.parametrize(
    ("language", "says"), [("en", "about 2,319 items of 'copying'"), ("zh", "“copying”约需 2,319 题")]
)
def test_undecided_says_how_many_items_would_decide(language, says):
    attained = {"items_to_decide": {"copying": 2319, "agreement": None, "prose": 400}}
    with speaking(language):
        told = verdict_sentence({**CERTIFICATE, "verdict": "UNDECIDED", "power": {"attained": attained}})
    assert says in told


def test_a_look_at_the_test_rows_before_the_proof_is_told():
    from keeptune.report.luck import luck

    assert "looked at once" in luck({**CERTIFICATE, "selection": {"test_seen_in": []}})
    assert "not known" in luck(CERTIFICATE)
    assert "too rosy" in luck({**CERTIFICATE, "selection": {"test_seen_in": ["between"]}})


@pytest.mark.parametrize(("right", "n", "chance"), [(30, 100, 0.25), (14, 20, 0.5), (998, 1000, 0.25)])
def test_the_reasons_of_the_statistics_are_told_in_chinese_with_their_numbers(right, n, chance):
    reason = admit([1.0] * right + [0.0] * (n - right), chance, 0.03).reason
    with speaking("zh"):
        told = retell(reason)
    assert told != reason
    assert re.findall(r"[\d.]+", told) == re.findall(r"[\d.]+", reason)
    assert retell(reason) == reason


def test_a_note_on_clusters_is_told_in_chinese_and_what_nobody_knows_stays():
    note = compare_continuous([0.5] * 40, [0.9] * 40, [str(n % 4) for n in range(40)], 0.03).note
    with speaking("zh"):
        assert retell(note) == "有效簇数 4；至少需要 30"
        assert retell("something else") == "something else"
