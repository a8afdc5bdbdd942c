"""A served model: a server of our own that counts letters, with and without likelihoods, and servers that go wrong."""

from __future__ import annotations

import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.errors import MachineError, RecipeError
from keeptune.data.suite import Choice, ChoiceTask, Corpus, Document, Suite
from keeptune.evaluations import Context
from keeptune.evaluations._endpoint import TOKEN, Endpoint
from keeptune.evaluations.served import Served
from keeptune.recipes.proof import prove_pair

ODDS = {" ": 0.5, "e": 0.25}
SUITE = Suite(
    "s",
    "1",
    (
        ChoiceTask("plain", (Choice("1", "x", (" ee", " ab"), 0), Choice("2", "x", (" e", " bb"), 1)), 0.5),
        ChoiceTask(
            "talk", (Choice("3", "Say blue.", ("red", "blue"), 1), Choice("4", "Say no.", ("yes", "no"), 0)), 0.5, True
        ),
    ),
    (Corpus("books", (Document("d", "e e"),)),),
)


def logs(text):
    return [math.log(ODDS.get(letter, 0.01)) for letter in text]


class Letters(BaseHTTPRequestHandler):
    """Every letter is a token, `e` and the space are likely; a chat answer repeats the request's last word."""

    echoes, status, seen = True, 200, []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, self.headers.get("Authorization"), body))
        choice = {"message": {"content": str(body.get("messages", [{"content": ""}])[-1]["content"]).split(" ")[-1]}}
        if self.path.endswith("/v1/completions"):
            text = body["prompt"] + "e"
            told = {
                "tokens": list(text),
                "token_logprobs": [None, *logs(text)[1:]],
                "text_offset": list(range(len(text))),
            }
            choice = {"text": text, "logprobs": told if self.echoes else None}
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"{" if self.status == 201 else json.dumps({"choices": [choice]}).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def served():
    made = type("Own", (Letters,), {"seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), made)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield made, f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def measured(address):
    subject = Endpoint.at(Checkpoint(f"{address}#letters"))
    scores = Served().measure(Checkpoint("x"), Context(subject=lambda _: subject, suite=SUITE))
    return {score.task: score for score in scores}


def test_likelihoods_are_the_sums_over_the_options_letters_alone(served):
    found = measured(served[1])
    assert [item.score for item in found["plain"].items] == [1.0, 0.0]
    assert found["plain"].items[0].gold_logprob == pytest.approx(sum(logs(" ee")))
    assert found["books"].items[0].score == pytest.approx(-sum(logs(" e")) / math.log(2))
    assert (found["talk"].metric, [item.score for item in found["talk"].items]) == ("said", [1.0, 0.0])


def test_without_likelihoods_choices_are_answered_in_words_and_corpora_left_out(served):
    served[0].echoes = False
    found = measured(served[1])
    assert found.keys() == {"plain", "talk"}
    assert (found["plain"].metric, found["plain"].chance) == ("said", 0.0)


def test_the_token_is_sent_and_nothing_else_of_the_environment(served, monkeypatch):
    monkeypatch.setenv(TOKEN, "secret")
    measured(served[1])
    path, sent, body = served[0].seen[0]
    assert sent == "Bearer secret"
    assert "secret" not in json.dumps(body) + path
    assert {body.get("temperature") for _, _, body in served[0].seen} == {0}


@pytest.mark.parametrize(("status", "says"), [(404, "answered 404"), (201, "none that the API has")])
def test_a_server_that_refuses_or_babbles_is_named(served, status, says):
    served[0].status = status
    with pytest.raises(MachineError, match=says) as refused:
        measured(served[1])
    assert refused.value.code == "E-ENDPOINT"


def test_a_server_that_is_not_there_is_named():
    with pytest.raises(MachineError, match="cannot be reached"):
        measured("http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("before", "after", "more"),
    [
        ("http://127.0.0.1:9/v1#a", "pocket", {}),
        ("pocket", "http://127.0.0.1:9/v1#a", {}),
        ("http://127.0.0.1:9/v1#a", "http://127.0.0.1:9/v1#b", {"diagnose": True}),
    ],
)
def test_two_back_ends_or_more_than_answers_are_refused_before_anything_is_asked(before, after, more, tmp_path):
    with pytest.raises(RecipeError) as refused:
        prove_pair(before, after, tmp_path / "proof", **more)
    assert refused.value.code == "E-ENDPOINT-PAIR"


def test_a_name_is_needed():
    with pytest.raises(RecipeError, match="names no model"):
        Endpoint.at(Checkpoint("http://127.0.0.1:9/v1"))


def test_a_proof_of_two_served_models_ends_in_a_certificate(served, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = [{"prompt": "x", "options": [" ee", " ab"], "gold": 0, "id": str(i)} for i in range(40)]
    (tmp_path / "plain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "suite.yaml").write_text("tasks: [{name: plain, file: plain.jsonl, kind: choice}]\n")
    done = prove_pair(
        f"{served[1]}#a", f"{served[1]}#b", tmp_path / "proof", suite=str(tmp_path / "suite.yaml"), quiet=True
    )
    assert done["certificate"]["unchanged"]
    assert (tmp_path / "proof" / "certificate.html").is_file()
    # Another model may answer at the same address by now, so that the proof is neither shown again nor written over.
    held = (tmp_path / "proof" / "certificate.json").read_bytes()
    with pytest.raises(RecipeError, match="nobody can tell whether the same models answer") as refused:
        prove_pair(f"{served[1]}#a", f"{served[1]}#b", tmp_path / "proof", suite=str(tmp_path / "suite.yaml"))
    assert refused.value.code == "E-RESUME-DIFFERENT"
    assert (tmp_path / "proof" / "certificate.json").read_bytes() == held
