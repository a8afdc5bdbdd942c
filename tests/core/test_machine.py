"""Memory that can be had: the machine's, or what a container's limit leaves."""

from __future__ import annotations

import pytest

from keeptune.core import machine


@pytest.mark.parametrize(("limit", "left"), [("max", None), ("1000", 1000 - 700 + 300), ("500", 100)])
def test_a_control_group_leaves_its_limit_minus_what_is_taken_and_not_merely_cached(tmp_path, limit, left):
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 400\ninactive_file 300\n")
    assert machine._limit_left(tmp_path) == left


def test_a_machine_without_control_groups_has_what_it_has(tmp_path, monkeypatch):
    assert machine._limit_left(tmp_path) is None
    monkeypatch.setattr(machine, "_limit_left", lambda: None)
    assert machine.available_memory() == pytest.approx(machine._machine_memory(), rel=0.2)


def test_the_smaller_of_both_counts(monkeypatch):
    monkeypatch.setattr(machine, "_limit_left", lambda: 12345)
    assert machine.available_memory() == 12345
    assert machine.free_memory(gpu=False) == 12345
