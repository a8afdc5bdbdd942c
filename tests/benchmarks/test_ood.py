"""The study of shifts: its page is what the command makes of the record, from answers made by hand and from its own."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import ood, ood_page
from benchmarks.ood_settings import balanced, pairs
from keeptune.core.checkpoint import Checkpoint
from keeptune.core.example import Example, Message

METHODS = {"full": 1e-4, "prompt": 1e-2}


def marks(generator, share, count):
    return "".join(str(int(value)) for value in generator.random(count) < share)


def report(lift=0.0, seeds=3, count=600):
    """`full` learns from 60 to 90%, `prompt` to 75%; shifted scores are half as far from chance, `lift` higher."""
    generator, rows = np.random.default_rng(0), []
    shares = {"full": (0.6, 0.75, 0.9), "prompt": (0.55, 0.65, 0.75)}
    for seed in range(seeds):
        for method, path in shares.items():
            known = [marks(generator, share, count) for share in path]
            above = lift if method == "prompt" else 0.0
            rte = [marks(generator, 0.25 + share / 2 + above, count) for share in path]
            rows.append(
                {
                    "setting": "pairs",
                    "seed": seed,
                    "method": method,
                    "known": known,
                    "rte": rte,
                    "processor_seconds": 60.0,
                }
            )
    sizes = {
        "pairs": {
            "drawn": 600,
            "known": count,
            "shifted": {"rte": count},
            "rates": METHODS,
            "epochs": 3,
            "from base": False,
        }
    }
    return {"machine": {"processor": "a processor"}, "sizes": sizes, "rows": rows}


def test_a_method_that_only_learned_less_gains_nothing_and_one_that_holds_up_does():
    plain, better = ood_page.page(report(), resamples=300), ood_page.page(report(lift=0.2), resamples=300)
    assert "Of 1 gains at equal score the interval lies beyond 0 in none." in plain
    assert "beyond 0 in 1: prompt on rte (+" in better
    assert "| prompt | 1.0e-02 | 7" in plain
    assert "a processor, one thread, 6 minutes" in plain


def test_a_seed_that_not_every_method_has_is_left_out():
    made = report()
    made["rows"].pop()
    assert ood_page.complete(made, "pairs") == [0, 1]
    assert "purpose. 2 seeds." in ood_page.page(made, resamples=50)


def test_what_is_left_comes_by_seeds():
    made = {"rows": [{"setting": "pairs", "seed": 0, "method": "full"}]}
    assert list(ood.left(made, ["pairs"], ["full", "prompt"], 2)) == [
        ("pairs", 0, "prompt"), ("pairs", 1, "full"), ("pairs", 1, "prompt"),
    ]  # fmt: skip


def test_the_page_is_what_the_command_makes_of_the_record():
    found = json.loads(ood.RESULTS.read_text(encoding="utf-8"))
    assert ood_page.PAGE.read_text(encoding="utf-8") == ood_page.page(found)
    for row in found["rows"]:
        sizes = found["sizes"][row["setting"]]
        assert {len(path) for path in row["known"]} == {sizes["known"]}
        assert all({len(path) for path in row[name]} == {n} for name, n in sizes["shifted"].items())


def test_as_many_rows_of_each_answer_are_drawn_and_the_seed_decides_which():
    rows = [Example(str(n), (Message("user", f"text {n}"), Message("assistant", "ab"[n % 3 == 0]))) for n in range(90)]
    drawn = balanced(rows, 40, "one")
    assert [sum(row.target == answer for row in drawn) for answer in "ab"] == [20, 20]
    assert drawn == balanced(rows, 40, "one") != balanced(rows, 40, "two")
    assert len(balanced(rows, 400, "one")) == 60


@pytest.mark.slow
def test_an_arm_answers_every_row_at_every_checkpoint(tmp_path):
    """The setting's own stage on the smallest rows, with pocket: its checkpoints, the base first."""
    from benchmarks.ood_settings import packages

    whole = packages()
    small = type(whole)(
        **{
            **vars(whole),
            "drawn": 24,
            "known": whole.known[:10],
            "shifted": {"unseen": whole.shifted["unseen"][:6]},
            "stage": {**whole.stage, "epochs": 3},
        }
    )
    found = ood.Bench(small, tmp_path).arm("prompt", 0)
    assert [len(answers) for answers in found["known"]] == [10] * 4
    assert [len(answers) for answers in found["unseen"]] == [6] * 4
    assert set("".join(found["known"])) <= {"0", "1"}


def test_pairs_have_two_answers(tmp_path):
    import gzip

    for name in ("sick_train", "sick_test"):
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as lines:
            for n in range(20):
                label = ["ENTAILMENT", "NEUTRAL", "CONTRADICTION"][n % 3]
                lines.write(
                    json.dumps({"sentence_A": f"a {n}", "sentence_B": "b", "entailment_judgment": label}) + "\n"
                )
    for name in ("mnli", "rte", "cb"):
        for part in ("train", "test"):
            with gzip.open(tmp_path / f"{name}_{part}.jsonl.gz", "wt") as lines:
                for n in range(20):
                    label = ["entailment", "neutral", "-"][n % 3]
                    lines.write(json.dumps({"sentence": f"sentence 1: {n}\nsentence 2: {part}", "label": label}) + "\n")
    setting = pairs(tmp_path, tmp_path)
    assert setting.base == Checkpoint(str(tmp_path), dtype="bfloat16")
    assert {row.target for row in setting.pool} == {"entailment", "not"}
    assert len(setting.pool) == 20
    assert setting.known[0].prompt[0].content.startswith("sentence 1: a ")
    assert {name: len(rows) for name, rows in setting.shifted.items()} == {"mnli": 28, "rte": 28, "cb": 28}
