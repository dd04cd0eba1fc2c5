"""A job's results as CSV (RFC 4180), a row for each image, written as they are read."""

import csv
import re
from collections.abc import Iterable, Iterator

from web_tier.results.query import ImageResult

HEADER = (
    "image_id",
    "filename",
    "status",
    "label",
    "score",
    "error_code",
    "error_message",
    "model",
    "model_digest",
    "worker",
    "attempts",
)

_FORMULA_STARTS = re.compile(r'(?:^|(?<=[;\t\r\n]))(?="*[=+\-@\uff1d\uff0b\uff0d\uff20\t\r\n])')
"""Before what begins a formula: at the start of a cell, and where a spreadsheet may begin another one.

Where a comma is the decimal mark, spreadsheets separate cells by a semicolon, so that the quotes that the file has
are in the wrong places. Japanese and Chinese ones take full-width signs, too.
"""


def csv_lines(results: Iterable[ImageResult]) -> Iterator[str]:
    """Yield the header and a line for each image, line ends included."""
    line = _Line()
    writer = csv.writer(line)
    writer.writerow(HEADER)
    yield line.text
    for result in results:
        writer.writerow([safe_cell(cell) for cell in _row(result)])
        yield line.text


def safe_cell(cell: str) -> str:
    """Return `cell` so that no spreadsheet takes it for a formula (https://owasp.org/www-community/attacks/CSV_Injection)."""
    return _FORMULA_STARTS.sub("'", cell)


def _row(result: ImageResult) -> list[str]:
    record, response = result.record, result.response
    identity = [record.ref.image_id, record.filename, result.state]
    if response is None:
        return identity + [""] * (len(HEADER) - len(identity))
    label = [
        "" if response.label is None else response.label,
        "" if response.score is None else f"{response.score:.6f}",
    ]
    error = [response.error.code, response.error.message] if response.error else ["", ""]
    model = [response.model.name, response.model.digest] if response.model else ["", ""]
    return identity + label + error + model + [response.worker, str(response.attempts)]


class _Line:
    """Holds the line that a csv writer wrote last."""

    text = ""

    def write(self, text: str) -> None:
        self.text = text
