"""A fault of a setting is told in the user's words: what was expected and what would be right, never pydantic's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from keeptune.core.errors import RecipeError
from keeptune.core.spec import Spec, validate


class Sugar(Spec):
    """A group inside."""

    name: str = "white"
    spoons: int = Field(1, ge=0, le=5, description="heaped")


class Tea(Spec):
    """Everything that a recipe may get wrong."""

    kind: str = Field(description="Assam, Ceylon or another.")
    minutes: float = Field(2.0, gt=0)
    cups: int = 1
    hot: bool = True
    milk: Literal["none", "some", "much"] = "none"
    additions: list[str] = Field(default_factory=list, max_length=2, description="What is put into it.")
    sizes: tuple[float, float] = Field((1.0, 2.0), description="of the cup and the pot")
    label: str = Field("a", pattern="^[a-z]+$", description="small letters")
    layers: Literal["all"] | list[int] = Field("all", description="The layers, or all.")
    strength: Annotated[float, Field(gt=0)] | Literal["learned"] = 1.0
    sweet: str | dict[str, float] | Sugar = "no"
    sugar: Sugar = Sugar()


FAULTS = {
    "nothing": ({"kind": None}, "kind", "expected text (given: null). What it is: Assam"),
    "a number for a word": ({"kind": 7}, "kind", "expected text (given: 7). Put it in quotes."),
    "a word for a number": ({"minutes": "two"}, "minutes", "expected a number (given: 'two')."),
    "too small": ({"minutes": 0}, "minutes", "it must be greater than 0 (given: 0)."),
    "a part of a cup": ({"cups": 1.5}, "cups", "expected a whole number (given: 1.5)."),
    "yes and no": ({"hot": "maybe"}, "hot", "expected true or false (given: 'maybe')."),
    "a word like one": ({"milk": "soem"}, "milk", "expected 'none', 'some' or 'much' (given: 'soem'). Did you mean"),
    "one for a list": ({"additions": "mint"}, "additions", "expected a list (given: 'mint'). Write [mint]."),
    "a mapping for a list": ({"additions": {"a": 1}}, "additions", "expected a list. Begin each entry with a dash."),
    "too many": ({"additions": ["a", "b", "c"]}, "additions", "it has too many entries: give 2 at most."),
    "one of two": ({"sizes": [1.0]}, "sizes[1]", "a value is missing. What it is: of the cup and the pot."),
    "another form": ({"label": "A1"}, "label", "it is not written as it has to be (given: 'A1'). What it is: small"),
    "a word for a group": ({"sugar": "brown"}, "sugar", "(given: 'brown'). Write {name: brown}."),
    "inside a group": ({"sugar": {"spoons": 9}}, "sugar.spoons", "it must be at most 5 (given: 9)."),
    "no kind of several": (
        {"layers": "lal"},
        "layers",
        "expected 'all' or a list (given: 'lal'). What it is: The layers",
    ),
    "a bound of one kind": ({"strength": -1}, "strength", "it must be greater than 0 (given: -1)."),
    "a part of one kind": ({"layers": [1, "x"]}, "layers[1]", "expected a whole number (given: 'x')."),
    "the kind that fits best": ({"sweet": {"spoons": "x"}}, "sweet.spoons", "(given: 'x')"),
    "three kinds": ({"sweet": 3}, "sweet", "expected text or settings, each as `key: value` (given: 3)."),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_complaint_in_words(fault):
    wrong, key, said = FAULTS[fault]
    with pytest.raises(RecipeError) as caught:
        validate(Tea, {"kind": "assam", **wrong})
    assert not caught.value.problems, caught.value
    assert caught.value.where["key"] == key
    assert said in str(caught.value)


def test_what_is_missing_is_named_with_what_it_is_and_where_its_group_begins():
    with pytest.raises(RecipeError) as caught:
        validate(Tea, {}, file="tea.yaml")
    assert str(caught.value) == (
        "tea.yaml, kind: it is missing, and the tea needs it. Add `kind`: Assam, Ceylon or another."
    )

    class Table(Spec):
        tea: Tea

    with pytest.raises(RecipeError) as caught:
        validate(Table, {"tea": {"cups": 2}}, file="tea.yaml", lines={"tea": 3, "tea.cups": 4})
    assert caught.value.where == {"file": "tea.yaml", "line": 3, "key": "tea.kind"}


def _said(data: dict[str, Any]) -> str:
    from keeptune.recipes.recipe import Recipe

    with pytest.raises(RecipeError) as caught:
        validate(Recipe, {"name": "a", "stages": ["train"], **data})
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"stages": [{"name": "train", "method": "peft"}]}, "Add `type`: PEFT's name of it, such as vera"),
        ({"stages": [{"name": "train", "method": ["lora", "peft"]}]}, "method[1].type: it is missing"),
        ({"stages": [{"name": "train", "losses": "next_token"}]}, "Write [next_token]."),
        ({"stages": [{"name": "evaluate"}]}, "'evaluate' needs it. Add `evaluations`: what to measure"),
        ({"stages": [{"method": "lora"}]}, "expected the name of a stage, or settings with `name`. Known:"),
        ({"data": {"task": {"path": "x.jsonl"}}}, "expected the name of a format, or settings with `format`. Known:"),
        ({"data": {"task": "x.jsonl"}}, "no format is called 'x.jsonl'"),
        ({"data": {"task": {"format": "messages"}}}, "'messages' needs it. Add `path`: data file"),
        ({"proof": {"target": {"metric": "acuracy"}}}, "Did you mean 'label_accuracy'?"),
        ({"model": "pocket"}, "Write {name: pocket}."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_shelf_of_a_recipe_says_what_would_be_right(data, said):
    assert said in _said(data)
