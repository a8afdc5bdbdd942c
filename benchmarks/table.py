"""Writes benchmarks/README.md from the records in benchmarks/results.

    python -m benchmarks.table            # writes the page
    python -m benchmarks.table --check    # says whether it is up to date

One section per record, in the order below; a record that is missing has no section, and what does not stand in a record
does not stand on the page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, units

PAGE = Path(__file__).parent / "README.md"
Row = dict[str, Any]
HEAD = """\
# Measurements

Every figure here was measured by the command above its table and stands, with its spread, in `results/*.json`; this
page is made from them by `python -m benchmarks.table`. A ratio is taken within one round of an interleaved run, from
processor seconds of one thread; the table gives the median over rounds and the 10th to 90th percentile. The outputs of
both sides were compared, and the command fails when they differ. What is told by the wall clock ran once, one side
after the other. *At the roof* stands what the ratio would be if our step took its useful arithmetic at the rate of the
best product measured there, and nothing for anything else.
"""
PROCESSORS = {
    "amx_bf16": "a processor with matrix tiles (AMX)",
    "avx512_bf16": "a processor with AVX512-BF16",
    "none": "a processor without units for bfloat16",
}
TITLES = {
    "train_step": "The training step against TRL with PEFT",
    "task_step": "The training step on the rows of a task, which share their instruction",
    "preference": "The DPO step against TRL's preference trainer with PEFT",
    "gpu_step": "The training step on a GPU",
    "products": "Products of large matrices by a function of our own",
    "new_shapes": "The first product of a shape",
    "step_cost": "What LoRA costs, and the share of the processor's peak",
    "memory": "Peak memory",
    "multi_turn": "Conversations: one masked sequence against a row per answer",
    "shared_prefix": "K answers to one prompt: the prompt once against repeated",
    "kcenter": "k-center greedy",
    "generation": "Writing: many prompts at once",
    "mixed_adapters": "Writing: many users' adapters in one batch",
    "probe": "Probes and top-layer studies on a cached trunk",
    "study": "A study of several settings, each with its proof",
    "grid": "A study against a trainer and a harness for each setting, by the wall clock",
    "check": "Rows before the first step: read, validated, encoded, compared",
    "check_stream": "Memory and time of a check by the number of rows",
    "startup": "From the command to the first step",
}


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, title in TITLES.items():
        for file in sorted(RESULTS.glob(f"{name}.json")) + sorted(RESULTS.glob(f"{name}.*.json")):
            report = json.loads(file.read_text(encoding="utf-8"))
            parts.append(section(name, title + ("" if file.stem == name else where(report)), report))
    return "\n".join(parts)


def where(report: dict[str, Any]) -> str:
    """On what a record was measured, where there are several of a benchmark."""
    if "gpu" in report:
        return f": {report['work']}, on {report['gpu']['name']}"
    return f", on {PROCESSORS[units(report['machine'])]}"


def section(name: str, title: str, report: dict[str, Any]) -> str:
    """Title, command, table, and what it was measured on."""
    header, line = TABLES[name]
    table = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    table += ["| " + " | ".join(line(row)) + " |" for row in report["rows"]]
    return "\n".join([f"## {title}", "", "```sh", report["command"], "```", "", *table, "", conditions(report), ""])


def conditions(report: dict[str, Any]) -> str:
    """One sentence about machine, libraries and repetitions."""
    machine, versions = report["machine"], report["versions"]
    libraries = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "keeptune")
    units = ", ".join(flag for flag in machine["flags"] if flag.startswith(("amx", "avx512_bf16"))) or "no bf16 units"
    text = f"{machine['processor']} ({units}), {machine['cores']} cores; {libraries}"
    if "gpu" in report:
        gpu = report["gpu"]
        text = f"{gpu['name']}, {gpu['memory_gib']} GiB, driver {gpu['driver']}, CUDA {gpu['cuda']}; {text}"
    for key in ("rounds", "seeds"):
        if report.get(key):
            values = report[key] if isinstance(report[key], list) else [report[key]]
            text += f"; {key} {', '.join(map(str, values))}"
    if "steps_a_turn" in report:
        timed = report.get("timed_steps", 1)
        shown = "the last is timed" if timed == 1 else f"the last {timed} are timed, by the GPU's events"
        text += f"; steps of a turn {report['steps_a_turn']}, {shown}"
    return text + "."


def spread(found: dict[str, Any], unit: str = "x") -> str:
    """Median [10th .. 90th percentile]."""
    return f"**{found['median']:.2f}{unit}** [{found['p10']:.2f} .. {found['p90']:.2f}]"


def speed(row: Row) -> list[str]:
    """Against a peer: what, whose, how much faster, seconds of both."""
    return [
        row["what"],
        row["peer"],
        spread(row["speed"]),
        f"{row['own_seconds']:.3g} s",
        f"{row['peer_seconds']:.3g} s",
    ]


def alone(row: Row) -> list[str]:
    """Against a peer, or alone with its peak."""
    if row["peer"] is not None:
        return speed(row)
    return [row["what"], "", "", f"{row['own_seconds']:.3g} s, {row['peak_gib']:.1f} GiB in all", ""]


def mixed(row: Row) -> list[str]:
    """Against a peer, if there is one, and the share of the speed that the model has by itself."""
    share = f"{row['share']['median']:.0%} [{row['share']['p10']:.0%} .. {row['share']['p90']:.0%}]"
    if row["peer"] is None:
        return [row["what"], "", "", f"{row['own_seconds']:.3g} s", "", share]
    return [*speed(row), share]


def throughput(row: Row) -> list[str]:
    """Against a peer, in rows a second of processor time."""
    return [row["what"], row["peer"], spread(row["speed"]), f"{row['own_rows']:,}", f"{row['peer_rows']:,}"]


def step(row: Row) -> list[str]:
    """The training step names its own side too."""
    what, *rest = speed(row)
    roof = f"{row['roof']['median']:.2f}x" if "roof" in row else "not measured"
    return [what, row["own"], *rest, roof]


def on_gpu(row: Row) -> list[str]:
    """Ours and the peer's, with a slash between; a peer that did not run says why."""
    sides = [row[name] for name in ("own_side", "peer_side") if name in row]
    faster = spread(row["speed"]) if "speed" in row else row.get("failed", "")
    shown = [
        [f"{one['tokens_per_second']:,}" for one in sides],
        [f"{one['supervised_per_second']:,}" for one in sides],
        [f"{100 * one['utilisation']['median']:.1f}%" for one in sides],
        [f"{one['peak_gib']:.1f}" for one in sides],
        [f"{one['seconds_until_ready']:.0f} s" for one in sides],
        [f"{one['first_step_seconds']:.1f} s" for one in sides],
    ]
    return [row["what"], row["peer"] or "", faster, *(" / ".join(pair) for pair in shown)]


