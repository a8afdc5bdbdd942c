"""Every recipe on the shelf, run for two steps of each stage on the embedded model and task, ends in a certificate."""

from __future__ import annotations

import json

import pytest

from keeptune.recipes.recipe import FOLDER, load_recipe
from keeptune.recipes.run import run_recipe

NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml") if file.stem != "demo")
QUICK = {
    "train": ("epochs=null", "steps=2", "batch_tokens=256"),
    "distill": ("epochs=null", "steps=2", "batch_tokens=256", "max_new_tokens=8"),
    "gate": ("action=report",),
    "deep_incubation": ("meta_steps=2", "module_steps=2", "batch_tokens=256"),
    # Two steps teach nothing that would be right.
    "rejection_sampling": ("verifier=tests.recipes.any_answer", "samples=2"),
    "rewrite": ("max_new_tokens=32",),
}
"""Settings that make a stage short."""
SUITE = """\
version: "1"
tasks:
  - {name: sums, file: sums.jsonl, kind: choice, chat: true}
  - {name: prose, file: prose.jsonl, kind: corpus}
instructions: requests.txt
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    sums = [
        {"prompt": f"What is {a} plus {a}?", "options": [str(2 * a), str(2 * a + 1)], "gold": 0} for a in range(1, 25)
    ]
    prose = [{"text": f"The {word} was carried over the hill and left at the gate."} for word in "abcdefgh"]
    for name, table in (("sums", sums), ("prose", prose)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    (folder / "requests.txt").write_text("Tell me a story.\nName a river.\nWrite a poem.\n")
    (folder / "suite.yaml").write_text(SUITE)
    return folder / "suite.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_of_the_shelf_ends_in_a_certificate(name, suite, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(suite.parent / "cache"))
    recipe = load_recipe(name)
    settings = [f"proof.suite={suite}"]
    settings += [f"data.{name}.rows=10" for name, source in recipe.data.items() if source.name == "generated"]
    for place, source in recipe.data.items():
        if source.name == "embedded":
            settings += [f"data.{place}.{size}" for size in ("train=5", "dev=3", "test=5")]
    for index, stage in enumerate(recipe.stages):
        settings += [f"stages[{index}].{setting}" for setting in QUICK.get(stage.name, ())]
    result = run_recipe(name, tmp_path / "run", settings, quiet=True)
    certificate = json.loads((tmp_path / "run" / "certificate.json").read_text())
    assert certificate["verdict"] == result["verdict"] in ("PASS", "FAIL", "UNDECIDED")
    assert certificate["target"]["n"] >= 12
    routed = any(getattr(stage, "scope", "always") != "always" for stage in recipe.stages)
    assert certificate["deployment"] == ("routed" if routed else "always_on")
