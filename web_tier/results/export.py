"""Export of a job's results: as CSV (RFC 4180) and as JSON Lines, and the names of files that leave the system.

Each writer yields its text while results are read, so memory does not grow with their number. The results file that
the controller writes has the same JSON Lines as the download.

Names of files, jobs and labels come from users and from bundles: they are made safe on Windows, macOS and Linux.
"""

import csv
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from io import StringIO
from typing import Final, Self
from urllib.parse import quote

from pydantic import Field

from core.messages import Failure, LabelScore, Model, Timings
from web_tier.http.bodies import ApiBody
from web_tier.results.query import ImageResult, ImageState

FURTHER_LABELS: Final = 4
"""Labels in a row after the best one."""

CSV_HEADER = (
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
    "bytes",
    "accepted_at",
    "recorded_at",
    *(f"{column}_{place}" for place in range(2, 2 + FURTHER_LABELS) for column in ("label", "score")),
    "truth",
    "correct",
    "job_id",
    "decision",
    "possible_labels",
)
"""Columns of a CSV: schema 2, which the command `fleetsight classify --out` writes as well.

Clients read them by name or by place: add new ones at the end.
"""

BOOLEAN_TEXTS: Final[Mapping[bool | None, str]] = {True: "true", False: "false", None: ""}
"""Texts of a cell, and of a parameter of a page's address."""

BYTE_ORDER_MARK: Final = "\ufeff"
"""Excel reads a CSV as UTF-8 only if it begins with this character."""

MAX_NAME_BYTES: Final = 120
"""Maximum length of a name in UTF-8. File systems allow 255 bytes or UTF-16 units, Windows 260 for a whole path."""

MAX_EXTENSION_BYTES: Final = 16
"""Maximum length of an extension that a shortened name keeps."""

_FORBIDDEN: Final = re.compile(r'[<>:"/\\|?*\ufffd]')
"""Characters that Windows does not allow in a name, among them both separators of paths.

https://learn.microsoft.com/en-us/windows/win32/fileio/naming-a-file
"""

_JOINERS: Final = "\u200c\u200d"
"""Invisible characters that scripts and emoji need."""

_DEVICES: Final = re.compile(
    r"con|prn|aux|nul|conin\$|conout\$|clock\$|(com|lpt)[0-9\u00b9\u00b2\u00b3]", re.IGNORECASE
)
"""Names that Windows reserves, also with an extension."""

_WORDS: Final = re.compile(r"[^\w.()+-]+")

_FORMULA = r'(?="*[=+\-@\uff1d\uff0b\uff0d\uff20\t\r\n])'
_FORMULA_STARTS: Final = re.compile(rf"(?:^|(?<=[;\t\r\n])){_FORMULA}")
"""The places before the first character of a formula: at the start of a cell, and where a spreadsheet may split it.

A spreadsheet for which a comma is the decimal mark splits cells at semicolons, regardless of the file's quotes.
Japanese and Chinese spreadsheets accept full-width signs, too.
"""

_ESCAPES: Final = re.compile(rf"(?:^|(?<=[;\t\r\n]))'{_FORMULA}")


class RequestedAgain(ApiBody):
    """The requests of an image that the system sent again, since no result came and a message was presumed lost."""

    times: int
    first_at: datetime
    last_at: datetime


class ImageBody(ApiBody):
    """An accepted image and its result, as far as there is one; `bytes` is the size of the file."""

    image_id: str
    job_id: str
    filename: str
    bytes: int
    accepted_at: datetime
    status: ImageState
    retrying: bool = Field(default=False, description="Whether it failed and is being tried again.")
    recorded_at: datetime | None = Field(default=None, description="When the result became visible.")
    label: str | None = None
    score: float | None = None
    decision: str | None = Field(
        default=None,
        description="`label`, or `unsure` where `score` is below the job's `min_score`; null without a label.",
    )
    top: tuple[LabelScore, ...] = ()
    possible_labels: int | None = Field(
        default=None, description="Number of the job's `labels`, among which the scores are shares; null for all."
    )
    model: Model | None = None
    worker: str | None = None
    attempts: int | None = Field(
        default=None,
        description="How often the request was received until this result; above 1, earlier receives ended without "
        "an answer: a worker stopped or failed.",
    )
    requested_again: RequestedAgain | None = Field(
        default=None, description="Null if the system sent no request of the image again."
    )
    timings: Timings | None = None
    error: Failure | None = None
    truth: str | None = Field(
        default=None, description="The true label that its user has set; null in the file of a finished job."
    )
    correct: bool | None = Field(default=None, description="Whether `label` is `truth`; null if one of them is null.")

    @classmethod
    def from_result(cls, result: ImageResult) -> Self:
        """Return the body of an image."""
        record = result.record
        return cls.copied_from(
            result.response,
            record.ref,
            bytes=record.size,
            filename=record.filename,
            accepted_at=record.accepted_at,
            status=result.state,
            retrying=result.retrying,
            requested_again=result.resend and RequestedAgain.copied_from(result.resend),
            truth=None if result.truth is None else result.truth.label,
            correct=result.is_correct,
            decision=result.decision,
        )


def json_lines(results: Iterable[ImageResult]) -> Iterator[str]:
    """Yield a line for each image, each an `ImageBody`."""
    for result in results:
        yield f"{ImageBody.from_result(result).model_dump_json()}\n"


