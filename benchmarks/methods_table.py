"""Writes the table and the picture of docs/methods.md from benchmarks/results/methods.json.

python -m benchmarks.methods_table
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.record import RESULTS
from keeptune.report import svg
from keeptune.report.words import points

DOCS = Path(__file__).parent.parent / "docs"
PAGE, PICTURE = DOCS / "methods.md", DOCS / "methods.svg"
START, END = "<!-- methods: generated -->", "<!-- methods: end -->"
HEAD = (
    "method", "rate", "trained", "target", "general ability, pooled", "seeds", "processor s", "peak GB", "stored MB",
    "merges", "comes off",
)  # fmt: skip
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 820, 470, 84, 790, 46, 400
MARGIN = 0.01
LETTER, LINE = 7.2, 15
"""Width of a letter and height of a line of the labels, in pixels."""
STYLE = (
    "svg{background:#fff}text{font:13px sans-serif;fill:#333}.tick{font-size:11px;fill:#666}.axis,.zero{stroke:#999}"
    ".zero{stroke-dasharray:2 3}.margin{stroke:#b33;stroke-dasharray:6 4}.whisker{stroke:#68a}.mark{fill:#246}"
)


def table(report: Mapping[str, Any]) -> str:
    """Markdown: one row per method, in the order of their mean change of general ability."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    for row in sorted(report["rows"], key=lambda row: -_mean(row, "pooled")):
        lines.append(f"| {' | '.join(_cells(row))} |")
    first = report["rows"][0]["seeds"].values()
    target, pooled = next((cell["target"], cell["retention"]["pooled"]) for cell in first)
    sizes = report["sizes"]
    base = f"{points(target['base'], sign=False)}% of {target['n']} test rows"
    general = f"{points(pooled['base'], sign=False)}% of {pooled['n']} questions"
    rows = f"{sizes['data.task.train']} rows per label, the rate chosen on {sizes['data.task.dev']} dev rows per label"
    lines += [
        "",
        f"The base answers {base} and {general} right ({sizes['proof.items']} per task of the suite).",
        f"Trained on at most {rows}.",
        f"On {report['machine']['processor']}, one thread: `python -m benchmarks.methods`.",
        "",
        f"![target gained against general ability kept]({PICTURE.name})",
    ]
    return "\n".join(lines)


def picture(report: Mapping[str, Any]) -> str:
    """An SVG of its own: gain on the target to the right, change of general ability upwards, the base at the origin."""
    rows = report["rows"]
    bounds = [_worst(row) for row in rows]
    xs = [0.0, *(_mean(row, "target") for row in rows)]
    ys = [0.0, -MARGIN, *(low for low, _ in bounds), *(high for _, high in bounds)]
    across, up = svg.Axis(*svg.around(xs), LEFT, RIGHT), svg.Axis(*svg.around(ys), BOTTOM, TOP)
    parts: list[object] = [
        svg.line(across(0), TOP, across(0), BOTTOM, "zero"),
        svg.line(LEFT, up(0), RIGHT, up(0), "zero"),
        svg.line(LEFT, up(-MARGIN), RIGHT, up(-MARGIN), "margin"),
        svg.text(across(0) + 8, BOTTOM - 8, "base", "tick"),
    ]
    placed = [(across(_mean(row, "target")), up(_mean(row, "pooled"))) for row in rows]
    for (x, y), (low, high) in zip(placed, bounds, strict=True):
        parts += [svg.line(x, up(low), x, up(high), "whisker"), svg.mark(x, y, "circle", "mark", 4)]
    for row, (x, y, anchor) in zip(rows, labels([row["method"] for row in rows], placed), strict=True):
        parts.append(svg.text(x, y, row["method"], "label", anchor))
    parts += svg.bottom_axis(_percent(across), BOTTOM, "change of the target score, points, mean of the seeds")
    parts += svg.left_axis(_percent(up), LEFT, "change of general ability, pooled, points; bar: 90% of the worst seed")
    drawn = svg.picture(WIDTH, HEIGHT, "Every method: target gained against general ability kept", parts)
    start = drawn.index(">") + 1
    opened = drawn[:start].replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return f"{opened}<style>{STYLE}</style>{drawn[start:]}\n"


