"""Model text is text on the page, never markup."""

from __future__ import annotations

import pytest

from keeptune.report.html import Markup, element, table, visible

HOSTILE = ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</style><b>", "a\u202eb", "\x1b[31m", "&lt;"]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_never_becomes_markup(text):
    shown = element("p", text)
    inside = shown.removeprefix("<p>").removesuffix("</p>")
    assert "<" not in inside
    assert "\u202e" not in inside
    assert "\x1b" not in inside


def test_an_attribute_cannot_be_escaped_from():
    assert element("a", title='"><script>') == '<a title="&quot;&gt;&lt;script&gt;"></a>'


def test_direction_characters_are_shown_by_code_point():
    assert visible("a\u202eb\n") == "a⟨U+202E⟩b\n"


def test_markup_inside_markup_is_kept_once():
    assert element("p", element("b", "x & y"), Markup("<i>z</i>")) == "<p><b>x &amp; y</b><i>z</i></p>"


def test_numeric_columns_are_marked():
    assert '<td class="number">3</td>' in table(["a", "b"], [["x", 3]], numeric=frozenset({1}))
