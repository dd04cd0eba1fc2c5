"""Parsing of requests and serialisation of responses: query parameters, headers and bodies are pydantic models.

The models also describe the parameters in the OpenAPI document.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain
from typing import IO, Annotated, Any, Literal, TypeVar, cast

from flask import Request, Response, request
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from werkzeug.exceptions import BadRequest, UnprocessableEntity
from werkzeug.utils import cached_property
from werkzeug.wsgi import LimitedStream

from core.ids import ULID_PATTERN
from web_tier.http.parameters import MAX_FILENAME_BYTES, MAX_JOB_NAME, MAX_LABEL
from web_tier.results.export import BYTE_ORDER_MARK
from web_tier.results.query import FilterState, ResultsFilter

MAX_PAGE = 1_000

MAX_JOBS = 200

_HALVES = re.compile(
    r"((?:[^\\]|\\[^u]|\\u(?!(?i:d[89a-f][0-9a-f]{2}))|\\u(?i:d[89ab][0-9a-f]{2})\\u(?i:d[c-f][0-9a-f]{2}))++)"
    r"|\\u(?i:d[89a-f][0-9a-f]{2})"
)
"""As much text as is valid, or the escape of half a surrogate pair, which is no character (RFC 8259, 8.2)."""

Cursor = Annotated[str, Field(pattern=ULID_PATTERN)]
Label = Annotated[str, Field(min_length=1, max_length=MAX_LABEL)]


def _countable(time: datetime) -> datetime:
    """Refuse a time near the ends of the calendar: seconds after it, or its time in another zone, do not exist."""
    if not _FIRST_TIME <= time < _LAST_TIME:
        raise ValueError(f"a time from {_FIRST_TIME.year} to before {_LAST_TIME.year} is wanted")
    return time


_FIRST_TIME, _LAST_TIME = datetime(2000, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)

FinishBy = Annotated[AwareDatetime, AfterValidator(_countable)]


class _BoundedBody(LimitedStream):
    """A body that is refused if it is larger than allowed. Werkzeug would cut one of unknown length there."""

    def readall(self) -> bytes:
        """Return the body.

        Raises:
            RequestEntityTooLarge: it is larger than allowed.
        """
        data = super().readall()
        if self.is_exhausted and self._stream.read(1):
            self.on_exhausted()
        return data


class BoundedRequest(Request):
    """A request whose body is never cut."""

    @cached_property
    def stream(self) -> IO[bytes]:
        """The body, as Flask has it."""
        body: Any = super().stream
        # A server that does not end bodies itself, as gunicorn does, waits for more than the length.
        if isinstance(body, LimitedStream) and "wsgi.input_terminated" in self.environ:
            body = _BoundedBody(self.environ["wsgi.input"], body.limit, is_max=True)
        return cast(IO[bytes], body)


class Query(BaseModel):
    """The parameters of a route; unknown ones are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class JobsQuery(Query):
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


class ForecastQuery(Query):
    """The images to forecast."""

    images: int = Field(default=100, ge=1, le=10**9, description="Images that will be sent.")
    finish_by: FinishBy | None = Field(default=None, description="As of a job.")


class FilterQuery(Query):
    """Which images are wanted; an omitted parameter sets no condition."""

    state: FilterState | None = Field(
        default=None, description="Where the image stands; `unsure` are those with the `decision` of that name."
    )
    label: str | None = Field(default=None, min_length=1, max_length=MAX_LABEL, description="Its label, whole.")
    min_score: float | None = Field(default=None, ge=0, le=1, description="The least score of its label.")
    max_score: float | None = Field(default=None, ge=0, le=1, description="The greatest score of its label.")
    filename: str | None = Field(
        default=None, min_length=1, max_length=MAX_FILENAME_BYTES, description="Part of its filename, in any case."
    )
    truth: str | None = Field(default=None, min_length=1, max_length=MAX_LABEL, description="Its true label, whole.")
    correct: bool | None = Field(default=None, description="Whether its label is its true label.")
    reviewed: bool | None = Field(default=None, description="Whether it has a true label.")

    def filter(self) -> ResultsFilter:
        """Return the filter of these parameters."""
        return ResultsFilter(
            self.state,
            self.label,
            self.min_score,
            self.max_score,
            self.filename,
            self.truth,
            self.correct,
            self.reviewed,
        )


