"""The settings that a member of a shelf declares, read from its source without importing it or what it needs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from keeptune.core.shelves import shelf_folder

PACKAGE = "keeptune"
MEMBER = re.compile(r"_default\(\w+, '(\w+)'\)")
"""A member of a shelf by its name, as stages write it."""


@dataclass(frozen=True)
class Setting:
    """One field of a Spec.

    Attributes:
        name: its key in YAML.
        kind: the annotation.
        default: as it stands in the source, the name of a member of a shelf; empty where the setting must be given.
        says: its description.
        inner: where the default is a group of settings, these.
    """

    name: str
    kind: str
    default: str = ""
    says: str = ""
    inner: tuple[Setting, ...] = ()


def settings_of(file: Path) -> list[Setting]:
    """The fields of the one class in a member's file that descends from the shelf's noun, its ancestors' last."""
    member = next((node for node in _classes(file) if _on_a_shelf(file, node)), None)
    return _settings(file, member) if member else []


def _settings(file: Path, node: ast.ClassDef) -> list[Setting]:
    found: dict[str, Setting] = {}
    for place, one in _family(file, node):
        for setting in _declared(place, one):
            found.setdefault(setting.name, setting)
    return list(found.values())


def _on_a_shelf(file: Path, node: ast.ClassDef) -> bool:
    return any(keyword.arg == "shelf" for _, one in _family(file, node) for keyword in one.keywords)


def _family(file: Path, node: ast.ClassDef) -> Iterator[tuple[Path, ast.ClassDef]]:
    """The class and its ancestors with their files, as far as these lie in this package, the nearest first."""
    yield file, node
    for base in node.bases:
        source, parent = (_defined(file, base.id) if isinstance(base, ast.Name) else None) or (file, None)
        if isinstance(parent, ast.ClassDef):
            yield from _family(source, parent)


def _defined(file: Path, name: str) -> tuple[Path, ast.AST] | None:
    """The class or the value of a name, and its file: this one, or the one of this package that it comes from."""
    for line in _tree(file).body:
        if isinstance(line, ast.ClassDef) and line.name == name:
            return file, line
        if isinstance(line, ast.Assign) and any(isinstance(one, ast.Name) and one.id == name for one in line.targets):
            return file, line.value
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    source = _source(str(node.module))
                    return _defined(source, alias.name) if source else None
    return None


def _source(module: str) -> Path | None:
    path = shelf_folder(PACKAGE).joinpath(*module.split(".")[1:])
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _classes(file: Path) -> list[ast.ClassDef]:
    return [node for node in _tree(file).body if isinstance(node, ast.ClassDef)]


def _declared(file: Path, node: ast.ClassDef) -> Iterator[Setting]:
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            kind, says = _annotation(file, line.annotation)
            if not kind.startswith("ClassVar") and not line.target.id.startswith("_"):
                default, own = _default(line.value)
                yield Setting(line.target.id, kind, *_resolved(file, default, own or says))


def _resolved(file: Path, default: str, says: str) -> tuple[str, str, tuple[Setting, ...]]:
    """A default that is made by a class: the member's name, or the group's settings."""
    member = MEMBER.fullmatch(default)
    if member:
        return member[1], says, ()
    source, node = _defined(file, default.removesuffix("()")) or (file, None)
    if not isinstance(node, ast.ClassDef):
        return default, says, ()
    if _on_a_shelf(source, node):
        return source.stem, says, ()
    return default, says, tuple(_settings(source, node))


def _annotation(file: Path, kind: ast.expr) -> tuple[str, str]:
    """(type, description): an alias for `Annotated[type, Field(...)]` stands for both."""
    place = _defined(file, kind.id) if isinstance(kind, ast.Name) else None
    if place is not None and isinstance(place[1], ast.Subscript) and ast.unparse(place[1].value) == "Annotated":
        inner, *more = place[1].slice.elts if isinstance(place[1].slice, ast.Tuple) else [place[1].slice]
        return ast.unparse(inner), next((says for one in more if (says := _field(one)[1])), "")
    return ast.unparse(kind), ""


def _default(value: ast.expr | None) -> tuple[str, str]:
    """(default, description) of what stands behind the annotation."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "Field":
        return _field(value)
    return ("" if value is None else ast.unparse(value)), ""


def _field(call: ast.expr) -> tuple[str, str]:
    """(default, description) of a call of `Field`."""
    if not isinstance(call, ast.Call):
        return "", ""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    default = next(iter(call.args), None) or given.get("default")
    made = given.get("default_factory")
    shown = ast.unparse(default) if default else _made(made) if made else ""
    says = given.get("description")
    return ("" if shown == "..." else shown), (str(ast.literal_eval(says)) if says else "")


def _made(factory: ast.expr) -> str:
    """What a default factory makes: `{}` of dict, the body of a lambda."""
    if isinstance(factory, ast.Lambda):
        return ast.unparse(factory.body)
    return {"dict": "{}", "list": "[]"}.get(ast.unparse(factory), ast.unparse(factory))
