"""What `/api/v1` takes besides bodies: query parameters and headers, as models that check and document them."""

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from core.fleet.models import Span
from core.ids import ULID_PATTERN
from core.jobs.dead_letters import CURSOR_PATTERN
from web_tier.results.query import ImageState, ResultsFilter
from web_tier.text import MAX_FILENAME, MAX_JOB_NAME

MAX_PAGE = 1_000
MAX_JOBS = 200
MAX_LABEL = 200

JSON_LINES = "application/x-ndjson"
"""The type of JSON Lines (https://github.com/ndjson/ndjson-spec)."""

Cursor = Annotated[str, Field(pattern=ULID_PATTERN)]


class _Query(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class JobsQuery(_Query):
    """Which jobs to list."""

    limit: int = Field(default=50, ge=1, le=MAX_JOBS, description="Jobs in a page, at most.")
    before: Cursor | None = Field(default=None, description="`next` of the page before.")
    name: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_JOB_NAME,
        description="Part of the job's name, in any case. A page may then hold fewer jobs than `limit`, even none, "
        "while `next` leads on.",
    )


class AuditQuery(_Query):
    """Which events of the audit trail to list."""

    limit: int = Field(default=50, ge=1, le=MAX_JOBS, description="Events in a page, at most.")
    before: Cursor | None = Field(default=None, description="`next` of the page before.")
    user: str | None = Field(
        default=None, min_length=1, max_length=128, description="E-mail address of the user, or their id."
    )
    since: AwareDatetime | None = Field(default=None, description="Not earlier than this moment (RFC 3339).")
    until: AwareDatetime | None = Field(default=None, description="Earlier than this moment (RFC 3339).")


class RedriveQuery(_Query):
    """Which dead letters to redrive."""

    before: str | None = Field(default=None, pattern=CURSOR_PATTERN, description="`next` of the answer before.")


class DeadLettersQuery(_Query):
    """Which dead letters to list."""

    limit: int = Field(
        default=50,
        ge=1,
        le=MAX_JOBS,
        description="Dead letters in a page, at most. It may hold fewer, even none, while `next` leads on.",
    )
    before: str | None = Field(default=None, pattern=CURSOR_PATTERN, description="`next` of the page before.")


class HistoryQuery(_Query):
    """How far back to look."""

    span: Span = Field(default="hour", description="A point at most every 5 seconds, or every 2 minutes.")


class FilterQuery(_Query):
    """Which images are wanted; what is left out asks for nothing."""

    state: ImageState | None = Field(default=None, description="Where the image stands.")
    label: str | None = Field(default=None, min_length=1, max_length=MAX_LABEL, description="Its label, whole.")
    min_score: float | None = Field(default=None, ge=0, le=1, description="The least score of its label.")
    max_score: float | None = Field(default=None, ge=0, le=1, description="The greatest score of its label.")
    filename: str | None = Field(
        default=None, min_length=1, max_length=MAX_FILENAME, description="Part of its filename, in any case."
    )

    def wanted(self) -> ResultsFilter:
        """Return what is asked for."""
        return ResultsFilter(self.state, self.label, self.min_score, self.max_score, self.filename)


class ResultsQuery(FilterQuery):
    """Which images to return."""

    limit: int = Field(
        default=100,
        ge=1,
        le=MAX_PAGE,
        description="Images in a page, at most. With a filter it may hold fewer, even none, while `next` leads on.",
    )
    after: Cursor | None = Field(default=None, description="`next` of the page before.")


class RetryQuery(_Query):
    """Which failed images to request again."""

    after: Cursor | None = Field(default=None, description="`next` of the answer before.")


class KeyHeader(_Query):
    """A header that makes a request safe to repeat."""

    idempotency_key: str | None = Field(
        default=None,
        alias="Idempotency-Key",
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="A text of your choice, such as a UUID, that names this request: sent again with the same key it "
        "does nothing twice. Another request with the same key gets 422.",
    )


class ClassifyQuery(_Query):
    """How to take one image."""

    wait: int = Field(default=30, ge=0, le=60, description="Longest wait for the result, in seconds.")
    name: str | None = Field(
        default=None, max_length=MAX_FILENAME, description="What to call an image that is the body itself."
    )


class EventsHeader(_Query):
    """Where to take up a stream of events again."""

    last_event_id: str | None = Field(
        default=None, alias="Last-Event-ID", description="`id` of the last event that was received."
    )