def csv_lines(results: Iterable[ImageResult]) -> Iterator[str]:
    """Yield the header and a line for each image, with line ends."""
    yield from csv_of([CSV_HEADER])
    for result in results:
        cells = _csv_cells(result)
        yield from csv_of([[safe_cell(cells.get(name, "")) for name in CSV_HEADER]])


def safe_cell(cell: str) -> str:
    """Return `cell` escaped so that no spreadsheet executes it as a formula.

    Source: https://owasp.org/www-community/attacks/CSV_Injection
    """
    return _FORMULA_STARTS.sub("'", cell)


def unescaped_cell(cell: str) -> str:
    """Return a cell without what `safe_cell` has added, or as it is."""
    plain = _ESCAPES.sub("", cell)
    return plain if cell == safe_cell(plain) else cell


def _csv_cells(result: ImageResult) -> dict[str, str]:
    """Return the cells of an image by column, without those that are empty since it has no result."""
    record, response = result.record, result.response
    cells = {
        "image_id": record.ref.image_id,
        "filename": record.filename,
        "status": result.state,
        "bytes": str(record.size),
        "accepted_at": _csv_time(record.accepted_at),
        "truth": "" if result.truth is None else result.truth.label,
        "correct": BOOLEAN_TEXTS[result.is_correct],
        "job_id": record.ref.job_id,
    }
    if response is None:
        return cells
    cells |= {
        "label": response.label or "",
        "decision": result.decision or "",
        "score": _csv_number(response.score),
        "possible_labels": str(response.possible_labels or ""),
        "worker": response.worker,
        "attempts": str(response.attempts),
        "recorded_at": _csv_time(response.recorded_at),
    }
    if response.error is not None:
        cells |= {"error_code": response.error.code, "error_message": response.error.message}
    if response.model is not None:
        cells |= {"model": response.model.name, "model_digest": response.model.digest}
    for place, pair in enumerate(response.top[1 : 1 + FURTHER_LABELS], 2):
        cells |= {f"label_{place}": pair.label, f"score_{place}": _csv_number(pair.score)}
    return cells


def _csv_number(number: float | None) -> str:
    return "" if number is None else f"{number:.6f}"


def _csv_time(moment: datetime | None) -> str:
    """Return a time in UTC as every spreadsheet reads it."""
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def csv_of(rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """Yield a line of CSV (RFC 4180) for each row, with its line end."""
    buffer = StringIO(newline="")
    writer = csv.writer(buffer)
    for row in rows:
        writer.writerow(row)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()


def safe_name(text: str) -> str:
    """Return `text` as the name of one file or folder, or `_` if nothing is left of it.

    The name has no separator, no control or invisible character, no dot or space at its ends, and is not reserved.
    """
    normal = unicodedata.normalize("NFC", text.encode(errors="ignore").decode())
    kept = "".join(each for each in normal if each in _JOINERS or unicodedata.category(each)[0] != "C")
    plain = " ".join(_FORBIDDEN.sub("_", kept).split()).strip(". ")
    short, max_bytes = plain, MAX_NAME_BYTES - 1  # one byte is left for the underscore of a reserved name
    if len(plain.encode()) > max_bytes:
        stem, extension = split_extension(plain)
        short = _cut(stem, max_bytes - len(extension.encode())).rstrip(". ") + extension
    return f"_{short}" if not short or _DEVICES.fullmatch(short.partition(".")[0].rstrip()) else short


def split_extension(name: str) -> tuple[str, str]:
    """Return a name in two parts; the extension has its dot, and is empty if it is too long to be one."""
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension.encode()) >= MAX_EXTENSION_BYTES:
        return name, ""
    return stem, dot + extension


def _cut(text: str, max_bytes: int) -> str:
    return text.encode()[:max_bytes].decode(errors="ignore")


class UniqueNames:
    """Gives each name of a folder once: a repeated one gets a number, as in `IMG_0001 (2).jpg`.

    Names that differ in case or in compatible characters count as equal, since file systems may not distinguish them.
    """

    def __init__(self, *reserved: str) -> None:
        self._used = {_folded(name) for name in reserved}
        self._last: dict[str, int] = {}

    def add(self, name: str) -> str:
        """Return `name`, with a number if it is in use; `name` must be safe."""
        unique = name
        while _folded(unique) in self._used:
            number = self._last[_folded(name)] = self._last.get(_folded(name), 1) + 1
            stem, extension = split_extension(name)
            suffix = f" ({number}){extension}"
            unique = _cut(stem, MAX_NAME_BYTES - len(suffix.encode())).rstrip(". ") + suffix
        self._used.add(_folded(unique))
        return unique


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def attachment(name: str, fallback: str, extension: str) -> dict[str, str]:
    """Return the parameters of a Content-Disposition for a file named after `name`, such as `holiday-photos.csv`.

    Clients that do not read `filename*` get the name in ASCII, or `fallback` if it has no ASCII letter or digit
    (RFC 6266).
    """
    whole = _slug(name) or fallback
    plain = _slug(unicodedata.normalize("NFKD", whole).encode("ascii", "ignore").decode())
    names = {"filename": f"{plain or fallback}.{extension}"}
    if names["filename"] != f"{whole}.{extension}":
        names["filename*"] = f"UTF-8''{quote(f'{whole}.{extension}', safe='')}"
    return names


def _slug(text: str) -> str:
    words = _WORDS.sub("-", safe_name(text)).strip("-.")
    return words if any(each.isalnum() for each in words) else ""
