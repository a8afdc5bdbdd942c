"""A package made for the test, whose documentation is known."""

from __future__ import annotations

import gc

import pytest

from keeptune.pocket import harvest
from keeptune.pocket.harvest import Docstring, docstrings, package_folder, source_files
from keeptune.pocket.prose import is_plain, paragraphs, sentences

MODULE = '''
"""Tools for the test."""

class Shelf:
    """Holds books.

    A shelf is never full.
    """

    def add(self, book):
        """Puts a book on the shelf."""

raise RuntimeError("reading must not run this")
'''
NUMPYDOC = """
Return the *sum* of `x` over :class:`~numpy.ndarray` axes [1]_. It never fails.

Parameters
----------
x : array_like
    The input array.

.. note:: something

    >>> total([1, 2])
    3

Args:
    x: the input.

Use ``axis`` to choose one.
"""


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    for name, text in {"a": MODULE, "b": MODULE, "tests/test_a": MODULE, "inner/c": '"""Another text."""'}.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (tmp_path / "broken.py").write_text("def (:")
    monkeypatch.setattr(harvest, "package_folder", lambda package: tmp_path if package == "shelf" else None)


def test_docstrings_are_read_without_running_anything(shelf):
    found = list(docstrings(["shelf/a"]))
    assert found == [
        Docstring("shelf/a", "", "Tools for the test."),
        Docstring("shelf/a", "Shelf", "Holds books.\n\nA shelf is never full."),
        Docstring("shelf/a", "Shelf.add", "Puts a book on the shelf."),
    ]
    assert gc.isenabled()


def test_a_text_that_stands_twice_is_read_once_and_tests_are_not_read(shelf):
    assert [found.text for found in docstrings(["shelf"])].count("Holds books.\n\nA shelf is never full.") == 1
    assert not any("tests" in module for module, _ in source_files("shelf"))


def test_places_can_be_left_out(shelf):
    assert {found.module for found in docstrings(["shelf"], without=["shelf/inner"])} == {"shelf/a"}
    assert {found.module for found in docstrings(["shelf"])} == {"shelf/a", "shelf/inner/c"}


def test_a_package_that_is_not_installed_gives_nothing(shelf):
    assert list(docstrings(["nowhere", "shelf/none"])) == []


def test_the_standard_library_is_found():
    assert (package_folder("stdlib") / "os.py").is_file()
    assert package_folder("no_such_package_anywhere") is None


def test_only_prose_is_left_of_a_docstring():
    assert paragraphs(NUMPYDOC) == [
        "Return the sum of x over numpy.ndarray axes. It never fails.",
        "Use axis to choose one.",
    ]


def test_sentences_are_cut_at_full_stops_that_a_capital_follows():
    assert sentences("It is e.g. this one. And that?  Yes! ok.") == ["It is e.g. this one.", "And that?", "Yes! ok."]


@pytest.mark.parametrize(
    ("sentence", "plain"),
    [
        ("This is the first of the words in a list.", True),
        ("Returns a list of all the names, and the last one.", True),
        ("This is read_csv and the rest of it in a file.", False),
        ("This is the NumPy way of doing it in a file.", False),
        ("Too short a sentence.", False),
        ("Compute fast Fourier transforms using arbitrary boundary handling modes everywhere.", False),
    ],
)
def test_a_plain_sentence_has_common_words_only(sentence, plain):
    assert is_plain(sentence, 8, 18) is plain


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/keeptune/docstrings"


def test_what_was_found_is_kept_until_a_file_changes(shelf, cache, tmp_path, monkeypatch):
    first, parsed = list(docstrings(["shelf"])), harvest._of_file
    monkeypatch.setattr(harvest, "_of_file", lambda *_: pytest.fail("parsed again"))
    assert list(docstrings(["shelf"])) == first
    monkeypatch.setattr(harvest, "_of_file", parsed)
    (tmp_path / "a.py").write_text('"""Another text, of another length."""\n')
    assert next(iter(docstrings(["shelf"]))).text == "Another text, of another length."


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"stamp": 1}'])
def test_a_damaged_cache_is_made_again(shelf, cache, damage):
    first = list(docstrings(["shelf"]))
    (file,) = cache.glob("*.json")
    whole = file.read_bytes()
    file.write_bytes(damage)
    assert list(docstrings(["shelf"])) == first
    assert file.read_bytes() == whole


def test_without_a_place_to_keep_it_nothing_is_lost(shelf, cache):
    cache.parent.parent.write_text("a file where a folder should be")
    assert len(list(docstrings(["shelf"]))) == len(list(docstrings(["shelf"]))) > 0
