"""HTML of forums as plain text: code blocks and lists are kept in Markdown's form, links and images go."""

from __future__ import annotations

import re
from html.parser import HTMLParser

BLOCKS = {
    "p",
    "div",
    "ul",
    "ol",
    "li",
    "blockquote",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "table",
    "tr",
    "br",
    "hr",
    "pre",
}
SILENT = {"script", "style"}


def html_to_text(html: str) -> str:
    r"""The text of a fragment of HTML.

    Paragraphs are set apart by blank lines, list items begin with `- ` or their number, `pre` is fenced, `code` is in
    backticks, quotes begin with `> `. A link leaves its words, an image nothing. White space outside `pre` is a blank.

    >>> html_to_text("<p>Use <code>x&lt;1</code>:</p><ul><li>one</li><li><a href='u'>two</a></li></ul>")
    'Use `x<1`:\n\n- one\n- two'
    """
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.text()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.lines: list[str] = [""]
        self.lists: list[int | None] = []
        self.quoted = self.fenced = self.silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A block begins on a line of its own."""
        if tag in SILENT:
            self.silent += 1
        elif tag == "pre":
            self._block()
            self.lines += ["```", ""]
            self.fenced += 1
        elif tag in ("ul", "ol"):
            self._block(blank=not self.lists)
            self.lists.append(1 if tag == "ol" else None)
        elif tag == "li":
            self._item()
        elif tag == "br":
            self.lines.append("")
        elif tag == "blockquote":
            self._block()
            self.quoted += 1
        elif tag == "code" and not self.fenced:
            self.lines[-1] += "`"
        elif tag in BLOCKS and not self._fresh_item():
            self._block()

    def handle_endtag(self, tag: str) -> None:
        """A block ends its line."""
        if tag in SILENT:
            self.silent = max(0, self.silent - 1)
        elif tag == "pre" and self.fenced:
            self.fenced -= 1
            self.lines[-1:] = [self.lines[-1], "```", ""] if self.lines[-1] else ["```", ""]
        elif tag in ("ul", "ol") and self.lists:
            self.lists.pop()
            self._block(blank=not self.lists)
        elif tag == "blockquote" and self.quoted:
            self.quoted -= 1
            self._block()
        elif tag == "code" and not self.fenced:
            self.lines[-1] += "`"
        elif tag in BLOCKS and tag not in ("li", "br"):
            self._block(blank=not self.lists)

    def handle_data(self, data: str) -> None:
        """Text; its layout counts inside `pre` only."""
        if self.silent:
            return
        if self.fenced:
            first, *rest = data.split("\n")
            self.lines[-1] += first
            self.lines += rest
            return
        words = re.sub(r"\s+", " ", data)
        bare = self.lines[-1] in ("", "> ")
        if bare and not words.strip():
            return
        if bare and self.quoted:
            self.lines[-1] = "> "
        self.lines[-1] += words.lstrip() if bare else words

    def text(self) -> str:
        """Everything read, without blank lines at the ends or two in a row outside of code."""
        kept: list[str] = []
        fenced = False
        for line in (line.rstrip() for line in self.lines):
            fenced ^= line == "```"
            if line or fenced or (kept and kept[-1]):
                kept.append(line)
        return "\n".join(kept).strip("\n")

    def _block(self, *, blank: bool = True) -> None:
        self.lines += ["", ""] if blank and self.lines[-1] else [""]

    def _item(self) -> None:
        if self.lines[-1]:
            self.lines.append("")
        number = self.lists[-1] if self.lists else None
        if number is not None:
            self.lists[-1] = number + 1
        self.lines[-1] = "  " * (len(self.lists) - 1) + ("- " if number is None else f"{number}. ")

    def _fresh_item(self) -> bool:
        return bool(re.fullmatch(r"\s*(- |\d+\. )", self.lines[-1]))
