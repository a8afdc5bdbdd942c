"""Settings read from sources alone are those that pydantic finds in the imported classes, of every member."""

from __future__ import annotations

import importlib

import pytest

from keeptune.core.declared import settings_of
from keeptune.core.shelves import shelf_folder
from keeptune.core.spec import Spec
from keeptune.recipes.recipe import load_recipe
from keeptune.shelf_commands import SHELVES, described

MEMBERS = [
    (shelf, file.stem)
    for shelf in SHELVES.values()
    for file in sorted(shelf_folder(shelf).glob("*.py"))
    if not file.stem.startswith("_")
]


@pytest.mark.parametrize(("shelf", "name"), MEMBERS)
def test_settings_are_those_of_the_class(shelf, name):
    module = importlib.import_module(f"{shelf}.{name}")
    (member,) = [
        one for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, Spec) and one.shelf == shelf and one.__module__ == module.__name__
    ]  # fmt: skip
    found = {one.name: one for one in settings_of(shelf_folder(shelf) / f"{name}.py")}
    fields = member.model_fields
    assert found.keys() == fields.keys()
    for key, field in fields.items():
        assert found[key].says == (field.description or "")
        assert (found[key].default == "") == field.is_required()
        made = field.get_default(call_default_factory=True)
        if found[key].inner:
            assert [one.name for one in found[key].inner] == list(type(made).model_fields)
        elif isinstance(made, Spec) and made.shelf:
            assert made.name in found[key].default


def test_a_study_says_how_it_is_set():
    assert "  rates: [0.3, 1.0, 3.0]          # factors on the last stage's learning rate" in described("compare")
    text = described("train")
    assert (
        "  method:                         # what is trained; a list is one adapter of several methods (must be" in text
    )
    assert "  saving:                         # commits, snapshots, looks at dev\n    every: null  " in text


def test_a_recipe_stays_yaml_beside_a_method_of_its_name(tmp_path):
    text = described("spottune")
    assert "# settings of spottune, of the shelf methods" in text
    (tmp_path / "own.yaml").write_text(text)
    assert load_recipe(tmp_path / "own.yaml") == load_recipe("spottune")