class CsvQuery(FilterQuery):
    """Which images are wanted, and how the file is written."""

    bom: bool = Field(
        default=False, description="Whether the file begins with a byte order mark, which Excel needs to read UTF-8."
    )

    def written(self, lines: Iterable[str]) -> Iterator[str]:
        """Return lines of CSV with these options."""
        return chain([BYTE_ORDER_MARK] if self.bom else [], lines)


class ArchiveQuery(FilterQuery):
    """Which images are wanted, and how they are sorted."""

    by: Literal["label", "truth"] = Field(
        default="label",
        description="What the folders are named after. With `truth`, the zip is a training set: it has the images "
        "with a true label.",
    )


class ResultsQuery(FilterQuery):
    """Which images to return."""

    limit: int = Field(
        default=100,
        ge=1,
        le=MAX_PAGE,
        description="Images in a page, at most. With a filter it may hold fewer, even none, while `next` leads on.",
    )
    after: Cursor | None = Field(default=None, description="`next` of the page before.")


class RetryQuery(Query):
    """Which failed images to request again."""

    after: Cursor | None = Field(default=None, description="`next` of the answer before.")
    model: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Name or digest of a model that these images, and those that the job gets later, are classified "
        "with; by default that of the job.",
    )


class KeyHeader(Query):
    """A header that makes a request safe to repeat."""

    idempotency_key: str | None = Field(
        default=None,
        alias="Idempotency-Key",
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="A text of your choice, such as a UUID, that names this request: sent again with the same key it "
        "does nothing twice. Another request with the same key gets 422.",
    )


class ClassifyQuery(Query):
    """How to take one image."""

    wait: int = Field(default=30, ge=0, le=60, description="Longest wait for the result, in seconds.")
    name: str | None = Field(
        default=None, max_length=MAX_FILENAME_BYTES, description="What to call an image that is the body itself."
    )


class EventsHeader(Query):
    """Where to take up a stream of events again."""

    last_event_id: str | None = Field(
        default=None, alias="Last-Event-ID", description="`id` of the last event that was received."
    )


_Model = TypeVar("_Model", bound=BaseModel)


def json_response(body: BaseModel, status: int = 200) -> Response:
    """Return a response with `body` as JSON."""
    return Response(body.model_dump_json(), status, mimetype="application/json")


def parse_query(model: type[_Model]) -> _Model:
    """Return the query parameters of the current request.

    Raises:
        BadRequest: if one is not valid; the message names it and what is allowed.
    """
    return _validate(model, request.args.to_dict())


def parse_body(model: type[_Model], example: str, *, may_be_empty: bool = True) -> _Model:
    """Return the JSON body of the current request; an empty body counts as an empty object.

    Raises:
        UnprocessableEntity: if it is not valid; the message names the field and shows `example`.
    """
    body = json_text(request.get_data()) or "{}"
    try:
        parsed = model.model_validate_json(body)
        _reject_repeated_names(body)
    except ValueError as error:
        fault = _first_error(error) if isinstance(error, ValidationError) else str(error)
        wanted = f"{example} or nothing" if may_be_empty else example
        raise UnprocessableEntity(f"{fault}; send {wanted}") from error
    return parsed


def json_text(body: bytes) -> str:
    """Return a JSON body as text: in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    A byte that is not of the encoding becomes U+FFFD, as does half of a surrogate pair, by which Python writes such a
    byte of a filename: a filename in ISO 8859-1 costs only its own characters.
    """
    text = body.decode(json.detect_encoding(body), "replace")
    return _HALVES.sub(lambda found: found[1] or r"\ufffd", text) if r"\u" in text else text


def idempotency_key() -> str | None:
    """Return the request's Idempotency-Key, or None.

    Raises:
        BadRequest: if it is empty, too long, or has characters other than visible ASCII.
    """
    key = request.headers.get("Idempotency-Key")
    return None if key is None else _validate(KeyHeader, {"Idempotency-Key": key}).idempotency_key


def _validate(model: type[_Model], values: dict[str, Any]) -> _Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise BadRequest(_first_error(error)) from error


def _reject_repeated_names(body: str) -> None:
    """Raise ValueError if a JSON object has a name twice: parsers differ in which of the values they use."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        [(name, times)] = Counter(name for name, _ in pairs).most_common(1) or [("", 0)]
        if times > 1:
            raise ValueError(f"{name}: is there {times} times")
        return dict(pairs)

    json.loads(body, object_pairs_hook=unique, parse_int=str, parse_float=str)


def _first_error(error: ValidationError) -> str:
    """Return field and message of the first validation error."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "body"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"
