"""The bank of templates: one YAML file a kind of task, each with ten ways to ask, of which up to three are inverted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeptune.core.errors import RecipeError, did_you_mean

FOLDER = Path(__file__).parent
FIELD = re.compile(r"\{(\w+)\}")
MOST_OPTIONS = 30


@dataclass(frozen=True)
class Template:
    """One way to ask.

    Attributes:
        number: in its kind, from 1; the inverted ones come last.
        asked: the request, with `{field}` where a field of the row stands.
        answer: what is learned, in the same form.
        inverted: whether the request gives the answer and what is learned is what would have been asked.
    """

    number: int
    asked: str
    answer: str
    inverted: bool

    def fill(self, fields: Mapping[str, str], options: Sequence[str] = ()) -> tuple[str, str]:
        """Request and answer; `options` stand behind a request that is not inverted.

        A field's own text is never read as a template.
        """
        asked, answer = (FIELD.sub(lambda found: fields[found.group(1)], text) for text in (self.asked, self.answer))
        if options and not self.inverted:
            asked += "\n\nOPTIONS:" + "".join(f"\n- {option}" for option in options)
        return asked, answer


@dataclass(frozen=True)
class Kind:
    """A kind of task: what a row of it has, and how it can be asked.

    Attributes:
        fields: that every row needs.
        options: whether the label set is shown.
    """

    name: str
    fields: tuple[str, ...]
    options: bool
    templates: tuple[Template, ...]

    @property
    def label(self) -> str:
        """The field that is answered when nothing is inverted."""
        return str(FIELD.findall(self.templates[0].answer)[0])

    def chosen(self, templates: int, inverted: int) -> tuple[Template, ...]:
        """The first `templates`, among them at most `inverted` inverted ones; at least one that is not."""
        straight = [template for template in self.templates if not template.inverted]
        turned = [template for template in self.templates if template.inverted][: min(inverted, templates - 1)]
        return (*straight[: max(1, templates - len(turned))], *turned)


def kinds() -> list[str]:
    """Names of all kinds."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def kind(name: str) -> Kind:
    """One kind of the bank.

    Raises:
        RecipeError: there is none of that name (E-BUILD-KIND).
    """
    import yaml

    file = FOLDER / f"{name}.yaml"
    if name not in kinds():
        fix = did_you_mean(name, kinds())
        raise RecipeError(f"there are no templates for '{name}'.", code="E-BUILD-KIND", fix=fix)
    plain: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    turned = plain.get("inverted") or {"asked": [], "answer": ""}
    straight = [(asked, plain["answer"], False) for asked in plain["asked"]]
    every = [*straight, *((asked, turned["answer"], True) for asked in turned["asked"])]
    made = tuple(Template(number, *parts) for number, parts in enumerate(every, start=1))
    return Kind(name, tuple(plain["fields"]), bool(plain["options"]), made)
