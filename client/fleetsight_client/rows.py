"""The rows of results: one schema for page, API and command, and the columns that the command adds."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Final

FURTHER_LABELS: Final = 4
"""Labels of a row after the best one."""

_START, _FORMULA = r"(?:^|(?<=[;\t\r\n]))", r'(?="*[=+\-@\uff1d\uff0b\uff0d\uff20\t\r\n])'
"""The start of a cell, or where a spreadsheet may split it; and the place before a formula's first character."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """One file with its result: the columns of the server's `results.csv`, in its order.

    Attributes:
        status: `done`, `failed`, `rejected` (it never became an image) or `waiting`.
        bytes: the size of the file.
        correct: whether `label` is `truth`; None if one of them is unknown.
        decision: the label, or `UNSURE` if its score is below that which the job asks for.
        possible_labels: number of labels that could occur; None for all of the model.
        further: columns that the command adds, such as those of a manifest, by name.
        body: the image as the API answers it, of which JSON Lines are made.
    """

    image_id: str | None = None
    filename: str
    status: str
    label: str | None = None
    score: float | None = None
    error_code: str | None = None
    error_message: str | None = None
    model: str | None = None
    model_digest: str | None = None
    worker: str | None = None
    attempts: int | None = None
    bytes: int | None = None
    accepted_at: datetime | None = None
    recorded_at: datetime | None = None
    label_2: str | None = None
    score_2: float | None = None
    label_3: str | None = None
    score_3: float | None = None
    label_4: str | None = None
    score_4: float | None = None
    label_5: str | None = None
    score_5: float | None = None
    truth: str | None = None
    correct: bool | None = None
    job_id: str | None = None
    decision: str | None = None
    possible_labels: int | None = None
    further: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)


COLUMNS: Final = tuple(each.name for each in fields(ResultRow) if each.name not in {"further", "body"})
"""Columns of the results; a test compares them with the server's."""

BODY_NAMES: Final = ("top", "error", "timings", "retrying", "requested_again")
"""Names in the objects of JSON Lines that are no columns."""

UNSURE: Final = "unsure"
"""The decision on an image if the score of its label is too low."""

NOT_FOUND: Final = "not_found"
NOT_SENT: Final = "not_sent"
"""Codes of files without an image: the server does not have it any more, or nothing was sent."""


@dataclass(frozen=True, slots=True)
class RowLayout:
    """What a file of results has of each row: `COLUMNS`, then further ones."""

    further: Mapping[str, type] = field(default_factory=dict)
    """Names and types of the further columns."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return (*COLUMNS, *self.further)

    def cells(self, row: ResultRow) -> dict[str, Any]:
        """Return the columns of a row by name, times as `datetime`."""
        further = {name: row.further.get(name) for name in self.further}
        return {name: getattr(row, name) for name in COLUMNS} | further

    def body(self, row: ResultRow) -> dict[str, Any]:
        """Return the object of a row in JSON Lines: as the server's `results.jsonl` has it, then further columns."""
        own = {name: getattr(row, name) for name in ("filename", "status", "truth", "correct", "job_id")}
        if not row.body:
            nothing = dict.fromkeys(
                ("accepted_at", "recorded_at", "label", "score", "decision", "model", "worker", "attempts")
            )
            error = {"code": row.error_code, "message": row.error_message}
            own |= nothing | {"image_id": row.image_id, "bytes": row.bytes, "top": [], "error": error}
        return {**row.body, **own, **{name: row.further.get(name) for name in self.further}}


def row_of(filename: str, job_id: str, result: Mapping[str, Any], truth: str | None = None) -> ResultRow:
    """Return the row of an image as the API answers it."""
    label, error, model = result.get("label"), result.get("error") or {}, result.get("model") or {}
    places = dict[str, Any]()
    for place, pair in enumerate(list(result.get("top") or ())[1 : 1 + FURTHER_LABELS], 2):
        places |= {f"label_{place}": str(pair["label"]), f"score_{place}": float(pair["score"])}
    return ResultRow(
        image_id=str(result["image_id"]),
        filename=filename,
        status=str(result["status"]),
        label=label,
        score=result.get("score"),
        error_code=error.get("code"),
        error_message=error.get("message"),
        model=model.get("name"),
        model_digest=model.get("digest"),
        worker=result.get("worker"),
        attempts=result.get("attempts"),
        bytes=result.get("bytes"),
        accepted_at=_time(result.get("accepted_at")),
        recorded_at=_time(result.get("recorded_at")),
        truth=truth,
        correct=None if truth is None or label is None else plain_label(label) == plain_label(truth),
        job_id=job_id,
        decision=result.get("decision") or label,  # older servers do not say
        possible_labels=result.get("possible_labels"),
        body=result,
        **places,
    )


def _time(text: str | None) -> datetime | None:
    """Return a time of the API; None if it is none, also of a server that made something up."""
    try:
        return None if text is None else datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return None


def plain_label(label: str) -> str:
    """Return the form in which names of labels are compared, as on the server: `Stop_Sign` is `stop sign`."""
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", label).casefold()).strip()


def safe_cell(cell: str) -> str:
    """Return `cell` escaped so that no spreadsheet executes it as a formula, as in the server's own CSV.

    Source: https://owasp.org/www-community/attacks/CSV_Injection
    """
    return re.sub(_START + _FORMULA, "'", cell)


def unescaped_cell(cell: str) -> str:
    """Return a cell without what `safe_cell` has added, or as it is."""
    plain = re.sub(f"{_START}'{_FORMULA}", "", cell)
    return plain if safe_cell(plain) == cell else cell
