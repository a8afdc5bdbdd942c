"""Writes the calibration table of docs/statistics.md from benchmarks/results/calibration.json.

python -m benchmarks.calibration_table
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.calibration import RESULTS

PAGE = Path(__file__).parent.parent / "docs" / "statistics.md"
START, END = "<!-- calibration: generated -->", "<!-- calibration: end -->"


def table() -> str:
    """Markdown of the committed result, one row per case, in percent."""
    report = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows = ["| kind | population, true loss = margin | false PASS | 99% upper | FAIL |", "|---|---|---|---|---|"]
    for row in report["cases"]:
        kind = row["kind"] if row["claimed"] else f"{row['kind']}, **not claimed**"
        rates = " | ".join(f"{100 * row[key]:.2f}%" for key in ("false_pass", "false_pass_upper_99", "fail"))
        rows.append(f"| {kind} | {row['case']} | {rates} |")
    exact = report["exact_binary"]
    worst = {key: 100 * max(row[key] for row in exact) for key in exact[0] if key.startswith("worst")}
    rows.append(
        f"\nExact, independent right-or-wrong items, worst over {len(exact)} pairs of n and margin, 11 discordances: "
        f"PASS {worst['worst_pass_corrected']:.2f}%, FAIL {worst['worst_fail_corrected']:.2f}%; without the half-step "
        f"PASS {worst['worst_pass_plain']:.2f}%, FAIL {worst['worst_fail_plain']:.2f}%."
    )
    return "\n".join(rows)


def main() -> None:
    """Replaces what stands between the two markers."""
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{START}\n{table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
