"""Lines of a UTF-8 file, each bounded and strictly decoded; nothing is replaced silently."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from keeptune.core.errors import DataError
from keeptune.data.place import Place

WIDE_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


@dataclass(frozen=True)
class Line:
    """One line without its end. `text` is the complaint when the line cannot be read.

    Attributes:
        number: 1-based.
        text: decoded text, or why there is none.
        ended: whether a line end followed; False only for a last line without one.
    """

    number: int
    text: str | DataError
    ended: bool


def read_lines(stream: BinaryIO, file: str, limit: int, counts: Counter[str]) -> Iterator[Line]:
    """Lines of `stream`; a byte order mark and carriage returns are accepted and counted.

    Args:
        stream: decompressed bytes.
        file: for the complaint.
        limit: longest line in bytes; a longer one is skipped in pieces, never held, and yields E-DATA-ROWSIZE.
        counts: `bom` and `crlf` are added to.

    Raises:
        DataError: E-DATA-ENCODING when the file opens with the mark of a wide encoding.
    """
    number = 0
    while data := stream.readline(limit + 2):
        number += 1
        if number == 1:
            data = _without_mark(data, file, counts)
        ended = data.endswith(b"\n")
        if ended and data.endswith(b"\r\n"):
            counts["crlf"] += 1
        body = data.rstrip(b"\r\n") if ended else data
        if len(body) <= limit:
            yield Line(number, decoded(body, Place(file, number), last=not ended), ended)
            continue
        while data and not data.endswith(b"\n"):
            data = stream.readline(1 << 20)
        yield Line(number, too_large(Place(file, number), limit), bool(data))


def decoded(data: bytes, place: Place, *, last: bool = False) -> str | DataError:
    """UTF-8 text, or E-DATA-ENCODING with a guess; E-DATA-TRUNCATED when the file stops inside a letter."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        column = len(data[: error.start].decode("utf-8", "replace")) + 1
        if last and error.reason == "unexpected end of data":
            return truncated(place, column)
        guess = encoding_guess(data)
        return place.error(
            f"the bytes {data[error.start : error.start + 4].hex(' ')} are not UTF-8; the line looks like {guess}.",
            code="E-DATA-ENCODING",
            column=column,
            fix=conversion(guess, place.file),
        )


def conversion(encoding: str, file: str) -> str:
    """The command that converts a file to UTF-8 under another name."""
    new = f"utf8-{file.removesuffix('.gz').rsplit('/', 1)[-1]}"
    if file.endswith(".gz"):
        return f"Convert it: gzip -cd {file} | iconv -f {encoding} -t UTF-8 > {new}"
    return f"Convert it: iconv -f {encoding} -t UTF-8 {file} > {new}"


def encoding_guess(data: bytes) -> str:
    """`GBK` when all high bytes come in pairs that decode to ideographs, else `CP1252` or `ISO-8859-1`.

    >>> encoding_guess("naïve café".encode("latin-1")), encoding_guess("你好，世界".encode("gbk"))
    ('ISO-8859-1', 'GBK')
    """
    try:
        wide = [letter for letter in data.decode("gbk") if ord(letter) > 127]
    except UnicodeDecodeError:
        wide = []
    high = sum(byte > 127 for byte in data)
    ideographs = sum("\u4e00" <= letter <= "\u9fff" for letter in wide)
    if wide and high > 1.5 * len(wide) and ideographs >= 0.5 * len(wide):
        return "GBK"
    return "CP1252" if any(0x80 <= byte < 0xA0 for byte in data) else "ISO-8859-1"


def truncated(place: Place, column: int | None = None) -> DataError:
    """The last line stops in the middle (E-DATA-TRUNCATED)."""
    return place.error(
        "the last line stops in the middle: the file looks truncated.",
        code="E-DATA-TRUNCATED",
        column=column,
        fix="Copy or download it again, or delete the last line.",
    )


def too_large(place: Place, limit: int) -> DataError:
    """One row is larger than `row_bytes` allows (E-DATA-ROWSIZE)."""
    return place.error(
        f"the row is larger than {limit} bytes.",
        code="E-DATA-ROWSIZE",
        why="One row this large is usually a file without line ends.",
        fix="Put one record on each line, or raise `row_bytes`.",
    )


def _without_mark(data: bytes, file: str, counts: Counter[str]) -> bytes:
    if data.startswith(codecs.BOM_UTF8):
        counts["bom"] += 1
        return data.removeprefix(codecs.BOM_UTF8)
    wide = next((name for mark, name in WIDE_MARKS.items() if data.startswith(mark)), None)
    if wide:
        raise Place(file, 1).error(
            f"the file is {wide}, not UTF-8.", code="E-DATA-ENCODING", column=1, fix=conversion(wide, file)
        )
    return data
