"""HTML as nested calls: text is always text, never markup."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable, Sequence

Part = "Markup | str | float | int | None | Iterable[Part]"


class Markup(str):
    """Text that is markup already; everything else is escaped."""

    __slots__ = ()


def element(name: str, /, *children: object, **attributes: object) -> Markup:
    """`<name attribute="value">children</name>`; a trailing underscore and inner underscores are for Python only.

    >>> element("p", "1 < 2", class_="note")
    '<p class="note">1 &lt; 2</p>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in ("br", "hr", "img", "meta"):
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: object) -> Markup:
    """Children as markup: strings are escaped, sequences are flattened, None is nothing."""
    if children is None:
        return Markup("")
    if isinstance(children, Markup):
        return children
    if isinstance(children, str):
        return Markup(html.escape(visible(children), quote=False))
    if isinstance(children, Iterable):
        return Markup("".join(join(child) for child in children))
    return Markup(html.escape(str(children)))


def visible(text: str) -> str:
    """Control and direction characters as their code points, so that a model's text cannot rearrange the page."""
    return "".join(
        f"⟨U+{ord(letter):04X}⟩"
        if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co") and letter not in "\n\t\u200d"
        else letter
        for letter in text
    )


def table(head: Sequence[object], rows: Sequence[Sequence[object]], *, numeric: frozenset[int] = frozenset()) -> Markup:
    """A table; columns in `numeric` are aligned to the right."""

    def cells(name: str, row: Sequence[object]) -> list[Markup]:
        return [
            element(name, cell, class_="number" if index in numeric else None, scope="col" if name == "th" else None)
            for index, cell in enumerate(row)
        ]

    body = element("tbody", [element("tr", cells("td", row)) for row in rows])
    return element("div", element("table", element("thead", element("tr", cells("th", head))), body), class_="scroll")


def folded(summary: object, *content: object, class_: str | None = None) -> Markup:
    """Depth on demand: works without script and with a keyboard."""
    return element("details", element("summary", summary), content, class_=class_)
