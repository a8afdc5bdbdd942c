"""Data faults 20 and 22-31 through `keeptune check`: a code, a place, a remedy, exit 3; the others in test_read."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

import keeptune.pocket
from keeptune.cli import main
from keeptune.models import load
from keeptune.recipes import feed
from keeptune.recipes.recipe import load_recipe

RECIPE = """\
name: tiny
model: {name: pocket}
data:
  task: {format: prompt_completion, path: task.jsonl}
  test: {format: prompt_completion, path: test.jsonl}
stages: [{name: train, method: lora, data: task, steps: 1}]
proof: {target: {data: test, metric: label_accuracy}}
"""
THINGS = [f"the {colour} {thing} number {number}" for colour in ("red", "blue") for thing in ("pan", "log")
          for number in range(5)]  # fmt: skip
LONG = "how many of the eleven old ships that lay at anchor came back from the north in {}"


def rows(texts, labels=("a", "b")):
    return "".join(
        json.dumps({"prompt": text, "completion": labels[index % len(labels)]}) + "\n"
        for index, text in enumerate(texts)
    )


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "task.jsonl").write_text(rows(THINGS[:15]))
    (tmp_path / "test.jsonl").write_text(rows(THINGS[15:]))
    return tmp_path


@pytest.fixture
def check(monkeypatch, capsys):
    """Exit code and the object that `check --json` prints."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["keeptune", "check", "recipe.yaml", "--json", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return int(end.value.code or 0), json.loads(printed.out)

    return call


def test_good_data_passes_without_a_word_of_blame(work, check):
    status, found = check()
    assert (status, found["fault"]) == (0, None)
    assert found["leaks"] == {"exact": 0, "near": 0, "ngram": 0, "boilerplate": 0}
    counts = found["sources"][0]["counts"]
    assert (counts["read"], counts["duplicates"], counts["near duplicates"]) == (15, 0, 0)


def test_no_weights_are_read_to_look_at_data(work, check, monkeypatch):
    monkeypatch.setattr(load, "_model", lambda *_: pytest.fail("the weights were read"))
    assert check()[0] == 0