def _share(share: float) -> str:
    """Two digits, and no exponent: 100%, 41%, 0.057%."""
    return f"{100 * share:.0f}%" if share >= 0.1 else f"{100 * share:.2g}%"


def labels(names: Sequence[str], points: Sequence[tuple[float, float]]) -> list[tuple[float, float, str]]:
    """A place for each name beside its point, where it covers no other name and no point; the nearest that is free."""
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    found = []
    for name, (x, y) in zip(names, points, strict=True):
        width = LETTER * len(name)
        tried = [
            (side, lift)
            for lift in (0, -LINE, LINE, -2 * LINE, 2 * LINE, -3 * LINE, 3 * LINE)
            for side in ((-1, 1) if x > (LEFT + RIGHT) / 2 else (1, -1))
        ]
        boxes = {}
        for side, lift in tried:
            begin = x + 8 if side > 0 else x - 8 - width
            boxes[side, lift] = (begin, y + lift - LINE / 2, begin + width, y + lift + LINE / 2)
        inside = [one for one in tried if boxes[one][0] > LEFT and boxes[one][2] < RIGHT] or tried
        side, lift = next((one for one in inside if not any(_cover(boxes[one], box) for box in taken)), inside[0])
        taken.append(boxes[side, lift])
        found.append((x + 8 * side, y + lift + 4, "start" if side > 0 else "end"))
    return found


def _cover(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _cells(row: Mapping[str, Any]) -> Sequence[str]:
    cells = list(row["seeds"].values())
    low, high = _worst(row)
    targets = [cell["target"]["adapted"] for cell in cells]
    spread = f" ({points(min(targets), sign=False)} to {points(max(targets), sign=False)})" if len(cells) > 1 else ""
    routed = " routed" if cells[0]["deployment"] == "routed" else ""
    return (
        f"[{row['method']}](methods/{_page(row['method'])}.md)",
        f"{row['rate']:.1e}",
        _share(cells[0]["trainable_share"]),
        f"{points(fmean(targets), sign=False)}%{spread}",
        f"{points(_mean(row, 'pooled'))} ({points(low)} to {points(high)}){routed}",
        str(len(cells)),
        f"{fmean(cell['processor_seconds'] for cell in cells):.0f}",
        f"{max(cell['peak_bytes'] for cell in cells) / 1e9:.2f}",
        f"{cells[0]['stored_bytes'] / 1e6:.2g}",
        "yes" if row["merges"] else "no",
        "yes" if row["detachable"] else "no",
    )


def _page(method: str) -> str:
    """The page of a row: variants stand on their method's."""
    return method if (DOCS / "methods" / f"{method}.md").exists() else method.rpartition("_")[0]


def _mean(row: Mapping[str, Any], what: str) -> float:
    """Mean change over the seeds, of the target or of general ability."""
    cells = row["seeds"].values()
    return fmean((cell["target"] if what == "target" else cell["retention"]["pooled"])["delta"] for cell in cells)


def _worst(row: Mapping[str, Any]) -> tuple[float, float]:
    """The 90% interval of the seed that lost most general ability."""
    worst = min((cell["retention"]["pooled"] for cell in row["seeds"].values()), key=lambda part: part["delta"])
    return worst["low"], worst["high"]


def _percent(axis: svg.Axis) -> svg.Axis:
    return svg.Axis(100 * axis.low, 100 * axis.high, axis.start, axis.end)


def main() -> None:
    """Replaces what stands between the two markers, and the picture."""
    report = json.loads((RESULTS / "methods.json").read_text(encoding="utf-8"))
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{START}\n{table(report)}\n{END}{after}", encoding="utf-8")
    PICTURE.write_text(picture(report), encoding="utf-8")


if __name__ == "__main__":
    main()
