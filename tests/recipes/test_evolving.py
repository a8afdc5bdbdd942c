"""Synthetic instructions: what a scripted writer says is kept or dropped by the rule that is meant for it."""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from random import Random

import pytest

from keeptune.core.errors import DataError, MachineError, RecipeError
from keeptune.recipes import self_text
from keeptune.recipes.evol_instruct import DEEPER, eliminated_by, evolve
from keeptune.recipes.evolving import evolve_file
from keeptune.recipes.self_instruct import dropped_by, request, self_instruct, similar, tasks_in
from keeptune.recipes.writers import Endpoint, Written

SEEDS = [f"Tell me about the {thing} of old" for thing in "river town ship mill road bridge king war".split()]


def test_a_request_shows_eight_tasks_of_which_at_most_two_are_machine_written():
    made = [f"machine task {n}" for n in range(9)]
    for number in range(20):
        lines = request(SEEDS * 3, made, Random(number)).splitlines()[1:]
        assert len(lines) == 9
        assert sum("machine" in line for line in lines) == 2
        assert lines[-1] == "9."


def test_numbered_tasks_are_taken_apart_and_a_cut_one_is_left_out():
    text = " Name a bird\nof prey.\n10. Write a poem.\n11) Sing"
    assert tasks_in(Written(text, True)) == ["Name a bird of prey.", "Write a poem.", "Sing"]
    assert tasks_in(Written(text, False)) == ["Name a bird of prey.", "Write a poem."]


@pytest.mark.parametrize(
    ("task", "rule"),
    [
        ("Name three birds", "short"),
        ("word " * 151, "long"),
        ("Describe what the image shows", "not text"),
        ("Write a program that sorts numbers", "program"),
        ("- name all the birds", "punctuation"),
        ("Name four birds of prey", None),
        ("Explain the imagery of the poem", None),
    ],
)
def test_each_rule_drops_what_it_is_meant_for(task, rule):
    assert dropped_by(task) == rule


def test_tasks_above_seven_tenths_of_rouge_l_are_similar():
    assert similar("a b c d e f g x y z", ["a b c d e f g h i j"]) is False  # F1 = 0.7, which is not above
    assert similar("a b c d e f g h y z", ["a b c d e f g h i j"]) is True


def test_new_tasks_are_answered_and_everything_is_counted():
    said = iter(range(1000))

    def writer(requests, *, temperature, seed):
        if temperature == 0:
            return [Written("" if "no 3" in task else "An answer in some words.", True) for task in requests]
        new = [next(said) for _ in requests]
        return [Written(f"Give w{n} x{n} y{n} no {n}\n10. {SEEDS[0]}\n11. short", True) for n in new]

    counts = Counter()
    rows = list(self_instruct(SEEDS, writer, 10, counts, seed=0))
    assert len(rows) == counts["kept"] == 10
    assert counts["new tasks"] == counts["kept"] + counts["empty answer"] + counts["more than wanted"]
    assert all(answer == "An answer in some words." for _, answer in rows)
    assert counts["empty answer"] == 1
    assert counts["written"] == counts["new tasks"] + counts["similar"] + counts["short"]
    assert (counts["similar"], counts["short"]) == (counts["new tasks"],) * 2


def test_a_writer_with_nothing_new_ends_the_work():
    counts = Counter()
    repeat = [Written(SEEDS[0], True)]
    assert not list(self_instruct(SEEDS, lambda asked, **_: repeat * len(asked), 10, counts, seed=0))
    assert counts == {"written": 40, "similar": 40}


GOOD = Written("Name a bird of prey that lives in cold lands, and say why", True)


