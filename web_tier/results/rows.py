"""An image as a page's list shows it: the few fields of its record and result that 10,000 of them need."""

from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

from core.jobs.models import ImageRecord, Resend
from core.messages import Response
from web_tier.results.query import ImageResult, ImageState, ResultsPage, is_final


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True)

    def to_json(self) -> str:
        """Return the body as compact JSON, without what it does not have."""
        return self.model_dump_json(exclude_none=True)


class Row(_Body):
    """What is known of an image; a page lays a row over the one that it has of the same `id`.

    Attributes:
        id: the image's.
        name: what its owner called it; absent from a row that tells a result only.
        bytes: size of the file; absent likewise.
        status: where the image stands.
        label, score: of an image that is done; the score from 0 to 1.
        reason: why an image failed, in words.
        final: true of an image that failed because of what it is, so that it cannot be tried again.
        retrying: true while an image that failed is tried again.
        cached: true of an image that was answered at once, as an earlier one with the same bytes.
        at: when the result became visible, in milliseconds since 1970.
        turn: how many results and retries came before this one; the greater of two rows counts.
        tries: how often the request was received until this result, where that is more than once.
        again: how often the system has requested the image again; the greatest of all rows counts.
    """

    id: str
    name: str | None = None
    bytes: int | None = None
    status: ImageState
    label: str | None = None
    score: float | None = None
    reason: str | None = None
    final: Literal[True] | None = None
    retrying: Literal[True] | None = None
    cached: Literal[True] | None = None
    at: int | None = None
    turn: int | None = None
    tries: int | None = None
    again: int | None = None

    @property
    def retries(self) -> str:
        """How the system retried the image and why, a line for each way; static/job/rows.js has the same words."""
        tried = f"Tried {self.tries} times: a worker failed" if self.tries else ""
        times = f" \N{MULTIPLICATION SIGN}{self.again}" if self.again and self.again > 1 else ""
        resent = f"Requested again{times}: presumed lost" if self.again else ""
        return "\n".join(filter(None, (tried, resent)))

    @classmethod
    def of_record(cls, record: ImageRecord) -> Self:
        """Return the row of an image that has just been accepted."""
        return cls(id=record.ref.image_id, name=record.filename, bytes=record.size, status="waiting")

    @classmethod
    def of_resend(cls, image_id: str, resend: Resend) -> Self:
        """Return the row that tells only how often an image was requested again: it says nothing of a result."""
        return cls(id=image_id, status="waiting", again=resend.times)

    @classmethod
    def of_response(cls, response: Response) -> Self:
        """Return the row that tells a result."""
        return cls(
            id=response.image_id,
            status=response.status,
            label=response.label,
            score=response.score,
            reason=response.error.message if response.error else None,
            final=True if is_final(response) else None,
            cached=True if response.cached else None,
            at=_milliseconds(response.recorded_at),
            turn=2 * response.attempt or None,
            tries=response.attempts if response.attempts > 1 else None,
        )

    @classmethod
    def of_result(cls, result: ImageResult) -> Self:
        """Return the whole row of an image."""
        row = cls.of_record(result.record)
        if result.resend is not None:
            row = row.model_copy(update={"again": result.resend.times})
        if result.response is None:
            return row
        row = row.model_copy(update=cls.of_response(result.response).model_dump(exclude_none=True))
        if not result.retrying:
            return row
        return row.model_copy(update={"retrying": True, "turn": 2 * result.record.attempt - 1})


class Rows(_Body):
    """Some of a job's rows in the order of their ids; `next` is the cursor of those that follow, if any."""

    rows: tuple[Row, ...]
    next: str | None = None

    @classmethod
    def of_page(cls, page: ResultsPage) -> Self:
        """Return the rows of a page of results."""
        return cls(rows=tuple(Row.of_result(item) for item in page.items), next=page.next_after)


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1_000)