def cost(row: Row) -> list[str]:
    """A ratio of costs, or a share of the peak."""
    if "cost" in row:
        return [row["what"], row["of"], spread(row["cost"])]
    share = {key: 100 * value if isinstance(value, float) else value for key, value in row["share"].items()}
    return [f"{row['what']} ({row['peak_gflops']:.0f} GFLOP/s)", row["of"], spread(share, "%")]


def writing(row: Row) -> list[str]:
    """With the cost of a written token in read ones beside."""
    return [*speed(row), f"{row['written_over_read']['median']:.1f}"]


def bounded(row: Row) -> list[str]:
    """With the ratio of arithmetic beside."""
    bounds = [f"{row['arithmetic_ratio']:.2f}x", f"{row['share_of_arithmetic']:.2f}", f"{row['token_ratio']:.2f}x"]
    return [row["what"], spread(row["speed"]), *bounds]


def peak(row: Row) -> list[str]:
    """MiB above what stood ready, and in all."""
    return [row["what"], row["of"], f"**{row['step_mib']:.0f}**", f"{row['whole_mib']:.0f}"]


def rates(row: Row) -> list[str]:
    """Against a peer, in arithmetic a second of processor time."""
    return [row["what"], row["peer"], spread(row["speed"]), str(row["own_gigaflops"]), str(row["peer_gigaflops"])]


def twice(row: Row) -> list[str]:
    """Milliseconds of the first product and of a later one."""
    return [row["what"], row["rows"], f"**{row['first_ms']:.3g} ms**", f"{row['later_ms']:.3g} ms"]


def waits(row: Row) -> list[str]:
    """By the wall clock, with processor seconds beside: both sides start processes of their own."""
    both, ours, peers = row["processor"], f"{row['own_seconds']:.0f} s", f"{row['peer_seconds']:.0f} s"
    return [
        row["what"],
        row["peer"],
        f"**{row['speed']['median']:.2f}x**",
        ours,
        peers,
        f"{both['peer'] / both['own']:.2f}x",
    ]


def streamed(row: Row) -> list[str]:
    """Peak, processor seconds and rows a second."""
    return [row["what"], f"**{row['peak_mib']:,}**", f"{row['own_seconds']:,.0f} s", f"{row['own_rows']:,}"]


def waiting(row: Row) -> list[str]:
    """Processor and wall seconds."""
    shown = [f"**{row['processor_seconds']:.1f} s**", f"{row['wall_seconds']:.1f} s"]
    return [row["what"], *shown, str(row["n"])]


AGAINST = ["what", "peer", "faster", "ours", "peer's"]
ON_GPU = [
    *("what", "peer", "faster", "tokens a second, ours / peer's", "supervised", "useful share of the best product"),
    *("GiB at most", "from start to ready", "first step"),
]
BOUNDED = ["what", "faster", "ratio of arithmetic", "share of it reached", "ratio of tokens"]
TABLES: dict[str, tuple[list[str], Callable[[Row], list[str]]]] = {
    "train_step": (["what", "ours", "peer", "faster", "ours", "peer's", "at the roof"], step),
    "task_step": (["what", "ours", "peer", "faster", "ours", "peer's", "at the roof"], step),
    "preference": (["what", "ours", "peer", "faster", "ours", "peer's", "at the roof"], step),
    "gpu_step": (ON_GPU, on_gpu),
    "products": (["what", "peer", "faster", "our GFLOP/s", "peer's"], rates),
    "new_shapes": (["product", "rows", "first time", "later"], twice),
    "step_cost": (["what", "whose", "median"], cost),
    "memory": (["what", "whose", "MiB above ready", "MiB in all"], peak),
    "multi_turn": (BOUNDED, bounded),
    "shared_prefix": (BOUNDED, bounded),
    "kcenter": (AGAINST, alone),
    "generation": ([*AGAINST, "a written token in read ones"], writing),
    "mixed_adapters": ([*AGAINST, "of the speed without adapters"], mixed),
    "probe": (AGAINST, speed),
    "study": (AGAINST, speed),
    "grid": ([*AGAINST, "less of the processor"], waits),
    "check": (["what", "peer", "faster", "our rows a second", "peer's"], throughput),
    "check_stream": (["what", "MiB at most", "processor", "rows a second"], streamed),
    "startup": (["what", "processor", "wall clock", "n"], waiting),
}


def main() -> int:
    """Writes the page, or checks it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 when the page is out of date")
    text = page()
    if parser.parse_args().check:
        same = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
        print("benchmarks: the page is up to date" if same else "benchmarks: run python -m benchmarks.table")
        return int(not same)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
