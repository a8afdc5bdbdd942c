"""The contract of a Spec, on a shelf that the test makes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from keeptune.core.errors import RecipeError
from keeptune.core.shelves import shelf_folder
from keeptune.core.spec import Spec, dotted, validate

INIT = '''"""Ways to make tea."""
from pydantic import Field
from keeptune.core.spec import Spec


class Tea(Spec, shelf="teashop"):
    """The noun."""
'''
GREEN = '''"""Green tea: short and not too hot."""
from pydantic import Field
from teashop import Tea


class Green(Tea):
    """Green."""

    minutes: float = Field(2.0, gt=0)
    cups: int = Field(1, ge=1)
    additions: tuple[str, ...] = ()
'''
BLACK = '''"""Black tea."""
from teashop import Tea


class Black(Tea):
    """Black."""

    milk: bool = False
    after: Tea | None = None
'''
STRANGER = '''"""A tea of somebody else."""
from teashop import Tea


class Mate(Tea):
    """Mate."""

    sips: int = 3
'''


@pytest.fixture
def shop(tmp_path, monkeypatch):
    files = {
        "teashop/__init__.py": INIT,
        "teashop/green.py": GREEN,
        "teashop/black.py": BLACK,
        "teashop/_hidden.py": "",
        "stranger/__init__.py": "",
        "stranger/mate.py": STRANGER,
        "stranger/empty.py": "",
        "stranger/broken.py": "import a_package_that_is_not_there",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    shelf_folder.cache_clear()
    import teashop

    yield teashop.Tea
    shelf_folder.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] in ("teashop", "stranger")]:
        del sys.modules[name]


def menu_of(tea: type[Spec]) -> type[Spec]:
    class Menu(Spec):
        title: str
        teas: list[tea] = Field(default_factory=list)  # type: ignore[valid-type]
        price: float = Field(1.0, gt=0, le=100)
        tables: int | None = None

    return Menu


def test_the_folder_is_the_registry(shop):
    assert shop.names() == ["black", "green"]
    assert shop.summaries() == {"black": "Black tea.", "green": "Green tea: short and not too hot."}
    (Path(shelf_folder("teashop")) / "white.py").write_text(GREEN.replace("Green", "White"))
    assert "white" in shop.names()
    assert validate(shop, "white").name == "white"


def test_plain_data_gives_the_same_spec_back(shop):
    menu = menu_of(shop)
    spec = validate(menu, {"title": "x", "teas": ["green", {"name": "black", "after": {"name": "green", "cups": 3}}]})
    plain = spec.to_dict()
    assert plain["teas"][1]["after"] == {"name": "green", "minutes": 2.0, "cups": 3, "additions": []}
    assert validate(menu, plain) == spec
    assert validate(menu, plain).digest() == spec.digest()


@pytest.mark.parametrize(
    "change",
    [
        {"title": "y"},
        {"price": 1.5},
        {"tables": 0},
        {"teas": []},
        {"teas": ["green", "green"]},
        {"teas": [{"name": "green", "cups": 2}]},
        {"teas": [{"name": "green", "minutes": 2.5}]},
        {"teas": [{"name": "green", "additions": ["mint"]}]},
        {"teas": ["black"]},
        {"teas": [{"name": "black", "after": "green"}]},
    ],
)
def test_changing_any_field_changes_the_digest(shop, change):
    menu, plain = menu_of(shop), {"title": "x", "teas": ["green"]}
    assert validate(menu, {**plain, **change}).digest() != validate(menu, plain).digest()


def test_the_digest_does_not_depend_on_the_order_of_keys(shop):
    one = validate(shop, {"name": "green", "cups": 2, "minutes": 3})
    other = validate(shop, {"minutes": 3.0, "name": "green", "cups": 2})
    assert one.digest() == other.digest()


def test_all_problems_are_reported_at_once_with_their_places(shop):
    data = {
        "titel": "x",
        "teas": [{"name": "green", "cups": 0, "minuts": 2}, "blak", {"name": "black", "after": {"name": "grene"}}, 7],
        "price": float("nan"),
        "tables": True,
    }
    with pytest.raises(RecipeError) as caught:
        validate(menu_of(shop), data, file="menu.yaml", lines={"teas[0].cups": 4, "titel": 1})
    problems = {problem.where["key"]: problem for problem in caught.value.problems}
    codes = {key: problem.code for key, problem in problems.items()}
    assert codes == {
        "titel": "E-CONFIG-KEY",
        "title": "E-CONFIG-VALUE",
        "teas[0].cups": "E-CONFIG-VALUE",
        "teas[0].minuts": "E-CONFIG-KEY",
        "teas[1]": "E-RECIPE-NAME",
        "teas[2].after": "E-RECIPE-NAME",
        "teas[3]": "E-RECIPE-NAME",
        "price": "E-CONFIG-VALUE",
        "tables": "E-CONFIG-VALUE",
    }
    assert "Did you mean 'title'?" in problems["titel"].fix
    assert "Did you mean 'minutes'?" in problems["teas[0].minuts"].fix
    assert "Did you mean 'black'?" in problems["teas[1]"].fix
    assert problems["teas[0].cups"].where == {"file": "menu.yaml", "line": 4, "key": "teas[0].cups"}
    assert "at least 1 (given: 0)" in problems["teas[0].cups"].what
    assert "menu.yaml line 1, titel: 'titel' is not a setting of Menu." in str(caught.value)
    assert len(caught.value.to_dict()["problems"]) == 9


@pytest.mark.parametrize("value", ["x", "", None, -1, 0, 1e999, float("nan"), True, [1], {"a": 1}])
def test_a_wrong_value_is_refused_with_its_key(shop, value):
    with pytest.raises(RecipeError) as caught:
        validate(shop, {"name": "green", "minutes": value})
    assert (caught.value.code, caught.value.where) == ("E-CONFIG-VALUE", {"key": "minutes"})


def test_a_number_that_yaml_reads_as_text_is_accepted(shop):
    assert validate(shop, {"name": "green", "minutes": "2e-4"}).minutes == 2e-4


def test_an_enormous_value_is_not_repeated_whole(shop):
    with pytest.raises(RecipeError) as caught:
        validate(shop, {"name": "green", "minutes": "x" * 100_000})
    assert len(str(caught.value)) < 300


def test_a_name_with_a_dot_is_a_module_of_somebody_else(shop):
    mate = validate(shop, {"name": "stranger.mate", "sips": 5})
    assert mate.to_dict() == {"name": "stranger.mate", "sips": 5}
    assert validate(shop, mate.to_dict()) == mate


@pytest.mark.parametrize(
    "name", ["stranger.none", "nowhere.at.all", ".green", "green.", "..", "a b", "stranger.empty", "_hidden", "", "A/b"]
)
def test_a_name_that_leads_nowhere_is_a_recipe_error(shop, name):
    with pytest.raises(RecipeError) as caught:
        validate(shop, {"name": name})
    assert caught.value.code == "E-RECIPE-NAME"


def test_a_missing_package_inside_a_member_is_not_taken_for_a_wrong_name(shop):
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        validate(shop, "stranger.broken")


def test_a_member_refuses_the_name_of_another(shop):
    black = shop.find("black")
    assert validate(black, {"name": "black", "milk": True}).milk
    with pytest.raises(RecipeError, match="called 'black', got 'green'"):
        validate(black, {"name": "green"})


def test_an_object_of_another_shelf_is_refused(shop):
    class Cake(Spec, shelf="bakery"):
        """Another noun."""

    class Plum(Cake):
        """A member of it."""

    with pytest.raises(RecipeError, match="expected a tea, got Plum"):
        validate(shop, Plum())


def test_a_spec_cannot_be_changed(shop):
    green = validate(shop, "green")
    with pytest.raises(ValueError, match="frozen"):
        green.cups = 2


@given(st.lists(st.one_of(st.integers(0, 99), st.from_regex(r"[a-z_]{1,8}", fullmatch=True)), min_size=1))
def test_dotted_places_can_be_read_back(parts):
    parts = ["top", *parts]
    text = dotted(tuple(parts))
    back = [int(part) if part.isdigit() else part for part in text.replace("[", ".").replace("]", "").split(".")]
    assert back == parts
