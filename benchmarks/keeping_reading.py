"""What the finished arms of benchmarks.keeping say, as plain data for its record.

Readings are those of `keeptune.statistics.frontiers`: one replicate draws clusters of items, the same ones for all
cells, and seeds; intervals are 90%, and a difference is read inside each replicate, so that it is paired over items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from keeptune.core.events import read_lines
from keeptune.core.files import read_json
from keeptune.core.items import read_scores
from keeptune.core.score import Score
from keeptune.statistics.frontiers import Floats, Grid
from keeptune.statistics.interpolate import retention_at
from keeptune.studies._cells import grid_of, means, target_of, value_of

Cell = tuple[str, float]
"""An arm's name and the factor on its rate."""
EIGHTY = 0.8416 + 1.6449
"""Standard errors that a one-sided test at 5% finds with a chance of 80%."""


@dataclass(frozen=True)
class Finished:
    """What was measured.

    Attributes:
        base: scores of the base.
        arms: of each cell, of each seed, its scores.
        seconds: spent on each cell.
    """

    base: list[Score]
    arms: Mapping[Cell, Mapping[int, list[Score]]]
    seconds: Mapping[Cell, float]

    @classmethod
    def read(cls, folder: Path) -> Finished:
        """The arms of a study's folder that are done."""
        arms: dict[Cell, dict[int, list[Score]]] = {}
        seconds: dict[Cell, float] = {}
        for path in sorted(folder.glob("arms/*/result.json")):
            made = read_json(path)["result"]
            if "recipe" not in made:
                continue  # the base
            cell = (made["recipe"], made["rate"])
            arms.setdefault(cell, {})[made["seed"]] = read_scores(path.parent, "adapted")
            seconds[cell] = seconds.get(cell, 0.0) + made["seconds"]
        return cls(read_scores(folder, "base"), arms, seconds)

    def cells(self, names: Sequence[str], rates: Sequence[float], seeds: Sequence[int]) -> list[Cell]:
        """Those that have all these seeds, in this order."""
        wanted = [(name, rate) for name in names for rate in sorted(rates)]
        return [cell for cell in wanted if set(seeds) <= self.arms.get(cell, {}).keys()]

    def seeds(self, cells: Sequence[Cell], seeds: Sequence[int]) -> int:
        """How many of these seeds, from the first on, all the cells have."""
        owns = [self.arms.get(cell, {}).keys() for cell in cells]
        return next((n for n in range(len(seeds), 0, -1) if all(set(seeds[:n]) <= own for own in owns)), 0)

    def alone(self, cell: Cell, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """The row of one cell, with all of these seeds that it has."""
        return Table(self, [cell], seeds[: self.seeds([cell], seeds)]).rows()


class Table:
    """Cells with the same seeds, read on the same items.

    Args:
        done: what was measured.
        cells: of the table.
        seeds: of each cell.
    """

    def __init__(self, done: Finished, cells: Sequence[Cell], seeds: Sequence[int]) -> None:
        self.done, self.cells, self.seeds = done, list(cells), list(seeds)
        self.kept = self._grid(lambda score: score)
        self.ability = self._grid(lambda score: None if score.kind == "leak" else score)
        self.leak = self._grid(lambda score: None if score.kind == "accuracy" else score)
        self.bits = self._grid(_as_ability)
        self.start = means(done.base)

    def _grid(self, chosen: Callable[[Score], Score | None]) -> Grid:
        def part(scores: Sequence[Score]) -> list[Score]:
            return [one for one in map(chosen, scores) if one is not None]

        found = [[part(self.done.arms[cell][seed]) for seed in self.seeds] for cell in self.cells]
        methods = {name: [i for i, cell in enumerate(self.cells) if cell[0] == name] for name, _ in self.cells}
        return grid_of(methods, part(self.done.base), found)

    def rows(self) -> list[dict[str, Any]]:
        """One row per cell; shares are fractions, `bits_rise` is relative to the base, KL in nats a token."""
        rows = []
        for place, (name, rate) in enumerate(self.cells):
            kl = [value_of(self.done.arms[name, rate][seed], "kl_to_base", "task_prompts") for seed in self.seeds]
            whole = self.kept.cell(place)
            rows.append(
                {
                    "arm": name, "rate": rate, "seeds": self.seeds,
                    "target": whole["target"].to_dict(), "forgotten": whole["forgotten"].to_dict(),
                    "ability_lost": self.ability.cell(place)["forgotten"].to_dict(),
                    "leak_gained": self.leak.cell(place)["forgotten"].to_dict(),
                    "bits_rise": _interval(self._rises()[:, place]),
                    "kl_to_base": round(float(np.mean(kl)), 5), "kl_of_seeds": [round(one, 5) for one in kl],
                    "leak_of_seeds": [_leak(self.done.arms[name, rate][seed]) for seed in self.seeds],
                    "seconds": round(self.done.seconds[name, rate], 1),
                }
            )  # fmt: skip
        return rows

    def difference(self, what: str, first: Cell, second: Cell) -> dict[str, Any]:
        """First minus second in `target`, `forgotten`, `ability_lost`, `leak_gained` or `bits_rise`."""
        values = {
            "target": self.kept.target_BC, "forgotten": self.kept.forgotten_BC, "bits_rise": self._rises(),
            "ability_lost": self.ability.forgotten_BC, "leak_gained": self.leak.forgotten_BC,
        }[what]  # fmt: skip
        at = [self.cells.index(cell) for cell in (first, second)]
        return {"what": what, "first": first, "second": second, **_interval(values[:, at[0]] - values[:, at[1]])}

    def matched(self, first: str, second: str) -> dict[str, Any] | None:
        """What each has kept at the highest target score that both reach, and the difference.

        The base's share kept is 1; between rates, and between the base and the lowest rate, a path is straight. Each
        replicate has a highest common score of its own.
        """
        places = [list(self.kept.methods.get(name, [])) for name in (first, second)]
        if not all(places):
            return None
        rows = range(len(self.kept.start_B))
        levels = [min(float(self.kept.target_BC[row, own].max()) for own in places) for row in rows]
        kept = [np.array([self._kept(row, own, levels[row]) for row in rows]) for own in places]
        return {
            "level": levels[0],
            "first": {"arm": first, **_interval(kept[0])},
            "second": {"arm": second, **_interval(kept[1])},
            "difference": _interval(kept[0] - kept[1]),
        }

    def _kept(self, row: int, places: list[int], level: float) -> float:
        targets = [self.kept.start_B[row], *self.kept.target_BC[row, places]]
        found = retention_at(targets, [1.0, *(1 - self.kept.forgotten_BC[row, places])], level)
        return float("nan") if found is None else found

    def _rises(self) -> Floats:
        return self.bits.forgotten_BC / float(self.start["bits_per_byte"] or 1)

    def kl_predicts(self) -> dict[str, Any]:
        """Spearman's rank correlation over cells of the mean KL on the task's answers with each kind of loss."""
        kl = [row["kl_to_base"] for row in self.rows()]
        return {
            "n": len(kl),
            "forgotten": self.kept.rank_correlation(kl).to_dict(),
            "ability_lost": self.ability.rank_correlation(kl).to_dict(),
            "leak_gained": self.leak.rank_correlation(kl).to_dict(),
            "bits_rise": self.bits.rank_correlation(kl).to_dict(),
        }

    def base(self) -> dict[str, Any]:
        """The base's own scores, and on how many items they rest."""
        target = target_of(self.done.base)
        count = {
            kind: sum(score.n for score in self.done.base if score.kind == kind)
            for kind in ("accuracy", "leak", "corpus")
        }
        return {
            "target": target.value, **self.start, "target_rows": target.n, "questions": count["accuracy"],
            "requests": count["leak"], "documents": count["corpus"],
        }  # fmt: skip


def gates_of(folder: Path, name: str, seeds: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Of each seed of an arm at its own rate: whether the gate passed, and the share of answers in the form."""
    found = {}
    for seed in seeds:
        for event in read_lines(folder / "arms" / f"{name}-x1-{seed}" / "events.jsonl"):
            if event.get("kind") == "gate":
                found[str(seed)] = {key: event[key] for key in ("passed", "valid_format")}
    return found


def _leak(scores: Sequence[Score]) -> float:
    return round(next(score.value for score in scores if score.kind == "leak"), 5)


def curve_of(folder: Path) -> list[dict[str, float]]:
    """The looks of a guarded run: tokens drawn so far, leak, target on dev, bits per byte's rise."""
    looks, drawn = [], 0
    for line in read_lines(folder / "metrics.jsonl"):
        drawn += line["tokens"]
        if "guard_leak" in line:
            found = {key: round(line[f"guard_{key}"], 5) for key in ("leak", "target", "general", "bits_rise")}
            looks.append({"stage": line["stage"], "step": line["step"], "tokens": drawn, **found})
    return looks


def _as_ability(score: Score) -> Score | None:
    """A corpus in the place of an ability, its items in bits per byte; other losses left out."""
    if score.kind != "corpus":
        return score if score.kind == "target" else None
    size = float(np.mean([item.size for item in score.items]))
    items = tuple(replace(item, score=item.score / size) for item in score.items)
    return replace(score, kind="accuracy", items=items)


def _interval(values_B: Floats) -> dict[str, float | None]:
    """The measured value, its 90% interval, and what difference would have been found with a power of 80%."""
    sound = values_B[1:][np.isfinite(values_B[1:])]
    if not np.isfinite(values_B[0]) or len(sound) < len(values_B[1:]) / 2:
        return {"value": None, "low": None, "high": None, "visible": None}
    low, high = np.quantile(sound, [0.05, 0.95])
    visible = EIGHTY * float(np.std(sound, ddof=1))
    return {"value": float(values_B[0]), "low": float(low), "high": float(high), "visible": visible}
