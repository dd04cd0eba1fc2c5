"""CSV files of users: true labels and manifests, as spreadsheets save them."""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TextIO

from fleetsight_client.api import FleetsightClientError
from fleetsight_client.rows import unescaped_cell

FILE_COLUMNS: Final = ("filename", "file name", "path", "file path", "filepath", "file", "image", "name")
"""Names of a column of files, the likeliest first; as on the server (`web_tier/features/review/truth.py`)."""


_SEPARATOR: Final = re.compile(r"sep=(.)\s*", re.IGNORECASE)
"""A first line by which people tell Excel what separates the cells."""


class TableError(FleetsightClientError):
    """Raised when a file of the user cannot be read as CSV; the message says where, and what to do."""


def open_text(file: Path) -> TextIO:
    """Open a text of the user, in UTF-8, or in UTF-16 if it begins with its mark, as Windows' editors write it.

    It is read once and as a whole: a pipe, such as `<(fleetsight min-scores JOB)`, gives its content to one reader.
    """
    content = file.read_bytes()
    encoding = "utf-16" if content[:2] in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE} else "utf-8-sig"
    return io.TextIOWrapper(io.BytesIO(content), encoding, newline="")


def lines_of(file: Path) -> Iterator[str]:
    """Yield the lines of a text of the user, without their ends.

    Raises:
        TableError: it cannot be read.
    """
    try:
        with open_text(file) as lines:
            yield from map(str.rstrip, lines)
    except UnicodeError as error:
        raise TableError(f"{file} is no text in UTF-8 or UTF-16: save it as one") from error
    except OSError as error:
        raise TableError(f"{file} cannot be read: {error.strerror}") from error


def read_table(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of each line of a CSV that is not empty, without a spreadsheet's escapes.

    It may be UTF-8 or UTF-16, with commas, semicolons or tabs, or with what its first line names, as in `sep=|`.

    Raises:
        TableError: it cannot be read, or is no such CSV.
    """
    try:
        with open_text(file) as lines:
            first = lines.readline()
            if (stated := _SEPARATOR.fullmatch(first)) is None:
                lines.seek(0)
            reader = csv.reader(lines, delimiter=stated[1] if stated else max(",;\t", key=first.count))
            for row in reader:
                cells = [unescaped_cell(cell.strip()) for cell in row]
                if any(cells):
                    yield reader.line_num + (stated is not None), cells
    except (UnicodeError, csv.Error) as error:
        raise TableError(f"{file} is no CSV in UTF-8 ({error}): save it as one") from error
    except OSError as error:
        raise TableError(f"{file} cannot be read: {error.strerror}") from error


def place_of(header: Sequence[str], wanted: Sequence[str]) -> int | None:
    """Return the place of the first of the wanted names in a header, in any case and with `_` for a space."""
    names = [re.sub(r"[\s_-]+", " ", cell.casefold()) for cell in header]
    return next((names.index(name) for name in wanted if name in names), None)
