"""Probes, regimen, loss and control tasks against the code of Hewitt & Liang (`tests/oracles/control_tasks.py`)."""

from __future__ import annotations

import json

import pytest
import torch

from keeptune.data.probe_tasks import ProbeTask, control_of
from keeptune.probes import Probe, _regime
from keeptune.probes._material import Material
from keeptune.probes.bilinear import Bilinear
from keeptune.probes.linear import Linear
from keeptune.probes.mlp import MLP
from tests.oracles import control_tasks as oracle

FOUND = json.loads(oracle.FIXTURE.read_text())
OURS: dict[str, Probe] = {
    "linear, rank 4": Linear(rank=4),
    "MLP-1, width 300": MLP(width=300),
    "MLP-2, width 12": MLP(depth=2, width=12),
    "bilinear, rank 6": Bilinear(rank=6),
    "edge MLP-1, width 12": MLP(width=12),
    "edge MLP-2, width 12": MLP(depth=2, width=12),
}
# Their names of parameters, in the order of ours.
THEIRS = {
    "linear, rank 4": ["linear1", "linear2"],
    "MLP-1, width 300": ["initial_linear", "last_linear"],
    "MLP-2, width 12": ["initial_linear", "intermediate_linears.0", "last_linear"],
    "edge MLP-1, width 12": ["linearfirst", "linearlast"],
    "edge MLP-2, width 12": ["linearfirst", "linearmid", "linearlast"],
}


def parameter_names(name: str) -> list[str]:
    if name not in THEIRS:
        return ["proj_L", "proj_R"]
    return [f"{part}.{kind}" for part in THEIRS[name] for kind in ("weight", "bias")]


def material(part: str, kind: str, what: str) -> Material:
    made = {"task": oracle.answers, "noise": oracle.noise}
    given = made[what](part, kind) if what in made else oracle.control(part, kind, FOUND["types"][kind])
    return Material.of(torch.cat(oracle.states(part, kind)), [tuple(row) for row in given], kind)


@pytest.fixture
def as_theirs(monkeypatch):
    """Numbers of 64 bits, and batches in the order of the texts, as the oracle has them."""

    class Torch:
        def __getattr__(self, name):
            return (lambda size, generator: torch.arange(size)) if name == "randperm" else getattr(torch, name)

    monkeypatch.setattr(_regime, "torch", Torch())
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("what", ["task", "control", "noise"])
@pytest.mark.parametrize("name", OURS)
def test_a_probe_learns_what_theirs_learns_from_the_same_states(monkeypatch, as_theirs, name, what):
    kind, probe = oracle.PROBES[name][0], OURS[name]
    make = type(probe).net

    def begun(self, *settings):
        net = make(self, *settings)
        with torch.no_grad():
            for own, parameter in zip(parameter_names(name), net.parameters(), strict=True):
                parameter.copy_(oracle.first_weights(own, parameter.shape))
        return net

    monkeypatch.setattr(type(probe), "net", begun)
    train, dev, test = (material(part, kind, what) for part in oracle.TEXTS)
    fitted = _regime.fit(probe, oracle.TAGS, train, dev, seed=0)
    theirs = FOUND["learned"][f"{name}: {what}"]
    assert fitted.epochs == theirs["epochs"]
    assert fitted.dev_loss == pytest.approx(theirs["dev_loss"], rel=1e-7)
    with torch.no_grad():
        said = test.log_shares(fitted.net).argmax(1)
    asked = [int(answer) for row in theirs["said"] for answer in row.split()]
    expected = torch.tensor(asked)[test.scored()]
    assert torch.equal(said, expected)
    assert torch.equal(_regime.right(fitted.net, test), expected == test.asked())


def test_the_fixture_holds_probes_that_learned_and_one_that_stopped_early():
    for name in OURS:
        kind = oracle.PROBES[name][0]
        gold = [answer for row in oracle.answers("test", kind) for answer in row]
        said = [int(answer) for row in FOUND["learned"][f"{name}: task"]["said"] for answer in row.split()]
        kept = [(one, other) for one, other in zip(gold, said, strict=True) if one != -1]
        assert sum(one == other for one, other in kept) / len(kept) > 2 / 5
    assert min(one["epochs"] for one in FOUND["learned"].values()) < oracle.EPOCHS


@pytest.mark.parametrize("kind", ["labels", "edges"])
def test_control_answers_have_the_form_of_theirs(kind):
    """One answer for each type, wherever it stands; an edge to the word itself, the first or the last."""
    rows = {part: oracle.words(part, kind) for part in oracle.TEXTS}
    plain = {
        part: tuple(tuple(row) for row in oracle.control(part, kind, FOUND["types"][kind])) for part in oracle.TEXTS
    }
    classes = tuple(f"{number:02}" for number in range(oracle.TAGS)) if kind == "labels" else ()
    ours = control_of(ProbeTask("task", kind, classes, plain), rows, seed=0).answers
    for answers in (plain, ours):
        seen: dict[str, set] = {}
        for part, texts in rows.items():
            for names, given in zip(texts, answers[part], strict=True):
                for place, (name, answer) in enumerate(zip(names, given, strict=True)):
                    ends = {place: "itself", 0: "first", len(names) - 1: "last"}
                    at_an_end = kind == "edges" and place in (0, len(names) - 1)
                    if not at_an_end:
                        seen.setdefault(name, set()).add(answer if kind == "labels" else ends[answer])
        assert all(len(own) == 1 for own in seen.values())
    assert {answer for row in ours["train"] for answer in row} <= {answer for row in plain["train"] for answer in row}
