"""The pairs of the selection study: short, balanced in every corpus and part, and the recipe that reads them."""

from __future__ import annotations

import gzip
import json
from collections import Counter

from benchmarks import selection_pairs
from keeptune.recipes.recipe import load_recipe
from keeptune.recipes.sources import read_sources


def test_pairs_are_short_and_balanced_and_the_recipe_reads_them(tmp_path):
    for corpus in selection_pairs.CORPORA:
        for part in ("train", "test"):
            with gzip.open(tmp_path / f"{corpus}_{part}.jsonl.gz", "wt") as lines:
                for n in range(400):
                    label = ["entailment", "neutral", "contradiction"][n % 3]
                    text = f"sentence 1: {corpus} {part} {n}\nsentence 2: " + "word " * (60 if n % 4 == 0 else 3)
                    lines.write(json.dumps({"sentence": text, "label": label}) + "\n")
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    (encoder / "config.json").write_text("{}")
    file = selection_pairs.prepare(tmp_path, encoder, tmp_path / "study")
    rows = [json.loads(line) for line in (file.parent / "pairs.jsonl").read_text().splitlines()]
    found = Counter((row["id"].split("_")[0], row["split"], row["label"]) for row in rows)
    for corpus in selection_pairs.CORPORA:
        assert found[corpus, "train", "entailment"] == found[corpus, "train", "not"] == 100
        assert found[corpus, "test", "entailment"] == found[corpus, "test", "not"] == selection_pairs.TESTED / 2
    assert max(len(row["text"].split()) for row in rows) <= selection_pairs.WORDS
    source = read_sources(load_recipe(str(file)), file.parent)["task"]
    assert len(source.train) + len(source.dev) == 800
    assert len(source.test) == 4 * selection_pairs.TESTED
