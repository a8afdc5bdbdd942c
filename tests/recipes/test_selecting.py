"""`data select`: what is written can be read again, what is held out is never chosen, and chance stands beside it."""

from __future__ import annotations

import json
from statistics import fmean

import pytest

from keeptune.core.errors import DataError, PlanError, RecipeError
from keeptune.data.guess import guess_format
from keeptune.data.read import read_examples
from keeptune.recipes.selecting import Wanted, dedupe_files, select_files

WORDS = "river town ship mill road bridge king war stone tree gold salt".split()


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def asked(count, **more):
    return [
        {
            "id": f"r{n}",
            "prompt": f"tell of the {WORDS[n % 12]} and the {WORDS[n * 5 % 11]}",
            "completion": "so",
            **more,
        }
        for n in range(count)
    ]


def test_rows_are_written_in_the_order_of_choice_and_read_again(tmp_path):
    data = write(tmp_path / "a.jsonl", asked(60))
    result = select_files([data], tmp_path / "out.jsonl", Wanted("kcenter", rows=6))
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["selected"]["rank"] for row in written] == [1, 2, 3, 4, 5, 6]
    given = {row.id: row for row in read_examples(guess_format(str(data)).format, "a").examples}
    again = read_examples(guess_format(str(tmp_path / "out.jsonl")).format, "a").examples
    assert [row.messages for row in again] == [given[row.id].messages for row in again]
    assert result["selected"]["radius"] < fmean(result["random"]["radius"])
    assert result["chosen"] == 6
    assert len(result["random"]["radius"]) == 5


def test_more_rows_than_there_are_is_said_and_compared_with_no_chance(tmp_path):
    data = write(tmp_path / "a.jsonl", asked(30))
    result = select_files([data], tmp_path / "all of it.jsonl", Wanted("kcenter", rows=1000))
    assert result["chosen"] == 30
    assert "1,000 rows were asked for, and only 30 are there." in result["text"]
    assert "every row was chosen" in result["text"]
    assert "no better than chance" not in result["text"]
    assert f"Next: keeptune init '{tmp_path / 'all of it.jsonl'}'" in result["text"]


def test_rows_that_the_file_holds_out_are_never_chosen(tmp_path):
    rows = asked(40)
    for row in rows[::2]:
        row["split"] = "test"
    data = write(tmp_path / "a.jsonl", rows)
    result = select_files([data], tmp_path / "out.jsonl", Wanted("random", share=1.0))
    chosen = {json.loads(line)["id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()}
    assert chosen == {row["id"] for row in rows[1::2]}
    assert result["held_out"] == 20
    with pytest.raises(DataError, match="held out"):
        select_files([write(tmp_path / "b.jsonl", asked(5, split="test"))], tmp_path / "no.jsonl", Wanted("random"))


def test_pairs_and_documents_keep_their_columns(tmp_path):
    pairs = write(tmp_path / "p.jsonl", [{"prompt": f"ask {w}", "chosen": "good", "rejected": "bad"} for w in WORDS])
    texts = write(tmp_path / "t.jsonl", [{"text": f"all about {w} and {w}"} for w in WORDS])
    for data in (pairs, texts):
        out = tmp_path / f"out-{data.name}"
        select_files([data], out, Wanted("random", rows=3))
        again = read_examples(guess_format(str(out)).format, "x").examples
        given = {row.id: row for row in read_examples(guess_format(str(data)).format, "x").examples}
        assert [(r.messages, r.text, r.rejected) for r in again] == [
            (given[r.id].messages, given[r.id].text, given[r.id].rejected) for r in again
        ]


def test_each_file_is_a_source_and_a_setting_of_the_selector_is_heard(tmp_path):
    data = [write(tmp_path / f"{name}.jsonl", asked(30)) for name in "ab"]
    wanted = Wanted("half_percent", share=0.1, settings=["clusters=3"])
    result = select_files(data, tmp_path / "out.jsonl", wanted)
    sources = [json.loads(line)["source"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sources == ["a.jsonl"] * 3 + ["b.jsonl"] * 3
    assert result["selector"]["clusters"] == 3


def test_long_rows_are_pointed_out(tmp_path):
    rows = asked(60)
    for row in rows[:6]:
        row["prompt"] = " ".join(WORDS)
    result = select_files(
        [write(tmp_path / "a.jsonl", rows)], tmp_path / "out.jsonl", Wanted("rds", rows=4),
        queries=write(tmp_path / "q.jsonl", [{"prompt": " ".join(WORDS), "completion": "so"}]),
    )  # fmt: skip
    assert "length shift" in result["text"]
    assert result["selected"]["nearest_query"] > max(result["random"]["nearest_query"])


def test_faults_are_said_before_anything_is_written(tmp_path):
    data = write(tmp_path / "a.jsonl", asked(20))
    out = tmp_path / "out.jsonl"
    with pytest.raises(RecipeError, match="kcentre") as unknown:
        select_files([data], out, Wanted("kcentre"))
    assert "kcenter" in unknown.value.fix
    with pytest.raises(RecipeError, match="twice"):
        select_files([data], out, Wanted("random", rows=3, share=0.5))
    with pytest.raises(PlanError) as model:
        select_files([data], out, Wanted("ifd"))
    assert model.value.code == "E-SELECT-MODEL"
    with pytest.raises(DataError) as queries:
        select_files([data], out, Wanted("rds"))
    assert queries.value.code == "E-SELECT-QUERIES"
    assert not out.exists()
    out.write_text("mine")
    with pytest.raises(RecipeError) as exists:
        select_files([data], out, Wanted("random"))
    assert exists.value.code == "E-RECIPE-EXISTS"
    assert out.read_text() == "mine"


def test_dedupe_keeps_the_first_of_those_that_are_alike(tmp_path):
    said = "how many of the eleven old ships that lay at anchor came back from the north in {}"
    texts = [said.format("spring"), "something else", said.format("spring").upper(), said.format("spring then")]
    rows = [{"prompt": text, "completion": "yes"} for text in texts]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = dedupe_files([tmp_path / "rows.jsonl"], tmp_path / "once.jsonl")
    kept = [json.loads(line) for line in (tmp_path / "once.jsonl").read_text().splitlines()]
    assert [(row["id"], row["selected"]["score"]) for row in kept] == [("1", 3.0), ("2", 1.0)]
    assert (result["examples"], result["kept"]) == (4, 2)
    assert "2 say what an earlier one says" in result["text"]
    assert dedupe_files([tmp_path / "rows.jsonl"], tmp_path / "exact.jsonl", ["near=false"])["kept"] == 3
