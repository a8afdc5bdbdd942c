"""Certificates from scores made by hand, whose verdicts are known in advance."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from pydantic import ValidationError

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.errors import RecipeError
from keeptune.core.files import jsonable
from keeptune.core.run import Run
from keeptune.core.score import Item, Score
from keeptune.report.sentence import verdict_sentence
from keeptune.stages import StageWork
from keeptune.stages.evaluate import Evaluate
from keeptune.stages.prove import Margins, Prove, certify, certify_seeds
from tests.stages.scores import accuracy, answers, corpus, flipped, suite

KEYS = {
    "schema", "verdict", "unchanged", "target", "retention", "drift", "format", "deployment", "ood", "power",
    "noise_floor", "cost", "diagnosis", "selection", "sequential", "left_out", "seeds", "scope", "margins", "level",
    "provenance",
}  # fmt: skip
PART = {"base", "adapted", "delta", "low", "high", "margin", "verdict", "n", "higher_is_better", "level"}
TASK = {*PART, "name", "chance", "flips_right_to_wrong", "flips_wrong_to_right", "discordance"}


def test_a_certificate_has_every_key_and_nothing_that_json_cannot_hold():
    certificate = certify(suite(), suite(losses=10, gains=9, target=0.6))
    assert certificate.keys() == KEYS
    retention = certificate["retention"]
    assert retention.keys() == {"pooled", "tasks", "corpora", "excluded", "fell"}
    assert retention["pooled"].keys() >= PART
    for part in (*retention["tasks"], *retention["corpora"]):
        assert part.keys() >= TASK
    assert certificate["format"].keys() == {"leak", "specialisation_index", "format_gap", "recovered_share"}
    assert certificate["power"].keys() == {"forecast", "attained"}
    assert certificate["cost"].keys() == {"seconds", "peak_bytes", "forecast_bytes", "trainable_parameters"}
    assert json.loads(json.dumps(certificate, allow_nan=False)) == jsonable(certificate)


def test_what_was_not_measured_is_null_and_not_absent():
    certificate = certify([accuracy("a", answers(0.8, 600))], [accuracy("a", answers(0.8, 600))], same_model=False)
    for key in ("target", "drift", "ood", "noise_floor"):
        assert certificate[key] is None
    assert certificate["format"]["leak"] is None
    assert certificate["retention"]["corpora"] == []


def test_a_model_against_itself_has_changed_exactly_nothing():
    certificate = certify(suite(), suite())
    assert certificate["verdict"] == "PASS"
    assert certificate["unchanged"] is True
    parts = [certificate["retention"]["pooled"], *certificate["retention"]["tasks"]]
    assert all(part["delta"] == 0.0 and part["discordance"] == 0.0 for part in parts)
    assert all(part["flips_right_to_wrong"] == part["flips_wrong_to_right"] == 0 for part in parts)
    assert certificate["retention"]["corpora"][0]["delta"] == 0.0
    assert certificate["target"]["delta"] == 0.0
    assert certificate["target"]["verdict"] == "UNDECIDED"


def test_a_kept_model_with_a_better_target_passes():
    certificate = certify(suite(), suite(losses=8, gains=8, factor=1.001, target=0.6))
    assert certificate["verdict"] == "PASS"
    assert certificate["unchanged"] is False
    assert certificate["target"]["verdict"] == "GAINED"
    assert certificate["target"]["metric"] == "label_accuracy"
    assert certificate["retention"]["tasks"][0]["flips_right_to_wrong"] == 8
    assert certificate["retention"]["tasks"][0]["discordance"] == pytest.approx(16 / 1500)
    assert certificate["retention"]["corpora"][0]["delta"] == pytest.approx(0.001)


@pytest.mark.parametrize(
    "damage", [{"losses": 150}, {"factor": 1.05}, {"leaks": 60}], ids=["abilities", "bits per byte", "format leak"]
)
def test_any_lost_part_fails_the_whole(damage):
    assert certify(suite(), suite(**damage, target=0.9))["verdict"] == "FAIL"


def test_the_tasks_that_fell_are_named():
    base = [accuracy(name, answers(0.8, 1500, seed)) for seed, name in enumerate("ab")]
    after = [base[0], accuracy("b", flipped(answers(0.8, 1500, 1), 90, 10))]
    assert [task["name"] for task in certify(base, after)["retention"]["fell"]] == ["b"]


def test_too_few_items_decide_nothing_and_say_how_many_would():
    base, after = suite(n=60), suite(n=60, losses=3, gains=3)
    certificate = certify(base, after)
    assert certificate["verdict"] == "UNDECIDED"
    assert certificate["power"]["attained"]["items_to_decide"]["pooled"] > 180


def test_no_evidence_is_undecided_even_when_nothing_changed():
    target = [accuracy("task", answers(0.5, 100), 0.1, "target", "label_accuracy")]
    certificate = certify(target, target)
    assert certificate["verdict"] == "UNDECIDED"
    assert certificate["unchanged"] is False


def test_tasks_that_show_no_forgetting_are_left_out_by_name():
    guessing, perfect = accuracy("guess", answers(0.5, 1500)), accuracy("perfect", [1.0] * 1500)
    base = [guessing, perfect, accuracy("good", answers(0.8, 1500))]
    after = [accuracy("guess", answers(0.9, 1500)), *base[1:]]
    retention = certify(base, after)["retention"]
    assert [task["name"] for task in retention["tasks"]] == ["good"]
    left_out = {task["name"]: (task["base"], task["adapted"]) for task in retention["excluded"]}
    assert left_out == {"guess": (guessing.value, after[0].value), "perfect": (1.0, 1.0)}
    assert retention["pooled"]["base"] == pytest.approx(base[2].value)


def test_the_pool_weighs_tasks_equally_whatever_their_size():
    base = [accuracy("a", answers(0.8, 2000)), accuracy("b", answers(0.8, 500, 1))]
    after = [base[0], accuracy("b", flipped(answers(0.8, 500, 1), 50, 0))]
    assert certify(base, after)["retention"]["pooled"]["delta"] == pytest.approx(-0.1 / 2)


def test_a_model_that_gives_no_numbers_fails_and_the_certificate_still_writes():
    broken = corpus("books", [math.nan] * 120)
    broken = replace(broken, value=math.nan)
    certificate = certify(suite(), [*suite()[:4], broken, suite()[5]])
    assert certificate["verdict"] == "FAIL"
    assert certificate["retention"]["corpora"][0]["adapted"] is None
    json.dumps(certificate, allow_nan=False)


def test_other_items_than_before_are_refused():
    with pytest.raises(RecipeError, match="not the same") as caught:
        certify([accuracy("a", answers(0.8, 100))], [accuracy("a", answers(0.8, 99))])
    assert caught.value.code == "E-PROVE-ITEMS"


def test_items_are_paired_by_id_and_not_by_place():
    base = accuracy("a", answers(0.8, 600))
    shuffled = replace(base, items=tuple(reversed(base.items)))
    assert certify([base], [shuffled])["unchanged"] is True


def test_the_out_of_distribution_score_stands_apart():
    base = [*suite(), accuracy("task/ood", answers(0.1, 300), 0.1, "target", "label_accuracy")]
    after = [*suite(target=0.6), accuracy("task/ood", answers(0.4, 300), 0.1, "target", "label_accuracy")]
    certificate = certify(base, after)
    assert certificate["target"]["n"] == 600
    assert certificate["ood"]["n"] == 300
    assert certificate["ood"]["verdict"] == "GAINED"


def test_drift_is_told_for_both_kinds_of_prompt():
    def drift(task, kl, top):
        both = (("kl_to_base", kl, False), ("top1_agreement", top, True))
        return [Score(task, "drift", m, v, up, 1, 0.0, None, (Item("1", task, v),)) for m, v, up in both]

    after = [*suite(), *drift("task_prompts", 2.0, 0.5), *drift("generic_prompts", 0.1, 0.9)]
    found = certify(suite(), after)["drift"]
    assert (found["kl_to_base"], found["top1_agreement"]) == (0.1, 0.9)
    assert found["task"] == {"kl_to_base": 2.0, "top1_agreement": 0.5}


def test_the_noise_floor_is_the_largest_move_of_the_base_against_itself():
    again = [accuracy("a", flipped(answers(0.8, 1500, 0), 3, 0)[:300]), corpus("books", bits_of(1.002))]
    floor = certify(suite(), suite(), rescored={"batches": again})["noise_floor"]
    assert floor["parts"]["a"] == pytest.approx(3 / 300)
    assert floor["parts"]["books"] == pytest.approx(0.002)
    assert floor["largest"] == pytest.approx(0.01)
    assert floor["scorings"] == 2


def test_the_noise_floor_tells_what_was_changed_and_compares_all_scorings_with_each_other():
    def reworded(lost, gained):
        return accuracy("a", flipped(answers(0.8, 1500, 0), lost, gained)[:300])

    order = [
        accuracy("in_context", answers(share, 100, 1), 0.25, "diagnosis", "natural_4_shot") for share in (0.5, 0.4)
    ]
    rescored = {"batches": [reworded(1, 0)], "paraphrase": [reworded(6, 0), reworded(0, 3)], "order": order}
    floor = certify(suite(), suite(), rescored=rescored)["noise_floor"]
    kinds = floor["kinds"]
    assert kinds["batches"] == {
        "largest": pytest.approx(1 / 300),
        "parts": {"a": pytest.approx(1 / 300)},
        "scorings": 2,
    }
    assert kinds["paraphrase"]["parts"]["a"] == pytest.approx(9 / 300)  # one wording against another, not the base
    assert kinds["paraphrase"]["scorings"] == 3
    apart = abs(order[0].value - order[1].value)  # the proof has no such score of its own
    assert kinds["order"]["largest"] == floor["largest"] == pytest.approx(apart)
    assert apart > 9 / 300
    assert floor["parts"]["a"] == pytest.approx(9 / 300)


def bits_of(factor):
    return [item.score * factor for item in suite()[4].items][:40]


def test_margins_are_written_down_and_hold():
    after = suite(losses=60, gains=0)
    assert certify(suite(), after)["verdict"] == "FAIL"
    wide = Margins(pooled=0.2, task=0.1)
    certificate = certify(suite(), after, margins=wide)
    assert certificate["verdict"] == "PASS"
    assert certificate["margins"] == {"pooled": 0.2, "task": 0.1, "tasks": {}, "corpus": 0.01, "leak": 0.02}


def test_a_task_may_have_a_margin_of_its_own():
    wide = certify(suite(), suite(losses=45), margins=Margins(tasks={"a": 0.05}))
    told = {task["name"]: (task["margin"], task["verdict"]) for task in wide["retention"]["tasks"]}
    assert told["a"] == (0.05, "PASS")
    assert told["b"][0] == 0.03
    assert told["b"][1] != "PASS"
    with pytest.raises(ValidationError, match="at most at"):
        Margins(tasks={"a": 0.9})


def test_the_worst_seed_speaks_for_all():
    good = certify(suite(), suite(losses=8, gains=8, target=0.6), seeds=[7])
    bad = certify(suite(), suite(losses=150, target=0.7), seeds=[8])
    whole = certify_seeds([good, bad, {**good, "seeds": {"count": 1, "values": [9]}}])
    assert whole["verdict"] == "FAIL"
    assert whole["scope"] == "this recipe"
    assert whole["seeds"]["values"] == [7, 8, 9]
    assert whole["seeds"]["worst"] == 8
    assert whole["seeds"]["verdicts"] == ["PASS", "FAIL", "PASS"]
    assert good["scope"] == "this checkpoint"
    assert certify_seeds([good])["scope"] == "this checkpoint"


def test_three_seeds_with_their_scores_speak_for_the_recipe():
    base = suite()
    sides = [(base, suite(losses=8 + 4 * i, gains=8, factor=1.001, target=0.6)) for i in range(3)]
    ones = [certify(*side, seeds=[seed]) for seed, side in enumerate(sides)]
    whole = certify_seeds(ones, sides)
    pooled, single = whole["retention"]["pooled"], [one["retention"]["pooled"] for one in ones]
    assert whole["verdict"] == "PASS"
    assert (whole["scope"], whole["seeds"]["speaks"], whole["seeds"]["worst"]) == ("this recipe", "all seeds", 2)
    assert pooled["delta"] == pytest.approx(sum(one["delta"] for one in single) / 3)
    assert pooled["high"] - pooled["low"] > max(one["high"] - one["low"] for one in single)
    assert whole["target"]["verdict"] == "GAINED"
    assert whole.keys() == ones[0].keys()
    json.dumps(whole, allow_nan=False)


def test_one_bad_seed_of_three_leaves_a_recipe_undecided_and_is_named():
    base = suite()
    sides = [(base, suite(losses=losses, gains=4, target=0.6)) for losses in (4, 4, 150)]
    whole = certify_seeds([certify(*side, seeds=[seed]) for seed, side in enumerate(sides)], sides)
    assert whole["verdict"] == "UNDECIDED"
    assert "Seed 2, the worst of 3, alone is FAIL." in verdict_sentence(whole)


def work_in(folder):
    run = Run.open(folder)
    return StageWork(run, run.stage_folder(0, "prove"), 0, 7, {}, lambda checkpoint: None)


def test_the_stage_writes_its_certificate_from_stored_scores(tmp_path):
    work = work_in(tmp_path / "run")
    with work.run:
        work.run.write_items("base", suite())
        with pytest.raises(RecipeError, match="no scores under the label 'adapted'"):
            Prove().run(Checkpoint("pocket"), work)
        work.run.write_items("adapted", suite())
        assert Prove().run(Checkpoint("pocket"), work) == Checkpoint("pocket")
        written = json.loads((work.folder / "certificate.json").read_text())
    assert written["unchanged"] is True
    assert written["seeds"]["values"] == [7]


def test_a_measurement_between_stages_needs_a_proof_to_measure_with(tmp_path):
    work = work_in(tmp_path / "run")
    with work.run, pytest.raises(RecipeError) as caught:
        Evaluate(evaluations=["retention"]).run(Checkpoint("pocket"), work)
    assert caught.value.code == "E-RECIPE-PROOF"
