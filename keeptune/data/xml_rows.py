"""Rows of a flat XML file: the attributes of every `<row .../>`, one at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, BinaryIO
from xml.parsers import expat

from keeptune.data.json_rows import Row
from keeptune.data.lines import too_large, truncated
from keeptune.data.place import Place

CHUNK = 1 << 16
ELEMENT = "row"


def xml_rows(stream: BinaryIO, file: str, limit: int) -> Iterator[Row]:
    """The attributes of each `row` element, with the line that it stands on.

    A document type is refused, so that no entity can be defined and nothing outside the file is read.

    Raises:
        DataError: not XML from some line on (E-DATA-XML), a document type (E-DATA-XML), or cut (E-DATA-TRUNCATED).
    """
    found: deque[Row] = deque()
    parser = expat.ParserCreate()

    def start(name: str, attributes: dict[str, Any]) -> None:
        if name == ELEMENT:
            place = Place(file, parser.CurrentLineNumber)
            large = sum(map(len, attributes.values())) > limit
            found.append(Row(place, too_large(place, limit) if large else attributes))

    def doctype(*_: Any) -> None:
        raise Place(file, parser.CurrentLineNumber).error(
            "the file declares a document type.",
            code="E-DATA-XML",
            why="It could define entities that grow without bound or name other files.",
            fix="Take the <!DOCTYPE ...> out.",
        )

    parser.StartElementHandler, parser.StartDoctypeDeclHandler = start, doctype
    pending = 0
    while True:
        chunk = stream.read(CHUNK)
        try:
            parser.Parse(chunk, not chunk)
        except expat.ExpatError as error:
            yield from found
            raise _fault(error, file) from error
        pending = 0 if found else pending + len(chunk)
        if pending > 8 * limit + CHUNK:
            raise too_large(Place(file, parser.CurrentLineNumber), limit)
        while found:
            yield found.popleft()
        if not chunk:
            return


def _fault(error: expat.ExpatError, file: str) -> Exception:
    place = Place(file, error.lineno)
    ends = {
        expat.errors.codes[text] for text in (expat.errors.XML_ERROR_NO_ELEMENTS, expat.errors.XML_ERROR_UNCLOSED_TOKEN)
    }
    if error.code in ends:
        return truncated(place, error.offset + 1)
    return place.error(
        f"this is not XML from here on ({expat.ErrorString(error.code)}).",
        code="E-DATA-XML",
        column=error.offset + 1,
        fix="Copy or download the file again, or repair the line.",
    )