@pytest.mark.parametrize(
    ("made", "verdict", "answer", "rule"),
    [
        (GOOD, "No", "The gyrfalcon, for its prey is there.", None),
        (Written("#Rewritten Task#: name a bird", True), "No", "The gyrfalcon.", "leaks"),
        (Written("Name a bird and", False), "No", "The gyrfalcon.", "leaks"),
        (Written("", True), "No", "?", "leaks"),
        (GOOD, "Yes, they are.", "The gyrfalcon.", "no gain"),
        (Written("name a bird", True), "No", "The gyrfalcon.", "no gain"),
        (GOOD, "No", "I am sorry, I cannot say.", "sorry"),
        (GOOD, "No", "sorry " + "word " * 80, None),
        (GOOD, "No", "It is the, and of this...", "no content"),
    ],
)
def test_an_evolution_is_eliminated_by_the_rule_that_is_meant_for_it(made, verdict, answer, rule):
    assert eliminated_by("Name a bird.", made, verdict, Written(answer, True)) == rule


def test_an_eliminated_task_stays_and_a_kept_one_goes_on_from_there():
    def writer(requests, *, temperature, seed):
        if temperature:
            return [Written(text.split("\n\n")[-1] + " deeper" if "bird" in text else "", True) for text in requests]
        return [Written("No" if text.startswith("Here are two") else "Some answer.", True) for text in requests]

    counts = Counter()
    rows = list(evolve(["Name a bird", "Name a fish"], writer, 3, counts, seed=0))
    assert [(task, turn) for task, _, turn in rows] == [("Name a bird" + " deeper" * n, n) for n in (1, 2, 3)]
    assert (counts["written"], counts["kept"], counts["leaks"]) == (6, 3, 3)
    assert sum(counts[f"operation {how}"] for how in [*DEEPER, "rarer"]) == 6


class Server(BaseHTTPRequestHandler):
    def do_GET(self):
        self._reply({"data": [{"id": "tiny"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = f"{body['model']} heard {body['messages'][0]['content']}"
        self._reply({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})

    def _reply(self, plain):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(plain).encode())

    def log_message(self, *_):
        pass


def test_a_server_on_this_machine_is_asked_and_no_other():
    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/v1"
    writer = Endpoint(address, 16)
    assert writer(["hello"], temperature=0.0, seed=0) == [Written("tiny heard hello", True)]
    server.shutdown()
    server.server_close()
    with pytest.raises(MachineError, match="does not answer"):
        Endpoint(address, 16)
    for other in ("http://10.0.0.1/v1", "https://example.org/v1", "http://127.0.0.1.example.org/v1"):
        with pytest.raises(RecipeError) as caught:
            Endpoint(other, 16)
        assert caught.value.code == "E-EVOLVE-ADDRESS"


def test_the_embedded_model_replays_itself_into_a_file_that_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    output = tmp_path / "replay.jsonl"
    found = evolve_file(None, output, "replay", "pocket", rows=32, seed=0, max_tokens=64)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert found["rows"] == len(rows) > 0
    assert all(row["messages"][1]["content"] for row in rows)
    with pytest.raises(RecipeError):
        evolve_file(None, output, "replay", "pocket", rows=4, seed=0)


def test_a_replay_that_keeps_nothing_speaks_of_the_model_and_of_no_source(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(self_text, "_write", lambda *asked: [])
    with pytest.raises(DataError) as caught:
        evolve_file(None, tmp_path / "replay.jsonl", "replay", "pocket", rows=4, seed=0)
    assert (caught.value.code, caught.value.where["key"]) == ("E-EVOLVE-NOTHING", "--model")


@pytest.mark.slow
def test_a_local_model_evolves_tasks_and_one_that_writes_nothing_is_refused_with_counts(tmp_path):
    seeds = tmp_path / "tasks.jsonl"
    seeds.write_text("".join(json.dumps({"prompt": one, "completion": "x"}) + "\n" for one in SEEDS))
    found = evolve_file(seeds, tmp_path / "out", "evolve", "pocket", rows=8, seed=0, max_tokens=48)
    counts = found["counts"]
    rules = ("leaks", "no gain", "sorry", "no content", "kept")
    assert counts["written"] == sum(counts.get(rule, 0) for rule in rules) == 32
    assert found["rows"] == min(8, counts["kept"])
    with pytest.raises(DataError) as caught:
        evolve_file(seeds, tmp_path / "none", "self_instruct", "pocket", rows=8, seed=0, max_tokens=2)
    assert caught.value.code == "E-EVOLVE-NOTHING"
    assert not (tmp_path / "none").exists()