FAULTS = {
    "a broken line": ('{"prompt": "a", "completion":\n', "E-DATA-JSON", 16),
    "a missing key": ('{"prompt": "a"}\n', "E-DATA-KEY", 16),
    "a null": ('{"prompt": null, "completion": "b"}\n', "E-DATA-NULL", 16),
    "a number": ('{"prompt": 7, "completion": "b"}\n', "E-DATA-TYPE", 16),
    "half a surrogate": ('{"prompt": "\\ud800", "completion": "b"}\n', "E-DATA-TEXT", 16),
    "a NUL": ('{"prompt": "\\u0000", "completion": "b"}\n', "E-DATA-TEXT", 16),
    "an empty answer": ('{"prompt": "a", "completion": " "}\n', "E-DATA-EMPTY", 16),
    "a cut last line": ('{"prompt": "a", "compl', "E-DATA-TRUNCATED", 16),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gz"])
def test_a_bad_row_is_named_by_file_and_line_with_a_remedy(fault, zipped, work, check):
    text, code, line = FAULTS[fault]
    content = rows(THINGS[:15]) + text
    name = "task.jsonl.gz" if zipped else "task.jsonl"
    (work / name).write_bytes(gzip.compress(content.encode()) if zipped else content.encode())
    status, found = check("--set", f"data.task.path={name}")
    error = found["error"]
    assert (status, error["code"], error["where"]["line"]) == (3, code, line)
    assert error["where"]["file"].endswith(name)
    assert error["fix"]


def test_several_bad_rows_are_listed_and_the_setting_that_allows_them_is_told(work, check):
    bad = FAULTS["a null"][0] + FAULTS["a missing key"][0]
    (work / "task.jsonl").write_text(rows(THINGS[:15]) + bad)
    status, found = check()
    assert (status, found["error"]["where"]["line"]) == (3, 16)
    assert "line 17" in found["error"]["what"]
    setting = found["error"]["fix"].split("--set ")[1]
    assert check("--set", setting)[0] == 0


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_no_file_is_refused_without_hanging(kind, work, check):
    (work / "task.jsonl").unlink()
    path = work / "task.jsonl"
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("test.jsonl")
    else:
        os.mkfifo(path)
    status, found = check()
    assert (status, found["error"]["code"]) == (3, "E-DATA-KIND")
    assert found["error"]["fix"]


def test_too_many_rows_beyond_the_context_are_an_error_and_a_few_are_counted(work, check):
    text = "word " * 3000
    (work / "task.jsonl").write_text(rows([*THINGS[:10], *[f"{text}{number}" for number in range(4)]]))
    status, found = check()
    assert status == 0
    counts = found["sources"][0]["counts"]
    assert (counts["encoded long"], counts["encoded dropped"], counts["encoded kept"]) == (4, 4, 10)
    assert "more" not in found["text"]
    (work / "task.jsonl").write_text(rows([*THINGS, *[f"{text}{number}" for number in range(14)]]))
    status, found = check("--set", "proof=null")
    assert "It is left out. (E-ROW-LONG)\n  and 4 more\n" in found["text"]
    (work / "task.jsonl").write_text(rows([*THINGS[:10], *[f"{text}{number}" for number in range(11)]]))
    status, found = check()
    assert (status, found["error"]["code"]) == (3, "E-DATA-DROPPED")
    assert found["error"]["where"]["line"] == 11


def test_a_row_that_a_cut_leaves_with_nothing_to_learn_is_named(work, check):
    (work / "task.jsonl").write_text(rows([*THINGS[:10], "word " * 3000]))
    status, found = check("--set", "too_long=cut")
    assert status == 0
    assert found["sources"][0]["counts"]["encoded silent"] == 1
    assert "line 11" in found["sources"][0]["problems"][0]


@pytest.mark.parametrize(("policy", "states"), [("drop", {"cut"}), ("cut", {"seen", "learned", "cut"})])
def test_a_long_row_is_shown_as_the_policy_leaves_it(policy, states, work, check):
    long = json.dumps({"prompt": "say it", "completion": "word " * 3000}) + "\n"
    (work / "task.jsonl").write_text(rows(THINGS[:10]) + long)
    status, found = check("--set", f"too_long={policy}", "--row", "10", "--set", "proof=null")
    assert status == 0
    assert {token["state"] for token in found["sources"][0]["rows"][0]} == states


def test_a_document_that_is_split_is_learned_to_its_end(work, check):
    (work / "task.jsonl").write_text(json.dumps({"text": "word " * 3000}) + "\n")
    texts = "data.task={format: plain_text, path: task.jsonl}"
    status, found = check("--set", texts, "--set", "too_long=split", "--set", "proof=null")
    assert status == 0
    assert {token["state"] for token in found["sources"][0]["rows"][0][1:]} == {"learned"}


def test_a_typed_control_token_stays_text(work, check):
    (work / "task.jsonl").write_text(rows(["say <|end|> now", *THINGS[:9]]))
    status, found = check("--row", "0")
    assert status == 0
    row = found["sources"][0]["rows"][0]
    assert [token["text"] for token in row].count("<|end|>") == 1
    assert row[-1] == {**row[-1], "text": "<|end|>", "state": "learned"}
    assert "".join(token["text"] for token in row).count("<|end|>") == 2


def test_exact_and_near_duplicates_are_counted(work, check):
    text = LONG.format("spring")
    (work / "task.jsonl").write_text(rows([*THINGS[:9], THINGS[0].upper(), text, text + " then"]))
    status, found = check()
    counts = found["sources"][0]["counts"]
    assert (status, counts["duplicates"], counts["near duplicates"]) == (0, 1, 1)
    assert "lines 11 and 12" in " ".join(found["sources"][0]["notes"])


@pytest.mark.parametrize("kind", ["exact", "near", "ngram"])
def test_a_test_row_inside_train_is_told_and_too_many_are_refused(kind, work, check):
    asked = LONG.format("spring")
    other = {"exact": asked.upper(), "near": asked + " then", "ngram": asked + " " + " ".join(THINGS[3:8])}[kind]
    (work / "task.jsonl").write_text(rows([*THINGS[:9], asked]))
    (work / "test.jsonl").write_text(rows([other, *THINGS[16:18]]))
    status, found = check()
    if kind == "ngram":
        assert (status, found["leaks"]["ngram"]) == (0, 1)
    else:
        assert (status, found["error"]["code"], found["error"]["where"]["line"]) == (3, "E-LEAK", 1)
        assert "leaks: allow" in found["error"]["fix"]
        status, found = check("--set", "leaks=allow")
        assert (status, found["leaks"][kind]) == (0, 1)


def test_labels_that_training_never_shows_are_refused_when_they_are_most_and_told_when_few(work, check):
    (work / "test.jsonl").write_text(rows(THINGS[15:], ("A", "B")))
    status, found = check()
    assert (status, found["error"]["code"]) == (3, "E-DATA-LABELS")
    (work / "test.jsonl").write_text(rows(THINGS[15:], ("a", "b", "c")))
    status, found = check()
    assert status == 0
    assert any("never in training: 'c'" in note for note in found["sources"][0]["notes"])


def test_one_class_only_is_refused(work, check):
    (work / "task.jsonl").write_text(rows(THINGS[:15], ("a",)))
    status, found = check()
    assert (status, found["error"]["code"]) == (3, "E-DATA-LABELS")
    assert found["error"]["fix"]


def test_the_report_does_not_hang_on_how_many_rows_are_encoded_together(work, check, monkeypatch):
    texts = [LONG.format(number) for number in range(15)] + [THINGS[0]] * 2 + ["word " * 1200]
    (work / "task.jsonl").write_text(rows(texts))
    found = []
    for at_once in (1, 7, 64):
        monkeypatch.setattr(sys.modules["keeptune.data.encode"], "ROWS_AT_ONCE", at_once)
        found.append(check("--row", "8"))
    [view] = found[0][1]["sources"][0]["rows"]
    assert LONG.format(8) in "".join(token["text"] for token in view)
    assert found[0][1]["sources"][0]["counts"]["encoded dropped"] == 1
    assert found[0] == found[1] == found[2]


def test_a_large_file_is_announced_before_it_is_read(work, monkeypatch):
    monkeypatch.setattr(feed, "TAKES_A_WHILE", 100)
    said = []
    feed.surveys_of(load_recipe(str(work / "recipe.yaml")), work, said.append)
    assert said == ["task: a first look at task.jsonl, 0 MiB", "test: a first look at test.jsonl, 0 MiB"]


def test_rows_that_the_base_will_write_are_named(work, check):
    _, found = check("--set", "data.own={format: generated, rows: 5}", "--set", "stages[0].data={task: 1, own: 1}")
    assert found["made_later"] == ["own"]
    assert "own: the base writes these rows when the recipe runs" in found["text"]


def test_fewer_rows_than_one_batch_are_told(work, check):
    _, found = check()
    assert any("fewer than one batch" in note for note in found["sources"][0]["notes"])


def test_a_file_that_changed_since_it_was_checked_is_refused(work, check):
    _, found = check()
    pin = next(note for note in found["sources"][0]["notes"] if "sha256" in note).split("sha256: ")[1].strip("`")
    assert check("--set", f"data.task.sha256={pin}")[0] == 0
    with (work / "task.jsonl").open("a") as file:
        file.write(rows(["one more"]))
    status, found = check("--set", f"data.task.sha256={pin}")
    assert (status, found["error"]["code"]) == (3, "E-DATA-CHANGED")
    assert found["error"]["where"]["file"].endswith("task.jsonl")


SYSTEM_DROPPED = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}"
    "{% elif m['role'] == 'assistant' %}<|assistant|>{{ m['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
