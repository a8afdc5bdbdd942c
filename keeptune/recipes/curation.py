"""`keeptune data curate`: rules over dumps of questions and answers, what each removed, and the kept rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from keeptune.core.counting import counted
from keeptune.core.disk import prepare_output
from keeptune.core.errors import DataError, RecipeError, did_you_mean
from keeptune.core.files import atomic_write
from keeptune.core.spec import validate
from keeptune.core.typed import typed
from keeptune.data.curate import RELATIVE, Removal, curate, sample
from keeptune.data.curation import Candidate, Rule, candidates_of
from keeptune.data.guess import guess_format
from keeptune.recipes.overrides import with_overrides
from keeptune.report.html import visible

SHOWN_LETTERS = 70


def curate_files(
    files: Sequence[Path],
    output: Path,
    *,
    thresholds: Literal["lima", "relative"] = "lima",
    settings: Sequence[str] = (),
    off: Sequence[str] = (),
    prompt: str = "either",
    rows: int | None = None,
    temperature: float = 3.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Curates files, each a group of its own (an exchange of Stack Exchange), and writes what is kept as JSON Lines.

    Args:
        files: dumps or data files; the format of each is guessed.
        output: for the kept rows, `{"id", "messages", "source", "score", "licence"}`.
        thresholds: LIMA's numbers, or quantiles of each file (`keeptune.data.curate.RELATIVE`).
        settings: `rule.setting=value`, such as `score.least=q0.9`.
        off: rules that are not asked.
        prompt: what is asked, for Stack Exchange: title, body, both, or either of the first two.
        rows: how many are drawn from what is kept; unset: all.
        temperature: of the draw among files.
        seed: of the draw.

    Raises:
        DataError: a file cannot be read, or nothing is kept (E-CURATE-NOTHING).
        RecipeError: an unknown rule or setting, or `output` exists.
    """
    prepare_output(output)
    rules = rules_of(thresholds, settings, off)
    kept: dict[str, list[Candidate]] = {}
    sizes: dict[str, int] = {}
    tables: dict[str, list[Removal]] = {}
    bad: dict[str, int] = {}
    for path in files:
        found, bad[str(path)] = _candidates(path, prompt)
        name = str(path)
        sizes[name] = len(found)
        kept[name], tables[name] = curate(found, rules)
    chosen = sample(kept, sizes, rows, temperature, seed) if rows else [one for found in kept.values() for one in found]
    if not chosen:
        raise DataError(
            "no answer passes every rule.", code="E-CURATE-NOTHING", where={"file": files[0]},
            why="; ".join(f"{name}: " + _history(sizes[name], table) for name, table in tables.items()),
            fix="Use --thresholds relative, or set a rule: --set score.least=q0.5, --off title.",
        )  # fmt: skip
    atomic_write(output, "".join(_line(candidate) for candidate in chosen))
    groups = [_group(name, sizes[name], bad[name], tables[name], len(kept[name])) for name in tables]
    result = {"output": str(output), "kept": len(chosen), "groups": groups}
    return {**result, "text": _text(result)}


def rules_of(thresholds: str, settings: Sequence[str], off: Sequence[str]) -> list[Rule]:
    """Every rule of the shelf with its settings, but those that are off.

    Raises:
        RecipeError: an unknown rule or setting.
    """
    names = Rule.names()
    for name in off:
        if name not in names:
            raise RecipeError(f"no rule is called '{name}'.", code="E-USAGE", fix=did_you_mean(name, names))
    plain: dict[str, Any] = {name: dict(RELATIVE.get(name, {})) if thresholds == "relative" else {} for name in names}
    for name in with_overrides(plain, list(settings)):
        if name not in names:
            raise RecipeError(f"no rule is called '{name}'.", code="E-USAGE", fix=did_you_mean(name, names))
    plain = with_overrides(plain, list(settings))
    return [validate(Rule, {"name": name, **plain[name]}, under=(name,)) for name in names if name not in off]


def _candidates(path: Path, prompt: str) -> tuple[list[Candidate], int]:
    source = guess_format(str(path)).format
    if "prompt" in type(source).model_fields and source.name == "stack_exchange":
        source = source.model_copy(update={"prompt": prompt})
    outcomes = list(candidates_of(source, path.name))
    found = [one for one in outcomes if isinstance(one, Candidate)]
    return found, len(outcomes) - len(found)


def _line(candidate: Candidate) -> str:
    example = candidate.example
    row = {
        "id": example.id, "messages": [turn.to_dict() for turn in example.messages], "source": candidate.group,
        "score": candidate.score, "licence": example.licence,
    }  # fmt: skip
    return json.dumps(row, ensure_ascii=False) + "\n"


def _group(name: str, size: int, bad: int, table: Sequence[Removal], kept: int) -> dict[str, Any]:
    return {
        "file": name, "candidates": size, "bad": bad, "kept": kept,
        "rules": [
            {
                **done.rule.to_dict(), "alone": done.alone, "removed": done.removed, "rewritten": done.rewritten,
                "left": done.left,
                "examples": [
                    {"id": one.example.id, "reason": reason, "answer": one.answer[:SHOWN_LETTERS]}
                    for one, reason in done.shown
                ],
            }
            for done in table
        ],
    }  # fmt: skip


def _history(size: int, table: Sequence[Removal]) -> str:
    return counted(size, "candidate") + "".join(f", {done.rule.name} left {done.left:,}" for done in table)


def _text(result: dict[str, Any]) -> str:
    lines = []
    for group in result["groups"]:
        bad = f", {group['bad']} unusable" if group["bad"] else ""
        lines += [f"{group['file']}: {counted(group['candidates'], 'question')} with an answer{bad}", ""]
        lines.append(f"  {'rule':<14} {'bounds':<22} {'alone':>7} {'removed':>8} {'left':>7}")
        for rule in group["rules"]:
            change = f"   rewrote {rule['rewritten']}" if rule["rewritten"] else ""
            lines.append(
                f"  {rule['name']:<14} {bounds(rule):<22} {rule['alone']:>7,} {rule['removed']:>8,} "
                f"{rule['left']:>7,}{change}"
            )
        lines.append("")
        for rule in group["rules"]:
            for one in rule["examples"]:
                said = visible(" ".join(one["answer"].split()))
                lines.append(f"  {rule['name']:<14} post {one['id']}: {one['reason']}: {said} ...")
        lines.append("")
    lines.append(f"{counted(result['kept'], 'row')} written to {result['output']}")
    return "\n".join([*lines, f"\nNext: {typed('keeptune', 'init', result['output'])}"])


def bounds(rule: dict[str, Any]) -> str:
    """The numbers of a rule, in a few letters."""
    numbers = [rule.get(key) for key in ("least", "most")]
    shown = [f"{sign} {value:,.6g}" for sign, value in zip(("≥", "≤"), numbers, strict=True) if value is not None]
    return ", ".join(shown)
