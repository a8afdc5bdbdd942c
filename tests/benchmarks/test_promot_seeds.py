"""Leaks that come with the prompt are told from leaks that come with the order; figures are those of their formulas."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import promot_gate, promot_page, promot_seeds, record


def crossed(leak):
    pairs = [*((seed, seed) for seed in range(5)), (4, 0), (0, 4)]
    cells = [{"prompt": prompt, "order": order, "leak": leak(prompt, order)} for prompt, order in pairs]
    gates = [{"prompt": prompt, **dict.fromkeys(promot_page.FIGURES, -float(prompt))} for prompt in range(5)]
    return {one["what"]: one for one in promot_page.rows(cells, gates)}


def test_what_the_leak_goes_with_is_found():
    found = crossed(lambda prompt, order: 0.2 * prompt + 0.01 * order)
    changed = found["changed orders"]
    assert (changed["most"], changed["least"]) == (4, 0)
    assert (changed["prompt"], changed["order"]) == pytest.approx((0.8, 0.04))
    assert found["pull"]["rank_correlation"] == pytest.approx(-1)
    changed = crossed(lambda prompt, order: 0.2 * order)["changed orders"]
    assert (changed["prompt"], changed["order"]) == pytest.approx((0.0, 0.8))


def test_the_cosine_of_gradients_is_over_all_weights():
    one = [torch.tensor([1.0, 0.0]), torch.tensor([1.0])]
    other = [torch.tensor([0.0, 1.0]), torch.tensor([1.0])]
    assert promot_gate._cosine(one, other) == pytest.approx(0.5)


def test_the_page_is_what_the_command_makes_of_the_record():
    kept = json.loads((record.RESULTS / "promot_seeds.json").read_text(encoding="utf-8"))
    assert promot_seeds.PAGE.read_text(encoding="utf-8") == promot_page.page(kept)
    assert kept["rows"] == promot_page.rows(kept["cells"], kept["gates"])
