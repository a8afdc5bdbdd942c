"""Spec: a frozen, validated object whose fields are its settings and whose methods are its behaviour.

The folder is the registry. `class Method(Spec, shelf="keeptune.methods")` opens a shelf; saving
`keeptune/methods/lora.py` with one subclass of `Method` in it puts `lora` on that shelf. A name with a dot,
`theirpackage.module`, is a module path outside keeptune.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidatorFunctionWrapHandler, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import Self

from keeptune.core.complaints import complaints, sentence
from keeptune.core.digest import digest_of
from keeptune.core.errors import RecipeError, did_you_mean
from keeptune.core.shelves import first_line, shelf_folder


class Spec(BaseModel):
    """One set of settings with its behaviour.

    `to_dict` is the only serialisation (pydantic drops the fields of a subclass when a field is typed by its
    parent); `validate(to_dict(spec)) == spec`, and `digest` changes when any field does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    shelf: ClassVar[str] = ""
    named_by: ClassVar[str] = "name"

    if TYPE_CHECKING:

        @property
        def name(self) -> str:
            """The name on the shelf; a Spec that stands on no shelf may have a setting of that name."""

    @classmethod
    def __pydantic_init_subclass__(cls, shelf: str = "", **kwargs: Any) -> None:
        """Remembers the shelf that a class opens; its members inherit it."""
        super().__pydantic_init_subclass__(**kwargs)
        if shelf:
            cls.shelf = shelf
            type.__setattr__(cls, "name", property(_member_name))

    def __init_subclass__(cls, shelf: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

    @classmethod
    def opens_shelf(cls) -> bool:
        """Whether this class is the abstract noun (`Method`), not a member (`LoRA`)."""
        return "shelf" in cls.__dict__ and cls is not Spec

    @classmethod
    def names(cls) -> list[str]:
        """The members' names: the files of the shelf's folder, sorted."""
        return sorted(path.stem for path in shelf_folder(cls.shelf).glob("*.py") if not path.stem.startswith("_"))

    @classmethod
    def summaries(cls) -> dict[str, str]:
        """Name to the first line of its docstring, read without importing anything."""
        folder = shelf_folder(cls.shelf)
        return {name: first_line(folder / f"{name}.py") for name in cls.names()}

    @classmethod
    def find(cls, name: str) -> type[Self]:
        """The class of the member called `name`.

        Raises:
            RecipeError: no such member (E-RECIPE-NAME), with the nearest known name.
        """
        noun = cls.__name__.lower()
        path = name if "." in name else f"{cls.shelf}.{name}"
        known = cls.names()
        if not all(part.isidentifier() for part in name.split(".")) or ("." not in name and name not in known):
            raise RecipeError(f"no {noun} is called '{name}'.", code="E-RECIPE-NAME", fix=did_you_mean(name, known))
        try:
            module = importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{path}.".startswith(f"{error.name}."):
                raise
            raise RecipeError(
                f"no {noun} is called '{name}', and no module of that name can be imported.",
                code="E-RECIPE-NAME",
                fix=f"Use a name from the shelf, or install the module. {did_you_mean(name, known)}",
            ) from error
        found = [
            member
            for member in vars(module).values()
            if isinstance(member, type) and issubclass(member, cls) and member.__module__ == path
        ]
        if len(found) != 1:
            raise RecipeError(
                f"'{path}' holds {len(found)} subclasses of {cls.__name__}; a member's file holds exactly one.",
                code="E-RECIPE-NAME",
            )
        return found[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain data: JSON types only, a member's `name` first."""
        plain: dict[str, Any] = {"name": self.name} if self.shelf else {}
        plain.update({field: _plain(getattr(self, field)) for field in type(self).model_fields})
        return plain

    def digest(self) -> str:
        """SHA-256 of the canonical JSON of `to_dict`."""
        return digest_of(self.to_dict())

    @model_validator(mode="wrap")
    @classmethod
    def _choose_member(cls, data: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        """A string or a mapping with `name` becomes the member; unknown keys are answered with the nearest one."""
        if isinstance(data, Spec):
            return handler(data) if cls.opens_shelf() is False else _instance_of(cls, data)
        if cls.opens_shelf():
            return _member(cls, data)
        if isinstance(data, dict):
            data = _settings(cls, data)
        try:
            return handler(data)
        except ValidationError as error:
            raise ValidationError.from_exception_data(
                error.title, complaints(error.errors(), cls, _called(cls))
            ) from None


def validate(
    spec: type[Any],
    data: Any,
    *,
    file: str | None = None,
    lines: dict[str, int] | None = None,
    under: tuple[str, ...] = (),
) -> Any:
    """Builds `spec` from plain data, or raises one `RecipeError` that lists every fault with its place.

    Args:
        spec: a Spec class; a class that opens a shelf picks the member by `name`.
        data: what YAML or JSON gave.
        file: named in each error.
        lines: line number of each dotted key, when the file's parser knows them.
        under: the keys under which the user wrote it.
    """
    try:
        return spec.model_validate(data)
    except ValidationError as error:
        problems = []
        for line in error.errors():
            key = dotted((*under, *line["loc"]))
            code = {"unknown_key": "E-CONFIG-KEY", "unknown_name": "E-RECIPE-NAME"}.get(line["type"], "E-CONFIG-VALUE")
            where = {"file": file, "line": _line_of(line["loc"], lines or {}), "key": key or None}
            problems.append(
                RecipeError(sentence(line), code=code, where=where, fix=str(line.get("ctx", {}).get("fix", "")))
            )
        raise RecipeError.together(problems) from None


def _line_of(location: tuple[str | int, ...], lines: Mapping[str, int]) -> int | None:
    """Where a setting stands; of one that is missing, where the group that it is missing from begins."""
    known = (lines.get(dotted(location[:end])) for end in range(len(location), 0, -1))
    return next((line for line in known if line is not None), None)


def dotted(location: tuple[str | int, ...]) -> str:
    """`("stages", 0, "method", "rank")` as people write it: `stages[0].method.rank`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text


def _member_name(member: Spec) -> str:
    """The file's name, or the module path of a third party's member."""
    module = type(member).__module__
    return module.removeprefix(member.shelf + ".")


def _instance_of(cls: type[Spec], value: Spec) -> Spec:
    if not isinstance(value, cls):
        raise PydanticCustomError("wrong_kind", f"expected {_a(cls.__name__.lower())}, got {type(value).__name__}")
    return value


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _called(cls: type[Spec]) -> str:
    """What a user knows it as."""
    return f"'{_name_of(cls)}'" if cls.shelf else f"the {cls.__name__.lower()}"


def _name_of(cls: type[Spec]) -> str:
    return cls.__module__.removeprefix(f"{cls.shelf}.") if cls.shelf else cls.__module__


def _settings(cls: type[Spec], data: dict[Any, Any]) -> dict[Any, Any]:
    """The fields alone: `name` goes (it has to be the class's own); `true` for a number becomes text: refused."""
    name = data.get("name") if cls.shelf else None
    if name is not None and name not in (_name_of(cls), cls.__module__):
        message = f"expected the {cls.__name__} called '{_name_of(cls)}', got '{name}'"
        raise PydanticCustomError("unknown_name", "{text}", {"text": message})
    return {
        key: str(value).lower() if isinstance(value, bool) and _is_number(cls, key) else value
        for key, value in data.items()
        if name is None or key != "name"
    }


def _is_number(cls: type[Spec], key: Any) -> bool:
    """Whether a field admits int or float, and neither bool nor text."""
    field = cls.model_fields.get(key)
    kinds = (get_args(field.annotation) or (field.annotation,)) if field is not None else ()
    return (int in kinds or float in kinds) and bool not in kinds and str not in kinds


def _member(cls: type[Spec], data: Any) -> Any:
    settings = {"name": data} if isinstance(data, str) else data
    noun = cls.__name__.lower()
    if not isinstance(settings, dict) or not isinstance(settings.get("name"), str):
        known = did_you_mean("", cls.names())
        message = f"expected the name of {_a(noun)}, or settings with `{cls.named_by}`"
        raise PydanticCustomError("unknown_name", "{text}", {"text": message, "fix": known})
    try:
        member = cls.find(settings["name"])
    except RecipeError as error:
        raise PydanticCustomError("unknown_name", "{text}", {"text": error.what, "fix": error.fix}) from error
    return member.model_validate({key: value for key, value in settings.items() if key != "name"})


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.to_dict()
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(inner) for inner in value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        assert math.isfinite(value), "a Spec holds finite numbers only"
    return value
