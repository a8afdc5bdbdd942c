"""Templates of P-tuning: soft tokens, words, the mask and the row's own text, in any order.

    {soft:3} {text} {soft:3} It was {mask}.
    {text:premise} {soft:2} {mask} {soft:2} {text:hypothesis}

`{text}` is the request of a row; where a row has several texts, each stands once, in their order. Everything else
becomes vectors before, between or behind them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from keeptune.core.errors import did_you_mean

SLOT = re.compile(r"\{([^{}]*)\}")
MASK, TEXT = "{mask}", "{text}"
KNOWN = ("soft:3", "text", "mask")


@dataclass(frozen=True)
class Template:
    """A template, read.

    Attributes:
        parts: in order: numbers of soft tokens, words, `MASK`, and the texts as they are written.
    """

    parts: tuple[int | str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """Names of the texts; that of `{text}` is empty."""
        return tuple(str(part)[6:-1] for part in self.parts if is_text(part))

    @property
    def soft(self) -> int:
        """Soft tokens p."""
        return sum(part for part in self.parts if isinstance(part, int))

    @property
    def masks(self) -> int:
        """Masks: one or none."""
        return self.parts.count(MASK)

    @property
    def room(self) -> int:
        """About how many vectors: a word counts one."""
        words = (part for part in self.parts if not is_text(part))
        return sum(len(part.split()) if isinstance(part, str) else part for part in words)


def read_template(text: str) -> Template:
    """Reads a template.

    Raises:
        ValueError: it has an unknown part, no text, texts that are not told apart, more than one `{mask}`, or no soft
            token.
    """
    parts: list[int | str] = []
    end = 0
    for found in SLOT.finditer(text):
        parts += _words(text[end : found.start()])
        parts.append(_slot(found[1]))
        end = found.end()
    template = Template((*parts, *_words(text[end:])))
    names = template.texts
    if not names:
        raise ValueError(f"a template has {TEXT}, for the row's own text; this one has none")
    if len(names) > 1 and (len(set(names)) < len(names) or "" in names):
        raise ValueError(
            f"a template has {TEXT} once, for the row's own text; several are told apart by their columns' names, "
            "{text:premise} and {text:hypothesis}"
        )
    if template.masks > 1:
        raise ValueError(f"a template has {MASK} at most once; this one has it {template.masks} times")
    if not template.soft:
        raise ValueError("a template has soft tokens, such as {soft:3}: nothing else of it is trained")
    return template


def _slot(inside: str) -> int | str:
    name, colon, rest = inside.partition(":")
    if name == "soft" and rest.isdigit() and 1 <= int(rest) <= 4096:
        return int(rest)
    if inside in ("text", "mask") or (name == "text" and rest.strip()):
        return f"{{{name}{colon}{rest.strip()}}}"
    raise ValueError(f"'{{{inside}}}' is no part of a template. {did_you_mean(inside, KNOWN)}")


def is_text(part: int | str) -> bool:
    """Whether a part of a template is a text of the row."""
    return isinstance(part, str) and part.startswith(TEXT[:-1])


def _words(text: str) -> list[int | str]:
    """A piece of literal text; blanks at its end belong to what follows."""
    return [text.rstrip()] if text.strip() else []
