"""The certificate page: complete, self-contained, and true to the numbers it was given."""

from __future__ import annotations

import gzip
import json
import re
from html.parser import HTMLParser

import pytest

from keeptune.core.errors import MachineError
from keeptune.report.forest import retention_rows
from keeptune.report.page import certificate_page, write_certificate
from keeptune.report.run_files import read_run
from keeptune.report.sentence import verdict_sentence
from keeptune.report.svg import Axis

VOID = {"meta", "br", "hr", "img", "line", "rect", "circle", "polygon", "polyline"}


def part(
    name: str, base: float, delta: float, half: float, margin: float, verdict: str, **more: object
) -> dict[str, object]:
    ends = {"low": delta - half, "high": delta + half}
    return {"name": name, "base": base, "adapted": base + delta, "delta": delta, **ends, "margin": margin,
            "verdict": verdict, "n": 1500, "higher_is_better": True, **more}  # fmt: skip


CERTIFICATE = {
    "verdict": "FAIL",
    "unchanged": False,
    "target": {"metric": "label_accuracy", "base": 0.12, "adapted": 0.83, "delta": 0.71, "low": 0.68, "high": 0.74,
               "n": 600, "verdict": "GAINED"},
    "retention": {
        "pooled": part("pooled", 0.71, -0.003, 0.006, 0.01, "PASS"),
        "tasks": [part("copying", 0.97, -0.05, 0.012, 0.03, "FAIL"), part("agreement", 0.8, 0.0, 0.01, 0.03, "PASS")],
        "corpora": [part("prose", 1.9, 0.13, 0.01, 0.01, "FAIL", higher_is_better=False)],
        "excluded": [{"name": "lookup <b>", "reason": "at chance"}],
    },
    "format": {"leak": part("leak", 0.0, 0.88, 0.03, 0.02, "FAIL", higher_is_better=False)},
    "drift": {"kl_to_base": 0.04, "top1_agreement": 0.9},
    "deployment": "always_on", "power": {"forecast": None, "attained": None}, "noise_floor": None,
    "cost": {"seconds": 61.2, "peak_bytes": 10**9, "forecast_bytes": None, "trainable_parameters": 10},
    "seeds": [7], "scope": "this checkpoint", "provenance": {"model": "pocket"},
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    (tmp_path / "certificate.json").write_text(json.dumps(CERTIFICATE))
    steps = [{"stage": "train", "step": step, "loss": 3 / step} for step in range(1, 9)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps) + '{"step": 9, "lo')
    with gzip.open(tmp_path / "items.jsonl.gz", "wt") as items:
        for checkpoint, score in (("base", 1.0), ("adapted", 0.0)):
            row = {"task": "copying", "id": "1", "checkpoint": checkpoint, "prompt": "<script>x</script>",
                   "gold": "a", "prediction": f"{checkpoint} answer", "score": score}  # fmt: skip
            items.write(json.dumps(row) + "\n")
    return tmp_path