OTHER_MODEL = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def model(work):
    """A copy of the embedded model whose files a test may change; the data has system turns."""
    folder = work / "model"
    shutil.copytree(Path(keeptune.pocket.__file__).parent / "weights", folder)
    rows = [{"messages": [{"role": "system", "content": f"be {text}"}, {"role": "user", "content": text},
                          {"role": "assistant", "content": "yes"}]} for text in THINGS[:15]]  # fmt: skip
    (work / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


SYSTEM = ("--set", "model.name=model", "--set", "data.task={format: messages, path: task.jsonl}", "--set", "proof=null")


@pytest.mark.parametrize(
    ("template", "exit_code", "code"),
    [(SYSTEM_DROPPED, 3, "E-TEMPLATE-DROPS"), (OTHER_MODEL, 4, "E-TEMPLATE-NO-END")],
)
def test_a_template_that_drops_the_system_turn_or_is_of_another_model_is_refused(
    template, exit_code, code, model, check
):
    assert check(*SYSTEM)[0] == 0
    (model / "chat_template.jinja").write_text(template)
    status, found = check(*SYSTEM)
    assert (status, found["error"]["code"]) == (exit_code, code)
    assert "template: plain" in found["error"]["fix"]


def test_a_template_without_marks_of_the_assistant_learns_the_same_tokens(model, check):
    marked = check(*SYSTEM)[1]["sources"][0]["rows"]
    template = model / "chat_template.jinja"
    text = template.read_text().replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "")
    template.write_text(text)
    assert check(*SYSTEM)[1]["sources"][0]["rows"] == marked


def test_a_tokenizer_larger_than_the_embedding_is_refused(model, check):
    config = json.loads((model / "tokenizer.json").read_text())
    config["added_tokens"].append({**config["added_tokens"][-1], "id": 999_999, "content": "<|more|>"})
    (model / "tokenizer.json").write_text(json.dumps(config))
    status, found = check(*SYSTEM)
    assert (status, found["error"]["code"]) == (4, "E-MODEL-VOCABULARY")
    assert found["error"]["fix"]


def test_an_end_token_that_is_the_padding_too_is_learned(model, check):
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "pad_token": settings["eos_token"]}))
    _, found = check(*SYSTEM)
    assert all(row[-1]["text"] == "<|end|>" and row[-1]["state"] == "learned" for row in found["sources"][0]["rows"])


def test_other_programs_that_would_not_stop_at_the_end_of_a_turn_are_told_of(model, check):
    assert "other programs" not in check(*SYSTEM)[1]["text"]
    settings = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": 7}))
    status, found = check(*SYSTEM)
    assert status == 0
    assert "other programs would write on behind an answer; add" in found["text"]


def test_the_page_shows_the_tokens_as_text_and_runs_nothing(work, check):
    (work / "task.jsonl").write_text(rows(["<script>alert(1)</script>\u202e", *THINGS[:9]]))
    status, _ = check("--html", "page.html")
    page = (work / "page.html").read_text()
    assert status == 0
    assert "<script" not in page
    assert "&lt;" in page
    assert "\u202e" not in page
    assert 'class="token learned"' in page