class Balance(HTMLParser):
    """Counts open elements; a page must close what it opens."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def test_the_page_is_well_formed_and_fetches_nothing(run):
    page = write_certificate(run).read_text()
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert not re.search(r"(?:src|href)=[\"']?(?!#)", re.sub(r'href="data:[^"]*"', "", page))
    assert "<script" not in page
    assert "default-src 'none'" in page


def test_the_verdict_comes_first_and_names_what_was_lost():
    sentence = verdict_sentence(CERTIFICATE)
    assert sentence.startswith("The target went from 12% to 83% label accuracy, but 88% of unrelated instructions")
    assert "copying" in sentence
    assert "agreement" not in sentence


def test_a_gain_that_chance_could_make_is_not_told_as_one():
    small = {**CERTIFICATE, "target": {**CERTIFICATE["target"], "adapted": 0.13, "verdict": "UNDECIDED"}}
    assert "from 12% to 13% label accuracy (chance alone could do that), but" in verdict_sentence(small)
    assert "chance" not in verdict_sentence(CERTIFICATE)


def test_shifted_rows_single_margins_and_what_fell_stand_on_the_page(run):
    shifted = {**CERTIFICATE["target"], "base": 0.1, "adapted": 0.3, "delta": 0.2, "low": 0.15, "high": 0.25, "n": 77}
    retention = {**CERTIFICATE["retention"], "fell": [{"name": "copying", "p": 0.00012}]}
    margins = {"pooled": 0.01, "task": 0.03, "corpus": 0.01, "leak": 0.02, "tasks": {"copying": 0.05}}
    told = {**CERTIFICATE, "ood": shifted, "retention": retention, "margins": margins}
    (run / "certificate.json").write_text(json.dumps(told))
    page = certificate_page(read_run(run))
    for shown in ("rows out of distribution", "+20.0 (+15.0 to +25.0)", "copying (p = 0.00012)", "copying 5."):
        assert shown in page


def test_what_comes_next_is_what_the_folder_can_do(run):
    assert "keeptune chat" not in certificate_page(read_run(run))  # two models from elsewhere
    (run / "checkpoint.json").write_text("{}")
    page = certificate_page(read_run(run))
    assert all(f"keeptune {verb} {run.name}" in page for verb in ("chat", "merge", "export", "compare"))
    (run / "certificate.json").write_text(json.dumps({**CERTIFICATE, "drift": None}))
    assert "keeptune chat" not in certificate_page(read_run(run))  # an encoder
    (run / "checkpoint.json").unlink()
    (run / "seeds" / "8").mkdir(parents=True)
    (run / "seeds" / "8" / "checkpoint.json").write_text("{}")
    seeds = {"count": 3, "values": [7, 8, 9], "worst": 8, "verdicts": ["PASS", "FAIL", "PASS"],
             "target_deltas": [0.1, 0.2, 0.3], "pooled_deltas": [0, -0.1, 0]}  # fmt: skip
    (run / "certificate.json").write_text(json.dumps({**CERTIFICATE, "seeds": seeds}))
    page = certificate_page(read_run(run))
    assert f"keeptune chat {run.name}/seeds/8" in page
    assert "8 (the worst)" in page


def test_flips_are_folded_by_task_the_one_with_the_most_first(run):
    with gzip.open(run / "items.jsonl.gz", "wt") as items:
        for task, count in (("few", 1), ("many", 12)):
            for number in range(count):
                for checkpoint, score in (("base", 1.0), ("adapted", 0.0)):
                    row = {"task": task, "id": str(number), "checkpoint": checkpoint, "prompt": "p", "gold": "",
                           "prediction": "x", "score": score}  # fmt: skip
                    items.write(json.dumps(row) + "\n")
    page = certificate_page(read_run(run))
    assert "Right before, wrong now: 13 items" in page
    assert page.index("many: 12 items, 10 shown") < page.index("few: 1 item<")
    assert page.count('class="flip"') == 11


def test_every_row_of_the_verdict_is_on_the_page_with_its_numbers(run):
    page = certificate_page(read_run(run))
    assert [row["name"] for row in retention_rows(CERTIFICATE)] == ["pooled", "copying", "agreement", "prose", "leak"]
    for shown in ("−5.0 (−6.2, −3.8)", "+13.0% (+12.0, +14.0)", "+88.0 (+85.0, +91.0)", "lookup &lt;b&gt;"):
        assert shown in page


def test_a_half_written_last_line_is_ignored(run):
    assert len(read_run(run).metrics) == 8


def test_flips_show_both_answers(run):
    page = certificate_page(read_run(run))
    assert "Right before, wrong now: 1 item<" in page
    assert "base answer" in page
    assert "adapted answer" in page


def test_an_unfinished_run_is_named(tmp_path):
    with pytest.raises(MachineError) as caught:
        read_run(tmp_path)
    assert caught.value.code == "E-RUN-UNFINISHED"


def test_an_axis_maps_its_ends_and_its_ticks_are_round():
    axis = Axis(-0.02, 0.013, 100, 400)
    assert axis(-0.02) == 100
    assert axis(0.013) == 400
    assert axis(9) == 400
    assert axis.ticks() == [-0.02, -0.01, 0.0, 0.01]


def test_what_training_has_seen_of_the_proof_is_said_in_one_line_and_shown_on_demand(run):
    parts = [{"measured": "task, test", "items": 480, "exact": 1, "near": 2, "ngram": 3},
             {"measured": "cloze", "items": 1500, "exact": 0, "near": 0, "ngram": 0}]  # fmt: skip
    data = {"sources": {"task": {"read": 9, "kept": 9}}, "contamination": parts}
    (run / "data.json").write_text(json.dumps(data))
    page = certificate_page(read_run(run))
    assert "Of the 1,980 items of the proof, training has seen 6" in page
    assert "<td>task, test</td>" in page
    assert "<td>cloze</td>" not in page
    (run / "data.json").write_text(json.dumps({**data, "contamination": parts[1:]}))
    assert "Of the 1,500 items of the proof, training has seen none." in certificate_page(read_run(run))


def test_numbers_have_a_minus_sign_in_pictures_and_beside_them(run):
    page = write_certificate(run).read_text()
    shown = re.findall(r"<text[^>]*>([^<]*)</text>", page)
    assert {"−4", "−2", "0", "+2"} <= set(shown)
    assert [one for one in shown if re.match(r"-\d", one)] == []
